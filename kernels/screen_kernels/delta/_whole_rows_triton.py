"""The second Triton kernel of `attention_change_rows`: flagged rows, computed anew. It has not run on a GPU yet."""

# Triton ships no types.
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, untyped-decorator"

import math

import triton
import triton.language as tl

ROWS = 16
"""Flagged rows of a tile that are computed at once."""
BLOCK_K, STAGES = 16, 2
LOG2_E = tl.constexpr(math.log2(math.e))


@triton.jit
def whole_kernel(
    query_ptr, key_ptr, value_ptr, out_ptr, value_mean_ptr, before_ptr,
    dq_ptr, dk_ptr, dv_ptr, after_ptr,
    whole_ptr, change_ptr,
    tile_ptr, cell_ptr, start_qb_ptr, start_qc_ptr, start_kb_ptr, start_kc_ptr,
    query_stride, key_stride, value_stride, dq_stride, dk_stride, dv_stride,
    score_scale, dq_unit, dk_unit, dv_unit, scale,
    H: tl.constexpr, A: tl.constexpr, BLOCK_A: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_K: tl.constexpr,
    ROWS: tl.constexpr, HAS_DQ: tl.constexpr, HAS_DK: tl.constexpr, HAS_DV: tl.constexpr,
):  # fmt: skip
    """One program computes one head of the flagged rows of one tile, as good as float32: attention after, minus that before."""
    h = tl.program_id(1)
    b = tl.load(tile_ptr + 2 * tl.program_id(0))
    cell = tl.load(cell_ptr + b)
    start_qb = tl.load(start_qb_ptr + b)
    start_kb = tl.load(start_kb_ptr + b)
    n_queries = (tl.load(start_qb_ptr + b + 1) - start_qb).to(tl.int32)
    n_keys = (tl.load(start_kb_ptr + b + 1) - start_kb).to(tl.int32)
    start_qc = tl.load(start_qc_ptr + cell)
    start_kc = tl.load(start_kc_ptr + cell)
    place = tl.load(tile_ptr + 2 * tl.program_id(0) + 1) + tl.arange(0, BLOCK_L)
    flagged = (tl.load(whole_ptr + start_qb + place, mask=place < n_queries, other=0) != 0).to(tl.int32)
    rank = tl.cumsum(flagged, axis=0) - flagged
    n_flagged = tl.sum(flagged, axis=0)
    a = tl.arange(0, BLOCK_A)[None, :]
    is_a = a < A
    for first_rank in range(0, n_flagged, ROWS):
        # the flagged rows of these ranks, one behind the other
        slot = first_rank + tl.arange(0, ROWS)
        is_slot = (rank[None, :] == slot[:, None]) & (flagged != 0)[None, :]
        row = tl.sum(tl.where(is_slot, place[None, :], 0), axis=1)
        in_q = (slot < n_flagged)[:, None] & is_a
        query_at = query_ptr + (start_qc * query_stride + h * A) + row[:, None] * query_stride + a
        query = tl.load(query_at, mask=in_q, other=0.0).to(tl.float32)
        if HAS_DQ:
            dq_at = dq_ptr + (start_qb * dq_stride + h * A) + row[:, None] * dq_stride + a
            query += tl.load(dq_at, mask=in_q, other=0.0).to(tl.float32) * dq_unit
        mixed = tl.zeros([ROWS, BLOCK_A], tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        most = tl.full([ROWS], -float("inf"), tl.float32)
        n_was = tl.zeros([BLOCK_K], tl.int32)
        for first in range(0, n_keys, BLOCK_K):
            column = first + tl.arange(0, BLOCK_K)
            was = tl.load(before_ptr + start_kc + column, mask=column < n_keys, other=0) != 0
            now = tl.load(after_ptr + start_kb + column, mask=column < n_keys, other=0) != 0
            n_was += was.to(tl.int32)
            in_k = now[:, None] & is_a
            key_at = key_ptr + (start_kc * key_stride + h * A) + column[:, None] * key_stride + a
            key = tl.load(key_at, mask=in_k, other=0.0).to(tl.float32)
            value_at = value_ptr + (start_kc * value_stride + h * A) + column[:, None] * value_stride + a
            value = tl.load(value_at, mask=in_k, other=0.0).to(tl.float32)
            if HAS_DK:
                dk_at = dk_ptr + (start_kb * dk_stride + h * A) + column[:, None] * dk_stride + a
                key += tl.load(dk_at, mask=in_k, other=0.0).to(tl.float32) * dk_unit
            if HAS_DV:
                dv_at = dv_ptr + (start_kb * dv_stride + h * A) + column[:, None] * dv_stride + a
                value += tl.load(dv_at, mask=in_k, other=0.0).to(tl.float32) * dv_unit
            score = tl.dot(query, tl.trans(key), input_precision="tf32x3") * score_scale
            score = tl.where(now[None, :], score, -float("inf"))
            most_now = tl.maximum(most, tl.max(score, axis=1))
            # no key so far: -inf - -inf is no number
            base = tl.where(most_now == -float("inf"), 0.0, most_now)
            shrunk = tl.exp2((most - base) * LOG2_E)
            weight = tl.exp2((score - base[:, None]) * LOG2_E)
            total = total * shrunk + tl.sum(weight, axis=1)
            mixed = mixed * shrunk[:, None] + tl.dot(weight, value, input_precision="tf32x3")
            most = most_now
        out = tl.load(out_ptr + ((start_qc + row) * (H * A) + h * A)[:, None] + a, mask=in_q, other=0.0)
        mean = tl.load(value_mean_ptr + (cell * (H * A) + h * A) + a, mask=is_a, other=0.0)
        has_now = (total > 0.0)[:, None]
        has_was = tl.sum(n_was, axis=0) > 0
        after = tl.div_rn(mixed, tl.where(has_now, total[:, None], 1.0))
        # without a key the output is 0, not what centred values give
        after += tl.where(has_now & (has_was == 0), mean, 0.0)
        before = tl.where(has_was, out + tl.where(has_now, 0.0, mean), 0.0)
        change_at = change_ptr + ((start_qb + row) * (H * A) + h * A)[:, None] + a
        tl.store(change_at, (after - before) * scale, mask=in_q)
