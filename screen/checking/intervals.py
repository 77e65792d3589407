"""Intervals: a mean over cells and how sure it is; a rank correlation; numbers as a file holds them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, t

Values = NDArray[np.float64]
DIGITS = 6
"""Significant digits of figures."""
FEWEST_RANKED = 3


def with_interval(value_C: Values) -> dict[str, Any] | None:
    """{mean, ci95, n} over the cells that have a value: Student's t; None where none has, ci95 None for a single one."""
    known = value_C[np.isfinite(value_C)]
    if not len(known):
        return None
    mean, n = float(known.mean()), len(known)
    if n < 2:
        return {"mean": figure(mean), "ci95": None, "n": n}
    half = float(t.ppf(0.975, n - 1) * known.std(ddof=1) / np.sqrt(n))
    return {"mean": figure(mean), "ci95": [figure(mean - half), figure(mean + half)], "n": n}


def rank_correlation(one_P: Values, other_P: Values) -> float | None:
    """Spearman's over the entries that both have; None for fewer than FEWEST_RANKED, or where one is constant."""
    both_P = np.isfinite(one_P) & np.isfinite(other_P)
    ranks = [rankdata(x[both_P]) for x in (one_P, other_P)]
    if both_P.sum() < FEWEST_RANKED or any(np.ptp(x) == 0 for x in ranks):
        return None
    return figure(float(np.corrcoef(*ranks)[0, 1]))


def figure(value: float) -> float | None:
    """A number to DIGITS significant digits; None for NaN."""
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None
