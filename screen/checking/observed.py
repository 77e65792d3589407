"""Observed: what cells look like, on the scale of predictions, and what the other cells of their stratum do."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.planning.layout import SCALE

Values = NDArray[np.float64]
CELLS_AT_ONCE = 256


def in_parts(n_cells: int) -> Iterator[slice]:
    """Some cells at a time: dense rows of all of them may not fit in memory."""
    for first in range(0, n_cells, CELLS_AT_ONCE):
        yield slice(first, min(first + CELLS_AT_ONCE, n_cells))


@dataclass(frozen=True)
class Observed:
    """C cells. counts_CG: CSR of counts, or of log expression, which is recognised by not being whole numbers."""

    counts_CG: Any
    stratum_C: NDArray[np.int64]

    @cached_property
    def is_counts(self) -> bool:
        """Whether they are counts."""
        return bool((self.counts_CG.data == np.round(self.counts_CG.data)).all())

    @cached_property
    def total_C(self) -> Values:
        """Counts of each cell."""
        return np.asarray(self.counts_CG.sum(axis=1), dtype=np.float64).ravel()

    def per_10k(self, some: slice) -> Values:
        """Counts per 10,000, dense; a cell without counts is NaN."""
        dense_NG = self.counts_CG[some].toarray().astype(np.float64)
        with np.errstate(invalid="ignore"):
            scaled_NG: Values = dense_NG / self.total_C[some, None] * SCALE
        return scaled_NG

    def log(self, some: slice) -> Values:
        """Log1p of counts per 10,000, or the log expression itself, dense."""
        if self.is_counts:
            return np.log1p(self.per_10k(some))
        return np.asarray(self.counts_CG[some].toarray(), dtype=np.float64)

    def mean_of_others(self, some: slice, of_log: bool, n_even: float = 0.0) -> Values:
        """(N, G) mean over the other cells of each one's stratum, of logs or of counts per 10,000; NaN where it is alone.

        `n_even`: with so many cells that express every gene alike, so that none is impossible.
        """
        sum_SG, n_S = self._log_sums if of_log else self._sums
        own_NG = self.log(some) if of_log else self.per_10k(some)
        stratum_N = self.stratum_C[some]
        is_counted_N = self.total_C[some] > 0
        n_N1 = (n_S[stratum_N] - is_counted_N + n_even)[:, None]
        even = n_even * SCALE / own_NG.shape[1]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_NG: Values = (sum_SG[stratum_N] - np.nan_to_num(own_NG) + even) / n_N1
        mean_NG[n_S[stratum_N] - is_counted_N < 1] = np.nan
        return mean_NG

    @cached_property
    def _sums(self) -> tuple[Values, Values]:
        return self._summed(self.per_10k)

    @cached_property
    def _log_sums(self) -> tuple[Values, Values]:
        return self._summed(self.log)

    def _summed(self, rows: Any) -> tuple[Values, Values]:
        """((S, G) sums over the cells of every stratum that have counts, how many these are)."""
        n_strata = int(self.stratum_C.max()) + 1
        sum_SG = np.zeros((n_strata, self.counts_CG.shape[1]))
        for some in in_parts(len(self.stratum_C)):
            values_NG = np.nan_to_num(rows(some))
            for s in np.unique(self.stratum_C[some]).tolist():
                sum_SG[s] += values_NG[self.stratum_C[some] == s].sum(0)
        has_counts_C = self.total_C > 0
        return sum_SG, np.bincount(self.stratum_C[has_counts_C], minlength=n_strata).astype(np.float64)


def pearson(one_NG: NDArray[np.floating], other_NG: NDArray[np.floating]) -> Values:
    """(N,) correlation over genes, row by row; NaN where a row is constant."""
    a, b = (x.astype(np.float64) - x.mean(1, dtype=np.float64, keepdims=True) for x in (one_NG, other_NG))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1)))
