"""Predicted: unedited predictions of the cells of a check, from their own sources and from other cells' of their type."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from screen.cells.bank import SOURCE
from screen.checking.cells import CheckedCells
from screen.checking.exchange import NOBODY, Ints, exchanged, partners
from screen.config.sections import ComputeConfig
from screen.engine.executor import Executor, default_batch_tokens, find_device
from screen.engine.packed import PackedEngine
from screen.engine.screen import Screen
from screen.engine.unit import Columns
from screen.planning.perturbations import Library
from screen.running.prepare import screen_of


@dataclass(frozen=True)
class Predicted:
    """C cells. Columns as the engine keeps them of controls: `expression_t1`, `embedding_t1`, `is_predicted_t1`, ...

    own     from the cell's own source
    other   from the source of another cell of its stratum, other_C; third: from yet another's, third_C
    """

    own: Columns
    other: Columns
    third: Columns
    other_C: Ints
    third_C: Ints


def executor_of(compute: ComputeConfig, screen: Screen) -> Executor:
    """Float32 by torch's own products, whatever the machine is fastest at: the same figures every time."""
    device = find_device(compute.device)
    never = {kind.choice: None for kind in screen.adapter.attention}
    tokens = compute.batch_tokens or default_batch_tokens(device)
    return Executor(device, "float32", "torch", never, tokens, compute.lanes)


def predicted(cells: CheckedCells, library: Library, stratum_C: Ints) -> Predicted:
    """The three predictions of every cell. `library`: a perturbation or more, none of which is computed."""
    source_C = cells.loaded.bank.states[SOURCE].cell_index_C
    other_C, third_C = (partners(stratum_C, source_C, steps) for steps in (1, 2))
    own, other, third = (
        _controls(cells, library, partner_C) for partner_C in (np.arange(len(other_C)), other_C, third_C)
    )
    return Predicted(own, other, third, other_C, third_C)


def _controls(cells: CheckedCells, library: Library, partner_C: Ints) -> Columns:
    screen = screen_of(exchanged(cells.loaded, partner_C), cells.config, library=library)
    engine = PackedEngine(screen, executor_of(cells.config.compute, screen))
    return engine.controls(np.arange(cells.n_cells))


def where_there(values_CX: NDArray[np.float32], columns: Columns, time: int, partner_C: Ints) -> NDArray[np.float32]:
    """The values as they are, NaN for cells without a partner or with nothing to predict from."""
    is_there_C = columns[f"is_predicted_t{time}"] & (partner_C != NOBODY)
    found: NDArray[np.float32] = np.where(is_there_C[:, None], values_CX, np.float32(np.nan))
    return found
