"""plan and run from Python: a configuration in, an object out; no terminal, no signal handlers, no exit codes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from screen.config.screen_config import ScreenConfig
from screen.errors import ConfigError
from screen.results.results import Results
from screen.running.configuration import load_config, text_of
from screen.running.listener import Lines, Listener
from screen.running.preflight import Preflight, preflight
from screen.running.session import run_screen

Config = ScreenConfig | str | Path | Mapping[str, Any]
"""A configuration, or what `load_config` takes."""


def plan(config: Config) -> Preflight:
    """What a screen would do and cost: edits, coverage, work, memory, disk and time. Times a few edits, writes nothing.

    config  of `load_config`, or what that takes
    Raises ScreenError for a request that cannot be met.

    >>> import screen
    >>> screen.plan("demo.yaml")
    8 perturbations x 8 cells, time points [1]
                49 of 64 pairs (76.6%) screened
    ...
      about ... on this machine (...), timed on a few items: ...
    >>> screen.plan("demo.yaml").forecast.n_items
    49
    """
    return preflight(loaded_config(config))


def run(
    config: Config,
    out: str | Path | None = None,
    progress: Listener | Callable[[str], object] | None = None,
    add: bool = False,
) -> Results:
    """Runs a screen to the end, or continues it, and gives its results; on the same directory nothing is computed again.

    config    of `load_config`, or what that takes
    out       directory to write, made if it is not there; None: the configuration's `output.directory`
    progress  None: quiet; a function that is given lines, such as `print`; or a `screen.running.listener.Listener`
    add       append the perturbations that a finished directory lacks
    Perturbations that no cell allows are noted, and are in `Results.unscreened`. After an interruption the same call goes
    on from the last finished unit. It may run on any thread.
    Raises ScreenError: RequestError for what cannot be met, WriteError and PredictionError for what fails on the way.

    >>> import screen
    >>> results = screen.run("demo.yaml", "runs/again", progress=print)
    8 perturbations x 8 cells, time points [1]
    ...
    49 of 49 edits, ...
    >>> results.hits.height
    8
    """
    loaded = loaded_config(config)
    directory = loaded.output.directory if out is None else Path(out)
    if directory is None:
        raise ConfigError("no directory to write: give `out`, or `directory` in the section `output`")
    listener = listener_of(progress)
    results, unscreened = run_screen(loaded, text_of(loaded), directory, listener, add)
    for sentence in unscreened:
        listener.note(f"not screened: {sentence}")
    return results


def loaded_config(config: Config) -> ScreenConfig:
    """A configuration that is read, if it was not."""
    return config if isinstance(config, ScreenConfig) else load_config(config)


def listener_of(progress: Listener | Callable[[str], object] | None) -> Listener:
    """Who is told, of what a caller gives as `progress`. Raises ConfigError."""
    if progress is None:
        return Lines(lambda text: None)
    if isinstance(progress, Listener):
        return progress
    if not callable(progress):
        raise ConfigError(
            f"progress is None, a function that is given lines (print), or a Listener; it is a {type(progress).__name__}"
        )
    return Lines(progress)
