"""The Triton kernel of `add_norm`: one program per row, which stays in registers."""

# Triton ships no types.
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, untyped-decorator"

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def norm_kernel(
    x_ptr,
    update_ptr,
    weight_ptr,
    bias_ptr,
    normed_ptr,
    eps,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One program adds and normalises one row."""
    t = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK_D)
    is_in = d < D
    x = tl.load(x_ptr + t * D + d, mask=is_in, other=0.0).to(tl.float32)
    x += tl.load(update_ptr + t * D + d, mask=is_in, other=0.0).to(tl.float32)
    centred = tl.where(is_in, x - tl.sum(x, axis=0) / D, 0.0)
    scale = tl.div_rn(1.0, tl.sqrt_rn(tl.sum(centred * centred, axis=0) / D + eps))
    weight = tl.load(weight_ptr + d, mask=is_in, other=0.0)
    bias = tl.load(bias_ptr + d, mask=is_in, other=0.0)
    normed = centred * scale * weight + bias
    tl.store(normed_ptr + t * D + d, normed, mask=is_in)


def launch(
    x_TD: Tensor,
    update_TD: Tensor,
    weight_D: Tensor,
    bias_D: Tensor,
    eps: float,
    normed_TD: Tensor,
) -> None:
    """Writes into the last, which must be contiguous; `add_norm` says what the arguments are."""
    width = x_TD.shape[-1]
    if not x_TD.numel():
        return
    block = triton.next_power_of_2(width)
    norm_kernel[(x_TD.numel() // width,)](
        x_TD.contiguous(),
        update_TD.contiguous(),
        weight_D.float().contiguous(),
        bias_D.float().contiguous(),
        normed_TD,
        eps,
        D=width,
        BLOCK_D=block,
        num_warps=warps_of(block),
    )


def warps_of(block: int) -> int:
    """Eight numbers per thread, up to sixteen warps."""
    return min(max(block // 256, 1), 16)
