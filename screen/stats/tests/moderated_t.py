"""The moderated t-test (limma's): a paired t whose variances borrow from those of all other genes of the group."""

import numpy as np
from numpy.typing import NDArray

from screen.config.sections import DegConfig
from screen.stats.moments import least_error
from screen.stats.tests.gene_test import GeneTest, Values
from screen.stats.tests.sample import Sample

Genes = NDArray[np.float64]
LEAST_OF_MEDIAN = 1e-5
"""Variances below this share of the median count as that: one near 0 would decide how much all differ (as in limma)."""


def prior_of(variance_G: Genes, df: float) -> tuple[float, float]:
    """(d0, s0^2): how many degrees of freedom the variances of other genes are worth, and the variance they speak for.

    Variances of `df` degrees of freedom each. Those of 0 or NaN say nothing of how genes differ and are left out. d0 is
    infinite where variances differ no more than by chance, and 0 with fewer than 2 of them: nothing to borrow from.
    Source: Smyth 2004, Stat Appl Genet Mol Biol 3:3, section 6.2; s0^2 where d0 is infinite: Phipson et al. 2016.
    """
    from scipy.special import digamma, polygamma

    usable = variance_G[np.isfinite(variance_G) & (variance_G > 0)]
    if len(usable) < 2:
        return 0.0, float(usable[0]) if len(usable) else float("nan")
    usable = np.maximum(usable, LEAST_OF_MEDIAN * np.median(usable))
    log_G = np.log(usable) - digamma(df / 2) + np.log(df / 2)
    # what is left of their spread when chance is taken away
    spread = float(np.var(log_G, ddof=1) - polygamma(1, df / 2))
    if spread <= 0:
        return float("inf"), float(usable.mean())
    d0 = 2 * trigamma_inverse(spread)
    return d0, float(np.exp(log_G.mean() + digamma(d0 / 2) - np.log(d0 / 2)))


def trigamma_inverse(x: float) -> float:
    """y > 0 with trigamma(y) = x > 0, by Newton's method on 1 / trigamma, which is convex and nearly a line.

    Source: Smyth 2004, appendix.
    """
    from scipy.special import zeta

    # beyond these the two ends of the series are exact in float64
    if x > 1e7:
        return float(1 / np.sqrt(x))
    if x < 1e-6:
        return 1 / x
    y = 0.5 + 1 / x
    for _ in range(50):
        # trigamma and its derivative, as `polygamma` has them: looked up directly, a third of the time
        value = zeta(2, y)
        step = value * (1 - value / x) / (-2 * zeta(3, y))
        y += step
        if -step < 1e-10 * y:
            break
    return float(y)


def moderated_t(sample: Sample) -> tuple[Genes, Genes]:
    """(t, two-sided p) per gene; the sample's moments must be those of all genes of the group.

    With d = n - 1: the variance is (d0 s0^2 + d s^2) / (d0 + d) and t has d0 + d degrees of freedom, at most d times the
    number of genes. No variance is taken to be smaller than what storage rounds away, and means of n stored numbers are a
    step / n apart: half of that is taken off (continuity), which is next to nothing unless all are a few steps from 0.
    Fewer than 3 cells (2 replicates) have neither: NaN. A gene that no cell changes has t 0 and p 1.
    """
    from scipy.special import stdtr

    moments = sample.moments
    n, mean_G = moments.n_cells, moments.mean_delta_G
    if n < sample.fewest_for_t:
        return np.full_like(mean_G, np.nan), np.full_like(mean_G, np.nan)
    df = n - 1
    least_G = n * np.square(least_error(moments, sample.rounding))
    variance_G = np.maximum(moments.m2_delta_G / df, least_G)
    changes_G = (moments.m2_delta_G > 0) | (mean_G != 0)
    d0, s0_squared = prior_of(variance_G[changes_G], df)
    if d0 == np.inf:
        shared_G = np.full_like(variance_G, s0_squared)
    elif d0 == 0:
        shared_G = variance_G
    else:
        shared_G = (d0 * s0_squared + df * variance_G) / (d0 + df)
    # a step is sqrt(12) of its standard deviations
    half_G = np.sqrt(12 * least_G) / (2 * n)
    away_G = np.copysign(np.maximum(np.abs(mean_G) - half_G, 0), mean_G)
    t_G: Genes = away_G / np.sqrt(np.maximum(shared_G, least_G) / n)
    n_genes = int(np.isfinite(variance_G).sum())
    return t_G, 2 * stdtr(min(d0 + df, df * n_genes), -np.abs(t_G))


def compute(sample: Sample, config: DegConfig) -> Values:
    """Of the changes' moments."""
    t_G, p_G = moderated_t(sample)
    return {"moderated_t": t_G, "moderated_t_p_value": p_G}


# no columns of its own: where it is chosen, `statistic` and `p_value` hold it
TEST = GeneTest(
    name="moderated_t", compute=compute, statistic="moderated_t", p_value="moderated_t_p_value", needs="moments"
)
