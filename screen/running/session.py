"""One `perturbscreen run`: configuration in, store and tables out."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from screen.config.screen_config import ScreenConfig
from screen.config.sections import ClusterConfig
from screen.directory import PREDICTIONS, REPORT, STORE
from screen.engine.executor import Executor
from screen.engine.precision import Decision, executor_for
from screen.engine.screen import Screen
from screen.engine.unit import Progress
from screen.errors import CellError
from screen.results.results import Results, open_results
from screen.running.cluster.handoff import write_handoff
from screen.running.described import described_plan, notes_of
from screen.running.listener import Listener
from screen.running.preflight import disk_bytes, h5ad_bytes
from screen.running.prepare import prepare
from screen.running.resume import coverage_of, has_work, left, open_store, other_executors
from screen.running.runner import make_engine, run_units
from screen.running.sessions import recorded
from screen.running.tables import make_export, make_report, make_tables
from screen.running.unscreened import nothing_to_screen, reasons
from screen.stats.parts import on_threads
from screen.stats.tables import write_coverage
from screen.store.audit import status
from screen.store.lock import only_writer
from screen.store.reader import Block
from screen.store.store import ScreenStore, scratch_of

if TYPE_CHECKING:
    from screen.running.cluster.cluster import Cluster


def run_screen(
    config: ScreenConfig, config_text: str, directory: Path, listener: Listener, add: bool = False
) -> tuple[Results, list[str]]:
    """Runs a screen to the end, or continues it, and writes its tables. Raises ScreenError.

    Gives its results, and why perturbations that were asked for have no item, a sentence each.
    `add` appends perturbations that the directory's store lacks.
    """
    screen = prepare(config, _there(directory))
    for line in described_plan(screen):
        listener.say(line)
    for note in notes_of(screen):
        listener.note(note)
    if screen.plan.n_items == 0:
        raise CellError(nothing_to_screen(screen))
    path = directory / STORE
    ScreenStore.require_free(path)
    scratch = scratch_of(path)
    # no jobs are queued to find that nothing is left
    cluster = config.cluster if has_work(screen, directory) else None
    with only_writer(directory, scratch), _workers(config, cluster, screen, scratch, listener) as workers:
        decision = workers.decide(_decided(directory))
        _describe_decision(decision, listener)
        figures = decision.tried[-1].figures() if decision.tried else None
        store = open_store(screen, directory, config_text, decision.executor, figures, add)
        _compute(screen, store, decision, workers, listener)
        if decision.executor.is_delta:
            _describe_recomputed(store, listener)
        write_coverage(coverage_of(screen, store), store, directory)
        _, is_new = make_tables(store, directory, listener, workers.tables)
        if config.output.h5ad and (is_new or not (directory / PREDICTIONS).is_file()):
            make_export(store, directory, listener)
    results = open_results(directory)
    if config.output.report and not (directory / REPORT).is_file():
        make_report(results, listener)
    return results, reasons(screen, screen.unscreened())


class _Workers(Protocol):
    """Who computes: this process, or a cluster."""

    def decide(self, decided: Mapping[str, Any] | None) -> Decision:
        """Device, precision and the rest, given what an existing store was created with."""

    def compute(self, store: ScreenStore, block: Block, part: Screen, executor: Executor, progress: Progress) -> None:
        """Every unit that a library block lacks."""

    def tables(self, tasks: Sequence[Any], done: Callable[[], None]) -> list[Any]:
        """Dask tasks, after the last unit."""


@dataclass(frozen=True)
class _Here:
    """This process."""

    config: ScreenConfig
    screen: Screen
    listener: Listener

    def decide(self, decided: Mapping[str, Any] | None) -> Decision:
        with self.listener.status("choosing device and precision"):
            return executor_for(self.config.compute, self.screen, decided)

    def compute(self, store: ScreenStore, block: Block, part: Screen, executor: Executor, progress: Progress) -> None:
        run_units(make_engine(self.config.compute, part, executor), store, progress, block)

    def tables(self, tasks: Sequence[Any], done: Callable[[], None]) -> list[Any]:
        return on_threads(tasks, done)


@dataclass(frozen=True)
class _There:
    """A cluster; screens reach it through the output directory."""

    config: ScreenConfig
    screen: Screen
    scratch: Path
    cluster: "Cluster"

    def decide(self, decided: Mapping[str, Any] | None) -> Decision:
        return self.cluster.decide(self._handoff(self.screen), self.config.compute, decided)

    def compute(self, store: ScreenStore, block: Block, part: Screen, executor: Executor, progress: Progress) -> None:
        self.cluster.compute(store, block, self._handoff(part), executor, self.config.compute, progress)

    def tables(self, tasks: Sequence[Any], done: Callable[[], None]) -> list[Any]:
        return self.cluster.tables(tasks, done)

    def _handoff(self, screen: Screen) -> Path:
        folder = self.scratch / f"screen-{screen.plan.fingerprint()[:16]}"
        return folder if folder.exists() else write_handoff(screen, folder)


@contextmanager
def _workers(
    config: ScreenConfig, cluster: ClusterConfig | None, screen: Screen, scratch: Path, listener: Listener
) -> Iterator[_Workers]:
    if cluster is None:
        yield _Here(config, screen, listener)
        return
    from screen.running.cluster.cluster import started

    with started(cluster, config.compute, listener.say) as workers:
        yield _There(config, screen, scratch, workers)


def _describe_decision(decision: Decision, listener: Listener) -> None:
    if not decision.tried:
        return
    for agreement in decision.tried:
        listener.note(f"{agreement}{'' if agreement.is_close else '; it is not used'}")
    precision = decision.executor.precision
    if precision == "delta32":
        listener.note("delta32 carries changes: nearer to the exact answer than float32 is, and slower on a CPU")
    elif decision.executor.device.type == "cpu" and precision != "float32":
        listener.note(f"{precision} is emulated on a CPU: the numbers of a GPU, slower than float32")


def _describe_recomputed(store: ScreenStore, listener: Listener) -> None:
    found = Counter[str]()
    for block in status(store):
        found.update(block.recomputed)
    n_items = sum(b.n_items for b in store.blocks)
    for reason, n in sorted(found.items()):
        listener.note(f"{n:,} of {n_items:,} edits were computed by the packed engine in float32: {reason}")


def _compute(screen: Screen, store: ScreenStore, decision: Decision, workers: _Workers, listener: Listener) -> None:
    """Every unit that the store lacks."""
    if store.is_complete:
        n_items = sum(b.n_items for b in store.blocks)
        listener.say(f"{store.path} is complete: {n_items:,} items in {store.n_units} units; nothing is computed again")
        if not store.is_consolidated:
            store.finish()
        return
    record = decision.record
    if store.n_committed:
        listener.say(f"continuing {store.path}: {store.n_committed} of {store.n_units} units are done")
        for sentence in other_executors(store, record):
            listener.note(f"{sentence}: results agree as far as docs/exactness.md says, not bit for bit")
    listener.say(f"  computing on {record['device']} in {record['precision']}")
    _warn_of_full_disk(screen, store, listener)
    with recorded(store.path.parent, record) as counting:
        for block, part in left(screen, store):
            n_left = part.plan.n_items - sum(r.stop - r.start for r in map(block.rows, block.committed()))
            with listener.progress(n_left) as progress:
                workers.compute(store, block, part, decision.executor, counting(progress))
    store.finish()


def _warn_of_full_disk(screen: Screen, store: ScreenStore, listener: Listener) -> None:
    share = 1 - store.n_committed / max(store.n_units, 1)
    needed, free = share * disk_bytes(screen) + h5ad_bytes(screen), shutil.disk_usage(store.path).free
    if needed > free:
        listener.note(
            f"about {needed / 1e9:,.1f} GB are still to be written, but {store.path.parent} has {free / 1e9:,.1f} GB free; "
            "a full disk stops the run, and it continues when there is room"
        )


def _there(directory: Path) -> dict[str, bool]:
    """Id -> whether it is a null perturbation, of the store in a directory; nothing if there is none."""
    if not ScreenStore.exists(directory / STORE):
        return {}
    blocks = ScreenStore.open(directory / STORE).blocks
    found = [(b.strings("perturbations/id").tolist(), b.read("perturbations/is_null").tolist()) for b in blocks]
    return {i: is_null for ids, nulls in found for i, is_null in zip(ids, nulls, strict=True)}


def _decided(directory: Path) -> dict[str, Any] | None:
    """What the store in a directory was created with, None if there is none."""
    if not ScreenStore.exists(directory / STORE):
        return None
    decided: dict[str, Any] | None = ScreenStore.open(directory / STORE).provenance.get("decided")
    return decided
