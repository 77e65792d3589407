"""Cluster: the units of a screen on Dask workers: processes here, one per GPU, Slurm jobs, or any running scheduler."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import dask
from distributed import Client, KilledWorker, Nanny, Scheduler, SpecCluster

from screen.config.sections import ClusterConfig, ComputeConfig
from screen.engine.executor import Executor
from screen.engine.precision import Decision
from screen.engine.unit import Progress
from screen.errors import ConfigError, RequestError, ScreenError
from screen.machine import available_cores
from screen.running.cluster.slurm import SlurmJobs, slurm_jobs
from screen.running.cluster.waiting import Watch, signals_kept_back
from screen.running.cluster.worker import TOPIC, Failure, ScreenWorker, Share, compute_share, decide_there
from screen.store.reader import Block
from screen.store.store import ScreenStore

SHARES_PER_WORKER = 4
"""Shares are cut so that every worker gets at least so many, where there are units enough: the last ones end together."""
CONNECT_S = 60


class Cluster:
    """Workers that compute units. `say` prints a line for the user."""

    def __init__(self, config: ClusterConfig, client: Client, n_lanes: int | None, watch: Watch) -> None:
        self._config, self._client, self._n_lanes, self._watch = config, client, n_lanes, watch
        self._has_gpus = config.kind == "gpus" or (config.slurm is not None and config.slurm.gpus > 0)
        self._resources = {"GPU": 1} if self._has_gpus else None

    def decide(self, handoff: Path, compute: ComputeConfig, decided: Mapping[str, Any] | None) -> Decision:
        """Who computes, asked of a worker: this process may have no GPU."""
        task = self._client.submit(
            decide_there, handoff, self._here(compute), decided, pure=False, resources=self._resources
        )
        for done in self._watch.each_done([task]):
            try:
                found: Decision = done.result()
            except ConfigError as error:
                raise ConfigError(f"on a worker: {error}") from error
        return found

    def compute(
        self, store: ScreenStore, block: Block, handoff: Path, executor: Executor, compute: ComputeConfig,
        progress: Progress,
    ) -> None:  # fmt: skip
        """Computes every unit that a library block lacks. Raises what a unit cannot be computed for, naming it."""
        done = set(block.committed())
        left = [n for n in range(block.n_units) if n not in done]
        wanted = SHARES_PER_WORKER * max(len(self._client.scheduler_info(n_workers=-1)["workers"]), 1)
        shares = [
            Share(
                handoff.absolute(), store.path.absolute(), block.number, numbers, executor, self._here(compute),
                self._n_lanes,
            )
            for numbers in cut(left, block.cells_of(left), wanted)
        ]  # fmt: skip
        n_left = sum(r.stop - r.start for r in map(block.rows, left))
        with _listening(self._client, _upto(progress, n_left)):
            tasks = [
                self._client.submit(
                    compute_share, share, pure=False, retries=self._config.retries, resources=self._resources,
                    key=f"{share.label} #{number}", priority=-number,
                )
                for number, share in enumerate(shares)
            ]  # fmt: skip
            try:
                for task in self._watch.each_done(tasks):
                    _raise_of(task, self._config.retries)
            finally:
                self._client.cancel(tasks)

    def tables(self, tasks: Sequence[Any], done: Callable[[], None]) -> list[Any]:
        """Results of Dask tasks, in order, wherever they run; `done` is called as each is. Raises what a task raises."""
        futures = self._client.compute(list(tasks), retries=self._config.retries)
        try:
            for task in self._watch.each_done(futures):
                if isinstance(error := task.exception(), KilledWorker):
                    raise ScreenError(
                        f"the tables: {self._config.retries + 1} workers died while they made a part, the last at "
                        f"{error.last_worker.address}; they may have run out of memory. `perturbscreen deg DIR` makes them here"
                    ) from error
                task.result()
                done()
            return [task.result() for task in futures]
        finally:
            self._client.cancel(futures)

    def _here(self, compute: ComputeConfig) -> ComputeConfig:
        """A worker that was given one GPU sees it as its first, and says so where it sees none."""
        is_ours = self._config.kind == "gpus" or compute.device == "auto"
        return compute.model_copy(update={"device": "cuda"}) if self._has_gpus and is_ours else compute


@contextmanager
def started(config: ClusterConfig, compute: ComputeConfig, say: Callable[[str], None]) -> Iterator[Cluster]:
    """The workers of a configuration, started, or found where they run; those that were started end with it."""
    with _cluster(config) as (address, n_workers, jobs), _client(address) as client:
        client.register_plugin(ScreenWorker())
        watch = Watch(client, config.wait_s, *(() if jobs is None else (jobs.fault, jobs.told)))
        watch.wait_for_first()
        n_found = n_workers or len(client.scheduler_info(n_workers=-1)["workers"])
        say(f"{n_found} worker(s), scheduler {client.scheduler.address}, dashboard {client.dashboard_link}")
        yield Cluster(config, client, compute.lanes or config.threads or _lanes(config), watch)


def _lanes(config: ClusterConfig) -> int | None:
    """The cores of this machine divided among its workers; others see for themselves."""
    is_here = config.scheduler is None and config.kind == "local"
    return max(available_cores() // (config.workers or 1), 1) if is_here else None


@contextmanager
def _client(address: object) -> Iterator[Client]:
    try:
        # a client that is interrupted while it is made waits two minutes for itself at the end of the process
        with nullcontext() if isinstance(address, str) else signals_kept_back():
            client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise ConfigError(
            f"no Dask scheduler answers at {address} ({error}); start one, or correct the address"
        ) from error
    with client:
        yield client


@contextmanager
def _cluster(config: ClusterConfig) -> Iterator[tuple[Any, int | None, SlurmJobs | None]]:
    """(what a client connects to, how many workers were asked for, the jobs that they are)."""
    if config.scheduler is not None:
        yield config.scheduler, None, None
        return
    settings = {
        # a worker that dies while it has a share is one of the share's tries
        "distributed.scheduler.allowed-failures": config.retries,
        "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "error",
    }
    with dask.config.set(settings):
        if config.kind == "slurm":
            assert config.slurm is not None
            n_workers = config.workers or 1
            with slurm_jobs(config.slurm, n_workers) as jobs:
                yield jobs.cluster, n_workers, jobs
            return
        environments = (
            gpu_environments(os.environ.get("CUDA_VISIBLE_DEVICES"), _n_gpus(), config.workers)
            if config.kind == "gpus"
            else [{}] * (config.workers or 1)
        )
        scheduler = {"cls": Scheduler, "options": {"dashboard_address": ":0", "host": "127.0.0.1", "port": 0}}
        with SpecCluster(_processes(environments), scheduler, silence_logs=logging.ERROR) as cluster:
            yield cluster, len(environments), None


def _processes(environments: Sequence[Mapping[str, str]]) -> dict[int, dict[str, Any]]:
    """One worker process for each environment, restarted if it dies, without a limit on its memory of Dask's own."""
    return {
        number: {
            "cls": Nanny,
            "options": {
                "nthreads": 1,
                "memory_limit": 0,
                "host": "127.0.0.1",
                "env": dict(environment),
                "resources": {"GPU": 1} if environment else None,
            },
        }
        for number, environment in enumerate(environments)
    }


def _n_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def gpu_environments(visible: str | None, n_gpus: int, n_workers: int | None) -> list[dict[str, str]]:
    """The environment of one worker per GPU: each sees its own only.

    `visible` is this process's CUDA_VISIBLE_DEVICES: numbers, UUIDs or MIG names, taken as they are. Raises ConfigError
    where there are fewer GPUs than workers asked for, or none.
    """
    names = [x.strip() for x in visible.split(",") if x.strip()] if visible else [str(i) for i in range(n_gpus)]
    names = names[:n_gpus]
    if not names or (n_workers or 0) > len(names):
        raise ConfigError(
            f"cluster.kind is gpus with {n_workers or 'one worker per GPU'}, but this machine shows {len(names)} GPU(s)"
            + (f" (CUDA_VISIBLE_DEVICES={visible})" if visible is not None else "")
            + "; ask for fewer workers, or use kind: local"
        )
    return [{"CUDA_VISIBLE_DEVICES": name} for name in names[: n_workers or len(names)]]


def cut(numbers: Sequence[int], cells: Sequence[int], n_wanted: int) -> list[tuple[int, ...]]:
    """Units -> shares: the units of one block of cells together, unless that makes fewer than `n_wanted` shares.

    A worker computes a share from first to last, and so the controls of a block of cells once. `cells` is the block of
    cells that each unit begins in; the largest share is halved while there are too few.
    """
    shares: list[list[int]] = []
    for place, number in enumerate(numbers):
        if place and cells[place] == cells[place - 1] and number == numbers[place - 1] + 1:
            shares[-1].append(number)
        else:
            shares.append([number])
    while shares and len(shares) < n_wanted and max(map(len, shares)) > 1:
        at = max(range(len(shares)), key=lambda i: len(shares[i]))
        middle = len(shares[at]) // 2
        shares[at : at + 1] = [shares[at][:middle], shares[at][middle:]]
    return [tuple(s) for s in shares]


@contextmanager
def _listening(client: Client, progress: Progress) -> Iterator[None]:
    """What workers tell of their progress is passed on."""

    def hear(event: tuple[float, Sequence[int]]) -> None:
        n_items, n_tokens, n_padded = event[1]
        progress(n_items, n_tokens, n_padded)

    client.subscribe_topic(TOPIC, hear)
    try:
        yield
    finally:
        client.unsubscribe_topic(TOPIC)


def _upto(progress: Progress, n_items: int) -> Progress:
    """Items that are computed twice, because a worker was lost, count once."""
    left = n_items

    def count(n: int, n_tokens: int, n_padded: int) -> None:
        nonlocal left
        progress(min(n, left), n_tokens, n_padded)
        left -= min(n, left)

    return count


def _raise_of(task: Any, retries: int) -> None:
    """Raises what went wrong with a share, if anything."""
    label = str(task.key).rpartition(" #")[0]
    error = task.exception()
    if isinstance(error, KilledWorker):
        raise ScreenError(
            f"{label}: {retries + 1} workers died while they had it, the last at {error.last_worker.address}; they may have run "
            "out of memory (a smaller compute.batch_tokens in a new --out, or fewer workers). What was committed is kept"
        ) from error
    if error is not None:
        raise ScreenError(
            f"{label} failed {retries + 1} times, the last with {type(error).__name__}: {error}. What was committed is kept"
        ) from error
    failure: Failure | None = task.result()
    if failure is not None:
        kind = RequestError if failure.exit_code == RequestError.exit_code else ScreenError
        raise kind(f"{failure.label}: {failure.message}")
