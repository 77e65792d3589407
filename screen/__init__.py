"""perturbscreen: batched in-silico perturbation screens over rank-token transformers.

    import screen

    results = screen.run("screen.yaml", "runs/mine", progress=print)
    results.hits
    results.differential("CCL2", mode="mask")

Names come when they are asked for: `import screen` imports nothing else, and what reads a finished directory no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from screen.checking.check import check
    from screen.config.screen_config import ScreenConfig
    from screen.errors import ScreenError
    from screen.models.adapter import ModelAdapter
    from screen.planning.perturbations import Perturbation
    from screen.report.page import write_report
    from screen.results.results import Results, open_results
    from screen.running.api import plan, run
    from screen.running.configuration import load_config
    from screen.store.store import ScreenStore

__all__ = [
    "ModelAdapter",
    "Perturbation",
    "Results",
    "ScreenConfig",
    "ScreenError",
    "ScreenStore",
    "check",
    "load_config",
    "open_results",
    "plan",
    "run",
    "write_report",
]

_HOMES = {
    "ModelAdapter": "screen.models.adapter",
    "Perturbation": "screen.planning.perturbations",
    "Results": "screen.results.results",
    "ScreenConfig": "screen.config.screen_config",
    "ScreenError": "screen.errors",
    "ScreenStore": "screen.store.store",
    "check": "screen.checking.check",
    "load_config": "screen.running.configuration",
    "open_results": "screen.results.results",
    "plan": "screen.running.api",
    "run": "screen.running.api",
    "write_report": "screen.report.page",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
