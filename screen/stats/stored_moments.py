"""StoredMoments: the moments of groups, joined from the partial ones beside a library block's units, in their order."""

from collections.abc import Iterator
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from screen.stats.moments import Moments
from screen.stats.partial_moments import cut
from screen.store.reader import Block

READ_BYTES = 32 * 2**20
"""Most bytes of partial moments that are read at once by a thread."""
Ints = NDArray[np.int64]
Sums = NDArray[np.float64]


class StoredMoments:
    """The segments of one library block by perturbation (of the block's) and stratum (of those asked for)."""

    def __init__(self, block: Block, stratum_of_S: Ints) -> None:
        self._block, self._n_strata = block, int(stratum_of_S.max(initial=0)) + 1
        perturbation_J, stratum_J = (block.read(f"moments/{n}").astype(np.int64) for n in ("perturbation", "stratum"))
        # the last of `stratum_of_S` is that of -1
        asked_J = stratum_of_S[stratum_J]
        used = np.flatnonzero((perturbation_J >= 0) & (asked_J >= 0))
        key_J = perturbation_J[used] * self._n_strata + asked_J[used]
        order_J = np.argsort(key_J, kind="stable")
        self._key_J, self._row_J = key_J[order_J], used[order_J]
        self._n_cells = {t: block.read(f"moments/n_cells_t{t}")[self._row_J] for t in block.layout.pred_tps}

    @staticmethod
    def of(block: Block, stratum_C: Ints) -> "StoredMoments | None":
        """Of a block, by the strata that are asked for; None where the stored segments do not add up to these."""
        if not block.has_all_moments:
            return None
        stored_C = block.read("moments/stratum_of_cell").astype(np.int64)
        stratum_of_S = np.full(int(stored_C.max(initial=-1)) + 2, -1)
        stratum_of_S[stored_C] = stratum_C
        return StoredMoments(block, stratum_of_S) if (stratum_of_S[stored_C] == stratum_C).all() else None

    def moments(self, perturbation_N: Ints, stratum_N: Ints, time: int, with_counts: bool) -> list[Moments]:
        """Of N groups at one time point, which all have a cell; without counts their means are NaN."""
        place_K, group_K = self._segments(perturbation_N * self._n_strata + stratum_N, time)
        n_genes = self._block.array(f"moments/delta/t{time}").shape[2]
        parts = [
            self._joined(place_K[some], group_K[some], time, with_counts)
            for some in cut(len(place_K), READ_BYTES // (24 * n_genes))
        ]
        group_K, n_K, delta_K2G, counts_K2G = (np.concatenate(x) for x in zip(*parts, strict=True))
        _, n_N, delta_N2G, counts_N2G = _join(group_K, n_K, delta_K2G, counts_K2G)
        n_N1, nan_G = n_N[:, None], np.full(n_genes, np.nan)
        mean_NG, m2_NG = delta_N2G[:, 0] / n_N1, delta_N2G[:, 1]
        if with_counts:
            target_NG, ref_NG = (counts_N2G[:, 1] + counts_N2G[:, 0]) / n_N1, counts_N2G[:, 1] / n_N1
            found = zip(n_N.tolist(), mean_NG, m2_NG, target_NG, ref_NG, strict=True)
        else:
            found = zip(n_N.tolist(), mean_NG, m2_NG, repeat(nan_G), repeat(nan_G))
        return [Moments(*of_group) for of_group in found]

    def _segments(self, key_N: Ints, time: int) -> tuple[Ints, Ints]:
        """(places of all segments with cells, group of each), group by group, in order of units."""
        start_N, stop_N = (np.searchsorted(self._key_J, key_N, side) for side in ("left", "right"))
        size_N = stop_N - start_N
        group_K = np.repeat(np.arange(len(key_N)), size_N)
        place_K = np.arange(len(group_K)) + np.repeat(start_N - (np.cumsum(size_N) - size_N), size_N)
        has_cells_K = self._n_cells[time][place_K] > 0
        return place_K[has_cells_K], group_K[has_cells_K]

    def _joined(self, place_K: Ints, group_K: Ints, time: int, with_counts: bool) -> tuple[Ints, Ints, Sums, Sums]:
        """What some segments say of their groups."""
        row_K = self._row_J[place_K]
        # every file is opened once
        ascending = np.argsort(row_K, kind="stable")
        back = np.argsort(ascending)
        n_K = self._n_cells[time][place_K].astype(np.int64)
        delta_K2G = self._block.read(f"moments/delta/t{time}", row_K[ascending])[back]
        if with_counts:
            counts_K2G = self._block.read(f"moments/counts/t{time}", row_K[ascending])[back].astype(np.float64)
        else:
            counts_K2G = np.zeros((len(row_K), 2, 1))
        return _join(group_K, n_K, delta_K2G, counts_K2G)


def _join(group_K: Ints, n_K: Ints, delta_K2G: Sums, counts_K2G: Sums) -> tuple[Ints, Ints, Sums, Sums]:
    """(group, items, sums) of each group of consecutive parts. Source: Chan, Golub, LeVeque 1983."""
    start_N = np.flatnonzero(np.diff(group_K, prepend=-1))
    size_N = np.diff(np.append(start_N, len(group_K)))
    if len(start_N) == len(group_K):
        return group_K, n_K, delta_K2G, counts_K2G
    n_N, delta_N2G, counts_N2G = np.add.reduceat(n_K, start_N), delta_K2G[start_N], counts_K2G[start_N]
    for some, row in _parts(start_N, size_N, 1):
        delta_N2G[some] += delta_K2G[row]
        counts_N2G[some] += counts_K2G[row]
    mean_NG = delta_N2G[:, 0] / n_N[:, None]
    for some, row in _parts(start_N, size_N, 0):
        away = delta_K2G[row, 0] / n_K[row, None] - mean_NG[some]
        delta_N2G[some, 1] += n_K[row, None] * np.square(away)
    return group_K[start_N], n_N, delta_N2G, counts_N2G


def _parts(start_N: Ints, size_N: Ints, first: int) -> Iterator[tuple[Ints, Ints]]:
    """(groups of more than k parts, the k-th of each) for k from `first` on."""
    for k in range(first, int(size_N.max())):
        some = np.flatnonzero(size_N > k)
        yield some, start_N[some] + k
