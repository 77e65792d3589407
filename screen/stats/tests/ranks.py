"""Ranks: sums of ranks and of ties over sorted keys, gene by gene.

Values come gene by gene, (G, N): a gene's cells lie side by side, so that sorting them stays in the cache.
"""

import numpy as np
from numpy.typing import NDArray

Genes = NDArray[np.float64]
MOST_IN_FLOAT32 = 5792
"""Cells whose ranks have a sum below 2^24."""


def rank_sums(key_GN: NDArray[np.integer], first_G: NDArray[np.int64]) -> tuple[Genes, Genes]:
    """(sum of the ranks of what counts, sum of t^3 - t over ties) of sorted keys: the value, and below it whether it counts.

    Values before place `first_G` have no rank and count nothing.
    """
    n = key_GN.shape[1]
    place_N = np.arange(n)
    # sums of ranks are whole numbers: exact in float32 while they are below 2^24
    counted_GN: NDArray[np.floating] = (key_GN & 1).astype(np.float32 if n < MOST_IN_FLOAT32 else np.float64)
    some = np.flatnonzero(first_G)
    counted_GN[some] = np.where(place_N >= first_G[some, None], counted_GN[some], 0)
    sum_G = (counted_GN @ (place_N + 1).astype(counted_GN.dtype)).astype(np.float64)
    sum_G[some] -= first_G[some] * counted_GN[some].sum(1)
    tied_G = np.zeros(len(key_GN))
    # first across rows as well: where the last of one row and the first of the next differ too, it is faster
    flat = key_GN.reshape(-1)
    if not ((flat[1:] ^ flat[:-1]) <= 1).any():
        return sum_G, tied_G
    is_same_GN = (key_GN[:, 1:] ^ key_GN[:, :-1]) <= 1
    is_same_GN[some] &= place_N[:-1] >= first_G[some, None]
    some = np.flatnonzero(is_same_GN.any(1))
    edge_G1 = np.ones((len(some), 1), dtype=bool)
    new_GN = np.concatenate([edge_G1, ~is_same_GN[some]], axis=1)
    last_GN = np.concatenate([new_GN[:, 1:], edge_G1], axis=1)
    start_GN = np.maximum.accumulate(np.where(new_GN, place_N, 0), axis=1)
    end_GN = np.minimum.accumulate(np.where(last_GN, place_N, n)[:, ::-1], axis=1)[:, ::-1]
    mean_GN = (start_GN + end_GN) / 2 + 1 - first_G[some, None]
    sum_G[some] = (mean_GN * counted_GN[some]).sum(1)
    size_GN = (end_GN - start_GN + 1).astype(np.float64)
    tied_G[some] = np.where(place_N >= first_G[some, None], np.square(size_GN) - 1, 0).sum(1)
    return sum_G, tied_G
