"""sample: a small screen cut out of a large one, the same items for the same screen."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from screen.engine.screen import Screen


def sample(screen: Screen, n_cells: int, items_per_cell: int, is_even: bool = False) -> Screen:
    """The screen of a few of its cells, spread over the first, middle and last, and a few items of each; one unit.

    Items are spread evenly over each cell's items in the first block that holds it; `is_even`: as many of every mode and site,
    at least one, as far as the cell has them.
    """
    plan = screen.plan
    n_blocks = int(plan.cell_I[-1]) // plan.cells_per_block + 1 if plan.n_items else 0
    candidates = [c for b in _spread(n_blocks, n_cells) for c in _spread_of(plan.cells_of_block(b), n_cells)]
    chosen = np.unique(np.array(candidates)[_spread(len(candidates), n_cells)])
    group_P = _groups(screen) if is_even else np.zeros(len(screen.library.perturbations), np.int64)
    rows = []
    for cell in chosen:
        of_cell = np.flatnonzero(plan.cell_I == cell)
        group_N = group_P[plan.perturbation_I[of_cell]]
        groups = sorted((of_cell[group_N == g] for g in np.unique(group_N)), key=len)
        n_left = items_per_cell
        for i, group in enumerate(groups):
            # what one lacks is given to those that have more
            picked = _spread_of(group, max(n_left // (len(groups) - i), 1))
            rows += picked
            n_left -= len(picked)
    row_I = np.array(rows)
    row_I = row_I[np.lexsort((plan.cell_I[row_I], plan.perturbation_I[row_I]))]
    return screen.altered(plan=replace(plan.only(row_I), cells_per_block=screen.bank.n_cells))


def _groups(screen: Screen) -> NDArray[np.int64]:
    """(P,) a number for every mode and site."""
    label_P = [f"{p.mode} {p.site_label}" for p in screen.library.perturbations]
    return np.unique(label_P, return_inverse=True)[1]


def _spread(n: int, n_wanted: int) -> list[int]:
    """Up to `n_wanted` different numbers below n, evenly spread, first and last among them."""
    return np.unique(np.linspace(0, n - 1, min(n, n_wanted)).astype(int)).tolist() if n else []


def _spread_of(values: NDArray[np.integer], n_wanted: int) -> list[int]:
    return [int(values[i]) for i in _spread(len(values), n_wanted)]
