"""Scores: how far each perturbation moves each gene set, for all of them at once, as matrix products."""

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
TINY = 2.2e-16
"""Keeps the t-value of a perfect correlation finite."""


def ulm(mean_PG: Values, member_GS: NDArray[np.floating], own_PK: NDArray[np.integer] | None = None) -> Values:
    """t-values (P, S) of the slope in a regression of a perturbation's changes on membership of a set.

    Positive where the set's genes rise above the others. A value says nothing of size: changes twice as large have the same.
    own_PK: genes that are left out of a perturbation's regression, -1 for none: a knocked-out gene is no evidence for its sets.
    NaN where nothing changes, or where a set holds no gene or all of them.
    Shapes: (P, G), (G, S), (P, K) -> (P, S). Source: the univariate linear model of Badia-i-Mompel et al. 2022 (decoupler).
    """
    n_genes = mean_PG.shape[1]
    # sums of squares about the mean lose less
    centred_PG = mean_PG - mean_PG.mean(1, keepdims=True)
    member_GS = member_GS.astype(np.float64)
    used_P1, size_PS = (
        np.full((len(mean_PG), 1), float(n_genes)),
        np.broadcast_to(member_GS.sum(0), (1, member_GS.shape[1])),
    )
    inside_PS = centred_PG @ member_GS
    sum_P1, square_P1 = np.zeros((len(mean_PG), 1)), np.square(centred_PG).sum(1, keepdims=True)
    for own_P in () if own_PK is None else own_PK.T:
        is_one_P1 = (own_P >= 0)[:, None]
        value_P1 = np.take_along_axis(centred_PG, np.maximum(own_P, 0)[:, None], axis=1) * is_one_P1
        member_PS = member_GS[np.maximum(own_P, 0)] * is_one_P1
        used_P1, size_PS, inside_PS = used_P1 - is_one_P1, size_PS - member_PS, inside_PS - value_P1 * member_PS
        sum_P1, square_P1 = sum_P1 - value_P1, square_P1 - np.square(value_P1)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread_PS = np.sqrt((square_P1 - np.square(sum_P1) / used_P1) * (size_PS - np.square(size_PS) / used_P1))
        r_PS = (inside_PS - size_PS * sum_P1 / used_P1) / np.where(spread_PS > 0, spread_PS, np.nan)
        return np.asarray(r_PS * np.sqrt((used_P1 - 2) / ((1 - r_PS + TINY) * (1 + r_PS + TINY))))
