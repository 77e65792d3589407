"""Amounts: what tells counts from values that were scaled, rounded or logged, by the totals of cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEWEST_CELLS = 20
"""Of fewer nothing is said: totals of counts may agree by chance."""
SCATTER = 0.1
"""Totals of counts vary at least as much as their mean (Poisson); those of rounded values by n / 12, a small part of it."""
EQUAL = 0.01
MANY_GENES = 100
"""A cell with so many expressed genes has one with a count of 1."""
MOST_CELLS = 0.9
LARGEST_LOG = 12.0
"""exp(12) is 160,000: more than one gene has in a cell."""
WHOLE = 1e-3
"""A logarithm of a count, in float32, gives it back so exactly, relative to it."""


@dataclass(frozen=True)
class Totals:
    """Of C cells: their totals, expressed genes, smallest value above 0, totals of exp(value) - 1, and the largest value.

    are_logged_counts  whether values are not whole and exp(value) - 1 of every one is
    """

    total_C: NDArray[np.float64]
    n_seen_C: NDArray[np.int64]
    least_C: NDArray[np.float64]
    unlogged_C: NDArray[np.float64]
    largest: float
    are_logged_counts: bool

    @staticmethod
    def of(counts_CF: Any) -> "Totals":
        """Of a block: CSR without negative values."""
        kept = counts_CF.astype(np.float64)
        kept.eliminate_zeros()
        n_seen_C = np.diff(kept.indptr)
        least_C = np.zeros(len(n_seen_C))
        has_any = n_seen_C > 0
        if has_any.any():
            least_C[has_any] = np.minimum.reduceat(kept.data, kept.indptr[:-1][has_any])
        total_C = np.asarray(kept.sum(axis=1)).ravel()
        largest = float(kept.data.max(initial=0))
        are_logged = False
        if largest < LARGEST_LOG:
            value_T, kept.data = kept.data, np.expm1(kept.data)
            whole_T = np.rint(kept.data)
            are_logged = bool(
                (np.abs(kept.data - whole_T) <= WHOLE * whole_T).all() and (value_T != np.floor(value_T)).any()
            )
        return Totals(total_C, n_seen_C, least_C, np.asarray(kept.sum(axis=1)).ravel(), largest, are_logged)

    @staticmethod
    def joined(parts: Sequence["Totals"]) -> "Totals":
        """Of all cells of some blocks."""
        names = ("total_C", "n_seen_C", "least_C", "unlogged_C")
        whole = {name: np.concatenate([getattr(p, name) for p in parts]) for name in names}
        are_logged = all(p.are_logged_counts for p in parts)
        return Totals(**whole, largest=max(p.largest for p in parts), are_logged_counts=are_logged)

    @property
    def are_logarithms(self) -> bool:
        """Whether exp(value) - 1 adds up to the same in every cell."""
        return self.largest < LARGEST_LOG and _are_equal(self.unlogged_C)

    @property
    def are_equal(self) -> bool:
        """Whether the values add up to the same in every cell."""
        return _are_equal(self.total_C)

    def why_rounded(self) -> str | None:
        """What shows that whole numbers are scaled values that were rounded; None where they may be counts."""
        total_C, n = self.total_C, len(self.total_C)
        if n < FEWEST_CELLS:
            return None
        # rounded to the nearest, or down, which loses a half of each value
        for lost in (0.0, 0.5):
            if np.ptp(total_C) > 0 and np.var(total_C + lost * self.n_seen_C) < SCATTER * total_C.mean():
                return f"the totals of {n:,} cells are all about {np.median(total_C):,.0f}, as scaled values have them"
        rich_C = self.n_seen_C >= MANY_GENES
        if rich_C.sum() >= FEWEST_CELLS and np.mean(self.least_C[rich_C] > 1) >= MOST_CELLS:
            least = np.median(self.least_C[rich_C])
            return f"the smallest value above 0 of a cell is {least:,.0f}, where counts have ones"
        return None


def _are_equal(total_C: NDArray[np.float64]) -> bool:
    low, middle, high = np.quantile(total_C, [0.05, 0.5, 0.95]) if len(total_C) else (0.0, 0.0, 0.0)
    return len(total_C) >= FEWEST_CELLS and bool(high - low <= EQUAL * middle) and bool(middle > 0)
