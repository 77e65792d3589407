"""Scatter: how likely observed counts are around means that need no model, with the dispersion that suits them best."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from screen.checking.observed import Observed, Values, in_parts
from screen.planning.layout import SCALE

LOG_DISPERSIONS = np.arange(-3.0, 6.01, 0.5)
"""Inverse dispersions that are tried, gene by gene."""
N_EVEN = 1.0


def log_likelihood_of_means(observed: Observed) -> Values:
    """(C,) natural log-likelihood of each cell's counts, mean over genes: negative binomial around its stratum's other cells.

    Each gene has the one of LOG_DISPERSIONS that makes these very cells likeliest, which flatters the means a little.
    One more cell, which expresses every gene alike, is among the others: no count is impossible. NaN for a cell alone.
    """
    n_genes = observed.counts_CG.shape[1]
    by_gene_KG = np.zeros((len(LOG_DISPERSIONS), n_genes))
    for some in in_parts(len(observed.stratum_C)):
        mu_NG, count_NG = _means(observed, some)
        has_mean_N = np.isfinite(mu_NG).all(1)
        for k, log_theta in enumerate(LOG_DISPERSIONS):
            by_gene_KG[k] += _log_nb(count_NG[has_mean_N], mu_NG[has_mean_N], np.full(n_genes, np.exp(log_theta))).sum(
                0
            )
    theta_G = np.exp(LOG_DISPERSIONS[by_gene_KG.argmax(0)])
    parts = [_log_nb(*_means(observed, some)[::-1], theta_G).mean(1) for some in in_parts(len(observed.stratum_C))]
    return np.concatenate(parts)


def _means(observed: Observed, some: slice) -> tuple[Values, Values]:
    """(expected counts, counts) of some cells."""
    share_NG = observed.mean_of_others(some, of_log=False, n_even=N_EVEN) / SCALE
    return share_NG * observed.total_C[some, None], observed.counts_CG[some].toarray().astype(np.float64)


def _log_nb(count_NG: NDArray[np.float64], mu_NG: Values, theta_G: Values) -> Values:
    """(N, G) log of the negative binomial's probability: mean mu, variance mu + mu^2 / theta."""
    log_NG: Values = -theta_G * np.log1p(mu_NG / theta_G)
    row_M, gene_M = np.nonzero(count_NG)
    count_M, mu_M, theta_M = count_NG[row_M, gene_M], mu_NG[row_M, gene_M], theta_G[gene_M]
    log_NG[row_M, gene_M] += (
        count_M * np.log(mu_M / (theta_M + mu_M)) + gammaln(count_M + theta_M) - gammaln(theta_M) - gammaln(count_M + 1)
    )
    return log_NG
