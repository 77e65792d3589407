"""Frame: the rows of items laid over those of their cells, gene by gene, so that what is the same stands together."""

from dataclasses import dataclass

import torch
from screen_kernels import MASK, PAD
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Frame:
    """One state of B items over F columns: those of their cell's row, then slots for what joins.

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


def frame_of(
    control_CL: Tensor,
    counted_CL: Tensor,
    cell_B: Tensor,
    edited_BW: Tensor,
    counted_BW: Tensor,
    n_slots: int,
    n_ids: int | None = None,
) -> Frame:
    """The rows of B items over the rows of their cells; ids are PAD where there is no token, and a pad is never a key.

    Ids are below `n_ids`; None: they are looked at, for which the host waits.

    A token stands in its own column where it did before, or in that of the same id; any other takes the column at its own
    place if that is free (a mask), else a slot: a column that the control fills with a MASK nobody reads.
    """
    n_control, (n_items, width) = control_CL.shape[1], edited_BW.shape
    control_CL, edited_BW = control_CL.long(), edited_BW.long()
    is_token_BW = edited_BW != PAD
    place_W = torch.arange(width, device=edited_BW.device)
    known_BW = torch.where(is_token_BW, _columns_by_id(control_CL, cell_B, edited_BW, n_ids), -1)
    opposite_BW = F.pad(control_CL[:, :width], (0, max(width - n_control, 0)), value=PAD)[cell_B]
    column_BW = torch.where(is_token_BW & (edited_BW == opposite_BW), place_W, known_BW)
    # what is new, at its own place where nothing else stands
    taken_BF = torch.zeros((n_items, max(n_control, width) + 1), dtype=torch.bool, device=edited_BW.device)
    taken_BF.scatter_(1, torch.where(column_BW >= 0, column_BW, taken_BF.shape[1] - 1), True)
    is_new_BW = is_token_BW & (column_BW < 0)
    is_free_BW = is_new_BW & ~taken_BF[:, :width] & (place_W < n_control)
    column_BW = torch.where(is_free_BW, place_W, column_BW)
    joins_BW = is_new_BW & ~is_free_BW
    slot_BW = n_control + joins_BW.long().cumsum(1) - 1
    column_BW = torch.where(joins_BW, slot_BW, column_BW)
    return _laid_out(control_CL, counted_CL, cell_B, edited_BW, counted_BW, column_BW, n_slots)


def same_frame(control_CL: Tensor, counted_CL: Tensor, cell_B: Tensor, counted_BW: Tensor, n_slots: int) -> Frame:
    """`frame_of` items that leave this state as it is, whatever pooling counts: a token's column is its place."""
    (n_cells, length), width = control_CL.shape, counted_BW.shape[1]
    n_both, n_columns = min(length, width), length + n_slots
    ids_CF, keep_CF = F.pad(control_CL.long(), (0, n_slots), value=MASK), F.pad(control_CL != PAD, (0, n_slots))
    place_CF = F.pad(torch.arange(length, device=control_CL.device), (0, n_slots)).expand(n_cells, -1)
    counted_BF = F.pad(counted_BW[:, :n_both], (0, n_columns - n_both)) & keep_CF[cell_B]
    column_CL = torch.where(keep_CF[:, :n_both], place_CF[:, :n_both], -1)
    return Frame(
        torch.stack([ids_CF, place_CF, ids_CF, place_CF], -1)[cell_B],
        torch.stack([keep_CF, keep_CF], -1)[cell_B],
        torch.stack([F.pad(counted_CL, (0, n_slots))[cell_B], counted_BF], -1),
        F.pad(column_CL, (0, width - n_both), value=-1)[cell_B],
        torch.ones_like(cell_B, dtype=torch.bool),
    )


def _columns_by_id(control_CL: Tensor, cell_B: Tensor, edited_BW: Tensor, n_ids: int | None) -> Tensor:
    """(B, W) the column of the same id in the cell's row, -1 for none; a MASK is no gene, and stands for none."""
    n_cells, length = control_CL.shape
    if n_ids is None:
        n_ids = 1 + int(max(control_CL.max(), edited_BW.max())) if edited_BW.numel() and length else 1
    column_CV = torch.full((n_cells, max(n_ids, MASK + 1)), -1, device=control_CL.device)
    column_CV.scatter_(1, control_CL, torch.arange(length, device=control_CL.device).expand(n_cells, -1))
    column_CV[:, [PAD, MASK]] = -1
    return column_CV[cell_B[:, None], edited_BW]


def _laid_out(
    control_CL: Tensor, counted_CL: Tensor, cell_B: Tensor, edited_BW: Tensor, counted_BW: Tensor, column_BW: Tensor,
    n_slots: int,
) -> Frame:  # fmt: skip
    (n_items, width), length, device = edited_BW.shape, control_CL.shape[1], edited_BW.device
    n_columns, is_token_BW = length + n_slots, edited_BW != PAD
    before_BF = F.pad(control_CL, (0, n_slots), value=MASK)[cell_B]
    keep_BF, counted_BF = (F.pad(x, (0, n_slots))[cell_B] for x in (control_CL != PAD, counted_CL))
    place_BF = F.pad(torch.arange(length, device=device), (0, n_slots)).expand(n_items, -1)
    # the last column is a bin for pads, and for what does not fit
    bin_BW = torch.where(is_token_BW & (column_BW < n_columns), column_BW, n_columns)
    filled = torch.zeros((n_items, n_columns + 1), dtype=torch.long, device=device)
    n_filled_BF = filled.scatter_add(1, bin_BW, torch.ones_like(bin_BW))[:, :n_columns]
    is_filled_BF = n_filled_BF > 0
    place_BW = torch.arange(width, device=device).expand(n_items, -1)
    after = [filled.scatter(1, bin_BW, x.long())[:, :n_columns] for x in (edited_BW, place_BW, counted_BW)]
    before = [before_BF, place_BF]
    ids = [*before, *(torch.where(is_filled_BF, a, b) for a, b in zip(after[:2], before, strict=True))]
    fits_B = (bin_BW < n_columns).eq(is_token_BW).all(1) & (n_filled_BF <= 1).all(1)
    return Frame(
        torch.stack(ids, -1),
        torch.stack([keep_BF, is_filled_BF], -1),
        torch.stack([counted_BF, is_filled_BF & after[2].bool()], -1),
        torch.where(bin_BW < n_columns, bin_BW, -1),
        fits_B,
    )
