"""Groups: the items of one perturbation in one stratum at one time point, and their statistics per gene."""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from screen.config.sections import DegConfig
from screen.errors import StoreError
from screen.planning.layout import SUMMARIES
from screen.stats.false_discovery import benjamini_hochberg
from screen.stats.gene_results import GeneResults, concatenated, from_moments, statistics_of
from screen.stats.moments import Moments, counts_of, joined, mean_and_squares
from screen.stats.tests.gene_test import GeneTest
from screen.stats.tests.table import computed, named
from screen.stats.tile_sums import TileSums
from screen.store.reader import Block, StoreReader

Genes = NDArray[np.float64]
READ_BYTES, WORK_BYTES, CONTROL_BYTES = 64 * 2**20, 2**20, 128 * 2**20
"""Most bytes of stored changes held at once by a thread, of decoded ones worked on (in the cache), of controls kept for all."""
REUSED_BYTES = 24 * 2**20
"""Arrays up to this size are made in memory that was used before."""


@dataclass(frozen=True)
class Strata:
    """S groups of cells by name, the group of each cell, and the replicate of each (None: cells are independent)."""

    name_S: tuple[str, ...]
    stratum_C: NDArray[np.int64]
    replicate_C: NDArray[np.int64] | None = None

    @property
    def n_cells_S(self) -> NDArray[np.int64]:
        """Cells of each stratum."""
        return np.bincount(self.stratum_C, minlength=len(self.name_S))


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
    test: GeneTest

    @cached_property
    def primary(self) -> tuple[Genes, Genes, Genes]:
        """(statistic, p, false discovery rate) of the chosen test, per gene."""
        assert self.genes is not None
        p_G = self.genes.of(self.test.p_value)
        return self.genes.of(self.test.statistic), p_G, benjamini_hochberg(p_G)


class GroupReader:
    """The groups of one library block. What it holds is bounded whatever the number of items; threads may share it."""

    def __init__(self, store: StoreReader, block: Block, strata: Strata, config: DegConfig) -> None:
        self.store, self.block, self.strata, self.config, self.layout = store, block, strata, config, store.layout
        _reuse_memory()
        needs = {test.needs for test in computed(config)}
        self._needs_values = "values" in needs
        self._needs_moments_alone = needs == {"moments"} and strata.replicate_C is None
        self._own = threading.local()
        self._n_genes = len(store.strings("genes/ensembl_id"))
        self._keeps_items = self.layout.has_counts and not self.layout.keeps_summaries
        self._is_log1p = self.layout.expression_scale == "log1p_cp10k"
        kept = self._kept_controls() if self._keeps_items and not self._needs_moments_alone else {}
        self._control = kept if self._needs_values else {}
        self._before = {t: counts_of(x, self._is_log1p) for t, x in kept.items()}
        self._summaries: Mapping[str, NDArray[np.integer]] = {}
        self._segment_of: dict[tuple[int, int], list[int]] = {}
        if self.layout.keeps_summaries:
            names = [f"n_cells_t{t}" for t in self.layout.pred_tps]
            self._summaries = {n: block.read(f"summaries/{n}") for n in names}
            keys = zip(*(block.read(f"summaries/{n}").tolist() for n in ("perturbation", "stratum")), strict=True)
            for row, key in enumerate(keys):
                self._segment_of.setdefault(key, []).append(row)

    def _kept_controls(self) -> dict[int, NDArray[np.float32]]:
        """Control expression of all cells, where it fits."""
        times = self.layout.pred_tps
        n_bytes = 4 * self.store.n_cells * self._n_genes * len(times) * (2 if self._needs_values else 1)
        return (
            {t: self.store.control(f"expression_t{t}", self.block) for t in times} if n_bytes <= CONTROL_BYTES else {}
        )

    def groups(self, perturbation: int) -> Iterator[Group]:
        """The groups of one of the store's perturbations that have a cell, by time point, then stratum."""
        local = perturbation - self.block.first
        rows = self.block.rows_of(local)
        cells = self.block.read("items/cell", rows)
        stratum_N = self.strata.stratum_C[cells]
        for t in self.layout.pred_tps:
            is_screened_N = self.block.read(f"items/is_screened_t{t}", rows)
            for s in np.unique(stratum_N[is_screened_N]).tolist():
                at = np.flatnonzero(is_screened_N & (stratum_N == s))
                yield self._group(perturbation, s, t, rows[at], cells[at])

    def _group(self, p: int, stratum: int, time: int, rows: NDArray[np.int64], cells: NDArray[np.integer]) -> Group:
        effects = dict(zip(self.layout.effects, self.block.read("items/effects", rows).T, strict=True))
        rank_N = effects["rank"]
        replicate_N = None if self.strata.replicate_C is None else self.strata.replicate_C[cells]
        genes: GeneResults | None = None
        if self._keeps_items and self._needs_moments_alone:
            genes = from_moments(self._moments(time, rows), self.config)
        elif self._keeps_items:
            genes = self._of_items(time, rows, cells, replicate_N)
        elif self.layout.keeps_summaries:
            genes = from_moments(self._summarised(p - self.block.first, stratum, time), self.config)
        return Group(
            perturbation=p,
            stratum=stratum,
            time=time,
            n_cells=len(rows),
            n_replicates=0 if replicate_N is None else len(np.unique(replicate_N)),
            genes=genes,
            embedding_shift=float(np.mean(1 - effects[f"embedding_cosine_t{time}"], dtype=np.float64)),
            rank=float(rank_N[rank_N >= 0].mean(dtype=np.float64)) if (rank_N >= 0).any() else float("nan"),
            length=float(effects["length"].mean(dtype=np.float64)),
            test=named(self.config.test),
        )

    def _of_items(
        self, time: int, rows: NDArray[np.int64], cells: NDArray[np.integer], replicate_N: NDArray[np.int64] | None
    ) -> GeneResults:
        """Genes some at a time: as many as fit, stored, and of these as many as fit decoded."""
        name, n, parts = f"delta/t{time}", len(rows), []
        item_bytes = self.block.array(name).dtype.itemsize
        for wide in _cut(self._n_genes, READ_BYTES // (n * (item_bytes + 4))):
            stored_NG = self.block.read_part(name, rows, wide)
            # read once for all the narrow pieces, unless those of all cells are at hand
            read_NG = None if time in self._before else self._controls(time, cells, wide)
            for narrow in _cut(stored_NG.shape[1], WORK_BYTES // (4 * n)):
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
                parts.append(statistics_of(delta_NG, before_NG, self._is_log1p, replicate_N, self.config, control_NG))
        return concatenated(parts)

    def _controls(self, time: int, cells: NDArray[np.integer], genes: slice) -> NDArray[np.float32]:
        """Some genes of the control expression of some cells, as it is stored."""
        found = np.empty((len(cells), genes.stop - genes.start), dtype=np.float32)
        step = max(READ_BYTES // (4 * self._n_genes), 1)
        for some in _cut(len(cells), step):
            found[some] = self.store.control(f"expression_t{time}", self.block, cells[some])[:, genes]
        return found

    def _moments(self, time: int, rows: NDArray[np.int64]) -> Moments:
        """Of the changes alone: the means of counts are NaN."""
        name, nan_G = f"delta/t{time}", np.full(self._n_genes, np.nan)
        dense = self.block.dense(name)
        if dense is None or dense.dtype != np.float16:
            parts = [
                mean_and_squares(self.block.read_part(name, rows, genes))
                for genes in _cut(self._n_genes, READ_BYTES // (8 * len(rows)))
            ]
            mean_G, m2_G = (np.concatenate(x) for x in zip(*parts, strict=True))
        else:
            if not hasattr(self._own, "sums"):
                self._own.sums = TileSums(self._n_genes)
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


def _reuse_memory() -> None:
    """Makes glibc keep memory that is freed for the next group, which would otherwise get new, empty pages from the system.

    It keeps pieces as large as the largest that was ever freed, up to 32 MiB (`M_MMAP_THRESHOLD` in mallopt(3)). Groups of 50
    cells and 2,000 genes take a third less time. Other allocators do not mind.
    """
    np.empty(REUSED_BYTES, np.uint8)


def _cut(n: int, step: int) -> Iterator[slice]:
    """Slices of at most `step`, at least 1."""
    step = max(step, 1)
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))
