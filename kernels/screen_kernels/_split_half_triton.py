"""The Triton kernel of `split_half`: one program per row and block of columns."""

# Triton ships no types.
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, untyped-decorator"

import triton
import triton.language as tl
from torch import Tensor

MOST_COLUMNS = 1024
ROOT_HALF = tl.constexpr(0.5**0.5)


@triton.jit
def split_kernel(x_ptr, half_ptr, D: tl.constexpr, BLOCK_D: tl.constexpr, GELU: tl.constexpr):
    """One program splits one block of columns of one row."""
    t = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    is_in = d < D
    y = tl.load(x_ptr + t * D + d, mask=is_in, other=0.0).to(tl.float32)
    if GELU:
        y = 0.5 * y * (1.0 + tl.erf(y * ROOT_HALF))
    high = y.to(tl.float16)
    low = (y - high.to(tl.float32)).to(tl.float16)
    tl.store(half_ptr + t * (2 * D) + d, high, mask=is_in)
    tl.store(half_ptr + t * (2 * D) + D + d, low, mask=is_in)


def launch(x_TD: Tensor, activation: str, half_T2D: Tensor) -> None:
    """Writes into `half_T2D`, which must be contiguous; `split_half` says what the arguments are."""
    width = x_TD.shape[-1]
    if not x_TD.numel():
        return
    block = min(triton.next_power_of_2(width), MOST_COLUMNS)
    split_kernel[(x_TD.numel() // width, triton.cdiv(width, block))](
        x_TD.contiguous(),
        half_T2D,
        D=width,
        BLOCK_D=block,
        GELU=activation == "gelu",
        num_warps=warps_of(block),
    )


def warps_of(block: int) -> int:
    """Eight numbers per thread."""
    return max(block // 256, 1)
