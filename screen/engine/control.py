"""Control: the unedited predictions of one block of cells, computed once, and what its items take over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from screen.engine.effects import Expression, log_expression
from screen.engine.resident import Resident
from screen.errors import PredictionError
from screen.models.adapter import BatchRows, ModelAdapter, PackedModel, Readout
from screen.planning.batches import Batch

CELLS_AT_ONCE = 256


@dataclass(frozen=True)
class Control:
    """Unedited predictions of C cells at every predicted time point, on the device.

    cell_C          which cells, ascending
    expression      empty without counts
    is_predicted_C  whether the cell's row holds any gene to pool (host)
    shared_C        the model's own: what the items of each cell take over
    hidden_C        per time point and cell (L, D) and its ids (L,), condition tokens cut off; empty unless asked for
    """

    cell_C: NDArray[np.int64]
    embedding_CD: Mapping[int, Tensor]
    expression: Mapping[int, Expression]
    is_predicted_C: Mapping[int, NDArray[np.bool_]]
    shared_C: Sequence[Any]
    hidden_C: Mapping[int, Sequence[tuple[Tensor, Tensor]]]

    def places(self, cell_B: NDArray[np.integer]) -> NDArray[np.int64]:
        """Where each of these cells is in C."""
        return np.searchsorted(self.cell_C, cell_B)


def predict_controls(
    model: PackedModel, resident: Resident, batch: Batch, scale: str | None, keeps_hidden: bool
) -> Control:
    """The controls of one batch of cells."""
    rows = resident.rows(batch, np.arange(batch.n_items))
    length_B = resident.own_lengths(batch)
    readout, shared = model.control(rows, length_B)
    expression = {
        t: log_expression(value, readout.size_factor_B.get(t), scale)
        for t, value in readout.value_BG.items()
        if scale is not None
    }
    hidden = (
        {t: _hidden(rows, readout, t, length_B[t], resident.n_conditions(t)) for t in readout.hidden_BLD}
        if keeps_hidden
        else {}
    )
    is_predicted = {t: counted.any(1).cpu().numpy() for t, counted in rows.counted_BL.items()}
    return Control(batch.cell_B.astype(np.int64), readout.embedding_BD, expression, is_predicted, shared, hidden)


def _hidden(
    rows: BatchRows, readout: Readout, time: int, length_B: Sequence[int], n_conditions: int
) -> list[tuple[Tensor, Tensor]]:
    ids_BL, hidden_BLD = rows.row(time).ids_BL, readout.hidden_BLD[time]
    return [(hidden_BLD[b, n_conditions:n].clone(), ids_BL[b, n_conditions:n].clone()) for b, n in enumerate(length_B)]


def log_likelihood(
    adapter: ModelAdapter, embedding_CD: NDArray[np.float32], counts_CG: Any, total_C: NDArray[np.floating]
) -> NDArray[np.float64] | None:
    """(C,) of observed counts (CSR) given pooled embeddings, mean over genes, float64; None where the model has none."""
    exact, found = adapter.in_double(), []
    with torch.inference_mode():
        for first in range(0, len(embedding_CD), CELLS_AT_ONCE):
            some = slice(first, first + CELLS_AT_ONCE)
            dense = (embedding_CD[some], counts_CG[some].toarray(), total_C[some])
            one = exact.log_likelihood(*(torch.from_numpy(np.asarray(x, dtype=np.float64)) for x in dense))
            if one is None:
                return None
            found.append(one.numpy())
    return np.concatenate(found)


def join(parts: Sequence[Control], names: Sequence[str]) -> Control:
    """Controls of several batches as one, cells ascending. Raises PredictionError for NaN; `names` are the cells'."""
    cell_C = np.concatenate([p.cell_C for p in parts])
    order = np.argsort(cell_C)
    index = torch.from_numpy(order)
    times = list(parts[0].embedding_CD)
    device = parts[0].embedding_CD[times[0]].device
    index = index.to(device)
    embedding = {t: torch.cat([p.embedding_CD[t] for p in parts])[index] for t in times}
    expression = {
        t: Expression(
            torch.cat([p.expression[t].log_BG for p in parts]), torch.cat([p.expression[t].total_B for p in parts])
        ).take(index)
        for t in parts[0].expression
    }
    is_predicted = {t: np.concatenate([p.is_predicted_C[t] for p in parts])[order] for t in times}
    shared = [s for p in parts for s in p.shared_C]
    hidden = {t: [h for p in parts for h in p.hidden_C[t]] for t in parts[0].hidden_C}
    joined = Control(
        cell_C[order],
        embedding,
        expression,
        is_predicted,
        [shared[i] for i in order],
        {t: [h[i] for i in order] for t, h in hidden.items()},
    )
    _require_finite(joined, names)
    return joined


def _require_finite(control: Control, names: Sequence[str]) -> None:
    for t, embedding_CD in control.embedding_CD.items():
        finite_C = torch.isfinite(embedding_CD).all(1)
        if t in control.expression:
            finite_C &= torch.isfinite(control.expression[t].log_BG).all(1)
        bad = np.flatnonzero(~finite_C.cpu().numpy() & control.is_predicted_C[t])
        if len(bad):
            raise PredictionError(
                f"the model gave NaN or infinity (time point {t}) for cell {names[control.cell_C[bad[0]]]}, perturbation none "
                "(control); nothing of its unit is stored"
            )


def padded(of_cells: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """(C, L, D) and (C, L) of cells with rows of their own lengths, padded with zeros."""
    hidden, ids = (pad_sequence([pair[n] for pair in of_cells], batch_first=True) for n in (0, 1))
    return hidden, ids
