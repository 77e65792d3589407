"""The Triton kernel of `edit_tokens`, in gather form: every output finds the source it comes from."""

# Triton ships no types.
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, untyped-decorator, assignment"
# Its compiler knows no starred tuple.
# ruff: noqa: RUF005

import torch
import triton
import triton.language as tl
from torch import Tensor

from screen import edits
from screen_kernels.edit_tokens import ALIGN, EOS, MASK, PAD, AlignedRows, EditedRows

CHUNK = 512
FAR = tl.constexpr(1 << 30)
ALIGN_TOKENS = tl.constexpr(ALIGN)
IS_MASK, IS_PAD = tl.constexpr(edits.MASK.code), tl.constexpr(edits.PAD.code)
IS_DELETE, IS_OVER = tl.constexpr(edits.DELETE.code), tl.constexpr(edits.OVEREXPRESS.code)
IS_SHIFT = tl.constexpr(edits.SHIFT.code)
PAD_ID, MASK_ID, EOS_ID = tl.constexpr(PAD), tl.constexpr(MASK), tl.constexpr(EOS)


@triton.jit
def find_genes(row_ptr, n_tokens, genes, K: tl.constexpr, CHUNK: tl.constexpr):
    """Positions of K genes in a row of n_tokens, and of its first gene (FAR: absent); how many genes the row has.

    Reads whole groups of ALIGN tokens.
    """
    i = tl.arange(0, CHUNK)
    first, count = tl.full([CHUNK], FAR, tl.int32), tl.zeros([CHUNK], tl.int32)
    nearest = ()
    for _ in tl.static_range(K):
        nearest = nearest + (tl.full([CHUNK], FAR, tl.int32),)
    for chunk in range(0, n_tokens, CHUNK):
        j = chunk + i
        # Constant within each group, so that the load is vectorised; behind a row there is PAD, which is no gene.
        is_read = j < (n_tokens + ALIGN_TOKENS - 1) // ALIGN_TOKENS * ALIGN_TOKENS
        token = tl.load(row_ptr + j, mask=is_read, other=PAD_ID)
        token = tl.where(j < n_tokens, token, PAD_ID)
        first = tl.minimum(first, tl.where(token > EOS_ID, j, FAR))
        count += tl.where(token > EOS_ID, 1, 0)
        closer = ()
        for k in tl.static_range(K):
            closer = closer + (tl.minimum(nearest[k], tl.where(token == genes[k], j, FAR)),)
        nearest = closer
    place = ()
    for k in tl.static_range(K):
        place = place + (tl.min(nearest[k], axis=0),)
    return place, tl.min(first, axis=0), tl.sum(count, axis=0)


@triton.jit
def edit_kernel(
    token_ptr,
    start_ptr,
    length_ptr,
    cell_ptr,
    gene_ptr,
    mode_ptr,
    parameter_ptr,
    ids_ptr,
    keep_ptr,
    edited_length_ptr,
    width,
    out_width,
    K: tl.constexpr,
    IS_SRC: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One program edits one item and writes its ids, keep flags and length."""
    b = tl.program_id(0).to(tl.int64)
    cell = tl.load(cell_ptr + b).to(tl.int64)
    row_ptr = token_ptr + tl.multiple_of(tl.load(start_ptr + cell), ALIGN_TOKENS)
    n_tokens = tl.minimum(tl.load(length_ptr + cell), width)
    mode = tl.load(mode_ptr + b).to(tl.int32)

    genes = ()
    n_genes = 0
    for k in tl.static_range(K):
        gene = tl.load(gene_ptr + b * K + k)
        n_genes += tl.where(gene >= 0, 1, 0)
        genes = genes + (gene,)
    needs_place = (mode == IS_DELETE) | (mode == IS_OVER) | (mode == IS_SHIFT)
    place, first, n_in_row = find_genes(row_ptr, tl.where(needs_place, n_tokens, 0), genes, K, CHUNK)

    n_places = tl.load(parameter_ptr + b)
    front = tl.where(n_genes < width, 1, 0) if IS_SRC else 0
    n_found = 0
    for k in tl.static_range(K):
        n_found += tl.where(place[k] < FAR, 1, 0)
    # After r tokens went before it, the token at p is missing from output p - r on: one step further to the source.
    steps = ()
    # Where a gene is put, FAR: nowhere. From the next output on, it is one step back to the source.
    slots = ()
    for k in tl.static_range(K):
        rank = 0
        for other in tl.static_range(K):
            rank += tl.where(place[other] < place[k], 1, 0)
        steps = steps + (place[k] - rank,)
        moved = tl.minimum(tl.maximum(place[k] - first - n_places, rank), n_in_row - n_found + rank)
        slot = tl.where((mode == IS_OVER) & (k < n_genes), front + k, FAR)
        slots = slots + (tl.where((mode == IS_SHIFT) & (place[k] < FAR), first + moved, slot),)
    # What a listed token becomes; -1: it stays (none), or it is never met (delete, overexpress, shift).
    becomes = tl.where(mode == IS_MASK, MASK_ID, tl.where(mode == IS_PAD, PAD_ID, -1))

    i = tl.arange(0, CHUNK)
    last = tl.zeros([CHUNK], tl.int32)
    for chunk in range(0, out_width, CHUNK):
        j = chunk + i
        closed = j
        for k in tl.static_range(K):
            closed -= tl.where(slots[k] < j, 1, 0)
        source = closed
        for k in tl.static_range(K):
            source += tl.where(steps[k] <= closed, 1, 0)
        is_token = (source < n_tokens) & (j < width)
        token = tl.load(row_ptr + source, mask=is_token, other=PAD_ID)
        for k in tl.static_range(K):
            token = tl.where(token == tl.where(becomes >= 0, genes[k], -1), becomes, token)
            token = tl.where((j == slots[k]) & (j < width), genes[k], token)
        keep = token != PAD_ID
        tl.store(ids_ptr + b * out_width + j, token, mask=j < out_width)
        tl.store(keep_ptr + b * out_width + j, keep.to(tl.int8), mask=j < out_width)
        last = tl.maximum(last, tl.where(keep & (j < out_width), j + 1, 0))
    tl.store(edited_length_ptr + b, tl.max(last, axis=0))


def launch(
    rows: AlignedRows,
    cell_B: Tensor,
    gene_BK: Tensor,
    mode_B: Tensor,
    parameter_B: Tensor,
    site: str,
    width: int,
    edited: EditedRows,
) -> None:
    """Writes into `edited`, whose arrays must be contiguous; `edit_tokens` says what the arguments are."""
    n_items, n_genes = gene_BK.shape
    if not n_items:
        return
    # Few gene counts, few compilations; -1 is no gene.
    padded_BK = gene_BK.new_full((n_items, triton.next_power_of_2(max(n_genes, 1))), -1, dtype=torch.int32)
    padded_BK[:, :n_genes] = gene_BK
    edit_kernel[(n_items,)](
        rows.token_T,
        rows.start_C,
        rows.length_C,
        cell_B.contiguous(),
        padded_BK,
        mode_B.contiguous(),
        parameter_B.contiguous(),
        edited.ids_BL,
        edited.keep_BL.view(torch.int8),
        edited.length_B,
        width,
        edited.ids_BL.shape[1],
        K=padded_BK.shape[1],
        IS_SRC=site == "src",
        CHUNK=CHUNK,
    )
