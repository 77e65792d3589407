"""The Triton kernel of `norm_change_rows`: one program per row, which stays in registers. It has not run on a GPU yet."""

# Triton ships no types.
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, untyped-decorator"

import triton
import triton.language as tl
from torch import Tensor

from screen_kernels.delta.ragged import RaggedRows
from screen_kernels.delta.scaled import Scaled


@triton.jit
def norm_change_kernel(
    dx_ptr,
    dupdate_ptr,
    unit_ptr,
    deviation_ptr,
    weight_ptr,
    control_ptr,
    change_ptr,
    x_unit,
    update_unit,
    scale,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    HAS_UPDATE: tl.constexpr,
):
    """One program computes the change of one row."""
    t = tl.program_id(0).to(tl.int64)
    m = tl.load(control_ptr + t)
    i = tl.arange(0, BLOCK_D)
    is_in = i < D
    d = tl.load(dx_ptr + t * D + i, mask=is_in, other=0.0).to(tl.float32) * x_unit
    if HAS_UPDATE:
        d += tl.load(dupdate_ptr + t * D + i, mask=is_in, other=0.0).to(tl.float32) * update_unit
    unit = tl.load(unit_ptr + m * D + i, mask=is_in, other=0.0).to(tl.float32)
    before = tl.load(deviation_ptr + m)
    centred = tl.where(is_in, d - tl.sum(d, axis=0) / D, 0.0)
    by = 2.0 * before * (tl.sum(unit * centred, axis=0) / D) + tl.sum(centred * centred, axis=0) / D
    after = tl.sqrt_rn(tl.maximum(before * before + by, 0.0))
    back = tl.div_rn(by, after * (before + after))
    weight = tl.load(weight_ptr + i, mask=is_in, other=0.0)
    change = weight * (tl.div_rn(centred, after) - unit * back)
    tl.store(change_ptr + t * D + i, change * scale, mask=is_in)


def launch(
    rows: RaggedRows,
    unit_MD: Tensor,
    deviation_M: Tensor,
    weight_D: Tensor,
    x: Scaled,
    update: Scaled | None,
    change: Scaled,
) -> None:
    """Writes into the last, which must be contiguous; `norm_change_rows` says what the arguments are."""
    n_rows, width = x.values.shape
    if not x.values.numel():
        return
    block = triton.next_power_of_2(width)
    norm_change_kernel[(n_rows,)](
        x.values.contiguous(),
        (x if update is None else update).values.contiguous(),
        unit_MD.contiguous(),
        deviation_M.contiguous(),
        weight_D.float().contiguous(),
        rows.control_T,
        change.values,
        1 / x.scale,
        1.0 if update is None else 1 / update.scale,
        change.scale,
        D=width,
        BLOCK_D=block,
        HAS_UPDATE=update is not None,
        num_warps=warps_of(block),
    )


def warps_of(block: int) -> int:
    """Eight numbers per thread, up to sixteen warps."""
    return min(max(block // 256, 1), 16)
