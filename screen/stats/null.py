"""Matched null: how strong a perturbation is beside others of like rank position, detection and length.

Log strengths are standardised, location and scale, against the covariates; what is left of the null perturbations is one
pool, and p is its tail (`screen.stats.tail`). Both fits are robust: some of the perturbations they see are hits.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from screen.config.sections import FEWEST_NULLS
from screen.stats.tail import counted_p, tail_p

Values = NDArray[np.float64]
Bools = NDArray[np.bool_]
BIWEIGHT = 4.685
"""Residuals beyond so many scales have no weight: 95 % efficient for normal residuals (Beaton and Tukey 1974)."""
N_ROUNDS = 30
MAD_TO_SD = 1.4826
MOST_KNOTS, ROWS_PER_COLUMN = 5, 20
"""A covariate has at most so many spline columns; and a fit at least so many perturbations per column."""
FEWEST_FOR_SCALE, SCALE_RIDGE = 50, 1.234
"""Perturbations from which on the scale is fitted too. The ridge is the variance of log |normal|, pi^2 / 8: slopes are thought
to be about 1 before any perturbation is seen, a factor of e between the ends of a covariate."""


def covariates(rank_P: Values, n_cells_P: Values, length_P: Values, n_edited_P: Values) -> Values:
    """(P, 4) what strengths depend on whatever the gene: its rank, cells, genes in their rows, and how many of the edit's genes
    were in the row: of an insertion that is whether the gene was there before, of a joint edit how many were edited.
    """
    return np.stack([rank_P, np.log(n_cells_P), length_P, n_edited_P], axis=1)


@dataclass(frozen=True)
class Calibration:
    """P perturbations. z: standardised log strength; p: the pool's tail, NaN where there is no pool; n_pool: of how
    many values that say something of their own."""

    z_P: Values
    p_P: Values
    n_pool: int


def calibrate(
    strength_P: Values, covariate_PK: Values, is_null_P: Bools | None = None, repeats: float = 1.0
) -> Calibration:
    """Standardises strengths (P,) against covariates (P, K) and gives p-values.

    Designated null perturbations are the pool, and their upper tail is p; a null perturbation is judged by the others.
    Without any, all perturbations are fitted, and the pool is the lower half of the residuals and its mirror image: hits
    are strong, so the lower half is free of them (as in Efron 2004, the centre of the distribution is the null). Where the
    upper half is shorter than that image, p is the rank among all: hits only make that larger, and alone it calls nothing.
    Fewer than FEWEST_NULLS of them give no p. Strengths of 0 are the weakest there are. NaN covariates take the median.
    `repeats`: in how many null perturbations one of their genes is, on average: none of the judged one's is in any.
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
    p_P = tail_p(outside_P, pool, is_in_pool_P, repeats)
    if is_null_P is None:
        p_P = np.minimum(p_P, counted_p(outside_P, outside_P[fit_P], fit_P))
    return Calibration(outside_P, p_P, int(len(pool) / repeats))


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
    z_P = residual_P / np.exp(_log_scale(size_P, covariate_PK, fit_P))
    z_P /= MAD_TO_SD * float(np.median(np.abs(z_P[fit_P])))
    leverage_P = np.zeros(len(y_P))
    leverage_P[fit_P] = np.minimum(leverage, 0.9)
    return z_P, leverage_P


def _log_scale(size_P: Values, covariate_PK: Values, fit_P: Bools) -> Values:
    """How wide residuals are at each perturbation's covariates, from the logs of their sizes: its shape, not its level."""
    n_fit, n_covariates = int(np.count_nonzero(fit_P)), covariate_PK.shape[1]
    if n_fit < FEWEST_FOR_SCALE:
        return np.zeros(len(size_P))
    narrow_PX = basis(covariate_PK, fit_P, max(n_fit // ROWS_PER_COLUMN // 3, n_covariates))
    shape, _ = _robust(narrow_PX[fit_P], size_P[fit_P], SCALE_RIDGE)
    return np.asarray(narrow_PX @ shape, dtype=np.float64)


def basis(covariate_PK: Values, fit_P: Bools, n_columns: int) -> Values:
    """(P, 1 + X) an intercept and, per covariate, piecewise linear functions of its quantile among the fitted ones.

    At most `n_columns` columns beside the intercept; a covariate that is the same everywhere has none. Where there is room
    for MOST_KNOTS, the covariate itself is one more: its last quantiles may span most of its range.
    """
    filled = [_filled(x_P, fit_P) for x_P in covariate_PK.T]
    varying, straight = [], []
    for x_P in filled:
        q_P = _quantiles(x_P, x_P[fit_P])
        if np.ptp(q_P[fit_P]) > 0:
            varying.append(q_P)
            straight.append((x_P - x_P[fit_P].mean()) / x_P[fit_P].std())
    per_covariate = min(n_columns // max(len(varying), 1), MOST_KNOTS)
    columns = [np.ones(len(covariate_PK))]
    for q_P in varying if per_covariate else []:
        knots = np.linspace(0, 1, per_covariate + 1)[:-1]
        columns += [np.maximum(q_P - k, 0.0) for k in knots]
    if per_covariate == MOST_KNOTS:
        columns += straight
    if per_covariate >= 2:
        # how two covariates act together
        columns += [
            (a - 0.5) * (b - 0.5) for i, a in enumerate(varying) for b in varying[:i] if len(columns) <= n_columns
        ]
    return np.stack(columns, axis=1)


def _filled(x_P: Values, fit_P: Bools) -> Values:
    """The values, and the median of the fitted ones where there is none; 0 everywhere where they have none."""
    known = x_P[fit_P & np.isfinite(x_P)]
    return np.where(np.isfinite(x_P), x_P, np.median(known)) if len(known) else np.zeros(len(x_P))


def _quantiles(x_P: Values, among_N: Values) -> Values:
    """Place of each value among some, 0 to 1; ties share it."""
    known = np.sort(among_N)
    below, upto = (np.searchsorted(known, x_P, side=side) for side in ("left", "right"))
    return np.asarray((below + upto) / (2 * len(known)), dtype=np.float64)


def _robust(basis_NX: Values, y_N: Values, ridge: float = 0.0) -> tuple[Values, Values]:
    """(coefficients, leverages) of a regression by iteratively reweighted least squares with Tukey's biweight.

    `ridge` draws every coefficient but the first, the intercept, towards 0.
    """
    ridge_XX = np.sqrt(ridge) * np.eye(basis_NX.shape[1])[1:]
    weight_N = np.ones(len(y_N))
    # from the median: least squares would start where the hits pull it
    residual_N = y_N - np.median(y_N)
    for number in range(N_ROUNDS):
        if number:
            scale = MAD_TO_SD * _median(np.abs(residual_N))
            if scale <= 0:
                break
            inside_N = np.minimum(np.abs(residual_N) / (BIWEIGHT * scale), 1.0)
            weight_N = np.square(1 - np.square(inside_N))
        root_N = np.sqrt(weight_N)
        rows_MX = np.concatenate([basis_NX * root_N[:, None], ridge_XX])
        coefficient_X, *_ = np.linalg.lstsq(rows_MX, np.append(y_N * root_N, np.zeros(len(ridge_XX))), rcond=None)
        residual_N = y_N - basis_NX @ coefficient_X
    whitened_NX = basis_NX * np.sqrt(weight_N)[:, None]
    leverage_N = np.einsum("nx,xy,ny->n", whitened_NX, np.linalg.pinv(whitened_NX.T @ whitened_NX), whitened_NX)
    return np.asarray(coefficient_X, dtype=np.float64), np.asarray(leverage_N, dtype=np.float64)


def _median(values_N: Values) -> float:
    """`np.median` of values without NaN, whose order may change: of a hundred values in a fifth of the time."""
    half = len(values_N) // 2
    if len(values_N) % 2:
        values_N.partition(half)
        return float(values_N[half])
    values_N.partition((half - 1, half))
    return float((values_N[half - 1] + values_N[half]) / 2)


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
