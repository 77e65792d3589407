"""Tests per gene: paired t and signed-rank over cells, unpaired rank-sum, and false discovery rates.

Values come gene by gene, (G, N): a gene's cells lie side by side, so that sorting them stays in the cache.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from screen.stats.moments import Moments

Genes = NDArray[np.float64]
MOST_EXACT = 50
"""Up to so many changed cells without ties the signed-rank test is exact, beyond a normal approximation (as in scipy)."""
MOST_IN_FLOAT32 = 5792


def paired_t(moments: Moments) -> tuple[Genes, Genes, Genes]:
    """(standard error, t, two-sided p) per gene of paired differences.

    One cell has no standard error: NaN. A gene that changes by exactly the same in every cell has t infinite and p 0,
    or t NaN and p 1 if the change is 0.
    """
    from scipy.special import stdtr

    n = moments.n_cells
    if n < 2:
        nan_G = np.full(len(moments.mean_delta_G), np.nan)
        return nan_G, nan_G.copy(), nan_G.copy()
    se_G = np.sqrt(moments.m2_delta_G / (n - 1) / n)
    with np.errstate(divide="ignore", invalid="ignore"):
        t_G = moments.mean_delta_G / se_G
    p_G = 2 * stdtr(n - 1, -np.abs(t_G))
    return se_G, t_G, np.where(np.isnan(t_G), 1.0, p_G)


def signed_rank(delta_GN: NDArray[np.float32]) -> tuple[Genes, Genes]:
    """(the smaller of the two rank sums, two-sided p) per gene: Wilcoxon's signed-rank test of paired differences.

    Cells without a change are left out, ties get their mean rank. Without ties among at most MOST_EXACT changed cells p is
    exact; otherwise it is the normal approximation with correction for ties and continuity. A gene that no cell changes
    has p 1. Raises nothing; NaN is not allowed. Source: Wilcoxon 1945; the choices are scipy's (`zero_method="wilcox"`).
    """
    from scipy.special import ndtr

    bits_GN = np.ascontiguousarray(delta_GN, dtype=np.float32).view(np.uint32)
    # magnitude above, sign below: floats of one sign are ordered as their bits are
    key_GN = bits_GN << 1
    key_GN |= bits_GN >> 31 ^ 1
    key_GN.sort(axis=1)
    # magnitudes of 0 come first
    n_G = np.full(len(key_GN), key_GN.shape[1])
    some = np.flatnonzero(key_GN[:, 0] <= 1)
    n_G[some] = np.count_nonzero(key_GN[some] > 1, axis=1)
    rank_sum_G, tied_G = _rank_sums(key_GN, key_GN.shape[1] - n_G)
    smaller_G = np.minimum(rank_sum_G, n_G * (n_G + 1) / 2 - rank_sum_G)
    is_exact_G = (n_G <= MOST_EXACT) & (tied_G == 0)
    if is_exact_G.all():
        return smaller_G, exact_signed_rank()[n_G, smaller_G.astype(np.int64)]
    with np.errstate(divide="ignore", invalid="ignore"):
        away_G = smaller_G - n_G * (n_G + 1) / 4
        spread_G = np.sqrt(n_G * (n_G + 1) * (2 * n_G + 1) / 24 - tied_G / 48)
        p_G = 2 * ndtr(-np.abs(away_G + 0.5 * (away_G < 0)) / spread_G)
    p_G[is_exact_G] = exact_signed_rank()[n_G[is_exact_G], smaller_G[is_exact_G].astype(np.int64)]
    return smaller_G, np.where(n_G == 0, 1.0, np.minimum(p_G, 1.0))


@cache
def exact_signed_rank() -> Genes:
    """(n, w) -> two-sided p of a smaller rank sum w among n cells without ties, n up to MOST_EXACT."""
    most = MOST_EXACT * (MOST_EXACT + 1) // 2
    table = np.ones((MOST_EXACT + 1, most + 1))
    ways = np.zeros(most + 1)
    ways[0] = 1.0
    for n in range(1, MOST_EXACT + 1):
        # each rank is in the sum or not
        ways[n:] += ways[:-n].copy()
        table[n] = np.minimum(2 * np.cumsum(ways) / 2.0**n, 1.0)
    return table


def rank_sum(x_GN: NDArray[np.floating], y_GM: NDArray[np.floating], tie_correct: bool = False) -> tuple[Genes, Genes]:
    """(z, two-sided p) per gene: Wilcoxon's unpaired rank-sum test of x against y, by the normal approximation.

    z is positive where x is larger; no continuity correction; 0 with p 1 for a gene that is the same everywhere. Without
    `tie_correct` these are the scores of scanpy's `rank_genes_groups(method="wilcoxon")` with its defaults.
    """
    from scipy.special import ndtr

    n, m = x_GN.shape[1], y_GM.shape[1]
    pooled_GT = np.concatenate([x_GN, y_GM], axis=1, dtype=np.float32)
    # -0 and 0 are equal
    pooled_GT += 0.0
    bits_GT = pooled_GT.view(np.uint32)
    # negative floats are ordered the other way round
    ordered_GT = np.where(bits_GT >> 31 == 1, ~bits_GT, bits_GT | np.uint32(0x80000000))
    key_GT = ordered_GT.astype(np.uint64) << 1
    key_GT[:, :n] |= 1
    key_GT.sort(axis=1)
    rank_sum_G, tied_G = _rank_sums(key_GT, np.zeros(len(key_GT), dtype=np.int64))
    t = n + m
    spread_G = np.full(len(key_GT), n * m * (t + 1) / 12)
    if tie_correct and t > 1:
        spread_G *= 1 - tied_G / (float(t) ** 3 - t)
    with np.errstate(divide="ignore", invalid="ignore"):
        z_G = (rank_sum_G - n * (t + 1) / 2) / np.sqrt(spread_G)
    z_G[~np.isfinite(z_G)] = 0.0
    return z_G, 2 * ndtr(-np.abs(z_G))


def _rank_sums(key_GN: NDArray[np.integer], first_G: NDArray[np.int64]) -> tuple[Genes, Genes]:
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


def benjamini_hochberg(p_G: Genes) -> Genes:
    """False discovery rates of one family of p-values; NaN stays NaN and does not count."""
    out = np.full(len(p_G), np.nan)
    known = np.flatnonzero(~np.isnan(p_G))
    order = known[np.argsort(p_G[known], kind="stable")]
    ranked = p_G[order] * len(order) / np.arange(1, len(order) + 1)
    out[order] = np.minimum(np.minimum.accumulate(ranked[::-1])[::-1], 1.0)
    return out
