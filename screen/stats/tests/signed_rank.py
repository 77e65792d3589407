"""Wilcoxon's signed-rank test: whether a gene's changes lie to both sides of 0 alike."""

from functools import cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screen.config.sections import DegConfig
from screen.stats.ranks import rank_sums
from screen.stats.tests.gene_test import GeneTest, Values
from screen.stats.tests.sample import Sample

Genes = NDArray[np.float64]
MOST_EXACT = 50
"""Up to so many changed cells without ties p is exact, beyond a normal approximation (as in scipy)."""


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
    rank_sum_G, tied_G = rank_sums(key_GN, key_GN.shape[1] - n_G)
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


def compute(sample: Sample, config: DegConfig) -> Values:
    """Of the changes."""
    smaller_G, p_G = signed_rank(sample.delta_GN)
    return {"signed_rank": smaller_G, "signed_rank_p_value": p_G}


TEST = GeneTest(
    name="signed_rank",
    compute=compute,
    statistic="signed_rank",
    p_value="signed_rank_p_value",
    needs="changes",
    columns={"signed_rank": pl.Float32, "signed_rank_p_value": pl.Float64},
    in_every_table=True,
    # with `top: 0` there is no table that its columns would be in
    is_wanted=lambda config: config.signed_rank and config.top != 0,
)
