"""PackedForward: batches of any model, every item a forward pass of its own; what a family may do better."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from screen_kernels import pool_shift
from torch import Tensor

from screen.models.adapter import Batching, BatchRows, ModelAdapter, Readout
from screen.models.ops import PlainOps


@dataclass(frozen=True)
class PackedForward:
    """Runs batches by the model's own forward pass. Nothing is taken over from a cell's control but its embedding."""

    adapter: ModelAdapter
    ops: PlainOps
    batching: Batching

    @torch.inference_mode()
    def control(self, rows: BatchRows, length_B: Mapping[int, Sequence[int]]) -> tuple[Readout, list[None]]:
        """Readouts of B unedited cells; their items take over nothing."""
        return self._readout(rows, None), [None] * len(rows)

    @torch.inference_mode()
    def predict(self, rows: BatchRows, before_CD: Mapping[int, Tensor], shared: Sequence[object]) -> Readout:
        """Readouts of B items of C cells, given the cells' control embeddings."""
        return self._readout(rows, before_CD)

    def forget(self) -> None:
        """Nothing is kept of any cell."""

    def _readout(self, rows: BatchRows, before_CD: Mapping[int, Tensor] | None) -> Readout:
        hidden = self.adapter.forward(self.ops, rows)
        embedding, cosine = pooled(hidden, rows, before_CD)
        value, size_factor = self.adapter.values(embedding, rows)
        kept = dict(hidden) if self.batching.keeps_hidden else {}
        return Readout(embedding, value, size_factor, kept, {} if before_CD is None else cosine)


def pooled(
    hidden_BLD: Mapping[int, Tensor], rows: BatchRows, before_CD: Mapping[int, Tensor] | None
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """(pooled embedding (B, D), cosine to the control's (B,)) of every state given."""
    embedding: dict[int, Tensor] = {}
    cosine: dict[int, Tensor] = {}
    for state, hidden in hidden_BLD.items():
        if before_CD is None:
            before, index_B = hidden.new_zeros((1, hidden.shape[-1])), torch.zeros_like(rows.index_B)
        else:
            before, index_B = before_CD[state], rows.index_B
        embedding[state], cosine[state] = pool_shift(hidden, rows.counted_BL[state], before, index_B)
    return embedding, cosine
