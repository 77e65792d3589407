"""The Triton kernel of `pool_change_rows`: one program per item and block of columns. It has not run on a GPU yet."""

# Triton ships no types.
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from screen_kernels.delta.ragged import RaggedRows
from screen_kernels.delta.scaled import Scaled

MOST_COLUMNS = 128
ROWS = 32
WARPS = 4


@triton.jit
def pool_change_kernel(
    x_ptr,
    total_ptr,
    before_ptr,
    d_ptr,
    after_ptr,
    start_b_ptr,
    start_c_ptr,
    cell_ptr,
    change_ptr,
    d_unit,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
    HAS_D: tl.constexpr,
):
    """One program pools one block of columns of one item."""
    b = tl.program_id(0).to(tl.int64)
    cell = tl.load(cell_ptr + b)
    start_b = tl.load(start_b_ptr + b)
    start_c = tl.load(start_c_ptr + cell)
    n_rows = (tl.load(start_b_ptr + b + 1) - start_b).to(tl.int32)
    i = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    in_row = (i < D)[None, :]
    moved = tl.zeros([ROWS, BLOCK_D], tl.float32)
    n_was = tl.zeros([ROWS], tl.int32)
    n_now = tl.zeros([ROWS], tl.int32)
    for first in range(0, n_rows, ROWS):
        row = first + tl.arange(0, ROWS)
        was = tl.load(before_ptr + start_c + row, mask=row < n_rows, other=0) != 0
        now = tl.load(after_ptr + start_b + row, mask=row < n_rows, other=0) != 0
        # The control is read only where a row comes or leaves, differences only where a row counts.
        moves = (was != now)[:, None] & in_row
        x = tl.load(x_ptr + (start_c + row)[:, None] * D + i[None, :], mask=moves, other=0.0).to(tl.float32)
        moved += tl.where(now[:, None], x, -x)
        if HAS_D:
            at = (start_b + row)[:, None] * D + i[None, :]
            moved += tl.load(d_ptr + at, mask=now[:, None] & in_row, other=0.0).to(tl.float32) * d_unit
        n_was += was.to(tl.int32)
        n_now += now.to(tl.int32)
    was_n = tl.sum(n_was, axis=0).to(tl.float64)
    now_n = tl.sum(n_now, axis=0).to(tl.float64)
    total = tl.load(total_ptr + cell * D + i, mask=i < D, other=0.0)
    total *= (was_n - now_n) / tl.maximum(was_n, 1.0)
    change = (tl.sum(moved.to(tl.float64), axis=0) + total) / tl.maximum(now_n, 1.0)
    change = tl.where((was_n > 0.0) & (now_n > 0.0), change, float("nan"))
    tl.store(change_ptr + b * D + i, change, mask=i < D)


def launch(
    rows: RaggedRows,
    x_MD: Tensor,
    total_CD: Tensor,
    before_M: Tensor,
    after_T: Tensor,
    d: Scaled | None,
    change_BD: Tensor,
) -> None:
    """Writes into the last, which must be contiguous; `pool_change_rows` says what the arguments are."""
    n_items, width = change_BD.shape
    if not change_BD.numel():
        return
    block = min(triton.next_power_of_2(width), MOST_COLUMNS)
    pool_change_kernel[(n_items, triton.cdiv(width, block))](
        x_MD.contiguous(),
        total_CD.double().contiguous(),
        before_M.contiguous().view(torch.int8),
        x_MD if d is None else d.values.contiguous(),
        after_T.contiguous().view(torch.int8),
        rows.start_B1,
        rows.start_C1,
        rows.cell_B,
        change_BD,
        1.0 if d is None else 1 / d.scale,
        D=width,
        BLOCK_D=block,
        ROWS=ROWS,
        HAS_D=d is not None,
        num_warps=WARPS,
    )
