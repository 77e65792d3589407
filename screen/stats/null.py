"""Matched null: how strong a perturbation is beside others of like rank position, detection and length.

Log strengths are standardised, location and scale, against the covariates; what is left of the null perturbations is one
pool, and p is a tail of it. Both fits are robust: some of the perturbations they see are hits.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from screen.config.sections import FEWEST_NULLS

Values = NDArray[np.float64]
Bools = NDArray[np.bool_]
BIWEIGHT = 4.685
"""Residuals beyond so many scales have no weight: 95 % efficient for normal residuals (Beaton and Tukey 1974)."""
N_ROUNDS = 30
MAD_TO_SD = 1.4826
MOST_KNOTS, ROWS_PER_COLUMN = 5, 12
"""A covariate has at most so many spline columns; and a fit at least so many perturbations per column."""


@dataclass(frozen=True)
class Calibration:
    """P perturbations. z: standardised log strength; p: empirical tail, NaN where there is no pool; n_pool its size."""

    z_P: Values
    p_P: Values
    n_pool: int

    @property
    def smallest_p(self) -> float:
        """The least that the pool can give."""
        return 1 / (1 + self.n_pool)


def calibrate(strength_P: Values, covariate_PK: Values, is_null_P: Bools | None = None) -> Calibration:
    """Standardises strengths (P,) against covariates (P, K) and gives empirical p-values.

    Designated null perturbations are the pool, and their upper tail is p; a null perturbation is judged by the others.
    Without any, all perturbations are fitted, and the pool is the lower half of the residuals and its mirror image: hits
    are strong, so the lower half is free of them (as in Efron 2004, the centre of the distribution is the null).
    Fewer than FEWEST_NULLS of them give no p. Strengths of 0 are the weakest there are. NaN covariates take the median.
    """
    known_P = np.isfinite(strength_P) & (strength_P > 0)
    fit_P = known_P & (np.ones(len(strength_P), dtype=bool) if is_null_P is None else is_null_P)
    nothing = np.full(len(strength_P), np.nan)
    if np.count_nonzero(fit_P) < FEWEST_NULLS:
        return Calibration(nothing, nothing.copy(), 0)
    z_P, leverage_P = _standardised(np.log(np.where(known_P, strength_P, 1.0)), covariate_PK, fit_P)
    z_P[~known_P] = np.where(strength_P[~known_P] == 0, -np.inf, np.nan)
    # a perturbation that the fit has seen lies nearer to it than one that it has not
    outside_P = np.where(fit_P, z_P / (1 - leverage_P), z_P)
    if is_null_P is None:
        lower = outside_P[fit_P & (outside_P < 0)]
        pool, is_in_pool_P = np.concatenate([lower, -lower]), np.zeros(len(z_P), dtype=bool)
    else:
        pool, is_in_pool_P = outside_P[fit_P], fit_P
    return Calibration(outside_P, _tail(outside_P, np.sort(pool), is_in_pool_P), len(pool))


def _tail(z_P: Values, pool: Values, is_in_pool_P: Bools) -> Values:
    """(1 + how many of the pool are as large) / (1 + size); members are not compared with themselves."""
    n_larger_P = len(pool) - np.searchsorted(pool, z_P, side="left") - is_in_pool_P
    return np.where(np.isnan(z_P), np.nan, (1 + n_larger_P) / (1 + len(pool) - is_in_pool_P))


def _standardised(y_P: Values, covariate_PK: Values, fit_P: Bools) -> tuple[Values, Values]:
    """(residuals over their local scale, leverage of each perturbation in the fit of location)."""
    n_columns = int(np.count_nonzero(fit_P)) // ROWS_PER_COLUMN
    basis_PX = basis(covariate_PK, fit_P, n_columns)
    location, leverage = _robust(basis_PX[fit_P], y_P[fit_P])
    residual_P = y_P - basis_PX @ location
    scale = MAD_TO_SD * float(np.median(np.abs(residual_P[fit_P])))
    if scale <= 1e-12 * float(np.abs(y_P[fit_P]).max()):
        return np.zeros_like(y_P), np.zeros_like(y_P)
    # the log of a residual's size is skewed: its fit gives the shape of the scale, the MAD its level
    size_P = np.log(np.maximum(np.abs(residual_P), 1e-3 * scale))
    narrow_PX = basis(covariate_PK, fit_P, n_columns // 3)
    shape, _ = _robust(narrow_PX[fit_P], size_P[fit_P])
    z_P = residual_P / np.exp(narrow_PX @ shape)
    z_P /= MAD_TO_SD * float(np.median(np.abs(z_P[fit_P])))
    leverage_P = np.zeros(len(y_P))
    leverage_P[fit_P] = np.minimum(leverage, 0.9)
    return z_P, leverage_P


def basis(covariate_PK: Values, fit_P: Bools, n_columns: int) -> Values:
    """(P, 1 + X) an intercept and, per covariate, piecewise linear functions of its quantile among the fitted ones.

    At most `n_columns` columns beside the intercept; a covariate that is the same everywhere has none.
    """
    quantile = [_quantiles(x_P, fit_P) for x_P in covariate_PK.T]
    varying = [q_P for q_P in quantile if np.ptp(q_P[fit_P]) > 0]
    per_covariate = min(n_columns // max(len(varying), 1), MOST_KNOTS)
    columns = [np.ones(len(covariate_PK))]
    for q_P in varying if per_covariate else []:
        knots = np.linspace(0, 1, per_covariate + 1)[:-1]
        columns += [np.maximum(q_P - k, 0.0) for k in knots]
    if per_covariate >= 2:
        # how two covariates act together
        columns += [
            (a - 0.5) * (b - 0.5) for i, a in enumerate(varying) for b in varying[:i] if len(columns) <= n_columns
        ]
    return np.stack(columns, axis=1)


def _quantiles(x_P: Values, fit_P: Bools) -> Values:
    """Place of each value among the fitted ones, 0 to 1; ties share it."""
    known = np.sort(x_P[fit_P & np.isfinite(x_P)])
    if len(known) == 0:
        return np.zeros(len(x_P))
    filled_P = np.where(np.isfinite(x_P), x_P, np.median(known))
    below, upto = (np.searchsorted(known, filled_P, side=side) for side in ("left", "right"))
    return np.asarray((below + upto) / (2 * len(known)), dtype=np.float64)


def _robust(basis_NX: Values, y_N: Values) -> tuple[Values, Values]:
    """(coefficients, leverages) of a regression by iteratively reweighted least squares with Tukey's biweight."""
    weight_N = np.ones(len(y_N))
    # from the median: least squares would start where the hits pull it
    residual_N = y_N - np.median(y_N)
    for number in range(N_ROUNDS):
        if number:
            scale = MAD_TO_SD * float(np.median(np.abs(residual_N)))
            if scale <= 0:
                break
            inside_N = np.minimum(np.abs(residual_N) / (BIWEIGHT * scale), 1.0)
            weight_N = np.square(1 - np.square(inside_N))
        root_N = np.sqrt(weight_N)
        coefficient_X, *_ = np.linalg.lstsq(basis_NX * root_N[:, None], y_N * root_N, rcond=None)
        residual_N = y_N - basis_NX @ coefficient_X
    whitened_NX = basis_NX * np.sqrt(weight_N)[:, None]
    leverage_N = np.einsum("nx,xy,ny->n", whitened_NX, np.linalg.pinv(whitened_NX.T @ whitened_NX), whitened_NX)
    return np.asarray(coefficient_X, dtype=np.float64), np.asarray(leverage_N, dtype=np.float64)


def baseline_residual(strength_P: Values, rank_P: Values, detection_P: Values) -> Values:
    """Log strength that rank position and detection alone do not explain, by least squares: the sceptic's baseline.

    NaN where the strength is; 0 everywhere where there are too few perturbations to fit.
    """
    known_P = np.isfinite(strength_P) & (strength_P > 0)
    out = np.full(len(strength_P), np.nan)
    if np.count_nonzero(known_P) < 4:
        out[known_P] = 0.0
        return out
    y_N = np.log(strength_P[known_P])
    rank_N = np.where(np.isfinite(rank_P), rank_P, np.nanmedian(rank_P) if np.isfinite(rank_P).any() else 0.0)[known_P]
    columns = np.stack([np.ones_like(y_N), np.log1p(np.maximum(rank_N, 0)), np.log(detection_P[known_P])], axis=1)
    coefficients, *_ = np.linalg.lstsq(columns, y_N, rcond=None)
    out[known_P] = y_N - columns @ coefficients
    return out
