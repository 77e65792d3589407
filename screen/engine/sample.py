"""sample: a small screen cut out of a large one, the same items for the same screen."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from screen.engine.screen import Screen


def sample(screen: Screen, n_cells: int, items_per_cell: int) -> Screen:
    """The screen of a few of its cells, spread over the first, middle and last, and a few items of each; one unit.

    Items are spread evenly over each cell's items in the first block that holds it.
    """
    plan = screen.plan
    n_blocks = int(plan.cell_I[-1]) // plan.cells_per_block + 1 if plan.n_items else 0
    candidates = [c for b in _spread(n_blocks, n_cells) for c in _spread_of(plan.cells_of_block(b), n_cells)]
    chosen = np.unique(np.array(candidates)[_spread(len(candidates), n_cells)])
    rows = []
    for cell in chosen:
        of_cell = np.flatnonzero(plan.cell_I == cell)
        rows.append(of_cell[_spread(len(of_cell), items_per_cell)])
    row_I = np.concatenate(rows)
    row_I = row_I[np.lexsort((plan.cell_I[row_I], plan.perturbation_I[row_I]))]
    cut = replace(
        plan,
        perturbation_I=plan.perturbation_I[row_I],
        cell_I=plan.cell_I[row_I],
        n_edited_I=plan.n_edited_I[row_I],
        is_screened_IT=plan.is_screened_IT[row_I],
        unit_rows=len(row_I),
        cells_per_block=screen.bank.n_cells,
    )
    return screen.altered(plan=cut)


def _spread(n: int, n_wanted: int) -> list[int]:
    """Up to `n_wanted` different numbers below n, evenly spread, first and last among them."""
    return np.unique(np.linspace(0, n - 1, min(n, n_wanted)).astype(int)).tolist() if n else []


def _spread_of(values: NDArray[np.integer], n_wanted: int) -> list[int]:
    return [int(values[i]) for i in _spread(len(values), n_wanted)]
