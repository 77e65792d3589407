"""Frame: the rows of a cell's items laid over the cell's own row, gene by gene, so that what is the same stands together."""

from dataclasses import dataclass, fields

import torch
from screen_kernels import MASK, PAD
from torch import Tensor


@dataclass(frozen=True)
class Frame:
    """One state of B items of one cell over F columns: those of the cell's row, then slots for what joins.

    ids_BF4      id and place before, id and place after
    keep_BF2     whether the column is a key before, and after
    counted_BF2  whether pooling counts it before, and after
    column_BW    the column of every position of the edited row; -1 for pads
    is_carried_B whether the frame holds the edited row, id for id: not where an id is repeated, or too much joins

    Attention does not care for the order of columns, so any assignment gives the same numbers; a good one, small changes.
    """

    ids_BF4: Tensor
    keep_BF2: Tensor
    counted_BF2: Tensor
    column_BW: Tensor
    is_carried_B: Tensor

    def of(self, items: Tensor) -> "Frame":
        """That of some items."""
        return Frame(*(getattr(self, f.name)[items] for f in fields(self)))


def frame_of(control_L: Tensor, counted_L: Tensor, edited_BW: Tensor, counted_BW: Tensor, n_slots: int) -> Frame:
    """The rows of B items over a cell's row; ids are PAD where there is no token, and a pad is never a key.

    A token stands in its own column where it did before, or in that of the same id; any other takes the column at its own
    place if that is free (a mask), else a slot: a column that the control fills with a MASK nobody reads.
    """
    n_control, (n_items, width) = len(control_L), edited_BW.shape
    control_L, edited_BW = control_L.long(), edited_BW.long()
    is_token_BW = edited_BW != PAD
    place_W = torch.arange(width, device=edited_BW.device)
    known_BW = torch.where(is_token_BW, _columns_by_id(control_L, edited_BW), -1)
    opposite_W = torch.full_like(place_W, PAD)
    opposite_W[: min(width, n_control)] = control_L[:width]
    column_BW = torch.where(is_token_BW & (edited_BW == opposite_W), place_W, known_BW)
    # what is new, at its own place where nothing else stands
    taken_BF = torch.zeros((n_items, max(n_control, width) + 1), dtype=torch.bool, device=edited_BW.device)
    taken_BF.scatter_(1, torch.where(column_BW >= 0, column_BW, taken_BF.shape[1] - 1), True)
    is_new_BW = is_token_BW & (column_BW < 0)
    is_free_BW = is_new_BW & ~taken_BF[:, :width] & (place_W < n_control)
    column_BW = torch.where(is_free_BW, place_W, column_BW)
    joins_BW = is_new_BW & ~is_free_BW
    slot_BW = n_control + joins_BW.long().cumsum(1) - 1
    column_BW = torch.where(joins_BW, slot_BW, column_BW)
    return _laid_out(control_L, counted_L, edited_BW, counted_BW, column_BW, n_slots)


def _columns_by_id(control_L: Tensor, edited_BW: Tensor) -> Tensor:
    """(B, W) the column of the same id in the control, -1 for none; a MASK is no gene, and stands for none."""
    n_ids = 1 + int(max(control_L.max(), edited_BW.max())) if edited_BW.numel() else 1
    column_V = torch.full((max(n_ids, MASK + 1),), -1, device=control_L.device)
    column_V[control_L] = torch.arange(len(control_L), device=control_L.device)
    column_V[[PAD, MASK]] = -1
    return column_V[edited_BW]


def _laid_out(
    control_L: Tensor, counted_L: Tensor, edited_BW: Tensor, counted_BW: Tensor, column_BW: Tensor, n_slots: int
) -> Frame:
    n_items, width, n_columns = *edited_BW.shape, len(control_L) + n_slots
    is_token_BW, device = edited_BW != PAD, edited_BW.device
    before_F = torch.cat([control_L, control_L.new_full((n_slots,), MASK)])
    place_F = torch.cat([torch.arange(len(control_L), device=device), control_L.new_zeros(n_slots)])
    keep_F, counted_F = (torch.zeros(n_columns, dtype=torch.bool, device=device) for _ in range(2))
    keep_F[: len(control_L)], counted_F[: len(control_L)] = control_L != PAD, counted_L
    # the last column is a bin for pads, and for what does not fit
    bin_BW = torch.where(is_token_BW & (column_BW < n_columns), column_BW, n_columns)
    filled = torch.zeros((n_items, n_columns + 1), dtype=torch.long, device=device)
    n_filled_BF = filled.scatter_add(1, bin_BW, torch.ones_like(bin_BW))[:, :n_columns]
    is_filled_BF = n_filled_BF > 0
    place_BW = torch.arange(width, device=device).expand(n_items, -1)
    after = [filled.scatter(1, bin_BW, x.long())[:, :n_columns] for x in (edited_BW, place_BW, counted_BW)]
    before = [x.expand(n_items, -1) for x in (before_F, place_F)]
    ids = [*before, *(torch.where(is_filled_BF, a, b) for a, b in zip(after[:2], before, strict=True))]
    fits_B = (bin_BW < n_columns).eq(is_token_BW).all(1) & (n_filled_BF <= 1).all(1)
    return Frame(
        torch.stack(ids, -1),
        torch.stack([keep_F.expand(n_items, -1), is_filled_BF], -1),
        torch.stack([counted_F.expand(n_items, -1), is_filled_BF & after[2].bool()], -1),
        torch.where(bin_BW < n_columns, bin_BW, -1),
        fits_B,
    )


def unchanged_frame(control_L: Tensor, counted_L: Tensor | None) -> Frame:
    """The frame of a row that nothing edits; None: it is not pooled."""
    counted_L = torch.zeros_like(control_L, dtype=torch.bool) if counted_L is None else counted_L
    return frame_of(control_L, counted_L, control_L[None], counted_L[None], 0)
