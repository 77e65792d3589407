"""Metrics of predicted profiles: how near the predicted change of every gene is to the real one. docs/evaluate.md has sources.

Changes are of P perturbations and G genes, (P, G), or of one, (G,). Every metric is a number per perturbation, NaN where it
is not defined.
"""

import numpy as np
from numpy.typing import NDArray

from screen.evaluate.rank_metrics import ranks

Values = NDArray[np.float64]
Bools = NDArray[np.bool_]


def pearson(x_G: Values, y_G: Values) -> float:
    """Correlation; 0 where the prediction x is the same for all genes, NaN where the real y is."""
    x_G, y_G = x_G - x_G.mean(), y_G - y_G.mean()
    x, y = float(np.sqrt(x_G @ x_G)), float(np.sqrt(y_G @ y_G))
    if y == 0:
        return float("nan")
    return 0.0 if x <= 1e-12 * y else float(x_G @ y_G) / (x * y)


def discrimination(predicted_PG: Values, real_PG: Values, own_P: list[list[int]], metric: str = "l1") -> Values:
    """(P,) 1 - rank / P of a perturbation's own real change among all, by distance to what is predicted of it.

    1 where its own is nearest; a prediction that says nothing has (P + 1) / 2P on average, one half. The perturbed genes
    themselves (`own_P`, columns) are left out of its distances. Equal distances share a rank. `metric`: l1, l2, cosine.
    """
    n, score_P = len(real_PG), np.full(len(real_PG), np.nan)
    for p in range(n):
        distance_P = _distances(predicted_PG[p], real_PG, own_P[p], metric)
        n_nearer = np.count_nonzero(distance_P < distance_P[p])
        n_equal = np.count_nonzero(distance_P == distance_P[p]) - 1
        score_P[p] = 1 - (n_nearer + n_equal / 2) / n
    return score_P


def _distances(x_G: Values, real_PG: Values, own: list[int], metric: str) -> Values:
    """Of one prediction to every real change, without some genes."""
    from scipy.spatial.distance import cdist

    x_1G = x_G[None].copy()
    kept_PG = real_PG
    if own:
        kept_PG = np.delete(real_PG, own, axis=1)
        x_1G = np.delete(x_1G, own, axis=1)
    if metric == "cosine":
        size = float(np.linalg.norm(x_1G))
        size_P = np.linalg.norm(kept_PG, axis=1)
        found_P = np.zeros(len(kept_PG))
        np.divide(kept_PG @ x_1G[0], size * size_P, out=found_P, where=size * size_P > 0)
        return np.asarray(1 - found_P)
    return np.asarray(cdist(kept_PG, x_1G, {"l1": "cityblock", "l2": "euclidean"}[metric])[:, 0])


def overlap_at(
    predicted_G: Values, real_G: Values, is_real_G: Bools, is_predicted_G: Bools | None = None, n: int | None = None
) -> float:
    """Share of the n real changed genes that change most which are among the n predicted ones that change most.

    n is at most the number of real changed genes, and by default that; NaN without any. `is_predicted_G` may keep predicted
    genes out; among the others the size of the change alone decides, ties in gene order.
    """
    real = np.flatnonzero(is_real_G)
    n_top = len(real) if n is None else min(n, len(real))
    if n_top == 0:
        return float("nan")
    predicted = np.arange(len(real_G)) if is_predicted_G is None else np.flatnonzero(is_predicted_G)
    top = real[np.argsort(-np.abs(real_G[real]), kind="stable")[:n_top]]
    ours = predicted[np.argsort(-np.abs(predicted_G[predicted]), kind="stable")[:n_top]]
    return len(np.intersect1d(top, ours)) / n_top


def direction_match(predicted_G: Values, real_G: Values, is_real_G: Bools) -> float:
    """Share of the real changed genes whose direction is predicted; NaN without any."""
    if not is_real_G.any():
        return float("nan")
    return float((np.sign(predicted_G[is_real_G]) == np.sign(real_G[is_real_G])).mean())


def spearman_of_changed(predicted_G: Values, real_G: Values, is_real_G: Bools) -> float:
    """Rank correlation over the real changed genes; NaN where there are fewer than two."""
    if np.count_nonzero(is_real_G) < 2:
        return float("nan")
    return pearson(*(ranks(x[is_real_G]) for x in (predicted_G, real_G)))


def weights(t_G: Values) -> Values:
    """(G,) weights of genes, sum 1: squared t statistics of the perturbation's cells against those of all others."""
    square_G = np.square(np.where(np.isfinite(t_G), t_G, 0.0))
    total = float(square_G.sum())
    return np.asarray(square_G / total if total > 0 else np.full(len(t_G), 1 / len(t_G)))


def weighted_r2(predicted_G: Values, real_G: Values, weight_G: Values) -> float:
    """1 - sum w (real - predicted)^2 / sum w (real - weighted mean of real)^2; NaN where the real change is the same everywhere."""
    around = float(weight_G @ np.square(real_G - weight_G @ real_G))
    return 1 - float(weight_G @ np.square(real_G - predicted_G)) / around if around > 0 else float("nan")


def mean_absolute_error(predicted_G: Values, real_G: Values) -> float:
    """Mean over genes. Most genes do not change: a prediction of nothing is good at it."""
    return float(np.abs(predicted_G - real_G).mean())


def spearman_brown(r: float) -> float:
    """What the correlation of two halves becomes with all the cells on either side: 2r / (1 + r); below 0 as it is.

    Source: Spearman 1910, Brown 1910.
    """
    return 2 * r / (1 + r) if r > 0 else r
