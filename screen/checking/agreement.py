"""Agreement: whether two halves of the cells, or two models, say the same of a sample of edits."""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.checking.effects import N_HALVES, Effects
from screen.checking.intervals import figure, rank_correlation
from screen.stats.null import baseline_residual

Values = NDArray[np.float64]
BOTH = tuple(range(N_HALVES))


def stability(effects: Effects) -> list[dict[str, Any]]:
    """By mode, site and time point, between two halves of the cells: `_agreement`, and the cells of a half, median."""
    found = []
    for mode, site, time, numbers in _groups(effects):
        n_H = [float(np.median(effects.n(time, [h])[numbers])) for h in BOTH]
        of_halves = [_one(effects, time, [h], numbers) for h in BOTH]
        found.append({"mode": mode, "site": site, "time": time, "n_cells": min(n_H), **_agreement(*of_halves)})
    return found


def between_models(effects: dict[str, Effects]) -> list[dict[str, Any]]:
    """The same between every two models, each with all the cells."""
    found = []
    for (one, a), (other, b) in combinations(effects.items(), 2):
        for mode, site, time, numbers in _groups(a):
            of_models = [_one(e, time, BOTH, numbers) for e in (a, b)]
            found.append(
                {"one": one, "other": other, "mode": mode, "site": site, "time": time, **_agreement(*of_models)}
            )
    return found


def _groups(effects: Effects) -> Iterator[tuple[str, str, int, NDArray[np.int64]]]:
    for (mode, site), numbers in effects.kinds().items():
        for time in effects.times:
            yield mode, site, time, numbers


def _one(effects: Effects, time: int, halves: Any, numbers: NDArray[np.int64]) -> tuple[Values, Values, Values]:
    """(mean changes (N, X), strengths (N,), what rank position and number of cells leave of log strengths)."""
    strength_P, n_P = effects.strength(time, halves), effects.n(time, halves)
    strength_N = strength_P[numbers]
    left_N = baseline_residual(strength_N, effects.rank_P[numbers], n_P[numbers].astype(np.float64))
    # what changes nothing has no direction
    mean_NX = np.where(strength_N[:, None] == 0, 0.0, effects.mean(time, halves)[numbers])
    return mean_NX, strength_N, left_N


def _agreement(one: tuple[Values, Values, Values], other: tuple[Values, Values, Values]) -> dict[str, Any]:
    """cosine  of an edit's two mean changes, median over edits; other_cosine: of two different edits'
    rho     Spearman's of strengths; rho_after: of what rank position and number of cells leave of them
    """
    (a_NX, strength_a, left_a), (b_NX, strength_b, left_b) = one, other
    return {
        "n_edits": len(a_NX),
        "cosine": _median_cosine(a_NX, b_NX),
        "other_cosine": _median_cosine(a_NX, np.roll(b_NX, 1, axis=0)) if len(a_NX) > 1 else None,
        "rho": rank_correlation(strength_a, strength_b),
        "rho_after": rank_correlation(left_a, left_b),
    }


def _median_cosine(one_NX: Values, other_NX: Values) -> float | None:
    with np.errstate(invalid="ignore", divide="ignore"):
        size_N = np.sqrt(np.square(one_NX).sum(1) * np.square(other_NX).sum(1))
        cosine_N = (one_NX * other_NX).sum(1) / size_N
    known = cosine_N[np.isfinite(cosine_N)]
    return figure(float(np.median(known))) if len(known) else None
