"""Pool: how much the mean over counted rows changes where rows change, come or leave."""

import itertools

import torch
from torch import Tensor

from screen_kernels.backend import choose
from screen_kernels.delta.ragged import RaggedRows
from screen_kernels.delta.scaled import Scaled


def pool_change(x: Tensor, d: Tensor, before_CL: Tensor, after_BL: Tensor) -> Tensor:
    """Mean of x + d over the rows counted after, minus mean of x over those counted before, exact.

    Shapes: (C, L, D), (B, L, D), (C, L) and (B, L) bool -> (B, D) float64, in which rows are added: the mean of the control's
    over another number is larger than the change. C is 1 or B. NaN where no row counts before or after.
    """
    stays, comes, leaves = before_CL & after_BL, ~before_CL & after_BL, before_CL & ~after_BL
    nothing = d.new_zeros(())
    moved_BD = torch.where(stays[..., None], d, nothing).sum(1, dtype=torch.float64)
    moved_BD = moved_BD + torch.where(comes[..., None], x + d, nothing).sum(1, dtype=torch.float64)
    moved_BD = moved_BD - torch.where(leaves[..., None], x, nothing).sum(1, dtype=torch.float64)
    n_before, n_after = (c.sum(1, keepdim=True).double() for c in (before_CL, after_BL))
    total_CD = torch.where(before_CL[..., None], x, nothing).sum(1, dtype=torch.float64)
    return moved_BD / n_after + total_CD * (1 / n_after - 1 / n_before)


def pool_change_rows(
    rows: RaggedRows, x_MD: Tensor, total_CD: Tensor, before_M: Tensor, after_T: Tensor, d: Scaled | None,
    backend: str | None = None,
) -> Tensor:  # fmt: skip
    """`pool_change` of ragged rows; the kernel, which has not run on a GPU yet, adds 32 strands of rows in float32.

    total_CD  what `pool_total` gives: kept per cell, so that items need not read the whole control again
    d         None: no row changes, rows only come and leave
    Shapes: (M, D) float16 or float32, (C, D) float64, (M,) and (T,) bool, (T, D) -> (B, D) float64.
    NaN where no row counts before or after; rows that count neither before nor after are never read.
    Raises ValueError for shapes that do not match, TypeError unless the counted rows are bool.
    """
    width, n_cells = x_MD.shape[1], len(rows.start_C1) - 1
    shapes = [tuple(t.shape) for t in (total_CD, before_M, after_T, x_MD if d is None else d.values)]
    last = tuple(x_MD.shape) if d is None else (rows.n_rows, width)
    if shapes != [(n_cells, width), (len(x_MD),), (rows.n_rows,), last]:
        raise ValueError(f"total, before, after, d have shapes {shapes}; they must be (C, D), (M,), (T,), (T, D)")
    if {before_M.dtype, after_T.dtype} != {torch.bool}:
        raise TypeError(f"before_M is {before_M.dtype} and after_T {after_T.dtype}; both must be torch.bool")
    if choose(x_MD, backend) == "torch":
        return pool_change_rows_reference(rows, x_MD, before_M, after_T, d)
    from screen_kernels.delta import _pool_triton

    change_BD = torch.empty(len(rows.cell_B), width, dtype=torch.float64, device=x_MD.device)
    _pool_triton.launch(rows, x_MD, total_CD, before_M, after_T, d, change_BD)
    return change_BD


def pool_change_rows_reference(
    rows: RaggedRows, x_MD: Tensor, before_M: Tensor, after_T: Tensor, d: Scaled | None
) -> Tensor:
    """The definition of `pool_change_rows`."""
    x_MD = x_MD.to(torch.promote_types(x_MD.dtype, torch.float32))
    d_TD = x_MD.new_zeros(()).expand(rows.n_rows, x_MD.shape[1]) if d is None else d.unscaled()
    change_BD = d_TD.new_empty((len(rows.cell_B), x_MD.shape[1]), dtype=torch.float64)
    for b, (_, of_item, of_cell) in enumerate(rows.spans()):
        slices = x_MD[of_cell], d_TD[of_item], before_M[of_cell], after_T[of_item]
        change_BD[b] = pool_change(*(x[None] for x in slices))[0]
    return change_BD


def pool_total(start_C1: Tensor, x_MD: Tensor, before_M: Tensor) -> Tensor:
    """(C, D) float64 sums of a control's rows over those counted."""
    counted_MD = torch.where(before_M[:, None], x_MD, 0)
    total_CD = torch.empty(len(start_C1) - 1, x_MD.shape[1], dtype=torch.float64, device=x_MD.device)
    for c, (first, end) in enumerate(itertools.pairwise(start_C1.tolist())):
        total_CD[c] = counted_MD[first:end].sum(0, dtype=torch.float64)
    return total_CD


def pool_change_rows_bytes(
    n_rows: int, n_counted: int, n_moved: int, n_items: int, n_cells: int, width: int, itemsize: int = 2
) -> int:
    """Bytes moved at least: masks of T rows and their control, differences of counted rows, x of those that come or leave.

    Totals are read once a cell, the result is written once; x is float32, these are float64.
    """
    places = 2 * n_rows + n_items * 8 * 2 + n_cells * 8
    return places + n_counted * width * itemsize + (n_moved + 2 * (n_items + n_cells)) * width * 4


def pool_change_rows_flops(n_counted: int, n_moved: int, n_items: int, width: int) -> int:
    """Unscaling and adding counted rows, adding those that moved; the divisor's change, per item."""
    return (2 * n_counted + n_moved + 3 * n_items) * width
