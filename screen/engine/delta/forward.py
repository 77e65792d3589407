"""DeltaForward: batches of any model, items as changes of their cell's control."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from screen.cells.bank import SOURCE
from screen.engine.delta.frame import Frame, frame_of, unchanged_frame
from screen.engine.delta.ops import Change, DeltaOps, Recording
from screen.engine.delta.rounding import EXACT, Rounding
from screen.models.adapter import Batching, BatchRows, ModelAdapter, Readout, Row, Rows
from screen.models.ops import PLAIN, PlainOps


@dataclass(frozen=True)
class CellRow:
    """The unedited rows of one cell by state, cut to their own lengths, and what pooling counts of those read out."""

    ids_L: Mapping[int, Tensor]
    counted_L: Mapping[int, Tensor]
    size_factor: Mapping[int, Tensor]


def in_double(adapter: ModelAdapter) -> ModelAdapter:
    """The same model in float64."""
    return cast(ModelAdapter, replace(cast(Any, adapter), model=copy.deepcopy(adapter.model).double()))


@dataclass(frozen=True)
class DeltaForward:
    """Runs batches cell by cell.

    adapter    the network, in the numbers that changes are computed in
    exact      the same in float64: its head turns embeddings into counts
    n_slots    most genes that an edit may bring into a row
    """

    adapter: ModelAdapter
    exact: ModelAdapter
    batching: Batching
    n_slots: int
    ops: PlainOps = PLAIN
    rounding: Rounding = EXACT

    @torch.inference_mode()
    def control(self, rows: BatchRows, length_B: Mapping[int, Sequence[int]]) -> tuple[Readout, list[CellRow]]:
        """Readouts of B unedited cells; their items take over the rows, and record what they need when they come."""
        cells = [_cell_row(rows, length_B, b) for b in range(len(rows))]
        frames = [{s: unchanged_frame(ids, cell.counted_L.get(s)) for s, ids in cell.ids_L.items()} for cell in cells]
        hidden = [self._hidden(frame, Recording()) for frame in frames]
        embedding = {
            t: torch.cat([self._pooled(h, f, t).x for h, f in zip(hidden, frames, strict=True)]).double()
            for t in self.adapter.reads_out
        }
        value, size_factor = self.exact.values(embedding, rows)
        kept = {t: _padded([h[t].x[0] for h in hidden], rows.row(t)) for t in self._kept()}
        return Readout(embedding, value, size_factor, kept), cells

    @torch.inference_mode()
    def predict(self, rows: BatchRows, before_CD: Mapping[int, Tensor], shared: Sequence[CellRow]) -> Readout:
        """Readouts of B items of C cells, given the cells' control embeddings and rows."""
        times, n_items, width = self.adapter.reads_out, len(rows), self.adapter.schema.width
        embedding = {t: next(iter(before_CD.values())).new_empty((n_items, width)) for t in times}
        cosine = {t: x.new_empty(n_items) for t, x in embedding.items()}
        kept = {t: torch.zeros((*rows.row(t).ids_BL.shape, width), device=x.device) for t, x in embedding.items()}
        for c, cell in enumerate(shared):
            at = (rows.index_B == c).nonzero()[:, 0]
            frames = self._frames(cell, rows, at)
            hidden = self._hidden(frames, Recording())
            for t in times:
                pooled = self._pooled(hidden, frames, t)
                before_1D = pooled.x.double()
                after_BD = (before_1D if pooled.d is None else before_1D + pooled.d.double()).expand(len(at), -1)
                embedding[t][at] = after_BD
                cosine[t][at] = F.cosine_similarity(after_BD, before_1D, dim=1)
                if self.batching.keeps_hidden:
                    kept[t][at] = _in_order(hidden[t], frames[t]).to(kept[t].dtype)
        value, size_factor = self.exact.values(embedding, rows)
        return Readout(embedding, value, size_factor, kept if self.batching.keeps_hidden else {}, cosine)

    def _kept(self) -> tuple[int, ...]:
        return self.adapter.reads_out if self.batching.keeps_hidden else ()

    def _frames(self, cell: CellRow, rows: BatchRows, at: Tensor) -> dict[int, Frame]:
        """By state, of some items of one cell."""
        found = {}
        for s, ids_L in cell.ids_L.items():
            ids_BL, n_slots = rows.row(s).ids_BL[at], self.n_slots if s in rows.edited else 0
            counted_L, counted_BL = cell.counted_L.get(s), rows.counted_BL.get(s)
            if counted_L is None or counted_BL is None:
                counted_L, counted_BL = torch.zeros_like(ids_L, dtype=torch.bool), torch.zeros_like(ids_BL, dtype=torch.bool)
            else:
                counted_BL = counted_BL[at]
            found[s] = frame_of(ids_L, counted_L, ids_BL, counted_BL, n_slots)
        return found

    def _hidden(self, frames: Mapping[int, Frame], recording: Recording) -> Mapping[int, Change]:
        ops = DeltaOps(self.ops, recording, self.rounding)
        row = {s: Row(f.ids_BF4, f.keep_BF2) for s, f in frames.items()}
        counted = {t: frames[t].counted_BF2 for t in self.adapter.reads_out}
        return self.adapter.forward(ops, Rows(row[SOURCE], {s: r for s, r in row.items() if s != SOURCE}, counted, {}))

    def _pooled(self, hidden: Mapping[int, Change], frames: Mapping[int, Frame], state: int) -> Change:
        return DeltaOps(self.ops, Recording()).pool(hidden[state], frames[state].counted_BF2)


def _cell_row(rows: BatchRows, length_B: Mapping[int, Sequence[int]], b: int) -> CellRow:
    states = (SOURCE, *rows.target)
    ids = {s: rows.row(s).ids_BL[b, : length_B[s][b]] for s in states}
    counted = {s: counted_BL[b, : length_B[s][b]] for s, counted_BL in rows.counted_BL.items()}
    return CellRow(ids, counted, {s: x[b : b + 1] for s, x in rows.size_factor_B.items()})


def _in_order(x: Change, frame: Frame) -> Tensor:
    """(B, W, D) the changed activations in the order of the edited rows; 0 where there is no token."""
    n_items, width = frame.column_BW.shape
    after = x.x.expand(n_items, -1, -1) if x.d is None else x.x + x.d
    at = frame.column_BW.clamp_min(0)[..., None].expand(-1, -1, after.shape[-1])
    return torch.where(frame.column_BW[..., None] >= 0, after.gather(1, at), 0.0)


def _padded(per_cell: Sequence[Tensor], row: Row) -> Tensor:
    found = per_cell[0].new_zeros((*row.ids_BL.shape, per_cell[0].shape[-1]))
    for b, x in enumerate(per_cell):
        found[b, : len(x)] = x
    return found
