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
