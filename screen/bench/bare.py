"""The bare model: its own calls for a screen's batches, everything they read made before; what an engine is held against."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from screen.engine.batch import BatchComputer
from screen.models.adapter import Readout
from screen.planning.batches import Batch

Taken = Mapping[int, tuple[Mapping[int, torch.Tensor], Any]]
"""Cell -> (its control embedding per time point, what its items take over)."""


def control_call(computer: BatchComputer, batch: Batch) -> Callable[[], tuple[Readout, Sequence[Any]]]:
    """Predicts a batch of unedited cells."""
    rows = computer.resident.rows(batch, np.arange(batch.n_items))
    lengths = computer.resident.own_lengths(batch)
    return lambda: computer.model.control(rows, lengths)


def taken_over(controls: Sequence[Batch], found: Sequence[tuple[Readout, Sequence[Any]]]) -> Taken:
    """What the items of these cells need, from what their control calls gave."""
    return {
        int(c): ({t: x[i] for t, x in readout.embedding_BD.items()}, shared[i])
        for batch, (readout, shared) in zip(controls, found, strict=True)
        for i, c in enumerate(batch.cell_B)
    }


def item_call(computer: BatchComputer, batch: Batch, taken: Taken) -> Callable[[], None]:
    """Predicts a batch of items; what it says is dropped."""
    cells, index_B = np.unique(batch.cell_B, return_inverse=True)
    rows, of_cells = computer.resident.rows(batch, index_B), [taken[int(c)] for c in cells]
    before = {t: torch.stack([embedding[t] for embedding, _ in of_cells]) for t in of_cells[0][0]}
    shared = [s for _, s in of_cells]

    def call() -> None:
        computer.model.predict(rows, before, shared)

    return call
