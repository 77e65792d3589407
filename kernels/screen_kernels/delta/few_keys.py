"""Few keys: attention in which a few keys change, come or leave, and all other rows ask and offer what they did.

The change of the output is then a sum of a few vectors per head: no row's scores against all keys are needed, and the product
that comes after attention is taken of these vectors.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from screen_kernels.delta.attention import LEAST_SUM, MOST_WEIGHT, AttentionControl


@dataclass(frozen=True)
class FewKeys:
    """A change of attention's output by M keys of each of B items; H heads, L rows, A the width of a head, N = 3 M.

    share_BHLN   how much every row takes of each vector
    vector_BHNA  the values as they are afterwards, by how much they changed, and as they were
    of_out_BHL1  how much every row takes of the control's output (C, H, L, A)
    at_BM        the keys' places
    own_BHMA     change of the rows there that ask anew, which have nothing of the above; is_own_BM: which do
    """

    share_BHLN: Tensor
    vector_BHNA: Tensor
    of_out_BHL1: Tensor
    out_CHLA: Tensor
    at_BM: Tensor
    own_BHMA: Tensor
    is_own_BM: Tensor

    def whole(self) -> Tensor:
        """(B, H, L, A) the change."""
        change = self.share_BHLN @ self.vector_BHNA + self.of_out_BHL1 * self.out_CHLA
        return _with_rows(change, self.at_BM, self.own_BHMA, self.is_own_BM)

    def product(self, weight_DI: Tensor, out_LHD: Tensor) -> Tensor:
        """(B, L, D) the change, heads side by side, times a weight; `out_LHD` is what `product_of_out` says."""
        n_items, n_heads, n_rows, n = self.share_BHLN.shape
        by_head = weight_DI.view(len(weight_DI), n_heads, -1)
        vector_BHND = torch.einsum("bhna,dha->bhnd", self.vector_BHNA, by_head)
        share_BLN = self.share_BHLN.permute(0, 2, 1, 3).reshape(n_items, n_rows, n_heads * n)
        change = share_BLN @ vector_BHND.flatten(1, 2)
        change = change + (self.of_out_BHL1[..., 0].permute(2, 0, 1) @ out_LHD).transpose(0, 1)
        own_BMD = F.linear(self.own_BHMA.transpose(1, 2).flatten(2), weight_DI)
        return _with_rows(change[:, None], self.at_BM, own_BMD[:, None], self.is_own_BM)[:, 0]


def product_of_out(control: AttentionControl, weight_DI: Tensor) -> Tensor:
    """(L, H, D) of one cell: each head's output times its part of a weight."""
    by_head = weight_DI.view(len(weight_DI), control.out_CHLA.shape[1], -1)
    return torch.einsum("hla,dha->lhd", control.out_CHLA[0], by_head)


def few_keys_change(
    control: AttentionControl, at_BM: Tensor, changes_BHMA: tuple[Tensor, Tensor, Tensor], keep_BK: Tensor,
    is_anew_BM: Tensor,
) -> FewKeys | None:  # fmt: skip
    """By how much self-attention changes where only rows `at_BM` do, exact; None where some row's weights change too much.

    at_BM         places, each once per item
    changes_BHMA  of the queries, keys and values there
    keep_BK       which keys are kept afterwards; is_anew_BM: which of the rows ask anew
    """
    dq, dk, dv = changes_BHMA
    c, n_items, (n_heads, width) = control, len(at_BM), (dq.shape[1], dq.shape[-1])
    if bool((keep_BK.any(1) != c.keep_CK.any(1)).any()):
        return None
    place = at_BM[:, None, :, None].expand(-1, n_heads, -1, width)
    q, k, v, out = (
        x.expand(n_items, -1, -1, -1).gather(2, place) for x in (c.query_CHLA, c.key_CHKA, c.value_CHKA, c.out_CHLA)
    )
    before, after = (x.expand(n_items, -1).gather(1, at_BM)[:, None, None] for x in (c.keep_CK, keep_BK))
    score = c.query_CHLA @ k.mT * width**-0.5 - c.log_sum_CHL1
    shift = c.query_CHLA @ dk.mT * width**-0.5
    share = torch.where(before, torch.exp(score), 0.0)
    weight = torch.where(before, share * torch.expm1(shift), torch.exp(score + shift))
    weight = torch.where(after, weight, -share)
    total = 1 + weight.sum(-1, keepdim=True)
    is_sure = ((total >= LEAST_SUM) & (weight.amax(-1, keepdim=True) <= MOST_WEIGHT)).all(1)[..., 0]
    is_anew_BL = torch.zeros_like(is_sure).scatter(1, at_BM, is_anew_BM)
    if not bool((is_sure | is_anew_BL).all()):
        return None
    share_BHLN = torch.cat([torch.where(after, weight, 0.0), torch.where(after, share, 0.0)], -1) / total
    # a key that leaves takes its share of the old value along
    left = torch.where(after, 0.0, -share) / total
    share_BHLN, vectors = torch.cat([share_BHLN, left], -1), torch.cat([v + dv, dv, v], 2)
    own = _own_rows(c, q + dq, place, k + dk, dv, keep_BK) - out
    return FewKeys(share_BHLN, vectors, (1 - total) / total, c.out_CHLA, at_BM, own, is_anew_BM)


def _own_rows(
    c: AttentionControl, query_BHMA: Tensor, place: Tensor, key_BHMA: Tensor, dv_BHMA: Tensor, keep_BK: Tensor
) -> Tensor:
    """(B, H, M, A) what rows that ask anew get, of centred values."""
    scale = query_BHMA.shape[-1] ** -0.5
    column = place[..., 0][:, :, None].expand(-1, -1, query_BHMA.shape[2], -1)
    score = (query_BHMA @ c.key_CHKA.mT).scatter(3, column, query_BHMA @ key_BHMA.mT) * scale
    has_key = keep_BK.any(1)[:, None, None, None]
    score = torch.where(has_key, score.masked_fill(~keep_BK[:, None, None], -torch.inf), 0.0)
    share = torch.softmax(score, -1)
    return share @ c.value_CHKA + share.gather(3, column) @ dv_BHMA


def _with_rows(change: Tensor, at_BM: Tensor, own_BHMA: Tensor, is_own_BM: Tensor) -> Tensor:
    """(B, H, L, A) with some rows of its own."""
    at = at_BM[:, None, :, None].expand_as(own_BHMA)
    rows = torch.where(is_own_BM[:, None, :, None], own_BHMA, change.gather(2, at))
    return change.scatter(2, at, rows)
