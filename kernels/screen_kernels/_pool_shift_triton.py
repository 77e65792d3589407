"""The Triton kernel of `pool_shift`: one program per item, a loop over tiles of positions, one reduction at the end."""

# Triton ships no types.
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from screen_kernels.pool_shift import EPS

TILE = 8192
"""Numbers of one tile: 32 per thread at eight warps."""
WARPS = 8
EPSILON = tl.constexpr(EPS)


@triton.jit
def pool_kernel(
    hidden_ptr,
    counted_ptr,
    control_ptr,
    control_row_ptr,
    pooled_ptr,
    cosine_ptr,
    n_places,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
):
    """One program pools one item and compares it with its control."""
    b = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, ROWS)
    d = tl.arange(0, BLOCK_D)
    total = tl.zeros([ROWS, BLOCK_D], tl.float32)
    n_seen = tl.zeros([ROWS], tl.int32)
    for place in range(0, n_places, ROWS):
        row = place + i
        counted = tl.load(counted_ptr + b * n_places + row, mask=row < n_places, other=0) != 0
        at = (b * n_places + row)[:, None] * D + d[None, :]
        # What is not counted is not loaded: no traffic, and no NaN from there.
        hidden = tl.load(hidden_ptr + at, mask=counted[:, None] & (d < D)[None, :], other=0.0)
        total += hidden.to(tl.float32)
        n_seen += tl.where(counted, 1, 0)
    n = tl.sum(n_seen, axis=0)
    mean = tl.div_rn(tl.sum(total, axis=0), tl.maximum(n, 1).to(tl.float32))
    pooled = tl.where(n > 0, mean, float("nan"))
    tl.store(pooled_ptr + b * D + d, pooled, mask=d < D)
    control_row = tl.load(control_row_ptr + b).to(tl.int64)
    control = tl.load(control_ptr + control_row * D + d, mask=d < D, other=0.0)
    size = tl.maximum(tl.sqrt_rn(tl.sum(pooled * pooled, axis=0)), EPSILON)
    size *= tl.maximum(tl.sqrt_rn(tl.sum(control * control, axis=0)), EPSILON)
    tl.store(cosine_ptr + b, tl.div_rn(tl.sum(pooled * control, axis=0), size))


def launch(
    hidden_BLD: Tensor,
    counted_BL: Tensor,
    control_CD: Tensor,
    control_B: Tensor,
    pooled_BD: Tensor,
    cosine_B: Tensor,
) -> None:
    """Writes into the last two, which must be contiguous; `pool_shift` says what the arguments are."""
    n_items, n_places, width = hidden_BLD.shape
    if not n_items:
        return
    block = triton.next_power_of_2(width)
    pool_kernel[(n_items,)](
        hidden_BLD.contiguous(),
        counted_BL.contiguous().view(torch.int8),
        control_CD.float().contiguous(),
        control_B.contiguous(),
        pooled_BD,
        cosine_B,
        n_places,
        D=width,
        BLOCK_D=block,
        ROWS=rows_of(block),
        num_warps=WARPS,
    )


def rows_of(block: int) -> int:
    """Positions of one tile."""
    return min(max(TILE // block, 1), 32)
