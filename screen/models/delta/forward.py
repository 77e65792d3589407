"""DeltaForward: batches of any model, items as changes of their cell's control."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from screen.cells.bank import SOURCE
from screen.models.adapter import Batching, BatchRows, ModelAdapter, PackedModel, Readout, Row, Rows, row_of
from screen.models.delta.change import Change
from screen.models.delta.frame import Frame, frame_of, unchanged_frame
from screen.models.delta.ops import DeltaOps
from screen.models.delta.recording import LatestRecordings, Recording
from screen.models.delta.rounding import EXACT, Rounding
from screen.models.ops import PLAIN, PlainOps


@dataclass(frozen=True)
class CellRow:
    """The unedited rows of one cell by state, cut to their own lengths, and what pooling counts of those read out."""

    ids_L: Mapping[int, Tensor]
    counted_L: Mapping[int, Tensor]
    size_factor_1: Mapping[int, Tensor]

    def batch(self, index_B: Tensor) -> tuple[BatchRows, dict[int, list[int]]]:
        """(the rows as a batch of one, their lengths)."""
        row = {s: row_of(ids_L[None]) for s, ids_L in self.ids_L.items()}
        counted = {s: counted_L[None] for s, counted_L in self.counted_L.items()}
        target = {s: r for s, r in row.items() if s != SOURCE}
        length = {s: [len(ids_L)] for s, ids_L in self.ids_L.items()}
        return BatchRows(row[SOURCE], target, counted, self.size_factor_1, frozenset(), index_B), length


@dataclass(frozen=True)
class DeltaForward:
    """Runs batches cell by cell.

    adapter    the network, in the numbers that changes are computed in
    exact      the same in float64: its head turns embeddings into counts
    packed     computes the items whose change cannot be carried
    n_slots    by state, most genes that an edit may bring into a row
    """

    adapter: ModelAdapter
    exact: ModelAdapter
    packed: PackedModel
    batching: Batching
    n_slots: Mapping[int, int]
    rounding: Rounding = EXACT
    ops: PlainOps = PLAIN
    _recordings: LatestRecordings = field(default_factory=LatestRecordings, compare=False)

    @torch.inference_mode()
    def control(self, rows: BatchRows, length_B: Mapping[int, Sequence[int]]) -> tuple[Readout, list[CellRow]]:
        """Readouts of B unedited cells; their items take over the rows, and record what they need when they come."""
        cells = [_cell_row(rows, length_B, b) for b in range(len(rows))]
        found = []
        for cell in cells:
            frames = {s: unchanged_frame(ids, cell.counted_L.get(s)) for s, ids in cell.ids_L.items()}
            hidden = self._hidden(frames, Recording())
            found.append({t: (hidden[t].x, self._pooled(hidden, frames, t).x) for t in self.adapter.reads_out})
        embedding = {t: torch.cat([f[t][1] for f in found]).double() for t in self.adapter.reads_out}
        value, size_factor = self.exact.values(embedding, rows)
        kept = {t: pad_sequence([f[t][0][0] for f in found], batch_first=True) for t in self._kept()}
        kept = {t: F.pad(x, (0, 0, 0, rows.row(t).ids_BL.shape[1] - x.shape[1])) for t, x in kept.items()}
        return Readout(embedding, value, size_factor, kept), cells

    @torch.inference_mode()
    def predict(self, rows: BatchRows, before_CD: Mapping[int, Tensor], shared: Sequence[CellRow]) -> Readout:
        """Readouts of B items of C cells, given the cells' control embeddings and rows."""
        after = {t: before_CD[t][rows.index_B] for t in self.adapter.reads_out}
        kept = {t: before_CD[t].new_zeros((*rows.row(t).ids_BL.shape, self.adapter.schema.width)) for t in self._kept()}
        recomputed = Counter[str]()
        for c, cell in enumerate(shared):
            at = (rows.index_B == c).nonzero()[:, 0]
            frames = self._frames(cell, rows, at)
            fits = torch.stack([f.is_carried_B for f in frames.values()]).all(0)
            part = _Part(at[fits], {s: f.of(fits) for s, f in frames.items()})
            is_finite = self._carried(cell, part, after, kept)
            rest = {"its row does not fit a frame": at[~fits], "its change is not finite": part.at[~is_finite]}
            for reason, items in rest.items():
                if len(items):
                    self._recompute(cell, rows, items, {t: x[c] for t, x in before_CD.items()}, after, kept)
                    recomputed[reason] += len(items)
        cosine = {t: F.cosine_similarity(before_CD[t][rows.index_B], x, dim=1) for t, x in after.items()}
        value, size_factor = self.exact.values(after, rows)
        return Readout(after, value, size_factor, kept, cosine, recomputed=recomputed)

    def _kept(self) -> tuple[int, ...]:
        return self.adapter.reads_out if self.batching.keeps_hidden else ()

    def _frames(self, cell: CellRow, rows: BatchRows, at: Tensor) -> dict[int, Frame]:
        """By state, of some items of one cell."""
        found = {}
        for s, ids_L in cell.ids_L.items():
            ids_BL, counted_L, counted_BL = rows.row(s).ids_BL[at], cell.counted_L.get(s), rows.counted_BL.get(s)
            if counted_L is None or counted_BL is None:
                counted_L, counted_BL = (torch.zeros_like(x, dtype=torch.bool) for x in (ids_L, ids_BL))
            else:
                counted_BL = counted_BL[at]
            found[s] = frame_of(ids_L, counted_L, ids_BL, counted_BL, self.n_slots[s])
        return found

    def _carried(self, cell: CellRow, part: "_Part", after: Mapping[int, Tensor], kept: Mapping[int, Tensor]) -> Tensor:
        """Adds the changes of a cell's items to its embeddings; which of them are finite (B,)."""
        is_finite_B = torch.ones(len(part.at), dtype=torch.bool, device=part.at.device)
        if not len(part.at):
            return is_finite_B
        hidden = self._hidden(part.frames, self._recordings.of(cell))
        for t in self.adapter.reads_out:
            change = self._pooled(hidden, part.frames, t).d
            if change is not None:
                # without anything to pool there is no embedding, and nothing to compute again
                is_pooled_B = part.frames[t].counted_BF2.any(1).all(-1)
                is_finite_B &= torch.isfinite(change).all(1) | ~is_pooled_B
                after[t][part.at] += change.to(after[t].dtype)
            if t in kept:
                width = kept[t].shape[1]
                kept[t][part.at] = _in_order(hidden[t], part.frames[t])[:, :width].to(kept[t].dtype)
        return is_finite_B

    def _recompute(
        self, cell: CellRow, rows: BatchRows, at: Tensor, before_D: Mapping[int, Tensor], after: Mapping[int, Tensor],
        kept: Mapping[int, Tensor],
    ) -> None:  # fmt: skip
        """Some items of one cell by the packed engine, in float32; their change is added to the embedding of the others."""
        control_rows, length = cell.batch(at.new_zeros(1))
        control, shared = self.packed.control(control_rows, length)
        found = self.packed.predict(_some(rows, at), control.embedding_BD, shared)
        for t in self.adapter.reads_out:
            # no change where the edit does not reach
            new = control.embedding_BD[t] if t in found.unchanged else found.embedding_BD[t]
            change_BD = new.to(after[t].dtype) - control.embedding_BD[t].to(after[t].dtype)
            after[t][at] = before_D[t] + change_BD
            if t in kept:
                kept[t][at] = found.hidden_BLD[t].to(kept[t].dtype)

    def _hidden(self, frames: Mapping[int, Frame], recording: Recording) -> Mapping[int, Change]:
        ops = DeltaOps(self.ops, recording, self.rounding)
        row = {s: Row(f.ids_BF4, f.keep_BF2) for s, f in frames.items()}
        return self.adapter.forward(ops, Rows(row[SOURCE], {s: r for s, r in row.items() if s != SOURCE}, {}, {}))

    def _pooled(self, hidden: Mapping[int, Change], frames: Mapping[int, Frame], state: int) -> Change:
        return DeltaOps(self.ops, Recording()).pool(hidden[state], frames[state].counted_BF2)


@dataclass(frozen=True)
class _Part:
    """Items of one cell that the frames hold, by their place in the batch."""

    at: Tensor
    frames: Mapping[int, Frame]


def _cell_row(rows: BatchRows, length_B: Mapping[int, Sequence[int]], b: int) -> CellRow:
    states = (SOURCE, *rows.target)
    ids = {s: rows.row(s).ids_BL[b, : length_B[s][b]] for s in states}
    counted = {s: counted_BL[b, : length_B[s][b]] for s, counted_BL in rows.counted_BL.items()}
    return CellRow(ids, counted, {s: x[b : b + 1] for s, x in rows.size_factor_B.items()})


def _in_order(x: Change, frame: Frame) -> Tensor:
    """(B, W, D) the changed activations in the order of the edited rows; 0 where there is no token."""
    n_items = len(frame.column_BW)
    x = x.whole()
    after = x.x.expand(n_items, -1, -1) if x.d is None else x.x + x.d
    at = frame.column_BW.clamp_min(0)[..., None].expand(-1, -1, after.shape[-1])
    return torch.where(frame.column_BW[..., None] >= 0, after.gather(1, at), 0.0)


def _some(rows: BatchRows, at: Tensor) -> BatchRows:
    """Some items of a batch, all of one cell."""

    def part(row: Row) -> Row:
        return Row(row.ids_BL[at], None if row.keep_BL is None else row.keep_BL[at])

    target = {s: part(r) for s, r in rows.target.items()}
    counted, size_factor = ({s: x[at] for s, x in y.items()} for y in (rows.counted_BL, rows.size_factor_B))
    return BatchRows(part(rows.source), target, counted, size_factor, rows.edited, torch.zeros_like(at))
