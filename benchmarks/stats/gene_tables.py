"""The gene tables of a store from its partial moments and from its changes, with one thread and with two."""

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import median, p20_p80, record, rounds
from benchmarks.run_all import reported
from benchmarks.store.store import filled, synthetic
from screen.config.sections import DegConfig
from screen.engine.executor import Executor
from screen.machine import available_cores
from screen.stats.groups import Strata
from screen.stats.parts import gene_tables
from screen.store.reader import STORE
from screen.store.store import ScreenStore

LEAST_SCALING = 1.7
"""Two threads against one, on two cores that nothing else uses."""


def gene_tables_of(n_perturbations: int, n_cells: int, n_rounds: int, results: Path) -> list[str]:
    """The gene tables of a store, with a thread and with two, and of the same store without its partial moments."""
    import dask

    with tempfile.TemporaryDirectory() as folder:
        whole, bare = Path(folder) / "whole", Path(folder) / "bare"
        screen = synthetic(n_cells, 6 * n_perturbations)
        filled(screen, whole, Executor(torch.device("cpu")))
        shutil.copytree(whole, bare)
        shutil.rmtree(bare / STORE / "library" / "0" / "moments")
        strata = Strata(("all",), np.zeros(n_cells, dtype=np.int64))

        def seconds(out: Path, n_threads: int) -> float:
            def compute(tasks: Sequence[Any], done: Callable[[], None]) -> list[Any]:
                return list(dask.compute(*tasks, scheduler="threads", num_workers=n_threads))

            store = ScreenStore.open(out / STORE)
            start = time.perf_counter()
            with gene_tables(store, out, strata, DegConfig(), compute=compute):
                return time.perf_counter() - start

        variants = {
            "one": lambda: seconds(whole, 1), "two": lambda: seconds(whole, 2), "changes": lambda: seconds(bare, 2),
        }  # fmt: skip
        taken = rounds(variants, n_rounds)
    faults, n = [], len(screen.library)
    for name, ours, theirs, least in (
        ("deg_tables_from_moments", "two", "changes", None),
        ("deg_tables_two_threads", "two", "one", LEAST_SCALING if available_cores() > 1 else None),
    ):
        rate, baseline = n / median(taken[ours]), n / median(taken[theirs])
        line = record(
            name, round(rate, 1), "perturbations/s", round(baseline, 1), round(rate / baseline, 2), results,
            p20_p80=[round(n / s, 1) for s in reversed(p20_p80(taken[ours]))], n_perturbations=n, n_cells=n_cells,
            n_genes=screen.adapter.schema.n_genes,
        )  # fmt: skip
        faults.append(reported(line, at_least=least))
    return faults
