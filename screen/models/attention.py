"""Softmax attention: the definition, and what is faster where it is."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def attend(query_BHLA: Tensor, key_BHKA: Tensor, value_BHKA: Tensor, keep_BK: Tensor | None) -> Tensor:
    """Softmax attention over the kept keys; a row that keeps no key gives exactly 0.

    keep_BK is boolean, None keeps every key. Scores are scaled by 1/sqrt(A). Returns (B, H, L, A). Queries, or keys and
    values, may have batch size 1 where all rows share them.
    """
    n_rows = max(len(query_BHLA), len(key_BHKA))
    query_BHLA, key_BHKA, value_BHKA = (
        x if len(x) == n_rows else x.expand(n_rows, -1, -1, -1) for x in (query_BHLA, key_BHKA, value_BHKA)
    )
    if keep_BK is None:
        return F.scaled_dot_product_attention(query_BHLA, key_BHKA, value_BHKA)
    mask = keep_BK[:, None, None, :]
    out = F.scaled_dot_product_attention(query_BHLA, key_BHKA, value_BHKA, attn_mask=mask)
    return torch.where(mask.any(-1, keepdim=True), out, torch.zeros_like(out))


def attend_by_length(
    query_BHLA: Tensor, key_BHKA: Tensor, value_BHKA: Tensor, keep_BK: Tensor | None, onednn_from: int
) -> Tensor:
    """`attend_by_products` from so many keys on, torch's own attention below: short rows do not pay for the calls."""
    attend_with = attend_by_products if key_BHKA.shape[2] >= onednn_from else attend
    return attend_with(query_BHLA, key_BHKA, value_BHKA, keep_BK)


def attend_by_products(query_BHLA: Tensor, key_BHKA: Tensor, value_BHKA: Tensor, keep_BK: Tensor | None) -> Tensor:
    """`attend` on a CPU, head by head, its two products by oneDNN: faster than torch's own where MKL is slow.

    One head's scores (L x K float32) stay in the cache between the products.
    """
    product, softmax = torch.ops.mkldnn._linear_pointwise.default, torch.softmax
    n_rows, n_heads, width = max(len(query_BHLA), len(key_BHKA)), query_BHLA.shape[1], query_BHLA.shape[-1]
    heads = [_heads(x, n_rows) for x in (query_BHLA * width**-0.5, key_BHKA, value_BHKA.transpose(-1, -2))]
    if keep_BK is None:
        out = [
            product(softmax(product(q, k, None, "none", [], ""), -1), v, None, "none", [], "")
            for q, k, v in zip(*heads, strict=True)
        ]
    else:
        away = (~keep_BK).expand(n_rows, -1).repeat_interleave(n_heads, 0).unbind()
        out = []
        for q, k, v, away_K in zip(*heads, away, strict=True):
            score_LK = product(q, k, None, "none", [], "").masked_fill_(away_K, -torch.inf)
            out.append(product(softmax(score_LK, -1), v, None, "none", [], ""))
    mixed_BHLA = torch.stack(out).view(n_rows, n_heads, -1, width)
    if keep_BK is None:
        return mixed_BHLA
    return torch.where(keep_BK.any(-1)[:, None, None, None], mixed_BHLA, torch.zeros(()))


def _heads(x_BHXY: Tensor, n_rows: int) -> list[Tensor]:
    """The matrices of every row and head, one after another; a row that all share is repeated, not copied."""
    heads = list(x_BHXY.contiguous().flatten(0, 1).unbind())
    return heads if len(x_BHXY) == n_rows else heads * n_rows


def attend_in_bfloat16(query_BHLA: Tensor, key_BHKA: Tensor, value_BHKA: Tensor, keep_BK: Tensor | None) -> Tensor:
    """`attend` with inputs rounded to bfloat16; float32 out."""
    query, key, value = (x.bfloat16() for x in (query_BHLA, key_BHKA, value_BHKA))
    return attend(query, key, value, keep_BK).float()
