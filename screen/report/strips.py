"""Strips: how far every single cell moves, of the perturbations that the page shows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from screen.report.numbers import rounded

if TYPE_CHECKING:
    from screen.report.names import ScreenNames
    from screen.results.results import Results
    from screen.store.reader import Block

CELLS, MOST_CELLS, FEWEST_CELLS = 300_000, 300, 20
"""Cells of all groups that a page holds, about; of one group at most, and at least."""


def strips(results: "Results", names: "ScreenNames", shown: Sequence[int]) -> dict[str, Any]:
    """Of every group of the shown perturbations: one number per cell, how many cells there are, and a sample of them.

    value  root mean square change of expression, or 1 - cosine of the embedding for models without counts; ascending
    """
    store = results.store
    stratum_C = results.cell_strata.stratum_C
    n_each = len(names.strata) * len(names.times)
    most = int(np.clip(CELLS // max(len(shown) * n_each, 1), FEWEST_CELLS, MOST_CELLS))
    found: dict[str, Any] = {"group": [], "n_cells": [], "value": []}
    for p in shown:
        for k, time in enumerate(names.times):
            values = [_of_block(b, p, time, results.has_counts) for b in store.blocks]
            cell_N, value_N = (np.concatenate(column) for column in zip(*values, strict=True))
            for s in np.unique(stratum_C[cell_N][stratum_C[cell_N] >= 0]).tolist():
                of_stratum = np.sort(value_N[stratum_C[cell_N] == s])
                n = len(of_stratum)
                picked = of_stratum[np.linspace(0, n - 1, min(n, most)).astype(np.int64)]
                found["group"].append(names.group(p, s, k))
                found["n_cells"].append(n)
                found["value"].append(rounded(picked, 3))
    return found


def _of_block(
    block: "Block", perturbation: int, time: int, has_counts: bool
) -> tuple[NDArray[np.integer], NDArray[np.float64]]:
    """(cells, how far each moves) of a perturbation's items in a library block that are read out at a time point."""
    nothing = np.zeros(0, dtype=np.int64), np.zeros(0)
    if not block.first <= perturbation < block.first + block.n_perturbations:
        return nothing
    row_N = block.rows_of(perturbation - block.first)
    row_N = row_N[block.read(f"items/is_screened_t{time}", row_N).astype(bool)] if len(row_N) else row_N
    if not len(row_N):
        return nothing
    name = f"rms_delta_t{time}" if has_counts else f"embedding_cosine_t{time}"
    value_N = block.effect(name, row_N).astype(np.float64)
    return block.read("items/cell", row_N), value_N if has_counts else 1 - value_N
