"""Attention: how much its output changes where queries, keys or values change, or keys come and leave."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_SUM, MOST_WEIGHT = 0.05, 8.0
"""Rows whose normaliser falls below the first, or with a weight that grows above the second, are computed whole."""
WEIGHT_SCALE = 4096.0
"""Weights and their changes are multiplied by this before they are rounded: most are far below 1, and none is above 8."""
Round = Callable[[Tensor], Tensor]


def as_they_are(x: Tensor) -> Tensor:
    """No rounding."""
    return x


@dataclass(frozen=True)
class AttentionControl:
    """What a control's pass leaves of one attention; C cells, H heads, L queries, K keys, A the width of a head.

    Keys and values are centred per head over the kept keys: softmax does not care what all keys share, half precision does.
    query, key, value  (C, H, L, A), (C, H, K, A) twice
    out_CHLA           what the centred values give, 0 where no key is kept
    log_sum_CHL1       logarithm of the sum of exponentials of the scaled scores, 0 where no key is kept
    value_mean_CH1A    what was taken off the values
    keep_CK            which keys are kept
    """

    query_CHLA: Tensor
    key_CHKA: Tensor
    value_CHKA: Tensor
    out_CHLA: Tensor
    log_sum_CHL1: Tensor
    value_mean_CH1A: Tensor
    keep_CK: Tensor


def attention_control(query_CHLA: Tensor, key_CHKA: Tensor, value_CHKA: Tensor, keep_CK: Tensor) -> AttentionControl:
    """Of queries, keys and values as they are, and which keys are kept (C, K)."""
    keep = keep_CK[:, None, :, None]
    n_kept = keep.sum(2, keepdim=True).clamp_min(1)
    key_mean, value_mean = (torch.where(keep, x, 0.0).sum(2, keepdim=True) / n_kept for x in (key_CHKA, value_CHKA))
    key_CHKA, value_CHKA = key_CHKA - key_mean, value_CHKA - value_mean
    score = _scores(query_CHLA, key_CHKA, keep_CK)
    log_sum = score.logsumexp(-1, keepdim=True)
    log_sum = torch.where(keep_CK.any(1)[:, None, None, None], log_sum, 0.0)
    out = torch.exp(score - log_sum) @ torch.where(keep, value_CHKA, 0.0)
    return AttentionControl(query_CHLA, key_CHKA, value_CHKA, out, log_sum, value_mean, keep_CK)


def attention_change(
    control: AttentionControl, dq: Tensor | None, dk: Tensor | None, dv: Tensor | None, keep_BK: Tensor,
    anew_BL: Tensor | None, operand: Round = as_they_are,
) -> Tensor:  # fmt: skip
    """By how much the output of attention changes, per head, exact: (B, H, L, A).

    dq, dk, dv  (B, H, L, A), (B, H, K, A) twice, as they are stored; None: nothing changes
    keep_BK     which keys are kept afterwards
    anew_BL     rows of the edits themselves: computed whole, as are those whose weights change too much
    operand     rounds what tensor cores would read as half precision; the control's scores are made of its queries and keys
                as they are
    With P = exp(q k' - log sum) of the control, S the change of the scaled scores and w = P expm1(S) (leaving keys: -P;
    joining ones: exp(q k' + S - log sum)), Z = sum w: the change is (w (v + dv) + P dv - Z out) / (1 + Z).
    """
    c, joins = control, (~control.keep_CK & keep_BK)[:, None, None]
    q, k, v = (operand(x) for x in (c.query_CHLA, c.key_CHKA, c.value_CHKA))
    k1, v1 = operand(k if dk is None else k + dk), operand(v if dv is None else v + dv)
    scale, n_items = q.shape[-1] ** -0.5, len(keep_BK)
    # an error of a score is one of its share, and grows with the score: half precision is not enough here
    score = c.query_CHLA @ c.key_CHKA.mT * scale
    before = torch.where(c.keep_CK[:, None, None], torch.exp(score - c.log_sum_CHL1), 0.0)
    # dq (k + dk)' + q dk', as one product
    asked = [x for x in (dq, None if dk is None else q) if x is not None]
    offered = [x for x, is_there in ((k1, dq is not None), (dk, dk is not None)) if is_there and x is not None]
    if asked:
        asked, offered = ([x.expand(n_items, -1, -1, -1) for x in some] for some in (asked, offered))
        shift = torch.cat(asked, -1) @ torch.cat(offered, -1).mT * scale
    else:
        shift = score.new_zeros((n_items, 1, 1, 1)).expand(-1, *score.shape[1:])
    is_kept = keep_BK[:, None, None]
    # what becomes of keys that are not kept is of no use, and may be anything
    weight = torch.where(is_kept, before * torch.expm1(shift), -before)
    if bool(joins.any()):
        weight = torch.where(joins, torch.exp(score + shift - c.log_sum_CHL1), weight)
    total = weight.sum(-1, keepdim=True)
    mixed = _rounded(weight, operand) @ torch.where(keep_BK[:, None, :, None], v1, v)
    if dv is not None:
        mixed = mixed + _rounded(before, operand) @ torch.where(keep_BK[:, None, :, None], dv, 0.0)
    change = (mixed - total * c.out_CHLA) / (1 + total)
    # no weight is below -1; not (a >= b), as NaN is to be computed whole too
    whole = ~((1 + total >= LEAST_SUM) & (weight.amax(-1, keepdim=True) <= MOST_WEIGHT)).all(1)[..., 0]
    whole = whole | (keep_BK.any(1) & ~c.keep_CK.any(1))[:, None]
    whole = whole if anew_BL is None else whole | anew_BL
    change = change.expand(n_items, -1, -1, -1)
    return _whole_rows(c, q if dq is None else c.query_CHLA + dq, k1, v1, keep_BK, whole, change)


def _rounded(weight: Tensor, operand: Round) -> Tensor:
    return weight if operand is as_they_are else operand(weight * WEIGHT_SCALE) / WEIGHT_SCALE


def _scores(query: Tensor, key: Tensor, keep_BK: Tensor) -> Tensor:
    scale: float = query.shape[-1] ** -0.5
    return (query @ key.mT * scale).masked_fill(~keep_BK[:, None, None], -torch.inf)


def _whole_rows(
    c: AttentionControl, query: Tensor, key: Tensor, value: Tensor, keep_BK: Tensor, whole_BL: Tensor, change: Tensor
) -> Tensor:
    """The changes with some rows computed as attention anew, minus the control's output."""
    n_most = int(whole_BL.sum(1).max()) if whole_BL.numel() else 0
    if n_most == 0:
        return change
    n_items, n_heads, _, width = change.shape
    # the chosen rows of each item in front, as many as the item with most has; the others are not written back
    row_BN = torch.argsort((~whole_BL).byte(), dim=1, stable=True)[:, :n_most]
    at = row_BN[:, None, :, None].expand(-1, n_heads, -1, width)
    asking, out, changed = (x.expand(n_items, -1, -1, -1).gather(2, at) for x in (query, c.out_CHLA, change))
    score = _scores(asking, key, keep_BK)
    has_key = keep_BK.any(1)[:, None, None, None]
    share = torch.softmax(torch.where(has_key, score, 0.0), -1)
    after = share @ torch.where(keep_BK[:, None, :, None], value, 0.0)
    has_key_before = c.keep_CK.any(1)[:, None, None, None]
    # without a key the output is 0, not what centred values give
    new = torch.where(has_key, after + c.value_mean_CH1A, 0.0) - torch.where(
        has_key_before, out + c.value_mean_CH1A, 0.0
    )
    new = torch.where(has_key & has_key_before, after - out, new)
    is_chosen = whole_BL.gather(1, row_BN)[:, None, :, None]
    return change.scatter(2, at, torch.where(is_chosen, new, changed))
