"""Wilcoxon's signed-rank test: whether a gene's changes lie to both sides of 0 alike."""

from functools import cache, lru_cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screen.config.sections import DegConfig
from screen.stats.tests.gene_test import GeneTest, Values
from screen.stats.tests.ranks import rank_sums
from screen.stats.tests.sample import Sample

Genes = NDArray[np.float64]
MOST_EXACT = 50
"""Up to so many changed cells p is exact, with ties too; beyond it is a normal approximation."""
PATTERNS_KEPT = 2048
"""Distributions under a pattern of ties that are kept, of 10 KB at most."""


def signed_rank(delta_GN: NDArray[np.float32]) -> tuple[Genes, Genes]:
    """(the smaller of the two rank sums, two-sided p) per gene: Wilcoxon's signed-rank test of paired differences.

    Cells without a change are left out, ties get their mean rank. Among at most MOST_EXACT changed cells p is exact, given
    which cells tie; otherwise it is the normal approximation with correction for ties. A gene that no cell changes has p 1.
    Raises nothing; NaN is not allowed. Source: Wilcoxon 1945. p is that of scipy's `wilcoxon` with its defaults, except
    that scipy approximates where there are ties or zeros among more than 13 cells, and this is exact up to MOST_EXACT.
    """
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
    is_few_G = n_G <= MOST_EXACT
    p_G = np.ones(len(key_GN))
    plain = np.flatnonzero(is_few_G & (tied_G == 0))
    p_G[plain] = exact_signed_rank()[n_G[plain], smaller_G[plain].astype(np.int64)]
    tied, many = np.flatnonzero(is_few_G & (tied_G > 0)), np.flatnonzero(~is_few_G)
    p_G[tied] = _exact_with_ties(key_GN[tied], n_G[tied], smaller_G[tied])
    p_G[many] = _approximate(n_G[many], smaller_G[many], tied_G[many])
    return smaller_G, p_G


def _approximate(n_G: NDArray[np.int64], smaller_G: Genes, tied_G: Genes) -> Genes:
    from scipy.special import ndtr

    spread_G = np.sqrt(n_G * (n_G + 1) * (2 * n_G + 1) / 24 - tied_G / 48)
    p_G: Genes = 2 * ndtr((smaller_G - n_G * (n_G + 1) / 4) / spread_G)
    return p_G


def _exact_with_ties(key_GN: NDArray[np.integer], n_G: NDArray[np.int64], smaller_G: Genes) -> Genes:
    """p of genes with ties among at most MOST_EXACT changed cells, by the pattern of each; keys are sorted."""
    p_G = np.empty(len(key_GN))
    for g, (n, smaller) in enumerate(zip(n_G.tolist(), smaller_G.tolist(), strict=True)):
        magnitude_N = key_GN[g, key_GN.shape[1] - n :] >> 1
        p_G[g] = _given_ties((magnitude_N[1:] == magnitude_N[:-1]).tobytes())[round(2 * smaller)]
    return p_G


@lru_cache(maxsize=PATTERNS_KEPT)
def _given_ties(is_same: bytes) -> Genes:
    """Twice w -> two-sided p of a smaller rank sum w, given which of the sorted magnitudes are the same as the one before.

    Mean ranks are halves, so twice a rank is a whole number; each is in the sum or not, alike likely.
    """
    is_first_N = np.concatenate([[True], ~np.frombuffer(is_same, dtype=np.bool_)])
    start = np.flatnonzero(is_first_N)
    size = np.diff(start, append=len(is_first_N))
    most = len(is_first_N) * (len(is_first_N) + 1) // 2
    ways = np.zeros(most + 1)
    ways[0] = 1.0
    # a smaller sum is at most half of all ranks; counts stay below 2^50: exact
    for rank in np.repeat(2 * start + size + 1, size).tolist():
        ways[rank:] += ways[:-rank].copy()
    return np.minimum(2 * np.cumsum(ways) / 2.0 ** len(is_first_N), 1.0)


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
