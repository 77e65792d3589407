"""Units: what counts as one in many groups at once: replicates, or every item by itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from screen.config.sections import DegConfig
from screen.stats.gene_results import GeneResults, of_together
from screen.stats.moments import FLOAT32, Rounding, count_change, moments_with
from screen.stats.partial_moments import of_one_size
from screen.stats.tests.sample import Sample

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Units:
    """The units of M groups of items, group by group.

    unit_I   the unit of each item, which is one item where there are no replicates (None); -1: it is left out
    group_U  the group of each unit, ascending
    """

    unit_I: Ints | None
    group_U: Ints
    n_groups: int

    @staticmethod
    def of(group_I: Ints, replicate_I: Ints | None, n_groups: int) -> "Units":
        """Of items in any order. As `gene_results.Replicates` has it of one group: an item whose replicate is missing (below 0)
        is left out, and all of a group are one unit where none has a replicate. Without replicates items come group by group.
        """
        if replicate_I is None:
            assert (np.diff(group_I) >= 0).all()
            return Units(None, group_I, n_groups)
        has_I = replicate_I >= 0
        has_any_M = np.bincount(group_I[has_I], minlength=n_groups) > 0
        n_codes = int(replicate_I.max(initial=0)) + 1
        key_I = np.where(has_I | ~has_any_M[group_I], group_I * n_codes + np.maximum(replicate_I, 0), -1)
        key_U, unit_I = np.unique(key_I, return_inverse=True)
        n_out = int(len(key_U) > 0 and key_U[0] < 0)
        return Units(unit_I - n_out, key_U[n_out:] // n_codes, n_groups)

    def means(self, values_IG: NDArray[np.floating]) -> NDArray[np.floating]:
        """(U, G) means of the items of every unit, in float64; items that are units as they are."""
        if self.unit_I is None:
            return values_IG
        found_UG = np.empty((len(self.group_U), values_IG.shape[1]))
        for unit_S, row_SN in of_one_size(self.unit_I, len(self.group_U), len(values_IG)):
            found_UG[unit_S] = np.add.reduce(values_IG[row_SN], axis=1, dtype=np.float64) / row_SN.shape[1]
        return found_UG

    def together(self) -> Iterator[tuple[Ints, Ints]]:
        """(N groups of R units each, these (N, R)): every group with a unit once."""
        return of_one_size(self.group_U, self.n_groups, len(self.group_U))


def of_few(
    units: Units,
    delta_and_before: tuple[NDArray[np.floating], NDArray[np.floating]],
    is_log1p: bool,
    config: DegConfig,
    rounding: Rounding = FLOAT32,
) -> dict[int, GeneResults]:
    """Group -> `gene_results.statistics_of` its items, where all tests are of moments; (I, G) each, all groups at once."""
    of_replicates = units.unit_I is not None
    values = (*delta_and_before, count_change(*delta_and_before, is_log1p))
    delta_UG, before_UG, change_UG = map(units.means, values)
    found = dict[int, GeneResults]()
    for group_N, unit_NR in units.together():
        delta_NRG = delta_UG[unit_NR]
        moments = moments_with(delta_NRG, before_UG[unit_NR], change_UG[unit_NR])
        sample = Sample(moments, delta_NRG, rounding=rounding, of_replicates=of_replicates)
        found |= zip(group_N.tolist(), of_together(sample, config), strict=True)
    return found


def runs(size_M: Sequence[int], most: int) -> Iterator[slice]:
    """Stretches of consecutive groups that have at most so many items together; one that has more is alone."""
    start, n = 0, 0
    for i, size in enumerate(size_M):
        if i > start and n + size > most:
            yield slice(start, i)
            start, n = i, 0
        n += size
    if start < len(size_M):
        yield slice(start, len(size_M))
