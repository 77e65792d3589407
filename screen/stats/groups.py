"""Groups: the items of one perturbation in one stratum at one time point, and their statistics per gene."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from screen.config.sections import DegConfig
from screen.errors import StoreError
from screen.planning.layout import SUMMARIES
from screen.stats.gene_results import GeneResults, concatenated, from_moments, of_many, statistics_of
from screen.stats.moments import Moments, Rounding, counts_of, joined, mean_and_squares
from screen.stats.partial_moments import cut
from screen.stats.stored_moments import StoredMoments
from screen.stats.tests.gene_test import GeneTest
from screen.stats.tests.table import computed, named
from screen.stats.tile_sums import TileSums
from screen.stats.units import Units, of_few, runs
from screen.store.reader import Block, StoreReader

READ_BYTES, WORK_BYTES, CONTROL_BYTES = 64 * 2**20, 2**20, 128 * 2**20
"""Most bytes of stored changes held at once by a thread, of decoded ones worked on (in the cache), of controls kept for all."""
VALUES_AT_ONCE, ITEMS_AT_ONCE = 2**16, 2**16
"""Genes of all groups that moments are joined for at once, in float64 half a megabyte; items of which effects are read."""
REUSED_BYTES = 24 * 2**20
"""Arrays up to this size are made in memory that was used before."""


@dataclass(frozen=True)
class Strata:
    """S groups of cells by name, the group of each cell, and the replicate of each (None: cells are independent).

    stratum_C    -1 for a cell in none
    of_stored_S  which group each stratum of a screen that keeps summaries is part of, -1: none; None: they are the same
    """

    name_S: tuple[str, ...]
    stratum_C: NDArray[np.int64]
    replicate_C: NDArray[np.int64] | None = None
    of_stored_S: tuple[int, ...] | None = None

    @property
    def n_cells_S(self) -> NDArray[np.int64]:
        """Cells of each stratum."""
        return np.bincount(self.stratum_C[self.stratum_C >= 0], minlength=len(self.name_S))


@dataclass(frozen=True)
class Group:
    """N cells of one perturbation in one stratum at one time point; n_replicates is 0 where cells count as independent.

    Statistics are paired with each cell's own control, on the log1p CP10K scale (natural logarithm); over replicate means
    where there are replicates. `genes` is None without counts. Means of target and reference are counts per 10,000.
    """

    perturbation: int
    stratum: int
    time: int
    n_cells: int
    n_replicates: int
    genes: GeneResults | None
    embedding_shift: float
    rank: float
    length: float
    n_edited: float
    test: GeneTest


class _Found(NamedTuple):
    """A group before its genes are read: its items, their cells, and what is one number of it."""

    perturbation: int
    stratum: int
    time: int
    row_N: NDArray[np.int64]
    cell_N: NDArray[np.integer]
    embedding_shift: float
    rank: float
    length: float
    n_edited: float


class GroupReader:
    """The groups of one library block. What it holds is bounded whatever the number of items; threads may share it."""

    def __init__(self, store: StoreReader, block: Block, strata: Strata, config: DegConfig) -> None:
        self.store, self.block, self.strata, self.config, self.layout = store, block, strata, config, store.layout
        _reuse_memory()
        needs = {test.needs for test in computed(config)}
        self._needs_values = "values" in needs
        needs_moments_alone = needs == {"moments"} and strata.replicate_C is None
        self._is_ranking_alone = needs_moments_alone and config.top == 0
        self.takes_together = needs == {"moments"}
        self._own = threading.local()
        self.rounding = Rounding(self.layout.dtype, self.layout.delta_scale)
        self.test = named(config.test_name)
        self.n_genes = len(store.strings("genes/ensembl_id"))
        keeps_items = self.layout.has_counts and not self.layout.keeps_summaries
        self._is_log1p = self.layout.expression_scale == "log1p_cp10k"
        self._stored: StoredMoments | None = None
        if keeps_items and needs_moments_alone:
            self._stored = StoredMoments.of(block, strata.stratum_C)
        reads_controls = keeps_items and self._stored is None and not self._is_ranking_alone
        kept = self._kept_controls() if reads_controls else {}
        self._control = kept if self._needs_values else {}
        self._before = {t: counts_of(x, self._is_log1p) for t, x in kept.items()}
        self._summaries: Mapping[str, NDArray[np.integer]] = {}
        self._segment_of: dict[tuple[int, int], list[int]] = {}
        if self.layout.keeps_summaries:
            names = [f"n_cells_t{t}" for t in self.layout.pred_tps]
            self._summaries = {n: block.read(f"summaries/{n}") for n in names}
            keys = zip(*(block.read(f"summaries/{n}").tolist() for n in ("perturbation", "stratum")), strict=True)
            of_stored_S = strata.of_stored_S
            for row, (p, stored) in enumerate(keys):
                stratum = stored if of_stored_S is None or stored < 0 else of_stored_S[stored]
                self._segment_of.setdefault((p, stratum), []).append(row)

    def _kept_controls(self) -> dict[int, NDArray[np.float32]]:
        """Control expression of all cells, where it fits."""
        times = self.layout.pred_tps
        n_bytes = 4 * self.store.n_cells * self.n_genes * len(times) * (2 if self._needs_values else 1)
        return (
            {t: self.store.control(f"expression_t{t}", self.block) for t in times} if n_bytes <= CONTROL_BYTES else {}
        )

    def groups(self, *perturbations: int) -> Iterator[Group]:
        """The groups of some of the store's perturbations that have a cell: as these come, by time point, then stratum."""
        for found in self._found(perturbations):
            for some in cut(len(found), VALUES_AT_ONCE // self.n_genes):
                yield from map(self._group, found[some], self._genes(found[some]))

    def _found(self, perturbations: Sequence[int]) -> Iterator[list[_Found]]:
        """Of as many perturbations at a time as have some ITEMS_AT_ONCE items."""
        rows, n_items, first = list[NDArray[np.int64]](), 0, 0
        for k, p in enumerate(perturbations, start=1):
            rows.append(self.block.rows_of(p - self.block.first))
            n_items += len(rows[-1])
            if n_items >= ITEMS_AT_ONCE or k == len(perturbations):
                yield self._groups_of(perturbations[first:k], rows)
                rows, n_items, first = [], 0, k

    def _groups_of(self, perturbations: Sequence[int], rows: Sequence[NDArray[np.int64]]) -> list[_Found]:
        row_I, number_I = np.concatenate(rows), np.repeat(np.arange(len(rows)), [len(r) for r in rows])
        cell_I = self.block.read("items/cell", row_I)
        effects = dict(zip(self.layout.effects, self.block.read("items/effects", row_I).T, strict=True))
        n_edited_I = self.block.read("items/n_edited", row_I)
        stratum_I, found = self.strata.stratum_C[cell_I], list[tuple[tuple[int, int, int], _Found]]()
        for k, t in enumerate(self.layout.pred_tps):
            at_I = np.flatnonzero(self.block.read(f"items/is_screened_t{t}", row_I) & (stratum_I >= 0))
            at_I = at_I[np.lexsort((stratum_I[at_I], number_I[at_I]))]
            shift_N, rank_N, length_N, n_edited_N = (
                x[at_I].astype(np.float64)
                for x in (1 - effects[f"embedding_cosine_t{t}"], effects["rank"], effects["length"], n_edited_I)
            )
            key_N = number_I[at_I] * len(self.strata.name_S) + stratum_I[at_I]
            start_K = np.flatnonzero(np.diff(key_N, prepend=-1))
            # of float32 and of integers: sums in float64 are exact, in whatever order
            means = item_means(start_K, shift_N, rank_N, length_N, n_edited_N)
            edges, lead_K = [*start_K.tolist(), len(at_I)], at_I[start_K]
            which = zip(number_I[lead_K].tolist(), stratum_I[lead_K].tolist(), pairwise(edges), means, strict=True)
            for number, stratum, (a, b), of_group in which:
                lead, of_items = (perturbations[number], stratum, t), (row_I[at_I[a:b]], cell_I[at_I[a:b]])
                found.append(((number, k, stratum), _Found(*lead, *of_items, *of_group)))
        return [f for _, f in sorted(found, key=lambda x: x[0])]

    def _genes(self, found: Sequence[_Found]) -> Sequence[GeneResults | None]:
        if not self.layout.has_counts:
            return [None] * len(found)
        if self._stored is not None:
            return of_many(self._joined(self._stored, found), self.config, self.rounding)
        if self.takes_together and not (self.layout.keeps_summaries or self._is_ranking_alone):
            return self._of_cells(found)
        return [self._genes_of(f) for f in found]

    def _genes_of(self, found: _Found) -> GeneResults:
        if self.layout.keeps_summaries:
            local = found.perturbation - self.block.first
            return from_moments(self._summarised(local, found.stratum, found.time), self.config, self.rounding)
        if self._is_ranking_alone:
            return from_moments(self._moments(found.time, found.row_N), self.config, self.rounding)
        return self._of_items(found.time, found.row_N, found.cell_N, self._replicates(found))

    def _of_cells(self, found: Sequence[_Found]) -> list[GeneResults]:
        """From the changes of cells: small groups of a time point together, as many as fit the cache."""
        genes = dict[int, GeneResults]()
        for t in self.layout.pred_tps:
            at = [i for i, f in enumerate(found) if f.time == t]
            for some in runs([len(found[i].row_N) for i in at], WORK_BYTES // (4 * self.n_genes)):
                few = [found[i] for i in at[some]]
                alone = len(few) == 1
                genes |= zip(at[some], map(self._genes_of, few) if alone else self._of_few(t, few), strict=True)
        return [genes[i] for i in range(len(found))]

    def _of_few(self, time: int, found: Sequence[_Found]) -> list[GeneResults]:
        """`_genes_of` of each of some groups at one time point, read and computed at once."""
        group_I = np.repeat(np.arange(len(found)), [len(f.row_N) for f in found])
        row_I, cell_I = (np.concatenate(x) for x in zip(*((f.row_N, f.cell_N) for f in found), strict=True))
        if (replicate_C := self.strata.replicate_C) is not None:
            # neighbours are read in one go
            order_I = np.argsort(row_I, kind="stable")
            group_I, row_I, cell_I = (x[order_I] for x in (group_I, row_I, cell_I))
        delta_IG = self.block.delta(time, row_I)
        if time in self._before:
            before_IG = self._before[time][cell_I]
        else:
            cell_K, place_I = np.unique(cell_I, return_inverse=True)
            before_IG = counts_of(self._controls(time, cell_K, slice(0, self.n_genes)), self._is_log1p)[place_I]
        units = Units.of(group_I, None if replicate_C is None else replicate_C[cell_I], len(found))
        results = of_few(units, (delta_IG, before_IG), self._is_log1p, self.config, self.rounding)
        return [results[i] for i in range(len(found))]

    def _joined(self, stored: StoredMoments, found: Sequence[_Found]) -> list[Moments]:
        """From the partial moments: no change is read."""
        moments: dict[int, Moments] = {}
        for t in self.layout.pred_tps:
            at = [i for i, f in enumerate(found) if f.time == t]
            if at:
                local_N, stratum_N = np.array(
                    [(found[i].perturbation - self.block.first, found[i].stratum) for i in at]
                ).T
                moments |= zip(at, stored.moments(local_N, stratum_N, t, self.config.top != 0), strict=True)
        return [moments[i] for i in range(len(found))]

    def _replicates(self, found: _Found) -> NDArray[np.int64] | None:
        return None if self.strata.replicate_C is None else self.strata.replicate_C[found.cell_N]

    def _group(self, found: _Found, genes: GeneResults | None) -> Group:
        replicate_N = self._replicates(found)
        return Group(
            perturbation=found.perturbation,
            stratum=found.stratum,
            time=found.time,
            n_cells=len(found.row_N),
            n_replicates=0 if replicate_N is None else len(set(replicate_N[replicate_N >= 0].tolist())),
            genes=genes,
            embedding_shift=found.embedding_shift,
            rank=found.rank,
            length=found.length,
            n_edited=found.n_edited,
            test=self.test,
        )

    def _of_items(
        self, time: int, rows: NDArray[np.int64], cells: NDArray[np.integer], replicate_N: NDArray[np.int64] | None
    ) -> GeneResults:
        """Genes some at a time: as many as fit, stored, and of these as many as fit decoded."""
        name, n, parts = f"delta/t{time}", len(rows), []
        item_bytes = self.block.array(name).dtype.itemsize
        for wide in cut(self.n_genes, READ_BYTES // (n * (item_bytes + 4))):
            stored_NG = self.block.read_part(name, rows, wide)
            # read once for all the narrow pieces, unless those of all cells are at hand
            read_NG = None if time in self._before else self._controls(time, cells, wide)
            for narrow in cut(stored_NG.shape[1], WORK_BYTES // (4 * n)):
                delta_NG = stored_NG[:, narrow].astype(np.float32) / np.float32(self.layout.delta_scale)
                genes = slice(wide.start + narrow.start, wide.start + narrow.stop)
                control_NG = None
                if read_NG is None:
                    before_NG = np.ascontiguousarray(self._before[time][cells, genes])
                    if self._needs_values:
                        control_NG = np.ascontiguousarray(self._control[time][cells, genes])
                else:
                    piece_NG = np.ascontiguousarray(read_NG[:, narrow])
                    before_NG = counts_of(piece_NG, self._is_log1p)
                    control_NG = piece_NG if self._needs_values else None
                parts.append(
                    statistics_of(
                        delta_NG, before_NG, self._is_log1p, replicate_N, self.config, control_NG, self.rounding
                    )
                )
        return concatenated(parts)

    def _controls(self, time: int, cells: NDArray[np.integer], genes: slice) -> NDArray[np.float32]:
        """Some genes of the control expression of some cells, as it is stored."""
        found = np.empty((len(cells), genes.stop - genes.start), dtype=np.float32)
        step = max(READ_BYTES // (4 * self.n_genes), 1)
        for some in cut(len(cells), step):
            found[some] = self.store.control(f"expression_t{time}", self.block, cells[some])[:, genes]
        return found

    def _moments(self, time: int, rows: NDArray[np.int64]) -> Moments:
        """Of the changes alone: the means of counts are NaN."""
        name, nan_G = f"delta/t{time}", np.full(self.n_genes, np.nan)
        dense = self.block.dense(name)
        if dense is None or dense.dtype != np.float16:
            parts = [
                mean_and_squares(self.block.read_part(name, rows, genes))
                for genes in cut(self.n_genes, READ_BYTES // (8 * len(rows)))
            ]
            mean_G, m2_G = (np.concatenate(x) for x in zip(*parts, strict=True))
        else:
            if not hasattr(self._own, "sums"):
                self._own.sums = TileSums(self.n_genes)
            _, mean_G, m2_G = self._own.sums.of(dense.tiles(rows, self._own.sums.tile))
        scale = self.layout.delta_scale
        return Moments(len(rows), mean_G / scale, m2_G / scale**2, nan_G, nan_G)

    def _summarised(self, local: int, stratum: int, time: int) -> Moments:
        n_J = self._summaries[f"n_cells_t{time}"]
        row_J = np.array(self._segment_of.get((local, stratum), []), dtype=np.int64)
        row_J = row_J[n_J[row_J] > 0]
        if not len(row_J):
            raise StoreError(
                f"{self.block.path} has items of perturbation {local} in stratum {stratum}, but no summary of them: cells or "
                "summaries are damaged; restore them from a copy, or screen again into another --out"
            )
        parts = {name: self.block.read(f"summaries/{name}/t{time}", row_J) for name in SUMMARIES}
        return joined([Moments(int(n_J[r]), *(x[k] for x in parts.values())) for k, r in enumerate(row_J)])


def item_means(
    start_K: NDArray[np.int64],
    shift_N: NDArray[np.float64],
    rank_N: NDArray[np.float64],
    length_N: NDArray[np.float64],
    n_edited_N: NDArray[np.float64],
) -> Iterator[tuple[float, ...]]:
    """Of each group of consecutive items its mean shift, rank (of those that have one, NaN without), length and n_edited."""
    if not len(start_K):
        return iter(())
    n_K, is_known_N = np.diff(np.append(start_K, len(shift_N))), rank_N >= 0
    n_known_K = np.add.reduceat(is_known_N.astype(np.int64), start_K)
    rank_K = np.add.reduceat(np.where(is_known_N, rank_N, 0), start_K) / np.where(n_known_K > 0, n_known_K, np.nan)
    shift_K, length_K, n_edited_K = (np.add.reduceat(x_N, start_K) / n_K for x_N in (shift_N, length_N, n_edited_N))
    return zip(*(x_K.tolist() for x_K in (shift_K, rank_K, length_K, n_edited_K)), strict=True)


def _reuse_memory() -> None:
    """Makes glibc keep memory that is freed for the next group, which would otherwise get new, empty pages from the system.

    It keeps pieces as large as the largest that was ever freed, up to 32 MiB (`M_MMAP_THRESHOLD` in mallopt(3)). Groups of 50
    cells and 2,000 genes take a third less time. Other allocators do not mind.
    """
    np.empty(REUSED_BYTES, np.uint8)
