"""The demo of configs/demo.yaml as `perturbscreen run` runs it, in processes of its own, stamped: kernels compiled anew, then kept.

It needs everything that perturbscreen does. Where that is not installed the part is skipped, and says so.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu.job import Job, say
from benchmarks.record import ROOT
from screen.running.listener import Lines

if TYPE_CHECKING:
    from screen.config.screen_config import ScreenConfig

CONFIG = ROOT / "configs" / "demo.yaml"
NEEDS = ("anndata", "dask", "google_crc32c", "h5py", "pandas", "polars", "pyarrow", "scipy", "zarr")
"""What a run imports beside the packages of a bare node."""
RUNS = ("cold", "warm")
"""First with an empty cache of compiled kernels, then with what the first run left in it."""
STAGES = ("starting", "load", "pilot", "store", "screening", "tables", "report")
"""starting: Python and its imports; load: the configuration to a prepared screen; pilot: device and precision chosen; store:
created; screening: edits computed and written; tables: all of them; report: the page, if it is made."""
TIMEOUT_S = 300
QUICK_CELLS, QUICK_GENES = 6, ("CD14", "CCL2")


def demo(job: Job) -> None:
    """Seconds of every stage of the demo, cold and warm; skipped where a package is not there."""
    lacking = [name for name in NEEDS if not is_there(name)]
    if lacking:
        job.skip("demo", f"it needs {', '.join(lacking)}, which this node lacks: install perturbscreen")
        return
    if job.device.type == "cuda":
        torch.cuda.empty_cache()
    found = job.figures.setdefault("demo", {})
    with tempfile.TemporaryDirectory() as folder:
        for run in RUNS:
            with job.part(f"demo, {run}"):
                found[run] = in_its_own_process(job, Path(folder), run)
    for run, figures in found.items():
        stages = ", ".join(f"{stage} {s:.1f}" for stage, s in figures["seconds"].items())
        say(
            f"demo, {run}: {figures['whole s']:.1f} s ({stages}); from plan to last table {figures['plan to tables s']:.1f} s"
        )
        say(
            f"  {figures['edits']:,} edits in {figures['precision']} at {figures['edits/s']:,.0f} edits/s; written at "
            f"{figures['written MB/s']:,.0f} MB/s; tables {figures['rows of tables/s']:,.0f} perturbations x genes/s"
        )


def is_there(name: str) -> bool:
    """Whether a package can be found, without importing it."""
    try:
        return find_spec(name) is not None
    except ImportError:
        return False


def in_its_own_process(job: Job, folder: Path, run: str) -> dict[str, Any]:
    """The figures of one run. Raises RuntimeError with what the process said if it failed."""
    command = [sys.executable, "-m", "benchmarks.gpu.demo", "--device", str(job.device), "--out", str(folder / run)]
    command += ["--since", repr(time.time()), *(["--quick"] if job.is_quick else [])]
    environment = {**os.environ, "TRITON_CACHE_DIR": str(folder / "kernels")}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )
    if done.returncode:
        raise RuntimeError(f"the demo ended with exit code {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


class Stamps(Lines):
    """A listener that notes when each stage is over."""

    def __init__(self, starting_s: float) -> None:
        super().__init__(self._hear)
        self.seconds: dict[str, float] = {"starting": starting_s}
        self.notes: list[str] = []
        self.n_items, self._last = 0, time.perf_counter()

    def over(self, stage: str) -> None:
        """The time since the last stage is this one's."""
        now = time.perf_counter()
        self.seconds[stage] = now - self._last
        self._last = now

    def _hear(self, text: str) -> None:
        # the plan is what is said first
        if "load" not in self.seconds:
            self.over("load")

    def note(self, text: str) -> None:
        """Kept: what was tried, and what fell back."""
        self.notes.append(text)

    @contextmanager
    def status(self, text: str) -> Iterator[None]:
        """Two of them bound a stage."""
        if text == "report":
            self.over("tables")
        yield
        if text == "choosing device and precision":
            self.over("pilot")

    @contextmanager
    def progress(self, n_items: int) -> Iterator[Callable[[int, int, int], None]]:
        """As long as units are computed and written."""
        self.over("store")
        self.n_items += n_items
        yield lambda *_: None
        self.over("screening")


@contextmanager
def timed_writing() -> Iterator[list[tuple[float, int]]]:
    """Gives (seconds, bytes) of whatever is written to a store meanwhile: on a thread of its own, beside the computation."""
    from screen.store.store import ScreenStore

    before, written = (ScreenStore.write_unit, ScreenStore.write_controls), list[tuple[float, int]]()

    def timed(write: Callable[..., None]) -> Callable[..., None]:
        def timed_write(store: ScreenStore, block: Any, rows: Any, columns: Any, *rest: Any) -> None:
            start = time.perf_counter()
            write(store, block, rows, columns, *rest)
            written.append((time.perf_counter() - start, sum(x.nbytes for x in columns.values())))

        return timed_write

    ScreenStore.write_unit, ScreenStore.write_controls = timed(before[0]), timed(before[1])  # type: ignore[method-assign]
    try:
        yield written
    finally:
        ScreenStore.write_unit, ScreenStore.write_controls = before  # type: ignore[method-assign]


def configured(device: str, is_quick: bool) -> "ScreenConfig":
    """The demo's configuration on a device; quick: two genes in a few cells."""
    from screen.running.configuration import load_config, overridden

    config = overridden(load_config(CONFIG), CONFIG, compute={"device": device})
    if not is_quick:
        return config
    library = [block.model_copy(update={"genes": list(QUICK_GENES)}) for block in config.library]
    few = {"cells": config.cells.model_copy(update={"max_cells": QUICK_CELLS}), "library": library}
    return config.model_copy(update=few | {"null": config.null.model_copy(update={"n": 0})})


def stamped(device: str, is_quick: bool, folder: Path, since: float) -> dict[str, Any]:
    """Runs the demo into a folder; its figures. `since`: when the process was started."""
    from screen.running.configuration import text_of
    from screen.running.session import run_screen

    stamps = Stamps(time.time() - since)
    with timed_writing() as written:
        config = configured(device, is_quick)
        results, _ = run_screen(config, text_of(config), folder, stamps)
    stamps.over("report" if "tables" in stamps.seconds else "tables")
    whole_s, seconds = time.time() - since, stamps.seconds
    session, (block, *_) = results.sessions[-1], results.store.blocks
    n_rows = block.n_perturbations * block.array(f"delta/t{results.times[0]}").shape[1]
    writing_s, n_bytes = (sum(x) for x in zip(*written, strict=True))
    return {
        "seconds": seconds,
        "whole s": whole_s,
        "plan to tables s": sum(seconds[stage] for stage in ("pilot", "store", "screening", "tables")),
        "edits": stamps.n_items,
        "edits/s": stamps.n_items / seconds["screening"],
        "precision": session["precision"],
        "device": session["device"],
        "notes": stamps.notes,
        "written bytes": n_bytes,
        "writing s": writing_s,
        "written MB/s": n_bytes / writing_s / 1e6,
        "rows of tables": n_rows,
        "rows of tables/s": n_rows / seconds["tables"],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """What each process does: one run, its figures as the last line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True, help="directory that the run writes")
    parser.add_argument("--since", type=float, default=time.time(), help="when the process was started, of time.time()")
    parser.add_argument("--quick", action="store_true", help="a few genes and cells")
    asked = parser.parse_args(arguments)
    say(json.dumps(stamped(asked.device, asked.quick, asked.out, asked.since)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
