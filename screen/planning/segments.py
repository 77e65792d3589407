"""Segments: the groups of items of a unit whose moments are kept, one perturbation in one stratum each."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from screen.planning.layout import MOMENT_BYTES, Layout
from screen.planning.plan import Plan

ROWS_STEP = 64
"""Rows of a unit are a whole number of these, so that they divide into chunks."""
MOST_MOMENTS = 1.5
"""Bytes of moments per byte of changes up to which they are kept beside these: of float16, 8 cells a segment on average."""


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
        # one more than strata: cells of no stratum are -1
        n_strata, n_perturbations = int(plan.stratum_C.max(initial=0)) + 2, int(plan.perturbation_I.max(initial=0)) + 1
        unit_I = np.arange(plan.n_items) // plan.unit_rows
        key_I = (unit_I * n_perturbations + plan.perturbation_I) * n_strata + plan.stratum_C[plan.cell_I] + 1
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
        perturbation_J[row_N], stratum_J[row_N] = key_N // n_strata % n_perturbations, key_N % n_strata - 1
        n_cells_JT = np.zeros((n_rows, plan.is_screened_IT.shape[1]), dtype=np.int32)
        n_cells_JT[row_N] = np.add.reduceat(plan.is_screened_IT[order_I].astype(np.int32), start_N, axis=0)
        return Segments(perturbation_J, stratum_J, n_cells_JT, rows_per_unit)

    @property
    def n_used(self) -> int:
        """Rows that are about a group."""
        return int(np.count_nonzero(self.perturbation_J >= 0))

    def n_bytes(self, layout: Layout, n_genes: int, per_gene: int) -> int:
        """Bytes that the used rows take with so many per gene and time point."""
        return self.n_used * len(layout.pred_tps) * n_genes * per_gene


def has_moments(segments: Segments, plan: Plan, layout: Layout) -> bool:
    """Whether a new library block keeps partial moments beside its changes.

    Where groups of a unit are so small that these would take far more room than the changes, reading the changes is as fast.
    """
    if not layout.has_counts or layout.keeps_summaries:
        return False
    change_bytes = np.dtype(layout.dtype).itemsize * plan.n_items
    return MOMENT_BYTES * segments.n_used <= MOST_MOMENTS * change_bytes


def segment_of_rows(plan: Plan, rows: slice, stratum_C: NDArray[np.integer] | None = None) -> NDArray[np.int64]:
    """Number of its segment within the unit, for each item of one unit; strata other than the plan's where they are given."""
    stratum_C = plan.stratum_C if stratum_C is None else stratum_C
    n_strata = int(stratum_C.max(initial=0)) + 2
    key_R = plan.perturbation_I[rows].astype(np.int64) * n_strata + stratum_C[plan.cell_I[rows]] + 1
    segment_R: NDArray[np.int64] = np.unique(key_R, return_inverse=True)[1]
    return segment_R
