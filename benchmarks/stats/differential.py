"""Differential expression beside illico, pdex and scanpy on the same matrix, and beside reading the store.

python -m benchmarks.stats.differential            # about four minutes; appends to benchmarks/results.jsonl
"""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from benchmarks.engine.plans import peak_gb
from benchmarks.record import ROOT, median, p20_p80, record, rounds
from benchmarks.run_all import exit_code, parser_of, reported
from benchmarks.stats.gene_tables import gene_tables_of
from benchmarks.store.store import filled, synthetic
from screen.cli.terminal import Console
from screen.config.sections import ComputeConfig, DegConfig, NullConfig
from screen.engine.executor import Executor
from screen.engine.packed import PackedEngine
from screen.engine.precision import executor_for
from screen.machine import available_cores
from screen.running.configuration import load_config
from screen.running.prepare import prepare
from screen.running.resume import coverage_of, open_store
from screen.running.runner import run_units
from screen.running.tables import make_tables
from screen.stats import deg
from screen.stats.gene_results import statistics_of
from screen.stats.groups import GroupReader, Strata
from screen.stats.parts import gene_tables
from screen.stats.tables import write_coverage
from screen.stats.tests.rank_sum import rank_sum

LEAST = {
    "deg_paired_vs_illico": 2.0,
    "deg_paired_vs_pdex": 10.0,
    "deg_paired_vs_scanpy": 100.0,
    "deg_ranksum_vs_illico": 1.0,
}
LEAST_MOMENTS, MOST_GB, MOST_TABLES_S = 0.5, 0.5, 30.0
AT_ONCE = 25
"""Perturbations that a worker takes at once."""


@dataclass(frozen=True)
class Work:
    """Perturbations of a matrix, how many of them the slow tools get, cells of each, of all, genes."""

    n_perturbations: int
    n_slow: int
    n_cells: int
    n_controls: int
    n_genes: int
    n_rounds: int


REAL, TINY = Work(1000, 20, 50, 1000, 2000, 3), Work(6, 3, 8, 20, 30, 1)


@dataclass(frozen=True)
class Matrix:
    """Log expression of control cells (C, G), and of some of these cells under each perturbation (P, N, G)."""

    control_CG: np.ndarray
    cell_PN: np.ndarray
    after_PNG: np.ndarray

    @staticmethod
    def random(work: Work) -> "Matrix":
        """Smooth values without ties, as a model predicts them; one gene in ten shifts."""
        rng = np.random.default_rng(0)
        control_CG = rng.gamma(2.0, 0.5, (work.n_controls, work.n_genes)).astype(np.float32)
        cell_PN = np.array([rng.permutation(work.n_controls)[: work.n_cells] for _ in range(work.n_perturbations)])
        shift_PG = rng.normal(0, 0.05, (work.n_perturbations, work.n_genes)) * (rng.random(work.n_genes) < 0.1)
        after_PNG = rng.standard_normal((work.n_perturbations, work.n_cells, work.n_genes), np.float32)
        after_PNG *= np.float32(0.02)
        after_PNG += shift_PG[:, None].astype(np.float32)
        for p, cells in enumerate(cell_PN):
            after_PNG[p] += control_CG[cells]
        return Matrix(control_CG, cell_PN, after_PNG)

    def first(self, n: int) -> "Matrix":
        """The same with fewer perturbations."""
        return Matrix(self.control_CG, self.cell_PN[:n], self.after_PNG[:n])

    def anndata(self) -> Any:
        """Control and perturbed cells one after another, as other tools take them."""
        import anndata as ad
        import pandas as pd

        n_p, n, g = self.after_PNG.shape
        labels = ["control"] * len(self.control_CG) + [f"p{i}" for i in range(n_p) for _ in range(n)]
        obs = pd.DataFrame({"target": pd.Categorical(labels)}, index=[f"c{i}" for i in range(len(labels))])
        var = pd.DataFrame(index=[f"g{i}" for i in range(g)])
        return ad.AnnData(np.concatenate([self.control_CG, self.after_PNG.reshape(-1, g)]), obs=obs, var=var)

    @contextmanager
    def workers(self) -> Iterator["Workers"]:
        """Processes that share the matrix, one per core."""
        with tempfile.TemporaryDirectory() as folder:
            for field in fields(self):
                np.save(Path(folder) / f"{field.name}.npy", getattr(self, field.name))
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(available_cores(), context, initializer=Share.load, initargs=(folder,)) as pool:
                yield Workers(pool, len(self.after_PNG))


class Share:
    """What a worker process has of the matrix."""

    matrix: Matrix
    before_CG: np.ndarray

    @staticmethod
    def load(folder: str) -> None:
        Share.matrix = Matrix(*(np.load(Path(folder) / f"{f.name}.npy", mmap_mode="r") for f in fields(Matrix)))
        Share.before_CG = np.expm1(Share.matrix.control_CG)

    @staticmethod
    def paired(numbers: range) -> None:
        """Mean, SE, t, signed-rank (asked for) and means of both, as `perturbscreen deg` computes them from changes."""
        m = Share.matrix
        for p in numbers:
            cells = m.cell_PN[p]
            delta_NG = m.after_PNG[p] - m.control_CG[cells]
            statistics_of(delta_NG, Share.before_CG[cells], True, None, DegConfig(signed_rank=True)).of("t")

    @staticmethod
    def unpaired(numbers: range) -> None:
        """The rank-sum against the control of the same cells."""
        m = Share.matrix
        for p in numbers:
            rank_sum(*(np.ascontiguousarray(x.T) for x in (m.after_PNG[p], m.control_CG[m.cell_PN[p]])))


@dataclass(frozen=True)
class Workers:
    """Processes that run already, as the compiled code of the other tools is there already."""

    pool: ProcessPoolExecutor
    n_perturbations: int

    def seconds(self, work: Callable[[range], None]) -> float:
        """Of every perturbation."""
        pieces = [range(i, min(i + AT_ONCE, self.n_perturbations)) for i in range(0, self.n_perturbations, AT_ONCE)]
        start = time.perf_counter()
        for _ in self.pool.map(work, pieces):
            pass
        return time.perf_counter() - start


def illico(m: Matrix) -> float:
    """Its rank-sum of every perturbation against control."""
    from illico import asymptotic_wilcoxon

    data = m.anndata()
    start = time.perf_counter()
    asymptotic_wilcoxon(data, group_keys="target", reference="control", is_log1p=True, n_threads=available_cores())
    return time.perf_counter() - start


def pdex(m: Matrix) -> float:
    from pdex import pdex as run

    data = m.anndata()
    start = time.perf_counter()
    run(data, groupby="target", mode="ref", threads=available_cores(), is_log1p=True, reference="control")
    return time.perf_counter() - start


def scanpy(m: Matrix) -> float:
    import scanpy as sc

    data = m.anndata()
    start = time.perf_counter()
    sc.tl.rank_genes_groups(data, "target", reference="control", method="wilcoxon")
    return time.perf_counter() - start


def beside_others(work: Work, results: Path, is_screen: bool) -> list[str]:
    """Perturbations per second against each tool; the slow ones on fewer perturbations of the same matrix.

    `is_screen`: each perturbation has its own cells out of those of the screen, and the other tools, which are unpaired,
    compare them with the control of all. Otherwise all perturbations have the same cells, which are all there are.
    """
    matrix = Matrix.random(work)
    few = matrix.first(work.n_slow)
    with matrix.workers() as workers:
        variants = {
            "paired": lambda: workers.seconds(Share.paired),
            "illico": lambda: illico(matrix),
            "pdex": lambda: pdex(few),
            "scanpy": lambda: scanpy(few),
        }
        if not is_screen:
            variants["unpaired"] = lambda: workers.seconds(Share.unpaired)
        taken = rounds(variants, work.n_rounds)
    faults = []
    for ours, theirs, n in (
        ("paired", "illico", work.n_perturbations),
        ("paired", "pdex", work.n_slow),
        ("paired", "scanpy", work.n_slow),
        ("unpaired", "illico", work.n_perturbations),
    ):
        if ours not in taken:
            continue
        name = f"deg_{'ranksum' if ours == 'unpaired' else ours}_vs_{theirs}"
        least = LEAST[name] if is_screen or ours == "unpaired" else None
        rate, baseline = work.n_perturbations / median(taken[ours]), n / median(taken[theirs])
        line = record(
            name if least else f"{name}_same_cells", round(rate, 1), "perturbations/s", round(baseline, 3),
            round(rate / baseline, 2), results, n_perturbations=work.n_perturbations, n_of_the_other=n,
            p20_p80=[round(work.n_perturbations / s, 1) for s in reversed(p20_p80(taken[ours]))],
            n_cells=work.n_cells, n_controls=work.n_controls, n_genes=work.n_genes, n_cores=available_cores(),
        )  # fmt: skip
        faults.append(reported(line, at_least=least))
    return faults


def forgotten(folder: Path) -> None:
    """What the system holds of the files below a folder in memory is dropped: they are read from the disk again."""
    for path in folder.rglob("c.*"):
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def moments(work: Work, results: Path) -> list[str]:
    """The ranking's pass over a store (`deg: {top: 0}`), against reading the same changes through dask.

    From the disk, as a store that is larger than memory, and from the system's cache.
    """
    import dask

    faults = []
    with tempfile.TemporaryDirectory() as folder:
        screen = synthetic(work.n_controls, max(work.n_perturbations // 5, 2))
        store, units = filled(screen, Path(folder), Executor(torch.device("cpu")))
        del units
        block, n_threads = store.blocks[0], available_cores()
        strata = Strata(("all",), np.zeros(store.n_cells, dtype=np.int64))
        reader = GroupReader(store, block, strata, DegConfig(top=0))
        size = block.n_items * block.array("delta/t1").shape[1] * 2

        def summed() -> float:
            start = time.perf_counter()
            with ThreadPoolExecutor(n_threads) as pool:
                for _ in pool.map(lambda p: list(reader.groups(p)), range(block.n_perturbations)):
                    pass
            return time.perf_counter() - start

        def scanned() -> float:
            chunks = store.to_dask("delta/t1", decode=False).to_delayed().ravel()
            start = time.perf_counter()
            count = dask.delayed(len)
            dask.compute(*[count(c) for c in chunks], scheduler="threads", num_workers=n_threads)
            return time.perf_counter() - start

        def after_forgetting(measure: Callable[[], float]) -> Callable[[], float]:
            def measured() -> float:
                forgotten(Path(folder))
                return measure()

            return measured

        variants = {"moments": summed, "scan": scanned}
        for name, prepared, least in (
            ("deg_moments_vs_scan", {k: after_forgetting(v) for k, v in variants.items()}, LEAST_MOMENTS),
            ("deg_moments_vs_scan_cached", variants, None),
        ):
            taken = rounds(prepared, work.n_rounds)
            rate, baseline = (size / median(taken[k]) / 1e6 for k in ("moments", "scan"))
            line = record(
                name, round(rate, 3), "MB/s", round(baseline, 3), round(rate / baseline, 3), results,
                p20_p80=[round(size / s / 1e6) for s in reversed(p20_p80(taken["moments"]))], n_bytes=size,
                n_cores=n_threads,
            )  # fmt: skip
            faults.append(reported(line, at_least=least))
    return faults


def memory_child(n_perturbations: int, n_cells: int) -> dict[str, float]:
    """Peak memory of making the gene tables of a store, above what the process held before."""
    with tempfile.TemporaryDirectory() as folder:
        store, units = filled(synthetic(n_cells, n_perturbations), Path(folder), Executor(torch.device("cpu")))
        del units
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before = peak_gb()
        strata = Strata(("all",), np.zeros(store.n_cells, dtype=np.int64))
        with gene_tables(store, Path(folder), strata, DegConfig()):
            pass
        return {"before_gb": before, "extra_gb": round(peak_gb() - before, 4)}


def memory(work: Work, results: Path, is_quick: bool) -> str:
    """Extra memory of the tables with ten times the perturbations."""
    sizes = [(max(work.n_perturbations // 100, 2) * k, work.n_cells * (2 if is_quick else 20)) for k in (1, 10)]
    once, tenfold = (child(*size, is_quick=is_quick) for size in sizes)
    line = record(
        "deg_extra_memory", tenfold["extra_gb"], "GB", once["extra_gb"], None, results, n_perturbations=sizes[1][0],
        n_of_the_other=sizes[0][0], n_cells=sizes[1][1],
    )  # fmt: skip
    return reported(line, at_most=MOST_GB)


def child(*values: object, is_quick: bool) -> dict[str, float]:
    """What a process of its own reports."""
    command = [sys.executable, "-m", __spec__.name, *(["--quick"] if is_quick else []), "--child", *map(str, values)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def tables(is_quick: bool, results: Path) -> str:
    """From the committed store of the demo to deg/ and hits.parquet."""
    config = load_config(ROOT / "configs" / "demo.yaml")
    if is_quick:
        library = [block.model_copy(update={"genes": ["CCL2", "CD14"]}) for block in config.library]
        config = config.model_copy(update={"library": library, "null": NullConfig(n=0)})
    screen = prepare(config)
    executor = executor_for(ComputeConfig(), screen, None).executor
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(screen, Path(folder), "", executor)
        run_units(PackedEngine(screen, executor), store, lambda *_: None)
        start = time.perf_counter()
        write_coverage(coverage_of(screen, store), store, Path(folder))
        make_tables(store, Path(folder), Console())
        elapsed_s = time.perf_counter() - start
        size = sum(p.stat().st_size for p in Path(folder).glob("deg/*"))
        one_s, all_s = reading(Path(folder))
    line = record(
        "deg_tables_demo", round(elapsed_s, 2), "s", None, None, results, n_edits=screen.plan.n_items,
        n_perturbations=len(screen.library), n_bytes=size,
    )  # fmt: skip
    record("deg_read_one", round(median(one_s), 5), "s", round(median(all_s), 5), None, results,
           p20_p80=[round(x, 5) for x in p20_p80(one_s)])  # fmt: skip
    return reported(line, at_most=MOST_TABLES_S)


def reading(folder: Path) -> tuple[list[float], list[float]]:
    """Seconds to read one perturbation of the tables, of several, and to read all."""
    targets = pl.read_parquet(folder / "hits.parquet")["target"].unique().sort()
    one_s, all_s = [], []
    for i in range(5):
        for seconds, table in (
            (one_s, deg.scan(folder).filter(target=targets[i * len(targets) // 5])),
            (all_s, deg.scan(folder)),
        ):
            start = time.perf_counter()
            table.collect()
            seconds.append(time.perf_counter() - start)
    return one_s, all_s


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 1 if a figure is not what it must be."""
    warnings.simplefilter("ignore")
    parser = parser_of(__doc__)
    parser.add_argument("--child", nargs=2, type=int, help="used by this script itself")
    given = parser.parse_args(arguments)
    work = TINY if given.quick else REAL
    if given.child:
        sys.stdout.write(json.dumps(memory_child(*given.child)) + "\n")
        return 0
    same = replace(work, n_controls=work.n_cells)
    faults = [f for w, is_screen in ((work, True), (same, False)) for f in beside_others(w, given.results, is_screen)]
    faults += moments(work, given.results) + gene_tables_of(
        work.n_perturbations, work.n_cells, work.n_rounds, given.results, has_workers=not given.quick
    )
    faults += [memory(work, given.results, given.quick), tables(given.quick, given.results)]
    return exit_code(faults, given.quick)


if __name__ == "__main__":
    sys.exit(main())
