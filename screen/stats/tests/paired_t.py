"""The paired t-test: whether the mean change of a gene is another than 0."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from screen.config.sections import DegConfig
from screen.stats.moments import least_error, standard_error
from screen.stats.tests.gene_test import GeneTest, Values
from screen.stats.tests.sample import Sample

Genes = NDArray[np.float64]
MOST_BY_SUM, LEAST_BY_SUM = 60, 1e-3
"""Degrees of freedom up to which, and p above which, Student's distribution is summed."""


def paired_t(sample: Sample) -> tuple[Genes, Genes]:
    """(t, two-sided p) per gene of paired differences.

    The standard error is not taken to be smaller than what storage rounds away: a change that is the same in every cell, as
    stored, has a large t and not an infinite one. Fewer than 3 cells (2 replicates) have neither: NaN. A gene that no cell
    changes has t 0 and p 1.
    """
    moments = sample.moments
    n, se_G = moments.n_cells, standard_error(moments)
    if n < sample.fewest_for_t:
        return np.full_like(se_G, np.nan), np.full_like(se_G, np.nan)
    t_G: Genes = moments.mean_delta_G / np.maximum(se_G, least_error(moments, sample.rounding))
    return t_G, two_sided(t_G, n - 1)


def two_sided(t_G: Genes, df: int) -> Genes:
    """Two-sided p of Student's t; NaN for NaN.

    For few degrees of freedom the distribution is a finite sum, ten times as fast as the incomplete beta function; it is
    used where p is above LEAST_BY_SUM, so that 1 - sum keeps 12 digits. Source: Abramowitz and Stegun 1964, 26.7.3, 26.7.4.
    """
    from scipy.special import stdtr

    if df > MOST_BY_SUM:
        return np.asarray(2 * stdtr(df, -np.abs(t_G)))
    with np.errstate(over="ignore", invalid="ignore"):
        tan2_G = np.square(t_G) / df
        cos2_G = 1 / (1 + tan2_G)
        sum_G = np.zeros_like(cos2_G)
        for coefficient in _coefficients(df):
            sum_G *= cos2_G
            sum_G += coefficient
        if df % 2:
            tan_G = np.sqrt(tan2_G)
            sum_G = (np.arctan(tan_G) + tan_G * cos2_G * sum_G) * (2 / np.pi)
        else:
            sum_G *= np.sqrt(tan2_G * cos2_G)
    p_G = 1 - sum_G
    # infinite t too
    is_rest_G = ~(p_G > LEAST_BY_SUM)
    p_G[is_rest_G] = 2 * stdtr(df, -np.abs(t_G[is_rest_G]))
    return p_G


@cache
def _coefficients(df: int) -> list[float]:
    """Of the powers of cos^2 in the finite sum, the highest first: each is its ratio times the one of the power below."""
    odd = df % 2
    k = np.arange(max((df - odd) // 2 - 1, 0))
    found = np.cumprod(np.concatenate([np.ones(min((df - odd) // 2, 1)), (2 * k + 1 + odd) / (2 * k + 2 + odd)]))
    return [float(x) for x in found[::-1]]


def compute(sample: Sample, config: DegConfig) -> Values:
    """Of the changes' moments."""
    t_G, p_G = paired_t(sample)
    return {"t": t_G, "t_p_value": p_G}


# no columns of its own: where it is chosen, `statistic` and `p_value` hold it
TEST = GeneTest(
    name="paired_t", compute=compute, statistic="t", p_value="t_p_value", needs="moments", takes_groups=True
)
