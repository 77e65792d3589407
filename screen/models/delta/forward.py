"""DeltaForward: batches of any model, items as changes of their cells' controls."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from screen_kernels.delta import Frame
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from screen.cells.bank import SOURCE
from screen.models.adapter import Batching, BatchRows, ModelAdapter, PackedModel, Readout, Row, Rows
from screen.models.delta.change import AnyChange
from screen.models.delta.frame import Controls, controls_of
from screen.models.delta.group import CellRow, Group, cell_row, padded
from screen.models.delta.kernel_ops import ItemsOfCells, KernelOps
from screen.models.delta.ops import DeltaOps
from screen.models.delta.recording import LatestRecordings, Recording
from screen.models.delta.rounding import EXACT, Rounding
from screen.models.ops import PLAIN, PlainOps


@dataclass(frozen=True)
class DeltaForward:
    """Runs batches of changes.

    adapter    the network, in the numbers that changes are computed in
    exact      the same in float64: its head turns embeddings into counts
    packed     computes the items whose change cannot be carried
    n_slots    by state, most genes that an edit may bring into a row
    n_ids      by state, 1 + the highest id that a row can hold
    at_once    all cells of a batch together, by `KernelOps`, as a GPU needs it; else cell by cell, by `DeltaOps`
    backend    of the kernels: None, the device decides
    """

    adapter: ModelAdapter
    exact: ModelAdapter
    packed: PackedModel
    batching: Batching
    n_slots: Mapping[int, int]
    n_ids: Mapping[int, int]
    rounding: Rounding = EXACT
    ops: PlainOps = PLAIN
    at_once: bool = False
    backend: str | None = None
    _recordings: LatestRecordings = field(default_factory=LatestRecordings, compare=False)

    @torch.inference_mode()
    def control(self, rows: BatchRows, length_B: Mapping[int, Sequence[int]]) -> tuple[Readout, list[CellRow]]:
        """Readouts of B unedited cells; their items take over the rows, and record what they need when they come."""
        cells = [cell_row(rows, length_B, b) for b in range(len(rows))]
        if self.at_once:
            hidden = dict(self.adapter.forward(self.ops, rows))
            embedding = {t: self.ops.pool(hidden[t], rows.counted_BL[t]).double() for t in self.adapter.reads_out}
        else:
            hidden, embedding = self._one_by_one(rows, cells)
        value, size_factor = self.exact.values(embedding, rows)
        kept = {t: hidden[t] for t in self._kept()}
        return Readout(embedding, value, size_factor, kept), cells

    def _one_by_one(self, rows: BatchRows, cells: Sequence[CellRow]) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """(last layers (B, L, D), pooled embeddings) of cells whose numbers must not depend on each other's lengths."""
        found = []
        for cell in cells:
            one, _ = cell.batch(rows.index_B[:1])
            hidden = self.adapter.forward(self.ops, one)
            found.append(
                {t: (hidden[t][0], self.ops.pool(hidden[t], one.counted_BL[t])) for t in self.adapter.reads_out}
            )
        embedding = {t: torch.cat([f[t][1] for f in found]).double() for t in self.adapter.reads_out}
        padded = {t: pad_sequence([f[t][0] for f in found], batch_first=True) for t in self.adapter.reads_out}
        return {t: F.pad(x, (0, 0, 0, rows.row(t).ids_BL.shape[1] - x.shape[1])) for t, x in padded.items()}, embedding

    @torch.inference_mode()
    def predict(self, rows: BatchRows, before_CD: Mapping[int, Tensor], shared: Sequence[CellRow]) -> Readout:
        """Readouts of B items of C cells, each with an item, given the cells' control embeddings and rows.

        Whether all could be carried nobody asks here: the host would wait for the device.
        """
        after = {t: before_CD[t][rows.index_B] for t in self.adapter.reads_out}
        kept = {t: before_CD[t].new_zeros((*rows.row(t).ids_BL.shape, self.adapter.schema.width)) for t in self._kept()}
        fits_B, is_finite_B = torch.ones((2, len(rows)), dtype=torch.bool, device=rows.index_B.device)
        for group in self._groups(rows.index_B, shared):
            frames = self._frames(group, rows)
            fits_B[group.at_B] = torch.stack([f.is_carried_B for f in frames.values()]).all(0)
            is_finite_B[group.at_B] = self._carried(group, rows, frames, after, kept)
        uncarried = {"its row does not fit a frame": ~fits_B, "its change is not finite": fits_B & ~is_finite_B}
        again = partial(self._again, rows, before_CD, shared, after, kept, uncarried)
        found = self._readout(rows, before_CD, after, kept)
        return replace(found, is_unsure_B=~(fits_B & is_finite_B), again=again)

    @torch.inference_mode()
    def _again(
        self, rows: BatchRows, before_CD: Mapping[int, Tensor], shared: Sequence[CellRow], after: Mapping[int, Tensor],
        kept: Mapping[int, Tensor], uncarried: Mapping[str, Tensor],
    ) -> Readout:  # fmt: skip
        """The readout with the items that could not be carried computed by the packed engine; reason -> which (B,)."""
        batch, recomputed = _whole(rows.index_B, shared), Counter[str]()
        for reason, is_so_B in uncarried.items():
            rest = batch.of(is_so_B)
            self._recompute(rest, rows, before_CD, after, kept)
            recomputed[reason] += len(rest.at_B)
        return replace(self._readout(rows, before_CD, after, kept), recomputed=+recomputed)

    def _readout(
        self, rows: BatchRows, before_CD: Mapping[int, Tensor], after: Mapping[int, Tensor], kept: Mapping[int, Tensor]
    ) -> Readout:
        cosine = {t: F.cosine_similarity(before_CD[t][rows.index_B], x, dim=1) for t, x in after.items()}
        value, size_factor = self.exact.values(after, rows)
        return Readout(after, value, size_factor, kept, cosine)

    def forget(self) -> None:
        """Lets go of what threads recorded of the cells that they met last."""
        self._recordings.forget()
        self.packed.forget()

    @property
    def recorded_bytes(self) -> int:
        """Of the cells whose items this thread predicted last."""
        return self._recordings.n_bytes

    def _kept(self) -> tuple[int, ...]:
        return self.adapter.reads_out if self.batching.keeps_hidden else ()

    def _groups(self, index_B: Tensor, shared: Sequence[CellRow]) -> Iterator[Group]:
        batch = _whole(index_B, shared)
        yield from [batch] if self.at_once else [batch.of(index_B == c) for c in range(len(shared))]

    def _frames(self, group: Group, rows: BatchRows) -> dict[int, Frame]:
        """By state. Rows of a state that nobody edits are the cells' own, and so is their frame."""
        recording, found = self._recordings.of(group.cells, "frames"), {}
        # all items are taken without a copy
        at = slice(None) if len(group.at_B) == len(rows) else group.at_B
        for s in (SOURCE, *rows.target):
            controls = recording.once(("controls", s), partial(self._controls, group.cells, s, s in rows.counted_BL))
            counted_BL = rows.counted_BL[s][at] if s in rows.counted_BL else None
            ids_BL = rows.row(s).ids_BL[at]
            found[s] = controls.frame(group.cell_B, ids_BL, counted_BL, self.n_slots[s], self.backend)
        return found

    def _controls(self, cells: Sequence[CellRow], state: int, is_counted: bool) -> Controls:
        counted_CL = padded(c.counted_L[state] for c in cells) if is_counted else None
        return controls_of(padded(c.ids_L[state] for c in cells), counted_CL, self.n_ids[state])

    def _carried(
        self, group: Group, rows: BatchRows, frames: Mapping[int, Frame], after: Mapping[int, Tensor],
        kept: Mapping[int, Tensor],
    ) -> Tensor:  # fmt: skip
        """Adds the changes of a group's items to its embeddings; which of them are finite (B,)."""
        is_finite_B = torch.ones_like(group.at_B, dtype=torch.bool)
        hidden, pooled = self._changes(group, rows, frames)
        for t in self.adapter.reads_out:
            change = pooled[t].difference()
            if change is not None:
                # without anything to pool there is no embedding, and nothing to compute again
                is_pooled_B = frames[t].counted_BF2.any(1).all(-1)
                is_finite_B &= torch.isfinite(change).all(1) | ~is_pooled_B
                after[t][group.at_B] += change.to(after[t].dtype)
            if t in kept:
                width = kept[t].shape[1]
                kept[t][group.at_B] = _in_order(hidden[t], group.cell_B, frames[t])[:, :width].to(kept[t].dtype)
        return is_finite_B

    def _changes(
        self, group: Group, rows: BatchRows, frames: Mapping[int, Frame]
    ) -> tuple[Mapping[int, AnyChange], dict[int, AnyChange]]:
        """(last layers, pooled embeddings) of every state that is read out."""
        recording = self._recordings.of(group.cells)
        if not self.at_once:
            delta = DeltaOps(self.ops, recording, self.rounding)
            found = self.adapter.forward(delta, _rows_of(frames, set(frames)))
            return found, {t: DeltaOps(self.ops, Recording()).pool(x, frames[t].counted_BF2) for t, x in found.items()}
        items = ItemsOfCells(group.cell_B, len(group.cells))
        by_kernels = KernelOps(self.ops, recording, items, self.rounding, self.backend)
        carried = self.adapter.forward(by_kernels, _rows_of(frames, rows.edited))
        return carried, {t: by_kernels.pool(x, frames[t].counted_BF2) for t, x in carried.items()}

    def _recompute(
        self, group: Group, rows: BatchRows, before_CD: Mapping[int, Tensor], after: Mapping[int, Tensor],
        kept: Mapping[int, Tensor],
    ) -> None:  # fmt: skip
        """Items by the packed engine, in float32; their change is added to the embedding of the others."""
        for c, cell in enumerate(group.cells):
            at = group.at_B[group.cell_B == c]
            control_rows, length = cell.batch(at.new_zeros(1))
            control, shared = self.packed.control(control_rows, length)
            found = self.packed.predict(_some(rows, at), control.embedding_BD, shared)
            for t in self.adapter.reads_out:
                # no change where the edit does not reach
                new = control.embedding_BD[t] if t in found.unchanged else found.embedding_BD[t]
                change_BD = new.to(after[t].dtype) - control.embedding_BD[t].to(after[t].dtype)
                after[t][at] = before_CD[t][rows.index_B[at]] + change_BD
                if t in kept:
                    kept[t][at] = found.hidden_BLD[t].to(kept[t].dtype)


def _whole(index_B: Tensor, shared: Sequence[CellRow]) -> Group:
    """All items of a batch."""
    return Group(tuple(shared), torch.arange(len(index_B), device=index_B.device), index_B)


def _rows_of(frames: Mapping[int, Frame], edited: Collection[int]) -> Rows:
    """What a network reads of frames: of states that nothing edits, only what was before."""
    row = {s: Row(f.ids_BF4 if s in edited else f.ids_BF4[..., :2], f.keep_BF2) for s, f in frames.items()}
    return Rows(row[SOURCE], {s: r for s, r in row.items() if s != SOURCE}, {}, {})


def _in_order(x: AnyChange, cell_B: Tensor, frame: Frame) -> Tensor:
    """(B, W, D) the changed activations in the order of the edited rows; 0 where there is no token."""
    change, after = x.difference(), x.x[cell_B]
    after = after if change is None else after + change
    at = frame.column_BW.clamp_min(0)[..., None].expand(-1, -1, after.shape[-1])
    return torch.where(frame.column_BW[..., None] >= 0, after.gather(1, at), 0.0)


def _some(rows: BatchRows, at: Tensor) -> BatchRows:
    """Some items of a batch, all of one cell."""

    def part(row: Row) -> Row:
        return Row(row.ids_BL[at], None if row.keep_BL is None else row.keep_BL[at])

    target = {s: part(r) for s, r in rows.target.items()}
    counted, size_factor = ({s: x[at] for s, x in y.items()} for y in (rows.counted_BL, rows.size_factor_B))
    return BatchRows(part(rows.source), target, counted, size_factor, rows.edited, torch.zeros_like(at))
