"""Items: the single cells' changes by perturbations, read from a store that keeps them."""

import numpy as np
from numpy.typing import NDArray

from screen.stats.groups import Strata
from screen.store.reader import Block, StoreReader

Integers = NDArray[np.int64]
MOST_CELLS = 500
"""Cells of a group that are read, spread evenly over all of them."""


class Items:
    """The items of the store's perturbations that are screened at a time point. Threads may share it."""

    def __init__(self, store: StoreReader, strata: Strata) -> None:
        self.strata, self._blocks = strata, store.blocks

    def of(self, perturbation: int, time: int) -> tuple[Integers, Integers]:
        """(rows, cells) of its items in the strata, by cell."""
        block = self._block(perturbation)
        row_I = block.rows_of(perturbation - block.first)
        cell_I = block.read("items/cell", row_I).astype(np.int64)
        is_used_I = block.read(f"items/is_screened_t{time}", row_I) & (self.strata.stratum_C[cell_I] >= 0)
        order_I = np.argsort(cell_I[is_used_I], kind="stable")
        return row_I[is_used_I][order_I], cell_I[is_used_I][order_I]

    def changes(self, perturbation: int, time: int, row_N: Integers) -> NDArray[np.float32]:
        """(N, G) changes in log units of some of its items."""
        if not np.all(np.diff(row_N) > 0):
            ascending = np.argsort(row_N, kind="stable")
            return self._block(perturbation).delta(time, row_N[ascending])[np.argsort(ascending)]
        return self._block(perturbation).delta(time, row_N)

    def _block(self, perturbation: int) -> Block:
        return next(b for b in reversed(self._blocks) if b.first <= perturbation)


def some_of(n: int, most: int = MOST_CELLS) -> Integers:
    """At most so many places of n, ascending, spread evenly."""
    return np.arange(n) if n <= most else np.arange(most) * n // most
