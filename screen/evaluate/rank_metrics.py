"""Metrics of a ranking: how well a score of P perturbations orders their real effects."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
N_RESAMPLED, SEED, INTERVAL = 1000, 0, 0.95
FEWEST = 5
"""Perturbations below which nothing is said of a ranking."""
TOP_SHARE, FEWEST_TOP = 0.1, 5
"""The really strongest: this share of the perturbations, at least so many."""


def ranks(x_NP: Values) -> Values:
    """Ranks along the last axis, from 1, ties share their mean."""
    order_NP = np.argsort(x_NP, axis=-1)
    sorted_NP, n = np.take_along_axis(x_NP, order_NP, -1), x_NP.shape[-1]
    edge = np.ones((*x_NP.shape[:-1], 1), dtype=bool)
    is_new_NP = np.concatenate([edge, sorted_NP[..., 1:] != sorted_NP[..., :-1]], -1)
    first_NP = np.maximum.accumulate(np.where(is_new_NP, np.arange(n), 0), -1)
    is_last_NP = np.concatenate([is_new_NP[..., 1:], edge], -1)
    last_NP = np.minimum.accumulate(np.where(is_last_NP, np.arange(n), n)[..., ::-1], -1)[..., ::-1]
    found_NP = np.empty(x_NP.shape)
    np.put_along_axis(found_NP, order_NP, (first_NP + last_NP) / 2 + 1, -1)
    return found_NP


def correlation_rows(x_NP: Values, y_NP: Values) -> Values:
    """(N,) Pearson correlation of rows; 0 where one of them does not vary."""
    x_NP, y_NP = (v - v.mean(-1, keepdims=True) for v in (x_NP, y_NP))
    size_N = np.sqrt(np.square(x_NP).sum(-1) * np.square(y_NP).sum(-1))
    found_N = np.zeros(size_N.shape)
    np.divide((x_NP * y_NP).sum(-1), size_N, out=found_N, where=size_N > 1e-300)
    return found_N


def spearman(score_P: Values, effect_P: Values) -> float:
    """Rank correlation; NaN below FEWEST perturbations."""
    if len(score_P) < FEWEST:
        return float("nan")
    return float(correlation_rows(ranks(score_P[None]), ranks(effect_P[None]))[0])


def partial_spearman(score_P: Values, effect_P: Values, covariate_PK: Values) -> float:
    """Rank correlation of what the covariates' ranks leave of either's ranks (least squares). NaN for too few perturbations.

    A covariate that is not known of a perturbation takes its median.
    """
    if len(score_P) < covariate_PK.shape[1] + FEWEST:
        return float("nan")
    basis_PX = np.column_stack([np.ones(len(score_P)), *(ranks(filled(x_P)) for x_P in covariate_PK.T)])
    left = [y - basis_PX @ np.linalg.lstsq(basis_PX, y, rcond=None)[0] for y in (ranks(score_P), ranks(effect_P))]
    # what is left of an exact fit is rounding
    left = [np.where(np.abs(x).max() < 1e-8 * len(x), 0.0, x) for x in left]
    return float(correlation_rows(left[0][None], left[1][None])[0])


def filled(x_P: Values) -> Values:
    """The values, and their median where one is not known."""
    known = x_P[np.isfinite(x_P)]
    return np.where(np.isfinite(x_P), x_P, np.median(known) if len(known) else 0.0)


def strongest(effect_P: Values, n: int | None = None) -> NDArray[np.bool_]:
    """The n perturbations with the strongest real effects (a tenth, at least FEWEST_TOP), and those that tie with the last.

    None of them where these are more than half: then nothing sets the strongest apart.
    """
    n_all = len(effect_P)
    n_top = max(round(TOP_SHARE * n_all), FEWEST_TOP) if n is None else n
    if n_top > n_all / 2:
        return np.zeros(n_all, dtype=bool)
    is_top_P = effect_P >= np.sort(effect_P)[-n_top]
    return np.asarray(is_top_P if is_top_P.sum() <= n_all / 2 else np.zeros(n_all, dtype=bool))


def auprc_rows(score_NP: Values, is_top_NP: NDArray[np.bool_]) -> Values:
    """(N,) average precision of scores for the strongest: mean precision at each of them; ties count as one step.

    A score that says nothing has their share. NaN where there is none.
    """
    order_NP = np.argsort(-score_NP, axis=-1, kind="stable")
    sorted_NP, hit_NP = (np.take_along_axis(x, order_NP, -1) for x in (score_NP, is_top_NP.astype(np.float64)))
    found_NP, n = np.cumsum(hit_NP, -1), score_NP.shape[-1]
    precision_NP = found_NP / np.arange(1, n + 1)
    is_last_NP = np.concatenate([sorted_NP[:, 1:] != sorted_NP[:, :-1], np.ones((len(sorted_NP), 1), bool)], -1)
    # every place of a tie has the precision at its end
    place_NP = np.where(is_last_NP, np.arange(n), n)
    end_NP = np.minimum.accumulate(place_NP[:, ::-1], -1)[:, ::-1]
    total_N = hit_NP.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((np.take_along_axis(precision_NP, end_NP, -1) * hit_NP).sum(-1) / total_N)


def precision_at(score_P: Values, effect_P: Values, n: int) -> float:
    """Share of the n with the highest score that are among the n `strongest`; chance gives the share of these among all.

    NaN where there are no strongest. Equal scores are taken in order.
    """
    is_top_P = strongest(effect_P, n)
    return float(is_top_P[np.argsort(-score_P, kind="stable")[:n]].mean()) if is_top_P.any() else float("nan")


@lru_cache(maxsize=2)
def resampled(n: int, seed: int = SEED, n_resampled: int = N_RESAMPLED) -> NDArray[np.int64]:
    """(N, P) perturbations drawn with replacement, the same each time; many metrics ask for the same ones. Not to be written."""
    bits_NP = np.random.Generator(np.random.Philox(seed)).random((n_resampled, n))
    found_NP = np.minimum((bits_NP * n).astype(np.int64), n - 1)
    found_NP.setflags(write=False)
    return found_NP


def interval(value_N: Values) -> tuple[float, float]:
    """The middle 95 % of resampled values; NaN without any."""
    known = value_N[np.isfinite(value_N)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    return float(low), float(high)
