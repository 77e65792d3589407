"""Edits of a rank-ordered token row: mask, pad, delete, overexpress.

`edit_row_reference` is the definition. Whatever is faster must equal it, integer for integer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

PAD, MASK = 0, 1


def edit_row_reference(row_L: Tensor, genes: Sequence[int], mode: str, site: str) -> Tensor:
    """The edited row, same width, same dtype; the input is left alone.

    row_L   one padded row of token ids before any condition token is prepended; width L counts: a full row has no room
    genes   token ids to edit, in the row's own id space; order and repeats matter for overexpress only
    mode    mask         each occurrence becomes MASK
            pad          each occurrence becomes PAD, leaving a hole inside the row
            delete       occurrences *and every PAD* go, the rest closes up to the left
            overexpress  as delete, cut to L - len(genes), then the genes are inserted: at the front (tgt), or behind
                         whatever stands in column 0 (src: <cls>; a PAD if the row is empty)
    Source: PerturbGen a9a9375, behaviour checked by execution (golden/edited_ids.npz).
    """
    is_hit = torch.isin(row_L, torch.as_tensor(list(genes), dtype=row_L.dtype))
    if mode == "mask":
        return row_L.masked_fill(is_hit, MASK)
    if mode == "pad":
        return row_L.masked_fill(is_hit, PAD)
    compact = torch.zeros_like(row_L)
    rest = row_L[~is_hit & (row_L != PAD)]
    compact[: len(rest)] = rest
    if mode == "delete":
        return compact
    if mode != "overexpress":
        raise ValueError(f'mode is "{mode}"; allowed: mask, pad, delete, overexpress')
    n_kept = max(len(row_L) - len(genes), 0)
    n_front = min(1, n_kept) if site == "src" else 0
    inserted = torch.as_tensor(list(genes), dtype=row_L.dtype)
    return torch.cat([compact[:n_front], inserted, compact[n_front:n_kept]])[: len(row_L)]
