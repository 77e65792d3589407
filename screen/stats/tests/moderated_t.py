"""The moderated t-test (limma's): a paired t whose variances borrow from those of all other genes of the group."""

from typing import Any

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
    d0 = 2 * float(trigamma_inverse(np.array([spread]))[0])
    return d0, float(np.exp(log_G.mean() + digamma(d0 / 2) - np.log(d0 / 2)))


def priors_of(variance_NG: Genes, is_used_NG: NDArray[np.bool_], df: float) -> tuple[Genes, Genes]:
    """`prior_of` of the variances that are used of each of N groups, (N,) each, bit for bit.

    Groups all of whose variances say something are worked on together.
    """
    from scipy.special import digamma, polygamma

    is_used_NG = is_used_NG & np.isfinite(variance_NG) & (variance_NG > 0)
    is_whole_N = is_used_NG.all(axis=1) & (variance_NG.shape[1] > 1)
    d0_N, s0_squared_N = np.empty((2, len(variance_NG)))
    for i in np.flatnonzero(~is_whole_N).tolist():
        d0_N[i], s0_squared_N[i] = prior_of(variance_NG[i, is_used_NG[i]], df)
    if not is_whole_N.any():
        return d0_N, s0_squared_N
    whole_NG = variance_NG[is_whole_N]
    whole_NG = np.maximum(whole_NG, LEAST_OF_MEDIAN * np.median(whole_NG, axis=1, keepdims=True))
    log_NG = np.log(whole_NG) - digamma(df / 2) + np.log(df / 2)
    spread_N = np.var(log_NG, axis=1, ddof=1) - polygamma(1, df / 2)
    differs_N = spread_N > 0
    shared_N, of_whole_N = whole_NG.mean(axis=1), np.full(len(whole_NG), np.inf)
    d0 = of_whole_N[differs_N] = 2 * trigamma_inverse(spread_N[differs_N])
    shared_N[differs_N] = np.exp(log_NG[differs_N].mean(axis=1) + digamma(d0 / 2) - np.log(d0 / 2))
    d0_N[is_whole_N], s0_squared_N[is_whole_N] = of_whole_N, shared_N
    return d0_N, s0_squared_N


def trigamma_inverse(x: Genes) -> Genes:
    """y > 0 with trigamma(y) = x > 0, by Newton's method on 1 / trigamma, which is convex and nearly a line.

    Source: Smyth 2004, appendix.
    """
    from scipy.special import zeta

    # beyond these the two ends of the series are exact in float64
    with np.errstate(divide="ignore", over="ignore"):
        y = np.where(x > 1e7, 1 / np.sqrt(x), np.where(x < 1e-6, 1 / x, 0.5 + 1 / x))
    at = np.flatnonzero((x >= 1e-6) & (x <= 1e7))
    for _ in range(50):
        if not len(at):
            break
        # trigamma and its derivative, as `polygamma` has them: looked up directly, a third of the time
        value = zeta(2, y[at])
        step = value * (1 - value / x[at]) / (-2 * zeta(3, y[at]))
        y[at] += step
        at = at[-step >= 1e-10 * y[at]]
    return y


def moderated_t(sample: Sample) -> tuple[Genes, Genes]:
    """(t, two-sided p) per gene; the sample's moments must be those of all genes of the group, (G,), or of N groups, (N, G).

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
    prior = priors_of(_rows(variance_G), _rows(changes_G), df)
    d0, s0_squared = (x_N.reshape(*mean_G.shape[:-1], 1) for x_N in prior)
    with np.errstate(invalid="ignore"):
        shared_G = (d0 * s0_squared + df * variance_G) / (d0 + df)
    shared_G = np.where(d0 == 0, variance_G, np.where(d0 == np.inf, s0_squared, shared_G))
    # a step is sqrt(12) of its standard deviations
    half_G = np.sqrt(12 * least_G) / (2 * n)
    away_G = np.copysign(np.maximum(np.abs(mean_G) - half_G, 0), mean_G)
    t_G: Genes = away_G / np.sqrt(np.maximum(shared_G, least_G) / n)
    n_genes = np.isfinite(variance_G).sum(axis=-1, keepdims=True)
    return t_G, 2 * stdtr(np.minimum(d0 + df, df * n_genes), -np.abs(t_G))


def _rows(values: NDArray[Any]) -> NDArray[Any]:
    return values.reshape(-1, values.shape[-1])


def compute(sample: Sample, config: DegConfig) -> Values:
    """Of the changes' moments."""
    t_G, p_G = moderated_t(sample)
    return {"moderated_t": t_G, "moderated_t_p_value": p_G}


# no columns of its own: where it is chosen, `statistic` and `p_value` hold it
TEST = GeneTest(
    name="moderated_t",
    compute=compute,
    statistic="moderated_t",
    p_value="moderated_t_p_value",
    needs="moments",
    takes_groups=True,
)
