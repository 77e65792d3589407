"""Set null: how far out a perturbation moves a gene set, beside how far null perturbations move that set, and any set.

Genes of one set move together in any model, whatever gene is edited: what a set's score is worth, only other perturbations
can tell. So each set is standardised by its own scores over the null perturbations, and p asks how often a null perturbation
has *any* set as far out: that corrects for the number of sets as they hang together (Westfall and Young 1993).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from screen.config.sections import FEWEST_NULLS

Values = NDArray[np.float64]
Bools = NDArray[np.bool_]
LEAST_LOG_P = -200.0
MAD_TO_SD, CLIP = 1.4826, 3.0
"""Null scores farther than so many robust standard deviations from the median weigh as if they were there."""


@dataclass(frozen=True)
class Tail:
    """Generalised Pareto tail above a quantile of the pool, by two quantiles of what lies above: hits among it change them little.

    Shape 0 at least: a tail as light as the pool's may be one that a larger pool would not have.
    """

    start: float
    inner: float
    outer: float


OF_NULLS, OF_ALL = Tail(0.9, 0.5, 0.9), Tail(0.5, 0.4, 0.7)
"""Of designated null perturbations; of all perturbations, of which the upper tenth may be hits."""


def standardised(score_PS: Values, pool_P: Bools) -> Values:
    """(P, S) scores against location and scale of each set over the pool; members against those of the other members.

    Divided by the standard error of a prediction, so that members and others compare. NaN where all of the pool are the same.
    """
    null_NS, n = score_PS[pool_P], int(pool_P.sum())
    median_S = np.median(null_NS, axis=0)
    far_S = CLIP * MAD_TO_SD * np.median(np.abs(null_NS - median_S), axis=0)
    near_NS = np.clip(null_NS, median_S - far_S, median_S + far_S)
    centre_S = near_NS.mean(0)
    apart_NS = near_NS - centre_S
    square_S = np.square(apart_NS).sum(0)
    square_S = np.where(square_S > 1e-18 * n * np.square(centre_S), square_S, np.nan)
    z_PS = (score_PS - centre_S) / np.sqrt(square_S / (n - 1) * (1 + 1 / n))
    # the same without the one that is judged
    others_NS = np.maximum(square_S - np.square(apart_NS) * n / (n - 1), 1e-9 * square_S)
    z_PS[pool_P] = (null_NS - centre_S + apart_NS / (n - 1)) / np.sqrt(others_NS / (n - 2) * (1 + 1 / (n - 1)))
    return np.asarray(z_PS, dtype=np.float64)


def farthest(z_PS: NDArray[np.floating]) -> Values:
    """(P,) |z| of the set that is farthest out; NaN where there is none."""
    size_PS = np.abs(z_PS)
    most_P = np.max(size_PS, axis=1, initial=-1.0, where=~np.isnan(size_PS)).astype(np.float64)
    return np.where(most_P < 0, np.nan, most_P)


class Judge:
    """p of sizes |z| against the farthest sets of the pool's N perturbations (`farthest`): how often one is as large."""

    def __init__(self, pool_N: Values, tail: Tail) -> None:
        self._sorted_N = np.sort(pool_N[~np.isnan(pool_N)])
        self.n = len(self._sorted_N)
        self._tail, self._start, self._scale, self._shape = tail, np.inf, 1.0, 0.0
        if self.n >= FEWEST_NULLS:
            start = float(np.quantile(self._sorted_N, tail.start))
            above = self._sorted_N[self._sorted_N > start] - start
            if len(above):
                self._start = start
                self._scale, self._shape = pareto(above, tail)

    def p(self, size: Values, is_member: Bools) -> Values:
        """Same shape; NaN stays NaN, and fewer than FEWEST_NULLS give no p. Members are not compared with themselves."""
        if self.n < FEWEST_NULLS:
            return np.full(size.shape, np.nan)
        larger = self.n - np.searchsorted(self._sorted_N, size, side="left") - is_member
        p = (1 + larger) / (1 + self.n - is_member)
        far = size > self._start
        excess = (size[far] - self._start) / self._scale
        log_p = -excess if self._shape == 0 else -np.log1p(self._shape * excess) / self._shape
        # where the pool's values hardly differ, all that is farther out is as far as can be told
        p[far] = (1 - self._tail.start) * np.exp(np.maximum(log_p, LEAST_LOG_P))
        return np.where(np.isnan(size), np.nan, p)


def pareto(excess: Values, tail: Tail) -> tuple[float, float]:
    """(scale, shape >= 0) of the generalised Pareto distribution that has two quantiles of some excesses."""
    inner_value, outer_value = (float(np.quantile(excess, share)) for share in (tail.inner, tail.outer))
    a, b = -np.log1p(-tail.inner), -np.log1p(-tail.outer)
    ratio = outer_value / max(inner_value, np.finfo(float).tiny)
    if ratio <= b / a:
        return max(inner_value / a, outer_value / b), 0.0
    low, high = 0.0, 20.0
    for _ in range(60):
        shape = (low + high) / 2
        low, high = (shape, high) if np.expm1(b * shape) / np.expm1(a * shape) < ratio else (low, shape)
    return float(inner_value * high / np.expm1(a * high)), high


class Rates:
    """False discovery rates of sets within perturbations, in two steps: which perturbations move any set, then which.

    A perturbation's p is that of its farthest set. A set is called at a rate where its own p passes what Benjamini and
    Hochberg allow the perturbations at that rate: among the perturbations with a call, this share has a false one.
    Source: Benjamini and Bogomolov 2014.
    """

    def __init__(self, p_P: Values) -> None:
        self._sorted_P = np.sort(p_P[~np.isnan(p_P)])
        n = len(self._sorted_P)
        q_P = self._sorted_P * n / np.arange(1, n + 1)
        self._from_P = np.append(np.minimum.accumulate(q_P[::-1])[::-1], np.inf)

    def q(self, p: Values) -> Values:
        """Same shape, NaN stays NaN: the least rate at which a set with such a p is called."""
        n = len(self._sorted_P)
        n_called = np.searchsorted(self._sorted_P, p, side="right")
        here = np.where(n_called > 0, p * n / np.maximum(n_called, 1), np.inf)
        # or at a larger threshold, where more perturbations are called
        found = np.minimum(here, self._from_P[np.searchsorted(self._sorted_P, p, side="left")])
        return np.where(np.isnan(p), np.nan, np.minimum(found, 1.0))
