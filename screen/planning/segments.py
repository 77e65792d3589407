"""Segments: the groups of items that a unit summarises, one perturbation in one stratum each."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from screen.planning.plan import Plan

ROWS_STEP = 64
"""Rows of a unit are a whole number of these, so that they divide into chunks."""


@dataclass(frozen=True)
class Segments:
    """J rows, `rows_per_unit` for every unit, sorted by perturbation, then stratum; -1 and 0 cells where unused.

    n_cells_JT counts, per predicted time point, the items with a prediction.
    """

    perturbation_J: NDArray[np.int32]
    stratum_J: NDArray[np.int32]
    n_cells_JT: NDArray[np.int32]
    rows_per_unit: int

    @staticmethod
    def of(plan: Plan) -> "Segments":
        """Of a plan."""
        n_strata, n_perturbations = len(plan.coverage.stratum), int(plan.perturbation_I.max(initial=0)) + 1
        unit_I = np.arange(plan.n_items) // plan.unit_rows
        key_I = (unit_I * n_perturbations + plan.perturbation_I) * n_strata + plan.stratum_C[plan.cell_I]
        order_I = np.argsort(key_I, kind="stable")
        key_I = key_I[order_I]
        start_N = np.flatnonzero(np.diff(key_I, prepend=-1))
        key_N = key_I[start_N]
        unit_N = key_N // (n_perturbations * n_strata)
        first_U = np.searchsorted(unit_N, np.arange(plan.n_units))
        rows_per_unit = -(-int(np.bincount(unit_N).max(initial=1)) // ROWS_STEP) * ROWS_STEP
        row_N = unit_N * rows_per_unit + np.arange(len(key_N)) - first_U[unit_N]
        n_rows = plan.n_units * rows_per_unit
        perturbation_J, stratum_J = np.full((2, n_rows), -1, dtype=np.int32)
        perturbation_J[row_N], stratum_J[row_N] = key_N // n_strata % n_perturbations, key_N % n_strata
        n_cells_JT = np.zeros((n_rows, plan.is_screened_IT.shape[1]), dtype=np.int32)
        n_cells_JT[row_N] = np.add.reduceat(plan.is_screened_IT[order_I].astype(np.int32), start_N, axis=0)
        return Segments(perturbation_J, stratum_J, n_cells_JT, rows_per_unit)


def segment_of_rows(plan: Plan, rows: slice) -> NDArray[np.int64]:
    """Number of its segment within the unit, for each item of one unit."""
    n_strata = len(plan.coverage.stratum)
    key_R = plan.perturbation_I[rows].astype(np.int64) * n_strata + plan.stratum_C[plan.cell_I[rows]]
    segment_R: NDArray[np.int64] = np.unique(key_R, return_inverse=True)[1]
    return segment_R
