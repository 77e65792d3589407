"""Frame: the rows of items laid over those of their cells, gene by gene, so that what is the same stands together."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from screen_kernels.backend import choose
from screen_kernels.edit_tokens import MASK, PAD


@dataclass(frozen=True)
class Frame:
    """One state of B items over F columns: those of their cell's row, then slots for what joins.

    ids_BF4      id and place before, id and place after; int64
    keep_BF2     whether the column is a key before, and after
    counted_BF2  whether pooling counts it before, and after
    column_BW    the column of every position of the edited row; -1 for pads, and for what does not fit; int64
    is_carried_B whether the frame holds the edited row, id for id: not where an id is repeated, or too much joins

    Attention does not care for the order of columns, so any assignment gives the same numbers; a good one, small changes.
    """

    ids_BF4: Tensor
    keep_BF2: Tensor
    counted_BF2: Tensor
    column_BW: Tensor
    is_carried_B: Tensor


def columns_by_id(control_CL: Tensor, n_ids: int) -> Tensor:
    """(C, n_ids) int32 the column of every id in every cell's row, the last if it is repeated; -1 for none.

    A MASK is no gene: like a pad, it has none. Ids are below `n_ids`.
    """
    n_cells, length = control_CL.shape
    column_CV = torch.full((n_cells, max(n_ids, MASK + 1)), -1, dtype=torch.int32, device=control_CL.device)
    column_CL = torch.arange(length, dtype=torch.int32, device=control_CL.device).expand(n_cells, -1)
    column_CV.scatter_reduce_(1, control_CL.long(), column_CL, "amax")
    # the lowest two ids
    column_CV[:, : max(PAD, MASK) + 1] = -1
    return column_CV


def frame_rows(
    control_CL: Tensor, column_CV: Tensor, counted_CL: Tensor | None, cell_B: Tensor, edited_BW: Tensor,
    counted_BW: Tensor | None, n_slots: int, backend: str | None = None,
) -> Frame:  # fmt: skip
    """The rows of B items over the rows of their cells; the kernel, one launch, has not run on a GPU yet.

    A token stands in its own column where it did before, or in that of the same id; any other takes the column at its own
    place if that is free (a mask), else a slot: a column that the control fills with a MASK nobody reads.
    Where several tokens have one column, the last of them stands there.
    column_CV                what `columns_by_id` gives: kept per cell, so that items need not look for their tokens
    counted_CL, counted_BW   what pooling counts; None: nothing, before and after
    Shapes: (C, L), (C, V), (C, L) bool, (B,), (B, W), (B, W) bool; ids are int32 or int64, below V, and PAD where there is
    no token. A pad is never a key.
    Raises ValueError for shapes that do not match, TypeError unless what is counted is bool.
    """
    _check(control_CL, column_CV, counted_CL, cell_B, edited_BW, counted_BW)
    if choose(edited_BW, backend) == "torch":
        return frame_rows_reference(control_CL, column_CV, counted_CL, cell_B, edited_BW, counted_BW, n_slots)
    from screen_kernels.delta import _frame_triton

    (n_items, width), n_columns, device = edited_BW.shape, control_CL.shape[1] + n_slots, edited_BW.device
    last_BF = torch.empty(n_items, n_columns, dtype=torch.int32, device=device)
    ids_BF4, column_BW = (torch.empty(n_items, *s, dtype=torch.long, device=device) for s in ((n_columns, 4), (width,)))
    keep_BF2, counted_BF2 = (torch.empty(n_items, n_columns, 2, dtype=torch.bool, device=device) for _ in range(2))
    is_carried_B = torch.empty(n_items, dtype=torch.bool, device=device)
    frame = Frame(ids_BF4, keep_BF2, counted_BF2, column_BW, is_carried_B)
    _frame_triton.launch(control_CL, column_CV, counted_CL, cell_B, edited_BW, counted_BW, last_BF, frame)
    return frame


def frame_rows_reference(
    control_CL: Tensor, column_CV: Tensor, counted_CL: Tensor | None, cell_B: Tensor, edited_BW: Tensor,
    counted_BW: Tensor | None, n_slots: int,
) -> Frame:  # fmt: skip
    """The definition of `frame_rows`."""
    n_control, (n_items, width) = control_CL.shape[1], edited_BW.shape
    control_CL, edited_BW, cell_B = control_CL.long(), edited_BW.long(), cell_B.long()
    if counted_CL is None or counted_BW is None:
        counted_CL, counted_BW = (torch.zeros_like(x, dtype=torch.bool) for x in (control_CL, edited_BW))
    is_token_BW = edited_BW != PAD
    place_W = torch.arange(width, device=edited_BW.device)
    known_BW = torch.where(is_token_BW, column_CV[cell_B[:, None], edited_BW], -1)
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
    place_BW = torch.arange(width, device=device).expand(n_items, -1)
    nowhere = torch.full((n_items, n_columns + 1), -1, device=device)
    last_BF = nowhere.scatter_reduce(1, bin_BW, place_BW, "amax")[:, :n_columns]
    is_filled_BF = last_BF >= 0
    # behind a row stands a pad, for columns that nothing fills
    at_BF = torch.where(is_filled_BF, last_BF, width)
    after_BF, is_counted_BF = (F.pad(x, (0, 1)).gather(1, at_BF) for x in (edited_BW, counted_BW))
    after = [torch.where(is_filled_BF, a, b) for a, b in ((after_BF, before_BF), (last_BF, place_BF))]
    return Frame(
        torch.stack([before_BF, place_BF, *after], -1),
        torch.stack([keep_BF, is_filled_BF], -1),
        torch.stack([counted_BF, is_counted_BF], -1),
        torch.where(bin_BW < n_columns, bin_BW, -1),
        # as many columns as tokens: each has one of its own
        is_filled_BF.sum(1) == is_token_BW.sum(1),
    )


def _check(
    control_CL: Tensor, column_CV: Tensor, counted_CL: Tensor | None, cell_B: Tensor, edited_BW: Tensor,
    counted_BW: Tensor | None,
) -> None:  # fmt: skip
    counted = [x for x in (counted_CL, counted_BW) if x is not None]
    rows = [control_CL, edited_BW]
    shapes = [tuple(x.shape) for x in (*rows, *counted, column_CV, cell_B)]
    is_fine = control_CL.ndim == edited_BW.ndim == column_CV.ndim == 2 and len(counted) in (0, 2)
    is_fine = is_fine and [x.shape for x in counted] in ([], [x.shape for x in rows])
    if not is_fine or len(column_CV) != len(control_CL) or cell_B.shape != edited_BW.shape[:1]:
        raise ValueError(
            f"control, edited, what is counted of each or of neither, column, cell have shapes {shapes}; "
            f"they must be (C, L), (B, W), these twice or once, (C, V), (B,)"
        )
    if {x.dtype for x in counted} - {torch.bool}:
        raise TypeError(f"what is counted is {[x.dtype for x in counted]}; both must be torch.bool")


def frame_rows_bytes(
    n_tokens: int, n_items: int, n_cells: int, length: int, width: int, n_slots: int, itemsize: int = 4
) -> int:
    """Bytes moved at least: rows and what counts of them read once, the frame written once. FLOPs are 0: integers only.

    Columns by id, int32, are read for n_tokens: those that do not stand where they stood.
    """
    per_item = width * (itemsize + 1 + 8) + (length + n_slots) * (4 * 8 + 2 + 2) + 8 + 1
    return n_cells * length * (itemsize + 1) + n_tokens * 4 + n_items * per_item
