"""The Triton kernel of `activation_change_rows`: one program per row and block of columns. It has not run on a GPU yet."""

# Triton ships no types.
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, untyped-decorator"

import math

import triton
import triton.language as tl
from torch import Tensor

from screen_kernels.delta.activation import SMALL
from screen_kernels.delta.ragged import RaggedRows
from screen_kernels.delta.scaled import Scaled

MOST_COLUMNS = 1024
ROOT_HALF = tl.constexpr(0.5**0.5)
DENSITY_AT_0 = tl.constexpr((2 * math.pi) ** -0.5)
BY_DERIVATIVES = tl.constexpr(SMALL)


@triton.jit
def gelu_change(h, d):
    """By derivatives where d is small, else the difference of two values; as the definition does."""
    share = 0.5 * (1.0 + tl.erf(h * ROOT_HALF))
    y = h + d
    whole = 0.5 * y * (1.0 + tl.erf(y * ROOT_HALF)) - h * share
    h2 = h * h
    density = DENSITY_AT_0 * tl.exp(-0.5 * h2)
    fifth = h * (18.0 - 11.0 * h2 + h2 * h2) * (1.0 / 120.0)
    rest = (-4.0 + 7.0 * h2 - h2 * h2) * (1.0 / 24.0) + d * fifth
    rest = h * (h2 - 4.0) * (1.0 / 6.0) + d * rest
    rest = 0.5 * (2.0 - h2) + d * rest
    return tl.where(tl.abs(d) <= BY_DERIVATIVES, d * (share + h * density + density * d * rest), whole)


@triton.jit
def activation_change_kernel(
    h_ptr,
    d_ptr,
    control_ptr,
    change_ptr,
    d_unit,
    scale,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    GELU: tl.constexpr,
):
    """One program computes the change of one block of columns of one row."""
    t = tl.program_id(0).to(tl.int64)
    m = tl.load(control_ptr + t)
    i = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    is_in = i < D
    h = tl.load(h_ptr + m * D + i, mask=is_in, other=0.0).to(tl.float32)
    d = tl.load(d_ptr + t * D + i, mask=is_in, other=0.0).to(tl.float32) * d_unit
    if GELU:
        change = gelu_change(h, d)
    else:
        y = h + d
        change = tl.where((h > 0.0) & (y > 0.0), d, tl.maximum(y, 0.0) - tl.maximum(h, 0.0))
    tl.store(change_ptr + t * D + i, change * scale, mask=is_in)


def launch(rows: RaggedRows, h_MD: Tensor, x: Scaled, kind: str, change: Scaled) -> None:
    """Writes into the last, which must be contiguous; `activation_change_rows` says what the arguments are."""
    n_rows, width = x.values.shape
    if not x.values.numel():
        return
    block = min(triton.next_power_of_2(width), MOST_COLUMNS)
    activation_change_kernel[(n_rows, triton.cdiv(width, block))](
        h_MD.contiguous(),
        x.values.contiguous(),
        rows.control_T,
        change.values,
        1 / x.scale,
        change.scale,
        D=width,
        BLOCK_D=block,
        GELU=kind == "gelu",
        num_warps=warps_of(block),
    )


def warps_of(block: int) -> int:
    """Eight numbers per thread."""
    return max(block // 256, 1)
