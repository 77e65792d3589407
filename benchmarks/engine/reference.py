"""Edits per second on the demo: the reference engine on one core and on all, and the default engine against it.

python -m benchmarks.engine.reference        # half a minute; appends two lines to benchmarks/results.jsonl
"""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch

from benchmarks.record import ROOT, median, p20_p80, record, rounds
from benchmarks.run_all import exit_code, options
from screen.config.sections import ComputeConfig
from screen.engine.choose import choose_executor
from screen.engine.executor import Executor
from screen.engine.lanes import Lanes
from screen.engine.packed import PackedEngine
from screen.engine.reference import ReferenceEngine
from screen.engine.screen import Screen
from screen.machine import available_cores
from screen.planning.perturbations import Library
from screen.planning.selection import select_items
from screen.running.configuration import load_config
from screen.running.prepare import prepare
from screen.running.unit_sizes import plan_units

DELTA = "delta/t1"
MOST_RMS, MOST_WORST = 3e-6, 1e-5
"""How far deltas of two engines may be apart, in log units."""


def every_nth(screen: Screen, n: int) -> Screen:
    """The screen with every n-th perturbation, deltas kept in float32."""
    library = Library(screen.library.perturbations[::n], screen.library.must_screen[::n])
    coverage = screen.plan.coverage
    selection = select_items(library, screen.index, screen.window, screen.plan.stratum_C, coverage.stratum)
    plan = plan_units(selection, screen.bank, screen.adapter, 0, screen.layout)
    return replace(screen, library=library, plan=plan, layout=replace(screen.layout, dtype="float32"))


def reference(screen: Screen, items: Sequence[int], n_lanes: int) -> tuple[float, float, np.ndarray]:
    """(seconds of the controls that these items need, of the items, their deltas) by the reference engine."""
    engine = ReferenceEngine(screen, Executor(torch.device("cpu"), n_lanes=n_lanes))
    cells = np.unique(screen.plan.cell_I[items]).tolist()
    with Lanes(torch.device("cpu"), n_lanes) as lanes:
        start = time.perf_counter()
        controls = {c: done.result() for c, done in [(c, lanes.submit(engine.control, c)) for c in cells]}
        between = time.perf_counter()
        futures = [lanes.submit(engine.item, i, controls[int(screen.plan.cell_I[i])]) for i in items]
        found = [done.result()[0][DELTA] for done in futures]
        stop = time.perf_counter()
    return between - start, stop - between, np.concatenate(found)


def packed(screen: Screen, executor: Executor) -> tuple[float, np.ndarray]:
    """(seconds, deltas of all items) of the default engine, controls included."""
    engine = PackedEngine(screen, executor)
    start = time.perf_counter()
    found = [unit.columns[DELTA] for unit in engine.units(range(screen.plan.n_units), lambda *_: None)]
    return time.perf_counter() - start, np.concatenate(found)


def same(packed_IG: np.ndarray, reference_IG: np.ndarray) -> None:
    """Raises AssertionError unless deltas agree."""
    apart = np.abs(packed_IG.astype(np.float64) - reference_IG)
    rms, worst = float(np.sqrt(np.square(apart).mean())), float(apart.max())
    assert np.isfinite(apart).all()
    assert rms <= MOST_RMS and worst <= MOST_WORST, f"the engines differ by {rms:.2g} rms, {worst:.2g} at worst"


def rates(n: int, seconds: Iterable[float]) -> list[float]:
    """Items per second from seconds, ascending percentiles."""
    return [round(n / s, 1) for s in reversed(p20_p80(list(seconds)))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: these figures have no threshold, but both engines must agree."""
    given = options(__doc__, arguments)
    n_items, n_rounds, n = (20, 1, 200) if given.quick else (400, 3, 20)
    screen = every_nth(prepare(load_config(ROOT / "configs" / "demo.yaml")), n)
    items = np.random.default_rng(0).choice(screen.plan.n_items, n_items, replace=False).tolist()
    executor, n_cores = choose_executor(ComputeConfig(), screen), available_cores()
    same(packed(screen, executor)[1][items], reference(screen, items, n_cores)[2])
    apart: list[float] = []

    def all_cores() -> float:
        controls_s, items_s, _ = reference(screen, items, n_cores)
        apart.append(items_s)
        return controls_s + items_s

    variants = {
        "one": lambda: sum(reference(screen, items, 1)[:2]),
        "all": all_cores,
        "packed": lambda: packed(screen, executor)[0],
    }
    taken = rounds(variants, n_rounds, n_warm_up=0)
    value, baseline = (n_items / median(taken[name]) for name in ("all", "one"))
    line = record(
        "reference_demo_all_cores_vs_one", round(value, 1), "edits/s", round(baseline, 1), round(value / baseline, 2),
        given.results, p20_p80=rates(n_items, taken["all"]), n_cores=n_cores, n_edits=n_items,
    )  # fmt: skip
    sys.stdout.write(json.dumps(line) + "\n")
    # the reference engine's controls are left out: the whole demo needs few of them beside its edits
    value, baseline = screen.plan.n_items / median(taken["packed"]), n_items / median(apart)
    line = record(
        "packed_demo_vs_reference", round(value, 1), "edits/s", round(baseline, 1), round(value / baseline, 2),
        given.results, p20_p80=rates(screen.plan.n_items, taken["packed"]), n_cores=n_cores, n_edits=screen.plan.n_items,
        engine=executor.decided(),
    )  # fmt: skip
    sys.stdout.write(json.dumps(line) + "\n")
    return exit_code([], given.quick)


if __name__ == "__main__":
    sys.exit(main())
