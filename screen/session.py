"""One `perturbscreen run`: configuration in, store and tables out."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl

from screen.config import ScreenConfig, parse_config, parse_section, read_yaml
from screen.engine import Progress
from screen.enrich import ranked_in
from screen.errors import CellError
from screen.executor import Executor
from screen.handoff import write_handoff
from screen.importers.perturbgen_yaml import from_upstream, is_upstream
from screen.lock import only_writer
from screen.parts import Compute, on_threads
from screen.pilot import Decision, executor_for
from screen.preflight import disk_bytes
from screen.prepare import prepare
from screen.prepared import Prepared
from screen.reading import Block
from screen.report import Console, describe_plan
from screen.resume import STORE, coverage_of, has_work, left, open_store, other_executors
from screen.runner import make_engine, run_units
from screen.sections import ClusterConfig, ComputeConfig
from screen.store import ScreenStore, scratch_of
from screen.tables import present, write_all, write_coverage

if TYPE_CHECKING:
    from screen.cluster import Cluster


@dataclass(frozen=True)
class Result:
    """What a run left behind.

    ranked      gene sets of the strongest perturbations, None where none were asked for
    unscreened  labels of requested perturbations without any item, each with its reason
    """

    directory: Path
    hits: pl.DataFrame
    ranked: pl.DataFrame | None
    has_counts: bool
    unscreened: tuple[str, ...]


def load_config(
    path: Path,
    store_dtype: str | None = None,
    allow_missing: bool = False,
    encoder_heads: int | None = None,
    compute: Mapping[str, object] | None = None,
    cluster: Mapping[str, object] | None = None,
) -> tuple[ScreenConfig, str]:
    """(configuration, its text) from our YAML or upstream's, with the command line's overrides. Raises ConfigError."""
    raw = read_yaml(path)
    config = from_upstream(raw, path) if is_upstream(raw) else parse_config(raw, path)
    output: dict[str, object] = {"store_dtype": store_dtype} if store_dtype else {}
    output |= {"allow_missing": True} if allow_missing else {}
    model = {} if encoder_heads is None else {"encoder_num_heads": encoder_heads}
    given = {**config.compute.model_dump(), **{k: v for k, v in (compute or {}).items() if v is not None}}
    changed = {
        "output": config.output.model_copy(update=output),
        "model": config.model.model_copy(update=model),
        "compute": parse_section(ComputeConfig, given, path),
        "cluster": _cluster(config.cluster, cluster or {}, path),
    }
    return config.model_copy(update=changed), path.read_text(encoding="utf-8")


def _cluster(config: ClusterConfig | None, given: Mapping[str, object], path: Path) -> ClusterConfig | None:
    """The `cluster` section with the command line's overrides; a scheduler that is named there is taken alone."""
    named = {k: v for k, v in given.items() if v is not None}
    if not named:
        return config
    kept = {} if config is None or "scheduler" in named else config.model_dump()
    return parse_section(ClusterConfig, {**kept, **named}, path)


def run(config: ScreenConfig, config_text: str, directory: Path, console: Console, add: bool = False) -> Result:
    """Runs a screen to the end, or continues it, and writes its tables. Raises ScreenError.

    `add` appends perturbations that the directory's store lacks.
    """
    screen = prepare(config)
    describe_plan(screen, console)
    if screen.plan.n_items == 0:
        raise CellError(nothing_to_screen(screen))
    path = directory / STORE
    ScreenStore.require_free(path)
    scratch = scratch_of(path)
    # no jobs are queued to find that nothing is left
    cluster = config.cluster if has_work(screen, directory) else None
    with only_writer(directory, scratch), _workers(config, cluster, screen, scratch, console) as workers:
        decision = workers.decide(_decided(directory))
        _describe_decision(decision, console)
        figures = None if decision.agreement is None else decision.agreement.figures()
        store = open_store(screen, directory, config_text, decision.executor, figures, add)
        _compute(screen, store, decision, workers, console)
        write_coverage(coverage_of(screen, store), store, directory)
        table, _ = make_tables(store, directory, console, workers.tables)
    return Result(
        directory, table, ranked_in(directory), screen.layout.has_counts, tuple(reasons(screen, screen.unscreened()))
    )


class _Workers(Protocol):
    """Who computes: this process, or a cluster."""

    def decide(self, decided: Mapping[str, Any] | None) -> Decision:
        """Device, precision and the rest, given what an existing store was created with."""

    def compute(self, store: ScreenStore, block: Block, part: Prepared, executor: Executor, progress: Progress) -> None:
        """Every unit that a library block lacks."""

    def tables(self, tasks: Sequence[Any], done: Callable[[], None]) -> list[Any]:
        """Dask tasks, after the last unit."""


@dataclass(frozen=True)
class _Here:
    """This process."""

    config: ScreenConfig
    screen: Prepared
    console: Console

    def decide(self, decided: Mapping[str, Any] | None) -> Decision:
        with self.console.status("choosing device and precision"):
            return executor_for(self.config.compute, self.screen, decided)

    def compute(self, store: ScreenStore, block: Block, part: Prepared, executor: Executor, progress: Progress) -> None:
        run_units(make_engine(self.config.compute, part, executor), store, progress, block)

    def tables(self, tasks: Sequence[Any], done: Callable[[], None]) -> list[Any]:
        return on_threads(tasks, done)


@dataclass(frozen=True)
class _There:
    """A cluster; screens reach it through the output directory."""

    config: ScreenConfig
    screen: Prepared
    scratch: Path
    cluster: "Cluster"

    def decide(self, decided: Mapping[str, Any] | None) -> Decision:
        return self.cluster.decide(self._handoff(self.screen), self.config.compute, decided)

    def compute(self, store: ScreenStore, block: Block, part: Prepared, executor: Executor, progress: Progress) -> None:
        self.cluster.compute(store, block, self._handoff(part), executor, self.config.compute, progress)

    def tables(self, tasks: Sequence[Any], done: Callable[[], None]) -> list[Any]:
        return self.cluster.tables(tasks, done)

    def _handoff(self, screen: Prepared) -> Path:
        folder = self.scratch / f"screen-{screen.plan.fingerprint()[:16]}"
        return folder if folder.exists() else write_handoff(screen, folder)


@contextmanager
def _workers(
    config: ScreenConfig, cluster: ClusterConfig | None, screen: Prepared, scratch: Path, console: Console
) -> Iterator[_Workers]:
    if cluster is None:
        yield _Here(config, screen, console)
        return
    from screen.cluster import started

    with started(cluster, config.compute, console.say) as workers:
        yield _There(config, screen, scratch, workers)


def _describe_decision(decision: Decision, console: Console) -> None:
    if decision.agreement is None:
        return
    if decision.executor.device.type == "cpu" and decision.executor.precision != "float32":
        console.note(f"{decision.executor.precision} is emulated on a CPU: the numbers of a GPU, slower than float32")
    console.note(f"{decision.agreement}{'' if decision.agreement.is_close else '; float32 is used'}")


def _compute(screen: Prepared, store: ScreenStore, decision: Decision, workers: _Workers, console: Console) -> None:
    """Every unit that the store lacks."""
    if store.is_complete:
        n_items = sum(b.n_items for b in store.blocks)
        console.say(f"{store.path} is complete: {n_items:,} items in {store.n_units} units; nothing is computed again")
        if not store.is_consolidated:
            store.finish()
        return
    if store.n_committed:
        console.say(f"continuing {store.path}: {store.n_committed} of {store.n_units} units are done")
        for sentence in other_executors(store, decision.record):
            console.note(f"{sentence}: results agree as far as README says, not bit for bit")
    _warn_of_full_disk(screen, store, console)
    for block, part in left(screen, store):
        n_left = part.plan.n_items - sum(r.stop - r.start for r in map(block.rows, block.committed()))
        with console.progress(n_left) as progress:
            workers.compute(store, block, part, decision.executor, progress)
    store.finish()


def _warn_of_full_disk(screen: Prepared, store: ScreenStore, console: Console) -> None:
    share = 1 - store.n_committed / max(store.n_units, 1)
    needed, free = share * disk_bytes(screen), shutil.disk_usage(store.path).free
    if needed > free:
        console.note(
            f"about {needed / 1e9:,.1f} GB are still to be written, but {store.path.parent} has {free / 1e9:,.1f} GB free; "
            "a full disk stops the run, and it continues when there is room"
        )


def nothing_to_screen(screen: Prepared) -> str:
    """Why no perturbation has any item."""
    return "nothing to screen: " + "; ".join(reasons(screen, list(range(len(screen.library))))[:5])


def _decided(directory: Path) -> dict[str, Any] | None:
    """What the store in a directory was created with, None if there is none."""
    if not ScreenStore.exists(directory / STORE):
        return None
    decided: dict[str, Any] | None = ScreenStore.open(directory / STORE).provenance.get("decided")
    return decided


def make_tables(
    store: ScreenStore, directory: Path, console: Console, compute: Compute = on_threads
) -> tuple[pl.DataFrame, bool]:
    """(hits.parquet, whether any table was made): deg/part-*.parquet and hits.parquet, beside coverage.parquet."""
    text = "differential expression"
    with console.status(text):
        return write_all(store, directory, compute, console.parts(text))


def present_again(
    directory: Path,
    changes: Mapping[str, object],
    gene_sets: Sequence[Path],
    workers: Mapping[str, object],
    console: Console,
) -> tuple[Result, bool]:
    """(result, whether any table was made): the tables of a finished screen, with other settings of `deg`, or gene sets,
    where given.

    `workers` has the command line's `workers` and `scheduler`. Raises StoreError, ConfigError.
    """
    store = ScreenStore.open(directory / STORE, "r+")
    cluster = _cluster(None, workers, store.path)
    with ExitStack() as stack:
        stack.enter_context(only_writer(directory, scratch_of(store.path)))
        present(store, {name: value for name, value in changes.items() if value is not None}, gene_sets)
        compute = on_threads
        if cluster is not None:
            from screen.cluster import started

            compute = stack.enter_context(started(cluster, ComputeConfig(), console.say)).tables
        hits, is_new = make_tables(store, directory, console, compute)
    return Result(directory, hits, ranked_in(directory), store.layout.has_counts, ()), is_new


def reasons(screen: Prepared, perturbations: list[int]) -> list[str]:
    """Why perturbations have no item, one sentence each, with numbers of cells."""
    coverage, sentences = screen.plan.coverage, []
    total = int(coverage.n_cells_S.sum())
    for i in perturbations:
        p = screen.library.perturbations[i]
        absent, truncated, emptied = (
            int(x[i].sum()) for x in (coverage.absent_PS, coverage.truncated_PS, coverage.emptied_PS)
        )
        genes = "+".join(screen.vocabulary.label(g) for g in p.genes)
        parts = [f"not expressed in {absent}"] if absent else []
        parts += [f"beyond the model's {screen.window.max_len} tokens in {truncated}"] if truncated else []
        parts += [f"nothing left to predict from in {emptied}"] if emptied else []
        sentences.append(f"{genes} ({p.mode}, {p.site_label}): {', '.join(parts)} of {total} cells")
    return sentences
