"""Energy distance between cells, on principal components of log1p counts per 10,000."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
N_COMPONENTS = 50
SCALE = 10_000


def log1p_cp10k(counts_CG: Any) -> Any:
    """Natural logarithm of 1 + counts per 10,000 of each cell's total over these genes; CSR, float64. Cells without: zeros."""
    from scipy import sparse

    total_C = np.asarray(counts_CG.sum(axis=1)).ravel()
    factor_C = np.divide(SCALE, total_C, out=np.zeros_like(total_C, dtype=np.float64), where=total_C > 0)
    scaled_CG = (sparse.diags(factor_C) @ counts_CG).tocsr()
    scaled_CG.data = np.log1p(scaled_CG.data)
    return scaled_CG


def principal_axes(x_CG: Any, n_components: int = N_COMPONENTS) -> Values:
    """(G, D) directions of most variance among some cells (CSR), the strongest first; fewer where there are fewer.

    By the smaller of the two products of the centred matrix with itself, so that it is the same each time.
    """
    dense_CG = np.asarray(x_CG.todense(), dtype=np.float64)
    dense_CG -= dense_CG.mean(0)
    n_cells, n_genes = dense_CG.shape
    is_wide = n_genes > n_cells
    product = dense_CG @ dense_CG.T if is_wide else dense_CG.T @ dense_CG
    value_N, vector_NN = np.linalg.eigh(product)
    keep = np.flatnonzero(value_N > 1e-9 * max(float(value_N[-1]), 1e-300))[::-1][:n_components]
    if not is_wide:
        return np.asarray(vector_NN[:, keep])
    return np.asarray(dense_CG.T @ vector_NN[:, keep] / np.sqrt(value_N[keep]))


def energy_distance(x_ND: Values, y_MD: Values, within_y: float | None = None, is_biased: bool = False) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'|, Euclidean: 0 where both are drawn alike, and then below 0 half of the time.

    Means within a group are over pairs of different cells, so that few cells are not far from everything; `is_biased` takes
    each cell with itself too, as cell-eval does. NaN for fewer than two cells. `within_y` is `mean_within(y)`, if known.
    Source: Szekely and Rizzo 2013, energy statistics.
    """
    from scipy.spatial.distance import cdist

    if len(x_ND) < 2 or len(y_MD) < 2:
        return float("nan")
    within = mean_within(y_MD, is_biased) if within_y is None else within_y
    return float(2 * cdist(x_ND, y_MD).mean() - mean_within(x_ND, is_biased) - within)


def mean_within(x_ND: Values, is_biased: bool = False) -> float:
    """Mean distance between two cells of a group. NaN for fewer than two."""
    from scipy.spatial.distance import pdist

    n = len(x_ND)
    if n < 2:
        return float("nan")
    return float(pdist(x_ND).sum() / (n * n / 2 if is_biased else n * (n - 1) / 2))
