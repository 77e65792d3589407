"""The first Triton kernel of `attention_change_rows`: the change in one pass over keys. It has not run on a GPU yet."""

# Triton ships no types.
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, untyped-decorator"

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from screen_kernels.delta import attention
from screen_kernels.delta._whole_rows_triton import BLOCK_K as WHOLE_BLOCK_K
from screen_kernels.delta._whole_rows_triton import ROWS, whole_kernel
from screen_kernels.delta._whole_rows_triton import STAGES as WHOLE_STAGES
from screen_kernels.delta.ragged import RaggedRows
from screen_kernels.delta.scaled import Scaled

WARPS = 4
LOG2_E = tl.constexpr(math.log2(math.e))
WEIGHT_SCALE = tl.constexpr(attention.WEIGHT_SCALE)
SMALL = tl.constexpr(0.25)
"""Below this the first seven terms of the series are closer than subtracting."""
LEAST = tl.constexpr(attention.LEAST_SUM)
MOST = tl.constexpr(attention.MOST_WEIGHT)
MOST_SHIFT = tl.constexpr(64.0)
"""Above this a score's rise may bring back a weight that was 0 in float32: such rows are computed whole as well."""


class Tile(NamedTuple):
    """Rows and keys of one step, and how many steps are under way at once."""

    n_rows: int
    n_keys: int
    n_stages: int


HALF, PAIRS, FULL = Tile(64, 32, 3), Tile(64, 16, 3), Tile(32, 16, 2)
"""Where products are float16, where scores are of pairs of float16, where all are float32 made of three tf32 ones.

No larger tile does without spills on both sm_80 and sm_90; on sm_90 alone pairs can have 32 keys.
"""


def tile_of(is_half: bool, has_pairs: bool) -> Tile:
    """Of one launch."""
    return PAIRS if has_pairs else HALF if is_half else FULL


@triton.jit
def expm1_series(x):
    """exp(x) - 1 where x is small, without the loss of subtracting."""
    series = 1.0 / 120.0 + x * (1.0 / 720.0 + x * (1.0 / 5040.0))
    series = 0.5 + x * (1.0 / 6.0 + x * (1.0 / 24.0 + x * series))
    return x + x * (x * series)


@triton.jit
def product(a, b, HALF: tl.constexpr):
    """In float16, else as good as float32: three products of tf32 numbers."""
    if HALF:
        return tl.dot(a.to(tl.float16), b.to(tl.float16))
    return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="tf32x3")


@triton.jit
def product_of_pairs(a, b):
    """Of float32 numbers as sums of two float16 ones; what is left out is a 2^-22th."""
    a_high = a.to(tl.float16)
    b_high = b.to(tl.float16)
    a_low = (a - a_high.to(tl.float32)).to(tl.float16)
    b_low = (b - b_high.to(tl.float32)).to(tl.float16)
    return tl.dot(a_high, b_high, tl.dot(a_high, b_low, tl.dot(a_low, b_high)))


@triton.jit
def change_kernel(
    query_ptr, key_ptr, value_ptr, out_ptr, log_sum_ptr, before_ptr,
    dq_ptr, dk_ptr, dv_ptr, after_ptr,
    whole_ptr, change_ptr,
    tile_ptr, cell_ptr, start_qb_ptr, start_qc_ptr, start_kb_ptr, start_kc_ptr,
    query_stride, key_stride, value_stride, dq_stride, dk_stride, dv_stride,
    score_scale, dq_unit, dk_unit, dv_unit, scale,
    H: tl.constexpr, A: tl.constexpr, BLOCK_A: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_K: tl.constexpr,
    HAS_DQ: tl.constexpr, HAS_DK: tl.constexpr, HAS_DV: tl.constexpr, HALF: tl.constexpr, HAS_PAIRS: tl.constexpr,
):  # fmt: skip
    """One program computes one head of one tile of rows of one item, and flags the rows that are to be computed whole."""
    h = tl.program_id(1)
    b = tl.load(tile_ptr + 2 * tl.program_id(0))
    cell = tl.load(cell_ptr + b)
    start_qb = tl.load(start_qb_ptr + b)
    start_kb = tl.load(start_kb_ptr + b)
    n_queries = (tl.load(start_qb_ptr + b + 1) - start_qb).to(tl.int32)
    n_keys = (tl.load(start_kb_ptr + b + 1) - start_kb).to(tl.int32)
    start_qc = tl.load(start_qc_ptr + cell)
    start_kc = tl.load(start_kc_ptr + cell)
    row = tl.load(tile_ptr + 2 * tl.program_id(0) + 1) + tl.program_id(2) * BLOCK_L + tl.arange(0, BLOCK_L)
    a = tl.arange(0, BLOCK_A)[None, :]
    is_row = row < n_queries
    in_q = is_row[:, None] & (a < A)
    query = tl.load(
        query_ptr + (start_qc * query_stride + h * A) + row[:, None] * query_stride + a, mask=in_q, other=0.0
    )
    # dS = dq k + (q + dq) dk, so that keys are read as they are
    query_after = query.to(tl.float32)
    dq = query
    if HAS_DQ:
        dq = tl.load(dq_ptr + (start_qb * dq_stride + h * A) + row[:, None] * dq_stride + a, mask=in_q, other=0.0)
        query_after += dq.to(tl.float32) * dq_unit
    log_sum = tl.load(log_sum_ptr + (start_qc + row) * H + h, mask=is_row, other=0.0)
    mixed = tl.zeros([BLOCK_L, BLOCK_A], tl.float32)
    rise = tl.zeros([BLOCK_L], tl.float32)
    most = tl.zeros([BLOCK_L], tl.float32)
    n_was = tl.zeros([BLOCK_K], tl.int32)
    n_now = tl.zeros([BLOCK_K], tl.int32)
    for first in range(0, n_keys, BLOCK_K):
        column = first + tl.arange(0, BLOCK_K)
        is_column = column < n_keys
        in_k = is_column[:, None] & (a < A)
        was = tl.load(before_ptr + start_kc + column, mask=is_column, other=0) != 0
        now = tl.load(after_ptr + start_kb + column, mask=is_column, other=0) != 0
        n_was += was.to(tl.int32)
        n_now += now.to(tl.int32)
        key = tl.load(
            key_ptr + (start_kc * key_stride + h * A) + column[:, None] * key_stride + a, mask=in_k, other=0.0
        )
        value = tl.load(
            value_ptr + (start_kc * value_stride + h * A) + column[:, None] * value_stride + a, mask=in_k, other=0.0
        )
        score = product_of_pairs(query, tl.trans(key)) if HAS_PAIRS else product(query, tl.trans(key), HALF)
        score = score * score_scale - log_sum[:, None]
        before = tl.exp2(tl.where((was | now)[None, :], score, -float("inf")) * LOG2_E)
        shift = tl.zeros([BLOCK_L, BLOCK_K], tl.float32)
        if HAS_DK:
            dk_at = dk_ptr + (start_kb * dk_stride + h * A) + column[:, None] * dk_stride + a
            shift += product(query_after, tl.trans(tl.load(dk_at, mask=in_k, other=0.0)), HALF) * (
                dk_unit * score_scale
            )
        if HAS_DQ:
            shift += product(dq, tl.trans(key), HALF) * (dq_unit * score_scale)
        # a key that leaves falls to no weight; what becomes of its own change is of no use, and may be anything
        shift = tl.where(now[None, :], shift, -float("inf"))
        growth = tl.exp2(shift * LOG2_E)
        relative = tl.where(tl.abs(shift) < SMALL, expm1_series(shift), growth - 1.0)
        weight = before * tl.where((now & (was == 0))[None, :], growth, relative)
        rise += tl.sum(weight, axis=1)
        most = tl.maximum(most, tl.max(tl.maximum(tl.abs(weight), shift * (MOST / MOST_SHIFT)), axis=1))
        mixed += product(weight * WEIGHT_SCALE, value, HALF)
        if HAS_PAIRS:
            moved = was != now
            # rare; an error of such a value is the same in every row, and no mean makes it smaller
            if tl.sum(moved.to(tl.int32), axis=0) > 0:
                low = tl.where(moved[:, None], value - value.to(tl.float16).to(tl.float32), 0.0)
                mixed += product(weight * WEIGHT_SCALE, low, HALF)
        if HAS_DV:
            dv_at = dv_ptr + (start_kb * dv_stride + h * A) + column[:, None] * dv_stride + a
            dv = tl.where(now[:, None], tl.load(dv_at, mask=in_k, other=0.0), 0.0)
            mixed += product(before * growth * (WEIGHT_SCALE * dv_unit), dv, HALF)
    out = tl.load(out_ptr + ((start_qc + row) * (H * A) + h * A)[:, None] + a, mask=in_q, other=0.0)
    total = 1.0 + rise
    change = tl.div_rn(mixed * (1.0 / WEIGHT_SCALE) - rise[:, None] * out, total[:, None])
    tl.store(change_ptr + ((start_qb + row) * (H * A) + h * A)[:, None] + a, change * scale, mask=in_q)
    is_first_key = (tl.sum(n_was, axis=0) == 0) & (tl.sum(n_now, axis=0) > 0)
    # not (a < b): NaN is to be computed whole too
    is_fine = (total >= LEAST) & (most <= MOST)
    tl.store(whole_ptr + start_qb + row, 1, mask=is_row & ((is_fine == 0) | is_first_key))


def launch(
    queries: RaggedRows,
    keys: RaggedRows,
    control: attention.AttentionRows,
    dq: Scaled | None,
    dk: Scaled | None,
    dv: Scaled | None,
    keep_U: Tensor,
    whole_T: Tensor,
    change: Scaled,
) -> None:
    """Writes into the last two, which must be contiguous; `attention_change_rows` says what the arguments are.

    whole_T  int8, not 0 where a row is to be computed whole; such rows are added
    """
    n_tiles, n_heads, width = len(queries.tile_X2), control.n_heads, control.head_width
    if not n_tiles or not change.values.numel():
        return
    q, k, v = (_even(x) for x in (control.query_MI, control.key_NI, control.value_NI))
    differences = [(d, control_x) for d, control_x in ((dq, q), (dk, k), (dv, v))]
    stored = [x if d is None else _even(d.values) for d, x in differences]
    units = [1.0 if d is None else 1 / d.scale for d, _ in differences]
    out_MI, before_N = control.out_MI.contiguous(), control.keep_N.view(torch.int8).contiguous()
    places = queries.tile_X2, queries.cell_B, queries.start_B1, queries.start_C1, keys.start_B1, keys.start_C1
    strides = [x.stride(0) for x in (q, k, v, *stored)]
    shared = *stored, keep_U.view(torch.int8).contiguous(), whole_T, change.values, *places, *strides
    numbers = width**-0.5, *units, change.scale
    has = {f"HAS_D{x}": d is not None for x, (d, _) in zip("QKV", differences, strict=True)}
    sizes = {"H": n_heads, "A": width, "BLOCK_A": max(triton.next_power_of_2(width), 16)}
    kept = [change.values, *(d.values for d, _ in differences if d is not None)]
    is_half = all(x.dtype == torch.float16 for x in kept)
    has_pairs = is_half and torch.float32 in (q.dtype, k.dtype, v.dtype)
    tile = tile_of(is_half, has_pairs)
    block, log_sum_MH = min(tile.n_rows, queries.tile), control.log_sum_MH.contiguous()
    change_kernel[(n_tiles, n_heads, queries.tile // block)](
        q, k, v, out_MI, log_sum_MH, before_N, *shared, *numbers, **sizes, **has, BLOCK_L=block,
        BLOCK_K=min(tile.n_keys, queries.tile), HALF=is_half, HAS_PAIRS=has_pairs, num_warps=WARPS, num_stages=tile.n_stages,
    )  # fmt: skip
    whole_kernel[(n_tiles, n_heads)](
        q, k, v, out_MI, control.value_mean_CI.contiguous(), before_N, *shared, *numbers, **sizes, **has,
        BLOCK_L=queries.tile, BLOCK_K=WHOLE_BLOCK_K, ROWS=ROWS, num_warps=WARPS, num_stages=WHOLE_STAGES,
    )  # fmt: skip


def _even(x: Tensor) -> Tensor:
    """Rows may lie apart, as columns of a wider product do; numbers of a row may not."""
    return x if x.stride(1) == 1 else x.contiguous()
