"""Attention: how much its output changes where queries, keys or values change, or keys come and leave."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from screen_kernels.backend import choose
from screen_kernels.delta.ragged import RaggedRows
from screen_kernels.delta.scaled import Scaled, scaled

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
                as they are, and so are the values of keys that come or leave: an error of theirs is the same in every row
    With P = exp(q k' - log sum) of the control, S the change of the scaled scores and w = P expm1(S) (leaving keys: -P;
    joining ones: exp(q k' + S - log sum)), Z = sum w: the change is (w (v + dv) + P dv - Z out) / (1 + Z).
    """
    c, joins = control, (~control.keep_CK & keep_BK)[:, None, None]
    q, k, v = (operand(x) for x in (c.query_CHLA, c.key_CHKA, c.value_CHKA))
    k1, v1 = operand(k if dk is None else k + dk), operand(v if dv is None else v + dv)
    moved_v = c.value_CHKA if dv is None else torch.where(keep_BK[:, None, :, None], c.value_CHKA + dv, c.value_CHKA)
    v1 = torch.where((c.keep_CK & keep_BK)[:, None, :, None], v1, moved_v)
    scale, n_items = q.shape[-1] ** -0.5, len(keep_BK)
    # an error of a score is one of its share, and grows with the score: half precision is not enough here
    score = c.query_CHLA @ c.key_CHKA.mT * scale
    before = torch.where(c.keep_CK[:, None, None], torch.exp(score - c.log_sum_CHL1), 0.0)
    # dq (k + dk)' + q dk', as one product
    terms = ([] if dq is None else [(dq, k1)]) + ([] if dk is None else [(q, dk)])
    if terms:
        asked, offered = (
            torch.cat([x.expand(n_items, -1, -1, -1) for x in some], -1) for some in zip(*terms, strict=True)
        )
        shift = asked @ offered.mT * scale
    else:
        shift = score.new_zeros(()).expand(n_items, *score.shape[1:])
    is_kept = keep_BK[:, None, None]
    # what becomes of keys that are not kept is of no use, and may be anything
    weight = torch.where(is_kept, before * torch.expm1(shift), -before)
    if bool(joins.any()):
        weight = torch.where(joins, torch.exp(score + shift - c.log_sum_CHL1), weight)
    total = weight.sum(-1, keepdim=True)
    mixed = _rounded(weight, operand) @ v1
    if dv is not None:
        mixed = mixed + _rounded(before, operand) @ torch.where(keep_BK[:, None, :, None], dv, 0.0)
    change = (mixed - total * c.out_CHLA) / (1 + total)
    # no weight is below -1; not (a >= b), as NaN is to be computed whole too
    whole = ~((1 + total >= LEAST_SUM) & (weight.amax(-1, keepdim=True) <= MOST_WEIGHT)).all(1)[..., 0]
    whole = whole | (keep_BK.any(1) & ~c.keep_CK.any(1))[:, None]
    whole = whole if anew_BL is None else whole | anew_BL
    change = change.expand(n_items, -1, -1, -1)
    # as they are: whole rows are few, and their scores as large as the control's
    query, key, value = (
        x if d is None else x + d for x, d in ((c.query_CHLA, dq), (c.key_CHKA, dk), (c.value_CHKA, dv))
    )
    return _whole_rows(c, query, key, value, keep_BK, whole, change)


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


@dataclass(frozen=True)
class AttentionRows:
    """`AttentionControl` of C cells with ragged rows: M rows ask, N rows are keys, I = heads times the width of a head.

    query_MI, key_NI, value_NI  float16 or float32, keys and values centred; rows may lie apart. An error of a score grows with
                                the score, and one of the value of a key that comes or leaves is the same in every row: they
                                are better float32, also where changes are float16
    out_MI, log_sum_MH, value_mean_CI  float32
    keep_N                      bool
    """

    query_MI: Tensor
    key_NI: Tensor
    value_NI: Tensor
    out_MI: Tensor
    log_sum_MH: Tensor
    value_mean_CI: Tensor
    keep_N: Tensor

    @property
    def n_heads(self) -> int:
        """H."""
        return self.log_sum_MH.shape[1]

    @property
    def head_width(self) -> int:
        """A."""
        return self.query_MI.shape[1] // self.n_heads

    def of_cell(self, cell: int, queries: slice, keys: slice, dtype: torch.dtype) -> AttentionControl:
        """One cell's, C = 1."""
        query, out = (self.heads(x[queries].to(dtype)) for x in (self.query_MI, self.out_MI))
        key, value = (self.heads(x[keys].to(dtype)) for x in (self.key_NI, self.value_NI))
        log_sum = self.log_sum_MH[queries].to(dtype).T[None, :, :, None]
        mean = self.heads(self.value_mean_CI[cell : cell + 1].to(dtype))
        return AttentionControl(query, key, value, out, log_sum, mean, self.keep_N[keys][None])

    def heads(self, x_TI: Tensor) -> Tensor:
        """(1, H, T, A)."""
        return x_TI.reshape(len(x_TI), self.n_heads, self.head_width).transpose(0, 1)[None]


def attention_change_rows(
    queries: RaggedRows, keys: RaggedRows, control: AttentionRows, dq: Scaled | None, dk: Scaled | None, dv: Scaled | None,
    keep_U: Tensor, anew_T: Tensor | None, *, scale: float, dtype: torch.dtype = torch.float16, backend: str | None = None,
) -> Scaled:  # fmt: skip
    """`attention_change` of ragged rows, heads side by side. The kernels have not run on a GPU yet.

    T rows ask, U rows are keys; both are of the same items. dq is (T, I), dk and dv (U, I), rows may lie apart; None: no change.
    keep_U   bool, which keys are kept afterwards
    anew_T   bool, rows computed whole, besides those whose weights change too much; None: none
    Products are float16 where all changes are, but for the scores and the values of keys that come or leave of a float32
    control, which are products of pairs of float16; else as good as float32. Sums are float32.
    -> (T, I) of the dtype, times the scale. Raises ValueError for shapes that do not match, TypeError for masks not bool.
    """
    _check(queries, keys, control, (dq, dk, dv), keep_U, anew_T)
    if choose(control.query_MI, backend) == "torch":
        change_TI = attention_change_rows_reference(queries, keys, control, dq, dk, dv, keep_U, anew_T)
        return scaled(change_TI, scale, dtype)
    from screen_kernels.delta import _attention_triton

    whole_T = keep_U.new_zeros(queries.n_rows, dtype=torch.int8) if anew_T is None else anew_T.to(torch.int8)
    change = Scaled(whole_T.new_empty((queries.n_rows, control.query_MI.shape[1]), dtype=dtype), scale)
    _attention_triton.launch(queries, keys, control, dq, dk, dv, keep_U, whole_T, change)
    return change


def _check(
    queries: RaggedRows, keys: RaggedRows, control: AttentionRows, changes: tuple[Scaled | None, ...],
    keep_U: Tensor, anew_T: Tensor | None,
) -> None:  # fmt: skip
    n_control, width = control.query_MI.shape
    n_keys, n_cells = len(control.key_NI), len(control.value_mean_CI)
    expected = {
        "key": (n_keys, width), "value": (n_keys, width), "out": (n_control, width),
        "log_sum": (n_control, control.n_heads), "value_mean": (n_cells, width), "keep": (n_keys,),
        "dq": (queries.n_rows, width), "dk": (keys.n_rows, width), "dv": (keys.n_rows, width),
        "keep after": (keys.n_rows,), "anew": (queries.n_rows,),
    }  # fmt: skip
    c, (dq, dk, dv) = control, (None if d is None else d.values for d in changes)
    found = (c.key_NI, c.value_NI, c.out_MI, c.log_sum_MH, c.value_mean_CI, c.keep_N, dq, dk, dv, keep_U, anew_T)
    for (name, shape), x in zip(expected.items(), found, strict=True):
        if x is not None and x.shape != shape:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; it must be {shape}")
    if width % control.n_heads:
        raise ValueError(f"query is {width} wide; {control.n_heads} heads must divide that")
    for name, mask in (("keep", c.keep_N), ("keep after", keep_U), ("anew", anew_T)):
        if mask is not None and mask.dtype != torch.bool:
            raise TypeError(f"{name} is {mask.dtype}; it must be torch.bool")


def attention_change_rows_reference(
    queries: RaggedRows, keys: RaggedRows, control: AttentionRows, dq: Scaled | None, dk: Scaled | None, dv: Scaled | None,
    keep_U: Tensor, anew_T: Tensor | None, operand: Round = as_they_are,
) -> Tensor:  # fmt: skip
    """The definition of `attention_change_rows`, unscaled; float64 in, float64 out."""
    dtype = torch.promote_types(control.query_MI.dtype, torch.float32)
    changes = [None if d is None else d.unscaled().to(dtype) for d in (dq, dk, dv)]
    change_TI = control.out_MI.new_empty((queries.n_rows, control.query_MI.shape[1]), dtype=dtype)
    for (cell, asking, asking_C), (_, asked, asked_C) in zip(queries.spans(), keys.spans(), strict=True):
        of_cell = control.of_cell(cell, asking_C, asked_C, dtype)
        dq1, dk1, dv1 = (
            None if d is None else control.heads(d[at]) for d, at in zip(changes, (asking, asked, asked), strict=True)
        )
        anew = None if anew_T is None else anew_T[asking][None]
        change = attention_change(of_cell, dq1, dk1, dv1, keep_U[asked][None], anew, operand)
        change_TI[asking] = change[0].transpose(0, 1).flatten(1)
    return change_TI


def attention_change_rows_bytes(
    n_queries: int, n_keys: int, n_control_queries: int, n_control_keys: int, width: int, n_heads: int,
    n_changes: tuple[int, int] = (1, 2), itemsize: int = 2, control_itemsize: int = 4,
) -> int:  # fmt: skip
    """Bytes moved at least: changes of T queries and U keys and the control's rows read once, the result written once.

    n_changes         how many of dq, and of dk and dv, there are
    control_itemsize  of the control's queries, keys and values; itemsize: of all changes
    Masks and flags are a byte a row, flags being written and read again; the control's output and sums are float32.
    """
    changes = (n_queries * (n_changes[0] + 1) + n_keys * n_changes[1]) * width * itemsize
    of_query = width * (control_itemsize + 4) + n_heads * 4
    control = n_control_queries * of_query + n_control_keys * (width * 2 * control_itemsize + 1)
    return changes + control + 2 * n_queries + n_keys


def attention_change_rows_flops(n_pairs: int, width: int, n_heads: int, n_changes: int = 3) -> int:
    """Products of queries and keys and of weights and values, one more for each of dq, dk, dv; 20 for a pair's weight."""
    return n_pairs * (2 * width * (2 + n_changes) + 20 * n_heads)
