"""Wilcoxon's unpaired rank-sum test, beside the paired ones: what tools that know no pairs compute."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screen.config.sections import DegConfig
from screen.stats.tests.gene_test import GeneTest, Values
from screen.stats.tests.ranks import rank_sums
from screen.stats.tests.sample import Sample

Genes = NDArray[np.float64]
MOST_KEYS = 2**16
"""Keys that are sorted at once: they stay in a core's cache."""


def rank_sum(x_GN: NDArray[np.floating], y_GM: NDArray[np.floating], tie_correct: bool = False) -> tuple[Genes, Genes]:
    """(z, two-sided p) per gene: Wilcoxon's unpaired rank-sum test of x against y, by the normal approximation.

    z is positive where x is larger; no continuity correction; 0 with p 1 for a gene that is the same everywhere. Without
    `tie_correct` these are the scores of scanpy's `rank_genes_groups(method="wilcoxon")` with its defaults.
    """
    from scipy.special import ndtr

    n, m = x_GN.shape[1], y_GM.shape[1]
    t, n_genes = n + m, len(x_GN)
    rank_sum_G, tied_G = np.zeros(n_genes), np.zeros(n_genes)
    step = max(MOST_KEYS // max(t, 1), 1)
    for start in range(0, n_genes, step):
        some = slice(start, start + step)
        key_GT = _sorted_keys(x_GN[some], y_GM[some])
        rank_sum_G[some], tied_G[some] = rank_sums(key_GT, np.zeros(len(key_GT), dtype=np.int64))
    spread_G = np.full(n_genes, n * m * (t + 1) / 12)
    if tie_correct and t > 1:
        spread_G *= 1 - tied_G / (float(t) ** 3 - t)
    with np.errstate(divide="ignore", invalid="ignore"):
        z_G = (rank_sum_G - n * (t + 1) / 2) / np.sqrt(spread_G)
    z_G[~np.isfinite(z_G)] = 0.0
    return z_G, 2 * ndtr(-np.abs(z_G))


def _sorted_keys(x_GN: NDArray[np.floating], y_GM: NDArray[np.floating]) -> NDArray[np.uint64]:
    """(G, N + M) both, in order, as `rank_sums` reads them: the last bit says whether a value is of x."""
    pooled_GT = np.concatenate([x_GN, y_GM], axis=1, dtype=np.float32)
    # -0 and 0 are equal
    pooled_GT += 0.0
    bits_GT = pooled_GT.view(np.int32)
    # as integers negative floats are ordered the other way round
    turned_GT = bits_GT >> 31
    turned_GT &= 0x7FFFFFFF
    turned_GT ^= bits_GT
    key_GT = turned_GT.astype(np.int64)
    key_GT <<= 1
    key_GT[:, : x_GN.shape[1]] |= 1
    key_GT.sort(axis=1)
    return key_GT.view(np.uint64)


def compute(sample: Sample, config: DegConfig) -> Values:
    """Of the expression with the edit against that without; `deg.rank_sum` says whether ties are corrected for."""
    z_G, p_G = rank_sum(sample.after_GN, sample.before_GN, config.rank_sum == "tie_corrected")
    return {"rank_sum_z": z_G, "rank_sum_p_value": p_G}


TEST = GeneTest(
    name="rank_sum",
    compute=compute,
    statistic="rank_sum_z",
    p_value="rank_sum_p_value",
    needs="values",
    columns={"rank_sum_z": pl.Float32, "rank_sum_p_value": pl.Float64},
    in_every_table=True,
    is_wanted=lambda config: config.rank_sum != "off",
)
