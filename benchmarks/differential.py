"""Differential expression beside illico, pdex and scanpy on the same matrix, and beside reading the store.

python benchmarks/differential.py            # about two minutes; appends to benchmarks/results.jsonl

Not part of `make bench` yet: on this data pdex and scanpy are closer, and the moments slower beside a scan, than they must be.
"""

import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plans import peak_gb
from record import ROOT, median, p20_p80, record, rounds
from run_all import exit_code, parser_of, said
from store import filled, synthetic

from screen.deg import Wanted, means_file, write_tables
from screen.engine import PackedEngine
from screen.executor import Executor
from screen.groups import ChosenTests, Strata, statistics_of
from screen.lanes import available_cores
from screen.moments import mean_and_squares
from screen.pilot import executor_for
from screen.prepare import prepare
from screen.report import Console
from screen.resume import open_store
from screen.runner import run_units
from screen.sections import ComputeConfig
from screen.session import load_config, write_all_tables
from screen.statistics import rank_sum

LEAST = {
    "deg_paired_vs_illico": 2.0,
    "deg_paired_vs_pdex": 10.0,
    "deg_paired_vs_scanpy": 100.0,
    "deg_ranksum_vs_illico": 1.0,
}
LEAST_MOMENTS, MOST_GB, MOST_TABLES_S = 0.5, 0.5, 30.0


@dataclass(frozen=True)
class Work:
    """Perturbations of one matrix, how many of them the slow tools get, cells of each, genes."""

    n_perturbations: int
    n_slow: int
    n_cells: int
    n_genes: int
    n_rounds: int


REAL, TINY = Work(1000, 20, 50, 2000, 3), Work(6, 3, 8, 30, 1)


@dataclass(frozen=True)
class Matrix:
    """Log expression of control cells (N, G) and of the same cells under every perturbation (P, N, G)."""

    control_NG: np.ndarray
    after_PNG: np.ndarray

    @staticmethod
    def random(work: Work) -> "Matrix":
        """Smooth values without ties, as a model predicts them; one gene in ten shifts."""
        rng = np.random.default_rng(0)
        control_NG = rng.gamma(2.0, 0.5, (work.n_cells, work.n_genes)).astype(np.float32)
        shift_PG = rng.normal(0, 0.05, (work.n_perturbations, work.n_genes)) * (rng.random(work.n_genes) < 0.1)
        noise_PNG = rng.standard_normal((work.n_perturbations, work.n_cells, work.n_genes), np.float32)
        return Matrix(control_NG, control_NG + shift_PG[:, None].astype(np.float32) + np.float32(0.02) * noise_PNG)

    def first(self, n: int) -> "Matrix":
        """The same with fewer perturbations."""
        return Matrix(self.control_NG, self.after_PNG[:n])

    def anndata(self) -> Any:
        """Control and perturbed cells one after another, as other tools take them."""
        import anndata as ad
        import pandas as pd

        n_p, n, g = self.after_PNG.shape
        labels = ["control"] * n + [f"p{i}" for i in range(n_p) for _ in range(n)]
        obs = pd.DataFrame({"target": pd.Categorical(labels)}, index=[f"c{i}" for i in range(len(labels))])
        var = pd.DataFrame(index=[f"g{i}" for i in range(g)])
        return ad.AnnData(np.concatenate([self.control_NG, self.after_PNG.reshape(-1, g)]), obs=obs, var=var)


def on_all_cores(work: Callable[[int], object], n: int) -> float:
    """Seconds of `work` for 0..n-1, one thread per core."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    with ThreadPoolExecutor(available_cores()) as pool:
        for _ in pool.map(work, range(n)):
            pass
    return time.perf_counter() - start


def paired(m: Matrix) -> float:
    """Mean, SE, t, signed-rank, means of both and fold changes of every perturbation."""
    return on_all_cores(
        lambda p: statistics_of(m.after_PNG[p] - m.control_NG, m.control_NG, True, None, ChosenTests()),
        len(m.after_PNG),
    )


def unpaired(m: Matrix) -> float:
    """The rank-sum of every perturbation against the control cells."""
    control_GN = np.ascontiguousarray(m.control_NG.T)
    return on_all_cores(lambda p: rank_sum(np.ascontiguousarray(m.after_PNG[p].T), control_GN), len(m.after_PNG))


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


def beside_others(work: Work, results: Path) -> list[str]:
    """Seconds per perturbation against each tool; the slow ones on fewer perturbations of the same matrix."""
    whole = Matrix.random(work)
    few = whole.first(work.n_slow)
    taken = rounds(
        {
            "paired": lambda: paired(whole),
            "unpaired": lambda: unpaired(whole),
            "illico": lambda: illico(whole),
            "pdex": lambda: pdex(few),
            "scanpy": lambda: scanpy(few),
        },
        work.n_rounds,
    )
    faults = []
    for name, ours, theirs, n in (
        ("deg_paired_vs_illico", "paired", "illico", work.n_perturbations),
        ("deg_paired_vs_pdex", "paired", "pdex", work.n_slow),
        ("deg_paired_vs_scanpy", "paired", "scanpy", work.n_slow),
        ("deg_ranksum_vs_illico", "unpaired", "illico", work.n_perturbations),
    ):
        rate, baseline = work.n_perturbations / median(taken[ours]), n / median(taken[theirs])
        line = record(
            name, round(rate, 1), "perturbations/s", round(baseline, 3), round(rate / baseline, 2), results,
            p20_p80=[round(work.n_perturbations / s, 1) for s in reversed(p20_p80(taken[ours]))],
            n_perturbations=work.n_perturbations, n_of_the_other=n, n_cells=work.n_cells, n_genes=work.n_genes,
            n_cores=available_cores(),
        )  # fmt: skip
        faults.append(said(line, at_least=LEAST[name]))
    return faults


def moments(work: Work, results: Path) -> str:
    """Mean, SE and t of every perturbation of a store, against reading the same changes through dask."""
    import dask

    with tempfile.TemporaryDirectory() as folder:
        screen = synthetic(work.n_cells * 20, max(work.n_perturbations // 10, 2))
        store, _ = filled(screen, Path(folder), Executor(torch.device("cpu")))
        block, scale = store.blocks[0], np.float64(store.layout.delta_scale)
        n, n_threads = block.n_perturbations, available_cores()

        def one(p: int) -> None:
            mean_G, m2_G = mean_and_squares(torch.from_numpy(block.read("delta/t1", block.rows_of(p))))
            se_G = np.sqrt(m2_G) / scale
            np.divide(mean_G / scale, se_G, out=se_G, where=se_G > 0)

        def scan() -> float:
            chunks = store.to_dask("delta/t1").to_delayed().ravel()
            start = time.perf_counter()
            count = dask.delayed(len)
            dask.compute(*[count(c) for c in chunks], scheduler="threads", num_workers=n_threads)
            return time.perf_counter() - start

        taken = rounds({"moments": lambda: on_all_cores(one, n), "scan": scan}, work.n_rounds)
        size = block.n_items * block.array("delta/t1").shape[1] * 2
    rate, baseline = (size / median(taken[k]) / 1e6 for k in ("moments", "scan"))
    line = record(
        "deg_moments_vs_scan", round(rate), "MB/s", round(baseline), round(rate / baseline, 3), results,
        p20_p80=[round(size / s / 1e6) for s in reversed(p20_p80(taken["moments"]))], n_bytes=size, n_cores=n_threads,
    )  # fmt: skip
    return said(line, at_least=LEAST_MOMENTS)


def memory_child(n_perturbations: int, n_cells: int) -> dict[str, float]:
    """Peak memory of making the gene tables of a store, above what the process held before."""
    with tempfile.TemporaryDirectory() as folder:
        store, units = filled(synthetic(n_cells, n_perturbations), Path(folder), Executor(torch.device("cpu")))
        del units
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before = peak_gb()
        strata = Strata(("all",), np.zeros(store.n_cells, dtype=np.int64))
        with means_file(store, Path(folder), strata) as means:
            write_tables(store, Path(folder), strata, Wanted(ChosenTests()), means)
        return {"before_gb": before, "extra_gb": round(peak_gb() - before, 4)}


def memory(work: Work, results: Path, is_quick: bool) -> str:
    """Extra memory of the tables with ten times the perturbations."""
    sizes = [(max(work.n_perturbations // 100, 2) * k, work.n_cells * (2 if is_quick else 20)) for k in (1, 10)]
    once, tenfold = (child(*size, is_quick=is_quick) for size in sizes)
    line = record(
        "deg_extra_memory", tenfold["extra_gb"], "GB", once["extra_gb"], None, results, n_perturbations=sizes[1][0],
        n_of_the_other=sizes[0][0], n_cells=sizes[1][1],
    )  # fmt: skip
    return said(line, at_most=MOST_GB)


def child(*values: object, is_quick: bool) -> dict[str, float]:
    """What a process of its own reports."""
    command = [sys.executable, __file__, *(["--quick"] if is_quick else []), "--child", *map(str, values)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def tables(is_quick: bool, results: Path) -> str:
    """From the committed store of the demo to deg/ and hits.parquet."""
    config = load_config(ROOT / "configs" / "demo.yaml")[0]
    if is_quick:
        library = [block.model_copy(update={"genes": ["CCL2", "CD14"]}) for block in config.library]
        config = config.model_copy(update={"library": library})
    screen = prepare(config)
    executor = executor_for(ComputeConfig(), screen, None).executor
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(screen, Path(folder), "", executor)
        run_units(PackedEngine(screen, executor), store, lambda *_: None)
        start = time.perf_counter()
        write_all_tables(screen, store, Path(folder), Console())
        elapsed_s = time.perf_counter() - start
        size = sum(p.stat().st_size for p in Path(folder).glob("deg/*"))
    line = record(
        "deg_tables_demo", round(elapsed_s, 2), "s", None, None, results, n_edits=screen.plan.n_items,
        n_perturbations=len(screen.library), n_bytes=size,
    )  # fmt: skip
    return said(line, at_most=MOST_TABLES_S)


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
    faults = [*beside_others(work, given.results), moments(work, given.results)]
    faults += [memory(work, given.results, given.quick), tables(given.quick, given.results)]
    return exit_code(faults, given.quick)


if __name__ == "__main__":
    sys.exit(main())
