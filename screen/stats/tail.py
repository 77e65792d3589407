"""Tail: how probable a value is beyond what a pool of null values holds, without counting on their being normal.

Within the pool p is counted. Beyond its upper tenth it follows a generalised Pareto distribution, which is what the tails of
nearly all distributions look like far out (Pickands 1975). How heavy it is cannot be known from a few dozen values: p is
the mean over every tail that the values allow (a posterior predictive), so that few values give a careful p.
"""

import math

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
TAIL_SHARE, FEWEST_IN_TAIL, MOST_IN_TAIL, FEWEST_FOR_TAIL = 0.1, 10, 75, 50
"""The upper tenth is the tail, but 10 to 75 values; a smaller pool than 50 only counts."""
SHAPES = np.linspace(0.0, 1.0, 21)
"""0 is exponential, 0.5 has no variance, 1 no mean. Lighter tails than the exponential are not believed in."""
SHAPE_SPREAD = 0.4
"""Shapes are thought to be a half-normal distribution's with this deviation before any value is seen."""
N_SCALES, WIDEST_SCALE = 61, 5.0
"""Scales tried: from the mean excess divided by WIDEST_SCALE to that times it, in equal ratios, each as probable."""


def tail_p(
    value_P: Values, pool_N: Values, is_in_pool_P: NDArray[np.bool_] | None = None, repeats: float = 1.0
) -> Values:
    """p (P,) of values (P,) against a pool (N,): the probability of one as large. NaN for NaN.

    (1 + how many of the pool are as large) / (1 + N) up to the pool's upper tenth, beyond it a generalised Pareto tail.
    What `is_in_pool_P` marks is a value of the pool, and is not counted against itself. `repeats`: how often the pool holds the
    same again, as joint edits that share genes do; it then says no more than N / repeats values.
    """
    pool_N = np.sort(pool_N)
    p_P = counted_p(value_P, pool_N, is_in_pool_P, repeats)
    n_tail = min(max(int(TAIL_SHARE * len(pool_N)), math.ceil(FEWEST_IN_TAIL * repeats)), int(MOST_IN_TAIL * repeats))
    if len(pool_N) >= FEWEST_FOR_TAIL * repeats:
        threshold = pool_N[-n_tail - 1]
        excess_K = pool_N[-n_tail:] - threshold
        beyond = np.flatnonzero(value_P > threshold)
        if len(beyond) and excess_K.mean() > 0:
            is_tail = (repeats + n_tail) / (repeats + len(pool_N))
            p_P[beyond] = is_tail * exceedance(value_P[beyond] - threshold, excess_K, repeats)
    return p_P


def counted_p(
    value_P: Values, pool_N: Values, is_in_pool_P: NDArray[np.bool_] | None = None, repeats: float = 1.0
) -> Values:
    """p (P,) of values (P,) against a pool (N,): (1 + how many of the pool are as large) / (1 + N). NaN for NaN.

    What `is_in_pool_P` marks is a value of the pool, and is not counted against itself. Where the pool holds everything
    `repeats` times, a value that it does not hold counts as often.
    """
    inside_P = np.zeros(len(value_P), dtype=bool) if is_in_pool_P is None else is_in_pool_P
    n_larger_P = len(pool_N) - np.searchsorted(np.sort(pool_N), value_P, side="left") - inside_P
    return np.where(np.isnan(value_P), np.nan, (repeats + n_larger_P) / (repeats + len(pool_N) - inside_P))


def exceedance(excess_P: Values, seen_K: Values, repeats: float = 1.0) -> Values:
    """Probability (P,) that a value beyond the threshold exceeds it by as much, given the excesses seen (K,), mean above 0,
    which say no more than K / repeats of them.
    """
    scale_S = seen_K.mean() * np.geomspace(1 / WIDEST_SCALE, WIDEST_SCALE, N_SCALES)
    log_likelihood_HS = np.stack(
        [np.sum(_log_survival(seen_K, h, scale_S) * (1 + h), axis=1) - len(seen_K) * np.log(scale_S) for h in SHAPES]
    )
    log_weight_HS = log_likelihood_HS / repeats - 0.5 * np.square(SHAPES / SHAPE_SPREAD)[:, None]
    weight_HS = np.exp(log_weight_HS - log_weight_HS.max())
    weight_HS /= weight_HS.sum()
    found_P = np.zeros(len(excess_P))
    for h, weight_S in zip(SHAPES, weight_HS, strict=True):
        at = np.flatnonzero(weight_S > 1e-12)
        found_P += weight_S[at] @ np.exp(_log_survival(excess_P, h, scale_S[at]))
    return found_P


def _log_survival(excess_K: Values, shape: float, scale_S: Values) -> Values:
    """(S, K) log of the probability of a larger excess: -x / s, or -log(1 + h x / s) / h."""
    ratio_SK = excess_K / scale_S[:, None]
    return -ratio_SK if shape == 0 else -np.log1p(shape * ratio_SK) / shape
