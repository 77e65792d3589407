"""How exactly changes are carried: delta32 and delta16, emulated on a CPU, beside packed float32, all against float64.

python -m benchmarks.engine.delta            # about ten minutes; appends to benchmarks/results.jsonl

Error of an item's change of log expression over its root mean square, by mode and site: median, 90 % and the worst of
the demo's checkpoint and cells, of that checkpoint with logits four times as large, of it with weights shaken by a
hundredth, and of the published size with random weights (each 64 edits of 8 cells; --quick: this alone, at a tiny size).
The yardstick is the plain model in float64, one item at a time.
"""

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.cases import QUICK, REAL, Scale, bank_of, prepared
from benchmarks.record import record
from benchmarks.run_all import exit_code, options, reported
from screen.bench.synthetic import every_gene
from screen.config.sections import LibraryConfig, NullConfig
from screen.edits import TABLE, Site
from screen.engine.executor import DELTA, AnyPrecision, Executor
from screen.engine.packed import PackedEngine
from screen.engine.precision import find_scales
from screen.engine.reference import ReferenceEngine
from screen.engine.sample import sample
from screen.engine.screen import Screen
from screen.models.perturbgen.random import random_model, sizes_of
from screen.models.synthetic import synthetic_vocabulary
from screen.planning.window import Window
from screen.running.configuration import load_config
from screen.running.prepare import prepare

CPU = torch.device("cpu")
PRECISIONS: tuple[AnyPrecision, ...] = ("float32", "delta32", "delta16")
MODES = tuple(mode.name for mode in TABLE if mode.parameter is None)
DEMO = Path(__file__).parents[2] / "configs" / "demo.yaml"
MOST = {"delta16": 2e-2}
"""90 % of the items of every mode and site must be within this."""


def altered_model(screen: Screen, alter: Callable[[torch.nn.Module], None]) -> Screen:
    """The same screen with other weights."""
    model = copy.deepcopy(screen.adapter.model)
    with torch.no_grad():
        alter(model)
    return replace(screen, adapter=replace(screen.adapter, model=model))  # type: ignore[type-var]


def larger_logits(model: torch.nn.Module, factor: float = 4.0) -> None:
    """Scores of every attention, so many times as large."""
    for name, weight in model.named_parameters():
        if "to_q" in name:
            weight *= factor


def shaken(model: torch.nn.Module, by: float = 1e-2) -> None:
    """Every weight times 1 plus a random number."""
    noise = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight *= 1 + by * torch.randn(weight.shape, generator=noise)


def demo(mode: str, site: Site) -> Screen:
    """Of the demo's cells, one mode at one site."""
    config = load_config(DEMO)
    library = LibraryConfig(genes="all", modes=[mode], perturbation_sequence=[site])
    return few(prepare(config.model_copy(update={"library": [library], "null": NullConfig(n=0)})), 8, 8)


def published(mode: str, site: Site, is_quick: bool) -> Screen:
    """Random weights at the published size, rows of 120 to 200 tokens."""
    scale: Scale = QUICK if is_quick else REAL
    n_cells, n_edits, shortest, longest = (2, 4, 9, 15) if is_quick else (8, 8, 120, 200)
    length = np.random.default_rng(0).integers(shortest, longest + 1, (n_cells, 2))
    # a cell holds half of the edited genes
    genes, times = range(2 * n_edits), [1] if site == "tgt" else []
    library = every_gene(synthetic_vocabulary(scale.sizes), [mode], [site], times, genes)
    window = Window((1,), (), scale.sizes.max_len)
    model, bank = random_model(sizes_of(scale.sizes)), bank_of(length, scale, n_edits)
    return few(prepared(model, scale, bank, library, window, dtype="float32"), n_cells, n_edits)


def few(screen: Screen, n_cells: int, items_per_cell: int) -> Screen:
    """A sample of it, changes kept in float32."""
    layout = replace(screen.layout, dtype="float32", keep_gene_cosine=False)
    return sample(screen.altered(layout=layout), n_cells, items_per_cell)


def cases(is_quick: bool) -> Iterator[tuple[str, Callable[[str, Site], Screen]]]:
    """Name -> what makes its screen of a mode and a site."""
    yield "published", partial(published, is_quick=is_quick)
    if not is_quick:
        yield "demo", demo
        yield "demo_logits_x4", lambda *wanted: altered_model(demo(*wanted), larger_logits)
        yield "demo_shaken", lambda *wanted: altered_model(demo(*wanted), shaken)


def changes(screen: Screen, engine: PackedEngine | ReferenceEngine) -> tuple[np.ndarray, int]:
    """(log-expression changes (I, G), items that were computed otherwise)."""
    (unit,) = engine.units([0], lambda *_: None)
    return unit.columns["delta/t1"].astype(np.float64), sum(unit.record.get("recomputed", {}).values())


def errors_of(screen: Screen) -> dict[str, tuple[np.ndarray, int]]:
    """Precision -> (error of every item over the rms of its change, items computed otherwise)."""
    exact_IG, _ = changes(screen, ReferenceEngine(screen, Executor(CPU, "float64")))
    rms_I = np.sqrt(np.square(exact_IG).mean(1))
    found = {}
    for precision in PRECISIONS:
        executor = Executor(CPU, precision)
        if precision == "delta16":
            executor = replace(executor, scales=find_scales(screen, executor))
        ours_IG, n_other = changes(screen, PackedEngine(screen, executor))
        off_I = np.sqrt(np.square(ours_IG - exact_IG).mean(1))
        # an edit that changes nothing does so in any precision of changes; the head rounds by the batch, in float64
        assert precision not in DELTA or (off_I[rms_I == 0] <= 1e-12).all()
        found[precision] = off_I[rms_I > 0] / rms_I[rms_I > 0], n_other
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 where delta16 is not exact enough for some mode and site."""
    given = options(__doc__, arguments)
    torch.set_num_threads(1)
    wrong = []
    for case, screen_of in cases(given.quick):
        found = {(m, s): errors_of(screen_of(m, s)) for m in MODES for s in ("src", "tgt")}
        for precision in PRECISIONS:
            of_group = {f"{s}:{m}": errors[precision] for (m, s), errors in found.items()}
            every_I = np.concatenate([e for e, _ in of_group.values()])
            groups = {
                n: [float(f"{q:.3g}") for q in (*np.quantile(e, [0.5, 0.9]), e.max())] for n, (e, _) in of_group.items()
            }
            worst = max(p90 for _, p90, _ in groups.values())
            line = record(
                f"delta_error_{precision}_{case}", float(f"{np.median(every_I):.3g}"), "of the change's rms", None, None,
                given.results, p90_of_worst_group=worst, median_p90_max=groups, n_edits=len(every_I),
                n_recomputed=sum(n for _, n in of_group.values()),
            )  # fmt: skip
            reported(line)
            if worst > MOST.get(precision, np.inf):
                wrong.append(f"{precision} is {worst:.2g} off for 90 % of some mode and site ({case})")
    return exit_code(wrong, given.quick)


if __name__ == "__main__":
    sys.exit(main())
