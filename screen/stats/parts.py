"""Parts: the table of differential expression, made part by part by Dask, each part by whichever worker is free."""

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby, islice
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screen.config.sections import DegConfig
from screen.directory import COMPARE, GENES, PARTS, part
from screen.files import scratch_folder, whole
from screen.machine import available_cores
from screen.stats.deg import (
    Names,
    Piece,
    Summary,
    metadata_of,
    schema_of,
    summaries,
    summary_without_genes,
    table,
)
from screen.stats.groups import Group, GroupReader, Strata
from screen.stats.times.pairs import pairs
from screen.stats.times.rows import pair_schema, pair_table
from screen.store.reader import StoreReader
from screen.store.store import scratch_of

ROWS_PER_PART, PARTS_PER_CORE, MAX_PARTS = 2_000_000, 4, 256
ROWS_PER_GROUP = 64 * 1024
"""Rows that are written, and read, at once: a reader of one perturbation skips the others by their statistics."""
LOOKED_FOR = ("perturbation", "target", "target_symbol")
"""Columns of which a row group says what it has from and to."""
_REPEATED = ("coverage", "ref_mean")
"""Numbers that many rows have in common."""
Compute = Callable[[Sequence[Any], Callable[[], None]], list[Any]]
"""Computes Dask's delayed tasks, calls the function whenever one is done, and returns their results in order."""


@dataclass(frozen=True)
class Job:
    """What every part has in common. Workers, maybe on other machines, find the store under the same path.

    What is not whole yet lies in `scratch`, this job's own: a worker given up for dead cannot finish a part of the next.
    """

    store: Path
    directory: Path
    scratch: Path
    strata: Strata
    config: DegConfig
    token: str = field(default_factory=lambda: uuid.uuid4().hex)


class Means:
    """Mean changes (G,) of groups, in files that parts wrote: row i of a file is about summary i of its part."""

    def __init__(
        self, scratch: Path, parts: Sequence[Sequence[Summary]], n_strata: int, times: Sequence[int], n_genes: int
    ):
        self._scratch, self._times, self._n_strata, self.n_genes = scratch, list(times), n_strata, n_genes
        places = [np.array([self.place(s.perturbation, s.stratum, s.time) for s in p], dtype=np.int64) for p in parts]
        size = 1 + max((int(p.max()) for p in places if len(p)), default=0)
        self._part_N, self._row_N = np.full((2, size), -1, dtype=np.int32)
        for number, place in enumerate(places):
            self._part_N[place], self._row_N[place] = number, np.arange(len(place))

    def place(self, perturbation: int, stratum: int, time: int) -> int:
        """Number of a group: by perturbation, stratum, time point."""
        return (perturbation * self._n_strata + stratum) * len(self._times) + self._times.index(time)

    def rows(self, place_N: NDArray[np.integer]) -> NDArray[np.float64]:
        """(N, G) of groups, which all have a cell."""
        found = np.empty((len(place_N), self.n_genes))
        part_N = self._part_N[place_N]
        for number in np.unique(part_N).tolist():
            at = np.flatnonzero(part_N == number)
            stored = _mapped(_means_of(self._scratch, number), np.float32)
            found[at] = stored.reshape(-1, self.n_genes)[self._row_N[place_N[at]]]
        return found

    def changed(self, place_N: NDArray[np.integer]) -> NDArray[np.bool_]:
        """(N, G) which genes count as changed in groups (`screen.stats.deg.is_changed`), which all have a cell."""
        found = np.empty((len(place_N), -(-self.n_genes // 8)), dtype=np.uint8)
        part_N = self._part_N[place_N]
        for number in np.unique(part_N).tolist():
            at = np.flatnonzero(part_N == number)
            stored = _mapped(_changed_of(self._scratch, number), np.uint8)
            found[at] = stored.reshape(-1, found.shape[1])[self._row_N[place_N[at]]]
        return np.unpackbits(found, axis=1, count=self.n_genes).astype(bool)


def on_threads(tasks: Sequence[Any], done: Callable[[], None]) -> list[Any]:
    """Compute in this process, a thread for each core."""
    import dask
    from dask.callbacks import Callback
    from dask.threaded import get

    with Callback(posttask=lambda *_: done()):
        # `get` itself: its name would be looked up beside distributed's, which takes a quarter of a second to import
        return list(dask.compute(*tasks, scheduler=get, num_workers=available_cores()))


def each(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The function's results, in order, computed on the threads of this process."""
    import dask

    return on_threads([dask.delayed(function, pure=False, traverse=False)(*a) for a in arguments], lambda: None)


def count_parts(n_perturbations: int, n_rows: int) -> int:
    """How many parts a table of so many rows is made in: of whole perturbations."""
    # so many that no core waits long for the last
    n_shared = min(PARTS_PER_CORE * available_cores(), -(-n_rows // (2 * ROWS_PER_GROUP)))
    return min(MAX_PARTS, n_perturbations, max(-(-n_rows // ROWS_PER_PART), n_shared))


@contextmanager
def gene_tables(
    store: StoreReader, directory: Path, strata: Strata, config: DegConfig,
    compute: Compute = on_threads,
    show: Callable[[int], Callable[[], None]] = lambda n_parts: lambda: None,
) -> Iterator[tuple[list[Summary], Means | None]]:  # fmt: skip
    """Writes `deg/part-*.parquet`, sorted by target, and `compare/part-*.parquet` where time points are compared.

    Yields a summary of every group and, with counts, its mean changes and which genes they count as changed.

    A part is written as it comes and has another name until it is whole. A thread holds the changes of one group of cells,
    as far as they fit, and one row group of its part. `show` is told the number of parts, and returns what to call as
    each is done.
    """
    import dask

    names, folder = Names(store), directory / GENES
    perturbations = np.concatenate([np.unique(b.read("items/perturbation")) + b.first for b in store.blocks])
    order = sorted((int(p) for p in perturbations), key=lambda p: (names.target[p], names.id[p]))
    n_rows = len(order) * len(names.feature) * len(strata.name_S) * len(store.layout.pred_tps)
    n_parts = count_parts(len(order), n_rows)
    tables = {folder: schema_of(config)} if store.layout.has_counts else {}
    if config.compare:
        tables[directory / COMPARE] = pair_schema(config)
    for place in (folder, directory / COMPARE):
        for old in [*place.glob(PARTS), *place.glob(".part-*")]:
            old.unlink(missing_ok=True)
    with suppress(OSError):
        # where nothing is compared any more
        (directory / COMPARE).rmdir()
    for place in (folder, *tables):
        place.mkdir(parents=True, exist_ok=True)
    make = dask.delayed(write_part, pure=False)
    with scratch_folder(scratch_of(store.path)) as scratch, ExitStack() as stack:
        stack.callback(_OPENED.forget)
        found = Job(store.path.absolute(), directory.absolute(), scratch.absolute(), strata, config)
        job = dask.delayed(found, traverse=False)
        tasks = [make(job, i, [int(p) for p in some]) for i, some in enumerate(np.array_split(order, max(n_parts, 1)))]
        parts: list[list[Summary]] = compute(tasks, show(len(tasks)))
        for place, schema in tables.items():
            if not any(place.glob(PARTS)):
                # nobody has to ask whether there is a table
                with whole(part(place, 0), scratch, durable=True) as partial:
                    _write_empty(partial, schema, metadata_of(config, store.layout.expression_scale))
        has_means = store.layout.has_counts
        times, n_genes = store.layout.pred_tps, len(names.feature)
        means = Means(scratch, parts, len(strata.name_S), times, n_genes) if has_means else None
        yield [s for part in parts for s in part], means


class _Opened:
    """The names and readers of one job, as long as no other comes."""

    def __init__(self) -> None:
        self._lock, self._token = threading.Lock(), ""
        self._found: tuple[Names, list[GroupReader]] | None = None

    def of(self, job: Job) -> tuple[Names, list[GroupReader]]:
        with self._lock:
            if self._found is None or self._token != job.token:
                self._found = None
                store = StoreReader.open(job.store)
                readers = [GroupReader(store, b, job.strata, job.config) for b in store.blocks]
                self._token, self._found = job.token, (Names(store), readers)
            return self._found

    def forget(self) -> None:
        """Lets go of what this process holds."""
        with self._lock:
            self._found = None


_OPENED = _Opened()


def write_part(job: Job, number: int, perturbations: Sequence[int]) -> list[Summary]:
    """The task that workers run: one file, at most ROWS_PER_GROUP rows of it in memory. Returns its groups' summaries."""
    names, readers = _OPENED.of(job)
    found: list[Summary] = []
    metadata = metadata_of(job.config, readers[0].layout.expression_scale)
    with ExitStack() as stack:
        add_rows = stack.enter_context(_part(job.directory / GENES, number, job.scratch, metadata))
        means, changed = (
            stack.enter_context(stack.enter_context(whole(place)).open("wb"))
            for place in (_means_of(job.scratch, number), _changed_of(job.scratch, number))
        )
        groups = _groups(readers, perturbations)
        if not readers[0].layout.has_counts:
            return [summary_without_genes(group) for group in groups]
        while some := list(islice(groups, -(-ROWS_PER_GROUP // len(names.feature)))):
            piece = Piece(some)
            found += summaries(piece, names)
            means.write(piece.mean_NG.astype(np.float32).tobytes())
            changed.write(np.packbits(piece.is_changed_NG, axis=1).tobytes())
            if job.config.top != 0:
                add_rows(table(piece, names, job.strata, job.config))
        if job.config.compare and job.config.top != 0:
            add_pairs = stack.enter_context(_part(job.directory / COMPARE, number, job.scratch, metadata))
            compared = (pair for reader, mine in _readers_of(readers, perturbations) for pair in pairs(reader, mine))
            while among := list(islice(compared, -(-ROWS_PER_GROUP // len(names.feature)))):
                add_pairs(pair_table(among, names, job.strata, job.config))
    return found


def _groups(readers: Sequence[GroupReader], perturbations: Sequence[int]) -> Iterator[Group]:
    """Of perturbations of the store, each from the library block that it is in."""
    for reader, mine in _readers_of(readers, perturbations):
        yield from reader.groups(*mine)


def _readers_of(
    readers: Sequence[GroupReader], perturbations: Sequence[int]
) -> Iterator[tuple[GroupReader, list[int]]]:
    """Perturbations of the store, as they come, with the reader of their library block."""
    for reader, mine in groupby(perturbations, lambda p: next(r for r in reversed(readers) if r.block.first <= p)):
        yield reader, list(mine)


@contextmanager
def _part(folder: Path, number: int, scratch: Path, metadata: Mapping[str, str]) -> Iterator[Callable[[Any], None]]:
    """What takes rows of a part, as Arrow tables, and writes them when there are enough; without rows no file."""
    waiting: list[Any] = []
    writer: Any = None
    with ExitStack() as stack:

        def flush() -> None:
            nonlocal writer
            import pyarrow as pa

            rows = pa.concat_tables(waiting).unify_dictionaries()
            waiting.clear()
            if writer is None:
                partial = stack.enter_context(whole(part(folder, number), scratch, durable=True))
                writer = stack.enter_context(_writer(partial, rows.schema))
                writer.add_key_value_metadata(dict(metadata))
            writer.write_table(rows)

        def add(rows: Any) -> None:
            if rows.num_rows:
                waiting.append(rows)
            if sum(r.num_rows for r in waiting) >= ROWS_PER_GROUP:
                flush()

        yield add
        if waiting:
            flush()


def _writer(path: Path, schema: Any) -> Any:
    """Of a parquet file: text as dictionaries, which is read as text; numbers as they are (split by bytes they took longer).

    What says the same of many rows is compressed; numbers of single genes are not: it took a third of the time to write
    for a tenth of the bytes. Statistics of what rows are looked for by; those of every column took as long as all the rest
    (measured).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if any(pa.types.is_nested(f.type) for f in schema):
        return pq.ParquetWriter(path, schema, compression="zstd")
    text = [f.name for f in schema if pa.types.is_dictionary(f.type)]
    compression = {
        f.name: "none" if pa.types.is_floating(f.type) and f.name not in _REPEATED else "zstd" for f in schema
    }
    return pq.ParquetWriter(
        path, schema, compression=compression, use_dictionary=text, write_statistics=list(LOOKED_FOR),
        write_batch_size=ROWS_PER_GROUP, store_schema=False,
    )  # fmt: skip


def _write_empty(path: Path, schema: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """A parquet file without a row."""
    nothing = pl.DataFrame(schema=schema).to_arrow(compat_level=pl.CompatLevel.oldest())
    with _writer(path, nothing.schema) as writer:
        writer.add_key_value_metadata(dict(metadata))
        writer.write_table(nothing)


def _mapped(path: Path, dtype: type[Any]) -> NDArray[Any]:
    """What a file holds, read when it is looked at: `np.memmap` takes three times as long to begin."""
    with path.open("rb") as file:
        return np.frombuffer(mmap(file.fileno(), 0, access=ACCESS_READ), dtype)


def _means_of(scratch: Path, number: int) -> Path:
    return scratch / f"part-{number:04d}.means"


def _changed_of(scratch: Path, number: int) -> Path:
    """A bit per gene, rows filled up to whole bytes (`numpy.packbits`), as the rows of the means."""
    return scratch / f"part-{number:04d}.changed"
