"""False discovery rates of a family of p-values."""

import numpy as np
from numpy.typing import NDArray

Genes = NDArray[np.float64]


def benjamini_hochberg(p_G: Genes) -> Genes:
    """False discovery rates of one family of p-values; NaN stays NaN and does not count."""
    out = np.full(len(p_G), np.nan)
    known = np.flatnonzero(~np.isnan(p_G))
    order = known[np.argsort(p_G[known], kind="stable")]
    ranked = p_G[order] * len(order) / np.arange(1, len(order) + 1)
    out[order] = np.minimum(np.minimum.accumulate(ranked[::-1])[::-1], 1.0)
    return out


def benjamini_hochberg_rows(p_NG: Genes) -> Genes:
    """The same of N families at once, (N, G): every row is `benjamini_hochberg` of it, bit for bit."""
    # NaN comes last, and in which order ties come does not matter: the last of them says what is said of all
    order_NG = np.argsort(p_NG, axis=1)
    ranked_NG = np.take_along_axis(p_NG, order_NG, axis=1)
    known_N1 = np.count_nonzero(~np.isnan(p_NG), axis=1, keepdims=True)
    ranked_NG *= known_N1
    ranked_NG /= np.arange(1, p_NG.shape[1] + 1)
    lowest_NG = np.fmin.accumulate(ranked_NG[:, ::-1], axis=1)[:, ::-1]
    np.minimum(lowest_NG, 1.0, out=lowest_NG)
    out_NG = np.empty_like(p_NG)
    np.put_along_axis(out_NG, order_NG, lowest_NG, axis=1)
    return out_NG
