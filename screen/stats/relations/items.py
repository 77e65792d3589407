"""Items: the single cells' changes by perturbations, read from a store that keeps them."""

from collections.abc import Iterator, Sequence

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
        """(rows, cells) of its items in the strata, both ascending."""
        _, row_I, cell_I = self.of_many([perturbation], time)
        return row_I, cell_I

    def of_many(self, perturbations: Sequence[int], time: int) -> tuple[Integers, Integers, Integers]:
        """(places in `perturbations`, rows, cells) of the items of some perturbations of one library block, one after another."""
        block = self._block(perturbations[0])
        rows = [block.rows_of(p - block.first) for p in perturbations]
        row_I, place_I = np.concatenate(rows), np.repeat(np.arange(len(rows)), [len(r) for r in rows])
        cell_I = block.read("items/cell", row_I).astype(np.int64)
        is_used_I = block.read(f"items/is_screened_t{time}", row_I) & (self.strata.stratum_C[cell_I] >= 0)
        return place_I[is_used_I], row_I[is_used_I], cell_I[is_used_I]

    def cut(self, perturbation_N: Integers, most: int) -> Iterator[Integers]:
        """Places of perturbations of one library block each, at most so many at a time."""
        block_N = np.array([self._block(p).number for p in perturbation_N.tolist()])
        for number in np.unique(block_N).tolist():
            at = np.flatnonzero(block_N == number)
            yield from (at[i : i + most] for i in range(0, len(at), most))

    def changes(self, perturbation: int, time: int, row_N: Integers) -> NDArray[np.float32]:
        """(N, G) changes in log units of some items of its library block."""
        return self._block(perturbation).delta(time, row_N)

    def _block(self, perturbation: int) -> Block:
        return next(b for b in reversed(self._blocks) if b.first <= perturbation)


def some_of(n: int, most: int = MOST_CELLS) -> Integers:
    """At most so many places of n, ascending, spread evenly."""
    return np.arange(n) if n <= most else np.arange(most) * n // most
