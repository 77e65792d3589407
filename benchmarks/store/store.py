"""What writing, resuming and reading a store costs, beside plain files of the same bytes.

python -m benchmarks.store.store            # about a minute; appends to benchmarks/results.jsonl
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cases import Scale, prepared
from benchmarks.engine.plans import LONG_MAX, long_bank, shapes_of
from benchmarks.record import ROOT, median, p20_p80, record, rounds
from benchmarks.run_all import exit_code, options, reported
from screen.bench.synthetic import every_gene
from screen.cells.vocabulary import Vocabulary
from screen.config.sections import ComputeConfig, OutputConfig
from screen.engine.executor import Executor
from screen.engine.packed import PackedEngine
from screen.engine.precision import executor_for
from screen.engine.screen import Screen
from screen.engine.unit import Unit
from screen.files import scratch_folder, sync
from screen.machine import available_cores
from screen.models.perturbgen.random import random_model, sizes_of
from screen.models.synthetic import SyntheticSizes, synthetic_vocabulary
from screen.planning.perturbations import Library, make_library, make_perturbation
from screen.planning.window import Window
from screen.running.configuration import load_config
from screen.running.preflight import n_files
from screen.running.prepare import prepare
from screen.running.resume import left, open_store
from screen.running.runner import run_units
from screen.running.summaries import with_moments
from screen.store.reader import Block
from screen.store.store import Columns, ScreenStore, scratch_of

UPSTREAM_BYTES = 12
"""Per item and gene: three dense float32 layers, perturbed, control and true counts."""
MOST_WRITE_SHARE, LEAST_WRITE_RATE, MOST_BYTES, MOST_FILES = 0.05, 0.25, 4.2e6, 50_000
MOST_READ_S, LEAST_SCAN_RATE, MOST_RESUME_S = 0.1, 0.6, 5.0
SMALL = SyntheticSizes(
    width=64, n_heads=2, encoder_head_width=32, head_width=8, n_encoder_blocks=1, n_blocks=1,
    n_genes=2000, n_source_tokens=8000, max_len=64,
)  # fmt: skip


@dataclass(frozen=True)
class Work:
    """Cells and perturbations of the store that is written and read; units of the one that is resumed; genes planned."""

    n_cells: int
    n_perturbations: int
    n_units: int
    n_planned_genes: int
    n_planned_cells: int
    n_rounds: int


REAL = Work(1000, 100, 10_000, 6_000, 21_400, 5)
TINY = Work(20, 4, 20, 300, 200, 1)


def some_edits(vocabulary: Vocabulary, n_perturbations: int) -> Library:
    """Overexpression of one gene, where there are more perturbations than genes of two genes together."""
    first_P, apart_P = np.arange(n_perturbations) % len(vocabulary), np.arange(n_perturbations) // len(vocabulary)
    genes = [
        [g, (g + k) % len(vocabulary)][: 1 + (k > 0)] for g, k in zip(first_P.tolist(), apart_P.tolist(), strict=True)
    ]
    return make_library([([make_perturbation(g, "overexpress", ("src",), (), vocabulary) for g in genes], False)])


def synthetic(n_cells: int, n_perturbations: int) -> Screen:
    """A screen in which every cell has an item of every perturbation: nothing of it is predicted here."""
    vocabulary = synthetic_vocabulary(SMALL)
    bank = long_bank(n_cells, SMALL.n_genes)
    shift = int(vocabulary.target_token_G[0])
    states = {s: replace(x, tokens=replace(x.tokens, token_T=x.tokens.token_T + shift)) for s, x in bank.states.items()}
    library = some_edits(vocabulary, n_perturbations)
    model = random_model(sizes_of(SMALL))
    screen = prepared(model, Scale(SMALL), replace(bank, states=states), library, Window((1,), (), SMALL.max_len))
    return replace(screen, output=OutputConfig())


def random_columns(block: Block, number: int, seed: int = 0) -> Columns:
    """What a unit writes, with random values."""
    rng, rows = np.random.default_rng(seed), block.rows(number)
    n = rows.stop - rows.start
    columns: dict[str, Any] = {}
    for name in block.layout.matrices(1):
        array = block.array(f"{name}/t1")
        columns[f"{name}/t1"] = rng.standard_normal((n, array.shape[1]), np.float32).astype(array.dtype)
    return columns | {f"items/{name}": np.ones(n, np.float32) for name in block.layout.effects}


def random_controls(block: Block, cell_N: np.ndarray) -> Columns:
    """Controls of some cells, with random values."""
    rng, n, found = np.random.default_rng(1), len(cell_N), {}
    for name, (width, dtype) in block.layout.controls(SMALL.n_genes).items():
        found[name] = np.ones(n, bool) if dtype == "bool" else rng.random((n, width) if width else n, np.float32)
    return found


def filled(screen: Screen, folder: Path, executor: Executor) -> tuple[ScreenStore, list[Columns]]:
    """A finished store of random values, and the values of its units."""
    store = open_store(screen, folder, "", executor)
    block, units = store.blocks[0], []
    with scratch_folder(scratch_of(store.path)) as scratch:
        for number in range(screen.plan.n_blocks):
            cell_N = screen.plan.cells_of_block(number).astype(np.int64)
            store.write_controls(block, cell_N, random_controls(block, cell_N), scratch)
        for unit in _random_units(screen, block, executor):
            units.append(unit.columns)
            store.write_unit(block, unit.number, unit.columns, unit.record, scratch)
    store.finish()
    return store, units


def _random_units(screen: Screen, block: Block, executor: Executor) -> Iterable[Unit]:
    """With partial moments where the store keeps them."""
    # all with the first unit: they are few, and none is predicted
    new = [screen.plan.cells_of_block(b).astype(np.int64) for b in range(screen.plan.n_blocks)]
    controls = [(c, random_controls(block, c)) for c in new if len(c)]
    units = (
        Unit(n, block.rows(n), random_columns(block, n, n), controls if n == 0 else [], executor.record())
        for n in range(block.n_units)
    )
    return with_moments(units, screen, screen.plan.stratum_C) if block.keeps_moments else units


def n_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def removed(path: Path) -> None:
    """So that every round writes new files."""
    for p in sorted(path.rglob("c.*")):
        p.unlink()


def timed_s(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def writing(screen: Screen, executor: Executor, n_rounds: int, results: Path) -> str:
    """Sustained writing of units, checksums and markers included, against numpy.tofile and fsync of the same bytes."""
    with tempfile.TemporaryDirectory() as folder:
        store, units = filled(screen, Path(folder) / "store", executor)
        block, plain = store.blocks[0], Path(folder) / "plain"
        plain.mkdir()

        def ours() -> float:
            removed(block.path)
            with scratch_folder(scratch_of(store.path)) as scratch:
                return timed_s(lambda: [store.write_unit(block, n, u, {}, scratch) for n, u in enumerate(units)])

        def raw() -> float:
            removed(plain)
            return timed_s(lambda: [_plain(plain / f"c.{n}", u) for n, u in enumerate(units)])

        taken = rounds({"ours": ours, "raw": raw}, n_rounds)
    size = sum(x.nbytes for u in units for x in u.values())
    rate, baseline = (size / median(taken[name]) / 1e6 for name in ("ours", "raw"))
    line = record(
        "store_write_vs_synced_tofile", round(rate), "MB/s", round(baseline), round(rate / baseline, 3), results,
        p20_p80=[round(size / s / 1e6) for s in reversed(p20_p80(taken["ours"]))], n_bytes=size, n_units=len(units),
    )  # fmt: skip
    return reported(line, at_least=LEAST_WRITE_RATE)


def _plain(path: Path, columns: Columns) -> None:
    """A unit's columns in files of their own, as safe from a power cut as a store's."""
    for name, values in columns.items():
        file = path.with_name(f"{path.name}.{name.replace('/', '.')}")
        values.tofile(file)
        sync(file)
    sync(path.parent)


def reading(screen: Screen, executor: Executor, n_rounds: int, results: Path) -> list[str]:
    """One perturbation as AnnData; every change through dask against reading the plain files."""
    with tempfile.TemporaryDirectory() as folder:
        store, _ = filled(screen, Path(folder), executor)
        block, n_threads = store.blocks[0], available_cores()
        ids = store.perturbations("id")

        def one() -> float:
            return timed_s(lambda: ScreenStore.open(store.path).to_anndata(str(ids[len(ids) // 2])))

        def whole() -> float:
            delta = store.to_dask("delta/t1", decode=False).to_delayed().ravel()
            return timed_s(lambda: _all(delta, n_threads))

        files = sorted((block.path / "delta/t1").glob("c.*"))

        def raw() -> float:
            with ThreadPoolExecutor(n_threads) as pool:
                return timed_s(lambda: [None for _ in pool.map(lambda p: len(np.fromfile(p, np.float16)), files)])

        def gene() -> float:
            return timed_s(lambda: store.to_dask("delta/t1")[:, 7].compute(scheduler="threads", num_workers=n_threads))

        taken = rounds({"one": one, "whole": whole, "raw": raw, "gene": gene}, n_rounds)
        size, n_rows = sum(p.stat().st_size for p in files), len(block.rows_of(0))
    line = record(
        "store_read_perturbation", round(median(taken["one"]), 4), "s", None, None, results,
        p20_p80=[round(s, 4) for s in p20_p80(taken["one"])], n_cells=n_rows, n_genes=SMALL.n_genes,
        n_items=screen.plan.n_items,
    )  # fmt: skip
    rate, baseline = (size / median(taken[name]) / 1e6 for name in ("whole", "raw"))
    scan = record(
        "store_scan_vs_raw", round(rate), "MB/s", round(baseline), round(rate / baseline, 3), results,
        p20_p80=[round(size / s / 1e6) for s in reversed(p20_p80(taken["whole"]))], n_bytes=size, n_threads=n_threads,
        one_gene_s=round(median(taken["gene"]), 4),
    )  # fmt: skip
    return [reported(line, at_most=MOST_READ_S), reported(scan, at_least=LEAST_SCAN_RATE)]


def _all(delta: Any, n_threads: int) -> None:
    """Every chunk read, none kept."""
    import dask

    count = dask.delayed(len)
    dask.compute(*[count(chunk) for chunk in delta], scheduler="threads", num_workers=n_threads)


def disk(executor: Executor, results: Path) -> str:
    """Bytes of 1,000 items x 2,000 genes x 1 time point, everything but controls and gene names, against upstream's."""
    with tempfile.TemporaryDirectory() as folder:
        store, _ = filled(synthetic(50, 20), Path(folder), executor)
        block = store.blocks[0]
        controls = n_bytes(block.path / "control")
        size = n_bytes(block.path) - controls
    assert block.n_items == 1000
    upstream = UPSTREAM_BYTES * 1000 * SMALL.n_genes
    line = record(
        "store_bytes_per_1000_items", size, "bytes", upstream, round(size / upstream, 4), results,
        n_items=1000, n_genes=SMALL.n_genes, n_controls=50, control_bytes=controls,
    )  # fmt: skip
    return "" if reported(line) or size <= MOST_BYTES else f"1,000 items take {size} bytes; at most {MOST_BYTES:.3g}"


def files(work: Work, results: Path) -> str:
    """Files of a planned screen of every gene, at the model's published size."""
    sizes = SyntheticSizes(n_genes=work.n_planned_genes, n_source_tokens=work.n_planned_genes + 4, max_len=LONG_MAX)
    bank, vocabulary = long_bank(work.n_planned_cells, work.n_planned_genes), synthetic_vocabulary(sizes)
    shift = int(vocabulary.target_token_G[0])
    states = {s: replace(x, tokens=replace(x.tokens, token_T=x.tokens.token_T + shift)) for s, x in bank.states.items()}
    library, window = every_gene(vocabulary, ["mask"], ["src"]), Window((1,), (), LONG_MAX)
    screen = prepared(shapes_of(sizes), Scale(sizes), replace(bank, states=states), library, window)
    line = record(
        "store_files_24m_items", n_files(screen), "files", None, None, results, n_items=screen.plan.n_items,
        n_units=screen.plan.n_units, unit_rows=screen.plan.unit_rows, n_genes=work.n_planned_genes,
    )  # fmt: skip
    return reported(line, at_most=MOST_FILES)


def resuming(work: Work, executor: Executor, results: Path) -> str:
    """What is left of a run of which all units but one are committed: store opened, identity compared, plan checked."""
    screen = synthetic(64 * work.n_units // 2000 or 64, min(work.n_units, 2000))
    plan = replace(screen.plan, unit_rows=64)
    screen = screen.altered(plan=plan)
    with tempfile.TemporaryDirectory() as folder:
        block = open_store(screen, Path(folder), "", executor).blocks[0]
        for number in range(block.n_units - 1):
            block.array("commits")[number] = json.dumps({"executor": executor.record(), "files": {}})

        def known() -> None:
            store = open_store(screen, Path(folder), "", executor)
            ((found, _),) = left(screen, store)
            assert len(found.committed()) == plan.n_units - 1

        taken = [timed_s(known) for _ in range(3)]
    line = record(
        "store_resume_start", round(median(taken), 3), "s", None, None, results, n_units=plan.n_units,
        n_items=plan.n_items,
    )  # fmt: skip
    return reported(line, at_most=MOST_RESUME_S)


class TimedStore(ScreenStore):
    """A store that counts the seconds its writer thread is busy."""

    busy_s = 0.0

    def write_unit(self, *given: Any) -> None:
        self.busy_s += timed_s(lambda: super(TimedStore, self).write_unit(*given))

    def write_controls(self, *given: Any) -> None:
        self.busy_s += timed_s(lambda: super(TimedStore, self).write_controls(*given))


def write_share(n_rounds: int, is_quick: bool, results: Path) -> str:
    """The writer thread's seconds of the demo's wall time, markers and checksums included."""
    config = load_config(ROOT / "configs" / "demo.yaml")
    library = [block.model_copy(update={"modes": ["mask"]}) for block in config.library]
    if is_quick:
        library = [block.model_copy(update={"genes": ["CCL2", "CD14"]}) for block in library]
    screen = prepare(config.model_copy(update={"library": library}))
    executor = executor_for(ComputeConfig(), screen, None).executor
    shares, elapsed = [], []
    for _ in range(n_rounds):
        with tempfile.TemporaryDirectory() as folder:
            path = open_store(screen, Path(folder), "", executor).path
            store, engine = TimedStore.open(path, "r+"), PackedEngine(screen, executor)
            elapsed.append(timed_s(lambda: run_units(engine, store, lambda *_: None)))  # noqa: B023
            shares.append(store.busy_s / elapsed[-1])
    line = record(
        "store_write_share_demo", round(median(shares), 5), "of wall time", None, None, results,
        p20_p80=[round(s, 5) for s in p20_p80(shares)], elapsed_s=round(median(elapsed), 1), n_edits=screen.plan.n_items,
    )  # fmt: skip
    return reported(line, at_most=MOST_WRITE_SHARE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 1 if a figure is not what it must be."""
    given = options(__doc__, arguments)
    work, executor = TINY if given.quick else REAL, Executor(torch.device("cpu"))
    screen = synthetic(work.n_cells, work.n_perturbations)
    faults = [writing(screen, executor, work.n_rounds, given.results)]
    faults += reading(screen, executor, work.n_rounds, given.results)
    faults += [disk(executor, given.results), files(work, given.results), resuming(work, executor, given.results)]
    faults.append(write_share(1 if given.quick else 2, given.quick, given.results))
    return exit_code(faults, given.quick)


if __name__ == "__main__":
    sys.exit(main())
