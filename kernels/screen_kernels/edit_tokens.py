"""Edits of rank-ordered token rows, by the modes of `screen.edits`.

`edit_row_reference` is the definition of one row, `edit_tokens_reference` of a batch. Whatever is faster must equal
them, integer for integer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from screen import edits
from screen.edits import Site
from screen_kernels.backend import choose

PAD, MASK, EOS = 0, 1, 3
"""Ids up to EOS are special; those above are genes."""
MODES = ("none", *(mode.name for mode in edits.TABLE))
"""A mode's code is its index; "none" leaves a row as it is."""
ALIGN = 8
"""Every row starts at a multiple of this many tokens."""
MAX_GENES = 16
"""Most genes of one row that the Triton kernel edits: each is a register per thread."""


def edit_row_reference(row_L: Tensor, genes: Sequence[int], mode: str, site: str) -> Tensor:
    """The edited row, same width, same dtype; the input is left alone.

    row_L   one padded row of token ids before any condition token is prepended; width L counts: a full row has no room
    genes   token ids to edit, in the row's own id space; order and repeats matter for overexpress only
    mode    a mode of the table, with its parameter
            mask         each occurrence becomes MASK
            pad          each occurrence becomes PAD, leaving a hole inside the row
            delete       occurrences *and every PAD* go, the rest closes up to the left
            overexpress  as delete, cut to L - len(genes), then the genes are inserted: at the front (tgt), or behind
                         whatever stands in column 0 (src: <cls>; a PAD if the row is empty)
            shift+K      each occurrence moves K places towards the front among the row's genes, which close up behind it
            shift-K      likewise towards the end. Special ids keep their places wherever they are, so no gene passes <cls>
                         or <eos> or comes to stand among pads. Those that come to an end queue there in their order:
                         the i-th of m occurrences, of rank r among n genes, gets rank min(max(r - K, i), n - m + i)
    Raises UnknownModeError, which is a ValueError.
    Source: PerturbGen a9a9375, behaviour checked by execution (golden/edited_ids.npz).
    """
    edit = edits.parse(mode)
    what = edit.mode
    is_hit = torch.isin(row_L, torch.as_tensor(list(genes), dtype=row_L.dtype))
    if what is edits.MASK:
        return row_L.masked_fill(is_hit, MASK)
    if what is edits.PAD:
        return row_L.masked_fill(is_hit, PAD)
    if what is edits.SHIFT:
        return _shifted_row(row_L, is_hit, edit.parameter)
    compact = torch.zeros_like(row_L)
    rest = row_L[~is_hit & (row_L != PAD)]
    compact[: len(rest)] = rest
    if what is edits.DELETE:
        return compact
    assert what is edits.OVEREXPRESS, f"{mode} is in the table and has no definition"
    n_kept = max(len(row_L) - len(genes), 0)
    n_front = min(1, n_kept) if site == "src" else 0
    inserted = torch.as_tensor(list(genes), dtype=row_L.dtype)
    return torch.cat([compact[:n_front], inserted, compact[n_front:n_kept]])[: len(row_L)]


def _shifted_row(row_L: Tensor, is_hit_L: Tensor, n_places: int) -> Tensor:
    at = (row_L > EOS).nonzero()[:, 0]
    genes, hits = row_L[at].tolist(), is_hit_L[at].nonzero()[:, 0].tolist()
    n_others = len(genes) - len(hits)
    gene_at = {min(max(rank - n_places, i), n_others + i): genes[rank] for i, rank in enumerate(hits)}
    others = (gene for rank, gene in enumerate(genes) if rank not in hits)
    shifted_L = row_L.clone()
    shifted_L[at] = row_L.new_tensor([gene_at[r] if r in gene_at else next(others) for r in range(len(genes))])
    return shifted_L


@dataclass(frozen=True)
class AlignedRows:
    """C rows of token ids on a device: row c is token_T[start_C[c] : start_C[c] + length_C[c]].

    token_T   int32, no id below PAD; what lies between two rows is PAD
    start_C   int64, multiples of ALIGN
    length_C  int32
    """

    token_T: Tensor
    start_C: Tensor
    length_C: Tensor

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest row; waits for the device once."""
        return int(self.length_C.max()) if len(self.length_C) else 0


@dataclass(frozen=True)
class EditedRows:
    """B edited rows, right-padded: ids_BL int32, keep_BL bool (id is not PAD), length_B int32.

    length_B is 1 + the position of the last id that is not PAD, 0 if there is none.
    """

    ids_BL: Tensor
    keep_BL: Tensor
    length_B: Tensor


def align_rows(
    token_T: Tensor | NDArray[Any], offset_C1: Tensor | NDArray[Any], device: torch.device | str
) -> AlignedRows:
    """Ragged rows, row c = token_T[offset_C1[c] : offset_C1[c + 1]], copied so that each starts at a multiple of ALIGN.

    The last row is followed by at least ALIGN pads, so a kernel may read whole groups of ALIGN tokens.
    """
    offset_C1 = np.asarray(offset_C1, dtype=np.int64)
    length_C = np.diff(offset_C1)
    start_C1 = np.zeros_like(offset_C1)
    np.cumsum(-(-length_C // ALIGN) * ALIGN, out=start_C1[1:])
    first, last = offset_C1[0], offset_C1[-1]
    place_T = np.arange(first, last) + np.repeat(start_C1[:-1] - offset_C1[:-1], length_C)
    aligned_T = np.full(start_C1[-1] + ALIGN, PAD, dtype=np.int32)
    aligned_T[place_T] = np.asarray(token_T)[first:last]
    arrays = (aligned_T, start_C1[:-1], length_C.astype(np.int32))
    return AlignedRows(*(torch.from_numpy(a).to(device) for a in arrays))


def edit_tokens(
    rows: AlignedRows,
    cell_B: Tensor,
    gene_BK: Tensor,
    mode_B: Tensor,
    parameter_B: Tensor | None = None,
    *,
    site: Site,
    width: int,
    out_width: int,
    backend: str | None = None,
) -> EditedRows:
    """Row cell_B[b] of `rows`, edited as mode_B[b] says with the genes of gene_BK[b], for every b of a batch.

    cell_B     (B,) integer
    gene_BK    (B, K) int32 in the rows' own id space; -1 is no gene and stands right of every gene; never a special id
    mode_B     (B,) int8, codes of the table of modes; 0 is no edit
    parameter_B  (B,) int32, of the modes that have one; None: no item's has
    width      where a row is cut before it is edited: the width L of `edit_row_reference`, what "full" means
    out_width  how many ids are written; a multiple of 16 makes the kernel's stores 16 bytes wide
    Triton takes at most MAX_GENES genes (more go to torch unasked), unique per item, and deletes or overexpresses only
    in rows whose tokens are unique with no PAD before the last of them, and shifts only where besides all genes stand side
    by side. Nothing checks for such repeats, pads or special ids: send those rows to `backend="torch"`, which takes any.
    Raises ValueError for an unknown site, shapes that do not match, more than MAX_GENES where triton was requested, or a
    code that is not in the table (on a GPU, which is not waited for, no code is looked at).
    """
    _check(cell_B, gene_BK, mode_B, parameter_B, site)
    if parameter_B is None:
        parameter_B = torch.zeros(len(mode_B), dtype=torch.int32, device=mode_B.device)
    if backend is None and gene_BK.shape[1] > MAX_GENES:
        backend = "torch"
    if choose(rows.token_T, backend) == "torch":
        return _edit_tokens_torch(rows, cell_B, gene_BK, mode_B, parameter_B, site, width, out_width)
    if gene_BK.shape[1] > MAX_GENES:
        raise ValueError(f'{gene_BK.shape[1]} genes per item; the kernel takes {MAX_GENES}; say backend="torch"')
    from screen_kernels import _edit_tokens_triton

    edited = EditedRows(
        rows.token_T.new_empty(len(cell_B), out_width),
        torch.empty(len(cell_B), out_width, dtype=torch.bool, device=cell_B.device),
        rows.token_T.new_empty(len(cell_B)),
    )
    _edit_tokens_triton.launch(rows, cell_B, gene_BK, mode_B, parameter_B, site, width, edited)
    return edited


def edit_tokens_reference(
    rows: AlignedRows,
    cell_B: Tensor,
    gene_BK: Tensor,
    mode_B: Tensor,
    parameter_B: Tensor | None = None,
    *,
    site: Site,
    width: int,
    out_width: int,
) -> EditedRows:
    """The definition of `edit_tokens`: `edit_row_reference`, row by row."""
    _check(cell_B, gene_BK, mode_B, parameter_B, site)
    ids_BL = rows.token_T.new_full((len(cell_B), out_width), PAD)
    for b, cell in enumerate(cell_B.tolist()):
        start, length = int(rows.start_C[cell]), min(int(rows.length_C[cell]), width)
        row_L = rows.token_T.new_full((width,), PAD)
        row_L[:length] = rows.token_T[start : start + length]
        code, parameter = int(mode_B[b]), 0 if parameter_B is None else int(parameter_B[b])
        if code != edits.NO_EDIT:
            mode = str(edits.numbered(code, parameter))
            row_L = edit_row_reference(row_L, [g for g in gene_BK[b].tolist() if g != -1], mode, site)
        ids_BL[b, : min(width, out_width)] = row_L[:out_width]
    return _described(ids_BL)


def _check(cell_B: Tensor, gene_BK: Tensor, mode_B: Tensor, parameter_B: Tensor | None, site: str) -> None:
    if site not in ("src", "tgt"):
        raise ValueError(f'site is "{site}"; allowed: src, tgt')
    if parameter_B is not None and len(parameter_B) != len(mode_B):
        raise ValueError(
            f"parameter_B has shape {tuple(parameter_B.shape)} beside {len(mode_B)} items; it must be (B,)"
        )
    if not mode_B.is_cuda and len(mode_B) and not 0 <= int(mode_B.min()) <= int(mode_B.max()) < len(MODES):
        raise ValueError(f"mode_B holds {sorted(set(mode_B.tolist()))}; allowed: 0 to {len(MODES) - 1}, {MODES}")
    if gene_BK.ndim != 2 or not len(cell_B) == len(gene_BK) == len(mode_B):
        shapes = [tuple(t.shape) for t in (cell_B, gene_BK, mode_B)]
        raise ValueError(f"cell_B, gene_BK, mode_B have shapes {shapes}; they must be (B,), (B, K), (B,)")


def _described(ids_BL: Tensor) -> EditedRows:
    """Ids with what follows from them."""
    keep_BL = ids_BL != PAD
    place_L = torch.arange(1, ids_BL.shape[1] + 1, dtype=torch.int32, device=ids_BL.device)
    length_B = (keep_BL * place_L).amax(1) if len(place_L) else ids_BL.new_zeros(len(ids_BL))
    return EditedRows(ids_BL, keep_BL, length_B)


def _edit_tokens_torch(
    rows: AlignedRows,
    cell_B: Tensor,
    gene_BK: Tensor,
    mode_B: Tensor,
    parameter_B: Tensor,
    site: str,
    width: int,
    out_width: int,
) -> EditedRows:
    """All rows at once; any row that the definition takes."""
    if not gene_BK.shape[1]:
        gene_BK = gene_BK.new_full((len(gene_BK), 1), -1)
    device, mode_B1 = rows.token_T.device, mode_B[:, None]
    n_columns = max(min(width, rows.longest), 1)
    column_L = torch.arange(n_columns, device=device)
    cell_B = cell_B.long()
    is_token_BL = column_L < rows.length_C[cell_B].clamp(max=width)[:, None]
    at_BL = (rows.start_C[cell_B][:, None] + column_L).clamp_(max=len(rows.token_T) - 1)
    row_BL = torch.where(is_token_BL, rows.token_T[at_BL], PAD)

    is_hit_BL = _is_listed(row_BL, gene_BK)
    is_over_B1 = mode_B1 == edits.OVEREXPRESS.code
    is_closed_B1 = is_over_B1 | (mode_B1 == edits.DELETE.code)
    for mode, replacement in ((edits.MASK, MASK), (edits.PAD, PAD)):
        row_BL = row_BL.masked_fill_(is_hit_BL & (mode_B1 == mode.code), replacement)
    shifts = (mode_B == edits.SHIFT.code).nonzero()[:, 0]
    if len(shifts):
        row_BL[shifts] = _shifted(row_BL[shifts], is_hit_BL[shifts], parameter_B[shifts, None])
    # A stable partition, no place written twice: what stays, in order, then what goes, as PAD.
    goes_BL = is_closed_B1 & (is_hit_BL | (row_BL == PAD))
    n_gone_BL = goes_BL.cumsum(1)
    to_BL = torch.where(goes_BL, n_columns - n_gone_BL[:, -1:] + n_gone_BL - 1, column_L - n_gone_BL)
    closed_BL = torch.empty_like(row_BL).scatter_(1, to_BL, row_BL.masked_fill_(goes_BL, PAD))

    n_genes_B1 = (gene_BK != -1).sum(1, keepdim=True)
    front_B1 = (n_genes_B1 < width).long() if site == "src" else torch.zeros_like(n_genes_B1)
    out_L = torch.arange(out_width, device=device)
    rank_BL = out_L - front_B1
    is_new_BL = is_over_B1 & (rank_BL >= 0) & (rank_BL < n_genes_B1)
    from_BL = out_L - n_genes_B1 * (is_over_B1 & (rank_BL >= 0))
    is_old_BL = (from_BL < n_columns) & (out_L < width) & ~is_new_BL
    ids_BL = torch.where(is_old_BL, closed_BL.gather(1, from_BL.clamp(0, n_columns - 1)), PAD)
    new_BL = gene_BK.to(ids_BL.dtype).gather(1, rank_BL.clamp(0, gene_BK.shape[1] - 1))
    return _described(torch.where(is_new_BL & (out_L < width), new_BL, ids_BL))


def _shifted(row_BL: Tensor, is_hit_BL: Tensor, n_places_B1: Tensor) -> Tensor:
    """All rows of `_shifted_row` at once."""
    is_gene_BL, column_L = row_BL > EOS, torch.arange(row_BL.shape[1], device=row_BL.device)
    is_hit_BL = is_hit_BL & is_gene_BL
    rank_BL, hit_BL = is_gene_BL.cumsum(1) - 1, is_hit_BL.cumsum(1) - 1
    n_others_B1 = rank_BL[:, -1:] - hit_BL[:, -1:]
    # other genes, then hits, then special ids, each in order
    special_BL = column_L + rank_BL[:, -1:] - rank_BL
    to_BL = torch.where(is_hit_BL, n_others_B1 + hit_BL, torch.where(is_gene_BL, rank_BL - hit_BL - 1, special_BL))
    parted_BL = torch.empty_like(row_BL).scatter_(1, to_BL, row_BL)
    # which ranks hits get; the last column is a bin for what is no hit
    new_BL = torch.minimum(torch.maximum(rank_BL - n_places_B1, hit_BL), n_others_B1 + hit_BL)
    new_BL = torch.where(is_hit_BL, new_BL, row_BL.shape[1])
    is_taken_BL1 = is_hit_BL.new_zeros(len(row_BL), row_BL.shape[1] + 1).scatter_(1, new_BL, True)
    n_taken_BL = is_taken_BL1[:, :-1].cumsum(1)
    from_BL = torch.where(is_taken_BL1[:, :-1], n_others_B1 + n_taken_BL - 1, column_L - n_taken_BL)
    gene_BL = parted_BL.gather(1, from_BL.gather(1, rank_BL.clamp_min(0)))
    return torch.where(is_gene_BL, gene_BL, row_BL)


def _is_listed(row_BL: Tensor, gene_BK: Tensor) -> Tensor:
    """(B, L) bool: the id is one of the row's genes. No (B, L, K) array is made; an id is never -1."""
    n_genes = gene_BK.shape[1]
    if n_genes <= 4:
        is_hit_BL = row_BL == gene_BK[:, :1]
        for k in range(1, n_genes):
            is_hit_BL |= row_BL == gene_BK[:, k : k + 1]
        return is_hit_BL
    sorted_BK = gene_BK.to(row_BL.dtype).sort(1).values.contiguous()
    place_BL = torch.searchsorted(sorted_BK, row_BL.contiguous()).clamp_(max=n_genes - 1)
    return sorted_BK.gather(1, place_BL) == row_BL


def edit_tokens_bytes(n_tokens_read: int, n_items: int, out_width: int, n_genes: int) -> int:
    """Bytes moved at least: rows read once, ids, keep and lengths written once. FLOPs are 0: integers only."""
    per_item = out_width * (4 + 1) + 4 + n_genes * 4 + (8 + 8 + 4 + 1 + 4)
    return n_tokens_read * 4 + n_items * per_item
