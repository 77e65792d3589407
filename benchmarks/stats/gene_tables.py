"""The gene tables of a store from its partial moments and from its changes, with one thread and with two."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import median, p20_p80, record, rounds
from benchmarks.run_all import reported
from benchmarks.store.store import filled, synthetic
from screen.config.sections import DegConfig
from screen.directory import STORE
from screen.engine.executor import Executor
from screen.machine import available_cores
from screen.stats.groups import Strata
from screen.stats.parts import gene_tables
from screen.store.store import ScreenStore

LEAST_SCALING, LEAST_SHARE = 1.7, 0.9
"""Two worker processes, started before, against one: so many times as fast, or this share of what the machine gives two
processes that have nothing to do with each other (a core that is half of another one, a busy neighbour)."""
Compute = Callable[[Sequence[Any], Callable[[], None]], list[Any]]


def gene_tables_of(n_perturbations: int, n_cells: int, n_rounds: int, results: Path, has_workers: bool) -> list[str]:
    """The gene tables of a store, with one thread, worker, and with two, and of the same store without partial moments."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        whole, bare = Path(folder) / "whole", Path(folder) / "bare"
        screen = synthetic(n_cells, 6 * n_perturbations)
        filled(screen, whole, Executor(torch.device("cpu")))
        shutil.copytree(whole, bare)
        shutil.rmtree(bare / STORE / "library" / "0" / "moments")
        strata = Strata(("all",), np.zeros(n_cells, dtype=np.int64))

        def seconds(out: Path, compute: Compute) -> float:
            store = ScreenStore.open(out / STORE)
            start = time.perf_counter()
            with gene_tables(store, out, strata, DegConfig(), compute=compute):
                return time.perf_counter() - start

        variants = {
            "one": partial(seconds, whole, partial(on_threads, 1)), "two": partial(seconds, whole, partial(on_threads, 2)),
            "changes": partial(seconds, bare, partial(on_threads, 2)),
        }  # fmt: skip
        if has_workers:
            one, other, two = (stack.enter_context(workers(n)) for n in (1, 1, 2))
            shutil.copytree(whole, Path(folder) / "copy")
            alone = partial(seconds, whole, one)
            apart = partial(at_once, alone, partial(seconds, Path(folder) / "copy", other))
            variants |= {"1 workers": alone, "2 workers": partial(seconds, whole, two), "apart": apart}
        taken = rounds(variants, n_rounds)
    faults, n, possible = [], len(screen.library), None
    compared = [("deg_tables_from_moments", "two", "changes", None), ("deg_tables_two_threads", "two", "one", None)]
    if has_workers:
        possible = 2 * median(taken["1 workers"]) / median(taken["apart"])
        least = min(LEAST_SCALING, LEAST_SHARE * possible) if available_cores() > 1 else None
        compared.append(("deg_tables_two_workers", "2 workers", "1 workers", least))
    for name, ours, theirs, least in compared:
        rate, baseline = n / median(taken[ours]), n / median(taken[theirs])
        line = record(
            name, round(rate, 1), "perturbations/s", round(baseline, 1), round(rate / baseline, 2), results,
            p20_p80=[round(n / s, 1) for s in reversed(p20_p80(taken[ours]))], n_perturbations=n, n_cells=n_cells,
            n_genes=screen.adapter.schema.n_genes, two_processes_apart=possible and round(possible, 2),
        )  # fmt: skip
        faults.append(reported(line, at_least=least))
    return faults


def at_once(*tasks: Callable[[], float]) -> float:
    """Seconds until all are done, each begun in a thread of its own."""
    start = time.perf_counter()
    with ThreadPoolExecutor(len(tasks)) as pool:
        list(pool.map(lambda task: task(), tasks))
    return time.perf_counter() - start


def on_threads(n_threads: int, tasks: Sequence[Any], done: Callable[[], None]) -> list[Any]:
    """Computes in this process."""
    import dask

    return list(dask.compute(*tasks, scheduler="threads", num_workers=n_threads))


@contextmanager
def workers(n: int) -> Iterator[Compute]:
    """Processes of one thread, as those of `deg --workers`."""
    from dask.distributed import Client, LocalCluster

    with LocalCluster(n_workers=n, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        yield lambda tasks, done: list(client.gather(client.compute(list(tasks))))
