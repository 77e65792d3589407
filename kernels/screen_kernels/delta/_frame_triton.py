"""The Triton kernel of `frame_rows`: one program per item, stage after stage. It has not run on a GPU yet."""

# Triton ships no types.
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from screen_kernels.delta.frame import Frame
from screen_kernels.edit_tokens import MASK, PAD

CHUNK = 1024
WARPS = 8
STAGES = 1
"""Nothing is to be loaded before the stage that stores it has ended."""
MOST_REGISTERS = 128
"""Left to itself, the assembler saves registers that nobody asks for, and spills one."""
PAD_ID, MASK_ID = tl.constexpr(PAD), tl.constexpr(MASK)
NONE, NEW = tl.constexpr(-1), tl.constexpr(-2)
"""Columns of a pad, and of a token whose id the cell does not have."""


@triton.jit
def find_columns(
    edited_ptr, control_ptr, column_of_ptr, column_ptr, last_ptr, n_control, width, n_ids, CHUNK: tl.constexpr
):
    """Columns of tokens whose id the cell has, and the last token of each; returns how many tokens there are."""
    i = tl.arange(0, CHUNK)
    n_tokens = tl.zeros([CHUNK], tl.int32)
    for chunk in range(0, width, CHUNK):
        place = chunk + i
        token = tl.load(edited_ptr + place, mask=place < width, other=PAD_ID).to(tl.int32)
        is_token = token != PAD_ID
        opposite = tl.load(control_ptr + place, mask=is_token & (place < n_control), other=PAD_ID).to(tl.int32)
        stays = is_token & (token == opposite)
        column = tl.load(column_of_ptr + token, mask=is_token & ~stays & (token < n_ids), other=NONE)
        column = tl.where(is_token & (column < 0), NEW, column)
        column = tl.where(stays, place, column)
        tl.store(column_ptr + place, column.to(tl.int64), mask=place < width)
        tl.atomic_max(last_ptr + column, place, mask=column >= 0, sem="relaxed", scope="cta")
        n_tokens += is_token.to(tl.int32)
    return tl.sum(n_tokens, axis=0)


@triton.jit
def place_new(column_ptr, last_ptr, n_control, n_columns, width, CHUNK: tl.constexpr):
    """New tokens, each at its own place if that is free, else in the next slot."""
    i = tl.arange(0, CHUNK)
    n_joined = 0
    for chunk in range(0, width, CHUNK):
        place = chunk + i
        column = tl.load(column_ptr + place, mask=place < width, other=NONE).to(tl.int32)
        is_new = column == NEW
        in_cell = is_new & (place < n_control)
        # What this stage stores is in columns that no other token asks for.
        is_free = in_cell & (tl.load(last_ptr + place, mask=in_cell, other=0) < 0)
        joins = (is_new & ~is_free).to(tl.int32)
        slot = n_control + n_joined + tl.cumsum(joins, axis=0).to(tl.int32) - 1
        n_joined += tl.sum(joins, axis=0).to(tl.int32)
        column = tl.where(is_new, tl.where(is_free, place, slot), column)
        fits = column < n_columns
        tl.store(last_ptr + column, place, mask=is_new & fits)
        tl.store(column_ptr + place, tl.where(fits, column, NONE).to(tl.int64), mask=place < width)


@triton.jit(do_not_specialize=["n_control", "n_columns", "n_ids"])
def frame_kernel(
    control_ptr,
    column_of_ptr,
    counted_control_ptr,
    cell_ptr,
    edited_ptr,
    counted_ptr,
    last_ptr,
    ids_ptr,
    keep_ptr,
    is_counted_ptr,
    column_ptr,
    is_carried_ptr,
    n_control,
    n_columns,
    width,
    n_ids,
    HAS_COUNTED: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One program frames one item. Stages talk through memory that only this program touches."""
    b = tl.program_id(0).to(tl.int64)
    cell = tl.load(cell_ptr + b).to(tl.int64)
    control_ptr += cell * n_control
    column_of_ptr += cell * n_ids
    edited_ptr += b * width
    column_ptr += b * width
    last_ptr += b * n_columns
    i = tl.arange(0, CHUNK)
    for chunk in range(0, n_columns, CHUNK):
        tl.store(last_ptr + chunk + i, tl.full([CHUNK], NONE, tl.int32), mask=chunk + i < n_columns)
    tl.debug_barrier()
    n_tokens = find_columns(
        edited_ptr, control_ptr, column_of_ptr, column_ptr, last_ptr, n_control, width, n_ids, CHUNK
    )
    tl.debug_barrier()
    place_new(column_ptr, last_ptr, n_control, n_columns, width, CHUNK)
    tl.debug_barrier()
    ids_ptr += b * n_columns * 4
    keep_ptr += b * n_columns
    is_counted_ptr += b * n_columns
    counted_ptr += b * width
    counted_control_ptr += cell * n_control
    n_filled = tl.zeros([CHUNK], tl.int32)
    four = tl.arange(0, 4)[None, :]
    for chunk in range(0, n_columns, CHUNK):
        column = chunk + i
        in_frame = column < n_columns
        in_cell = column < n_control
        before = tl.load(control_ptr + column, mask=in_cell, other=MASK_ID).to(tl.int32)
        place = tl.where(in_cell, column, 0)
        last = tl.load(last_ptr + column, mask=in_frame, other=NONE)
        is_filled = last >= 0
        after = tl.load(edited_ptr + last, mask=is_filled, other=PAD_ID).to(tl.int32)
        after = tl.where(is_filled, after, before)
        place_after = tl.where(is_filled, last, place)
        ids = tl.where(four < 2, before[:, None], after[:, None])
        places = tl.where(four < 2, place[:, None], place_after[:, None])
        ids = tl.where(four % 2 == 0, ids, places).to(tl.int64)
        tl.store(ids_ptr + column[:, None] * 4 + four, ids, mask=in_frame[:, None])
        # Two bools, before and after, are two bytes.
        was_key = (in_cell & (before != PAD_ID)).to(tl.int16)
        tl.store(keep_ptr + column, was_key + is_filled.to(tl.int16) * 256, mask=in_frame)
        both = tl.zeros([CHUNK], tl.int16)
        if HAS_COUNTED:
            both += tl.load(counted_control_ptr + column, mask=in_cell, other=0).to(tl.int16)
            both += tl.load(counted_ptr + last, mask=is_filled, other=0).to(tl.int16) * 256
        tl.store(is_counted_ptr + column, both, mask=in_frame)
        n_filled += is_filled.to(tl.int32)
    # As many columns as tokens: each has one of its own.
    tl.store(is_carried_ptr + b, (tl.sum(n_filled, axis=0) == n_tokens).to(tl.int8))


def launch(
    control_CL: Tensor,
    column_CV: Tensor,
    counted_CL: Tensor | None,
    cell_B: Tensor,
    edited_BW: Tensor,
    counted_BW: Tensor | None,
    last_BF: Tensor,
    frame: Frame,
    chunk: int = CHUNK,
) -> None:
    """Writes into `frame`, and into last_BF, int32, for itself; their arrays must be contiguous."""
    n_items, width = edited_BW.shape
    if not n_items:
        return
    # where nothing counts, nobody reads what stands for it
    before, after = (frame.is_carried_B if x is None else x.contiguous() for x in (counted_CL, counted_BW))
    frame_kernel[(n_items,)](
        control_CL.contiguous(),
        column_CV.contiguous(),
        before.view(torch.int8),
        cell_B.contiguous(),
        edited_BW.contiguous(),
        after.view(torch.int8),
        last_BF,
        frame.ids_BF4,
        frame.keep_BF2.view(torch.int16),
        frame.counted_BF2.view(torch.int16),
        frame.column_BW,
        frame.is_carried_B.view(torch.int8),
        control_CL.shape[1],
        last_BF.shape[1],
        width,
        column_CV.shape[1],
        HAS_COUNTED=counted_BW is not None,
        CHUNK=chunk,
        num_warps=WARPS,
        num_stages=STAGES,
        maxnreg=MOST_REGISTERS,
    )
