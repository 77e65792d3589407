"""Partial moments: what a unit of a store keeps of each of its groups of items (segments), and how tables join them."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from screen.planning.layout import MOMENTS
from screen.stats.moments import count_change

WORK_VALUES = 2**16
"""Values that are worked on at a time, in float64 half a megabyte: they stay in the cache."""


def partial_moments(
    stored_RG: NDArray[np.floating],
    scale: float,
    before_CG: NDArray[np.floating],
    cell_R: NDArray[np.integer],
    segment_R: NDArray[np.integer],
    n_segments: int,
    is_log1p: bool,
) -> dict[str, NDArray[np.floating]]:
    """Two sums per segment and gene each, (J, 2, G), over its items in order; 0 where it has none.

    delta   the changes, and the squares of their deviations from the segment's mean; of float16 the first is exact
    counts  what the edit adds to counts per 10,000, and the counts without it

    Shapes: changes as they are stored, times `scale`, (R, G); counts of controls (C, G), of which item r has row cell_R[r];
    segment -1: the item is left out. `screen.stats.moments.moments_of` of each segment says the same.
    """
    n_genes = stored_RG.shape[1]
    found: dict[str, NDArray[np.floating]] = {
        name: np.zeros((n_segments, 2, n_genes), dtype) for name, dtype in MOMENTS.items()
    }
    for segment_S, row_SN in of_one_size(segment_R, n_segments, max(WORK_VALUES // n_genes, 1)):
        for genes in cut(n_genes, WORK_VALUES // row_SN.size):
            # 4096 is a power of two: nothing is rounded
            delta_SNG = stored_RG[:, genes][row_SN].astype(np.float32) / np.float32(scale)
            before_SNG = before_CG[:, genes][cell_R[row_SN]]
            away_SNG = delta_SNG.astype(np.float64)
            sum_SG = np.add.reduce(away_SNG, axis=1)
            away_SNG -= (sum_SG / row_SN.shape[1])[:, None]
            np.square(away_SNG, out=away_SNG)
            change_SNG = count_change(delta_SNG, before_SNG, is_log1p)
            delta_S2G, counts_S2G = (found[name][:, :, genes] for name in ("delta", "counts"))
            delta_S2G[segment_S, 0], delta_S2G[segment_S, 1] = sum_SG, np.add.reduce(away_SNG, axis=1)
            counts_S2G[segment_S, 0] = np.add.reduce(change_SNG, axis=1, dtype=np.float64)
            counts_S2G[segment_S, 1] = np.add.reduce(before_SNG, axis=1, dtype=np.float64)
    return found


def of_one_size(
    segment_R: NDArray[np.integer], n_segments: int, most_rows: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(S segments of N items each, their rows (S, N), ascending): every segment once, at most `most_rows` rows but for one."""
    order_R = np.argsort(segment_R, kind="stable")
    edge_J = np.searchsorted(segment_R[order_R], np.arange(n_segments + 1))
    size_J = np.diff(edge_J)
    for n in np.unique(size_J[size_J > 0]).tolist():
        segment_S = np.flatnonzero(size_J == n)
        for some in cut(len(segment_S), most_rows // n):
            yield segment_S[some], order_R[edge_J[segment_S[some], None] + np.arange(n)]


def cut(n: int, step: int) -> Iterator[slice]:
    """Slices of at most `step`, at least 1."""
    step = max(step, 1)
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))
