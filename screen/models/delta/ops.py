"""DeltaOps: the arithmetic of changes. What a layer computes with is how much the edits of one cell change an activation."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from screen_kernels.delta import (
    AttentionControl,
    FewKeys,
    NormControl,
    attention_change,
    attention_control,
    few_keys_change,
    gelu_change,
    norm_change,
    norm_control,
    pool_change,
    product_of_out,
    relu_change,
)
from torch import Tensor, nn
from torch.nn import functional as F

from screen.models.delta.change import Change, merged
from screen.models.delta.recording import Places, Recording
from screen.models.delta.rounding import EXACT, Rounding
from screen.models.ops import Ops, PlainOps
from screen.models.products import Weights

MOST_FEW = 8
"""Rows of an item that change, up to which they are taken one by one."""


class DeltaOps(Ops[Change]):
    """Differences of B items of one cell; what the control alone decides is computed once and recorded.

    Rows come from frames: ids are (B, F, 4), key masks and counted positions (B, F, 2), before and after.
    One object serves one forward pass: operations of one place are told apart by their order.
    """

    def __init__(
        self, plain: PlainOps, recording: Recording, rounding: Rounding = EXACT, places: Places | None = None
    ) -> None:
        self._plain, self._recording, self._rounding = plain, recording, rounding
        self._places = Places() if places is None else places

    def within(self, *place: object) -> "DeltaOps":
        return DeltaOps(self._plain, self._recording, self._rounding, self._places.within(*place))

    def embed(self, ids_BL: Tensor, table_VD: Tensor) -> Change:
        x = F.embedding(ids_BL[:1, :, 0], table_VD)
        places = ids_BL[..., 1::2]
        if torch.equal(ids_BL[..., :2], ids_BL[..., 2:]):
            return Change(x, places_BL2=places[:1])
        changed_BL = ids_BL[..., 0] != ids_BL[..., 2]
        n_most = int(changed_BL.sum(1).max())
        if n_most <= MOST_FEW and torch.equal(places[..., 0], places[..., 1]):
            # so many rows of every item, the changed ones first
            at_BM = _first(changed_BL, n_most)
            old, new = (F.embedding(ids_BL[..., k].gather(1, at_BM), table_VD) for k in (0, 2))
            return Change(x, new - old, changed_BL, places, at_BM)
        return Change(x, F.embedding(ids_BL[..., 2], table_VD) - x, changed_BL, places)

    def add_position(self, x: Change, position: Callable[[int], Tensor]) -> Change:
        assert x.places_BL2 is not None, "positions are added to embeddings"
        places = x.places_BL2
        table = position(int(places.max()) + 1)
        before = table[places[:1, :, 0]]
        if x.d is None or x.at_BM is not None:
            # places are as they were
            return Change(x.x + before, x.d, x.anew_BL, None, x.at_BM)
        d = x.d + (table[places[..., 1]] - before)
        return Change(x.x + before, self._stored(self._places.next("position"), d), x.anew_BL)

    def scale(self, x: Change, factor: float) -> Change:
        d = None if x.d is None else self._stored(self._places.next("scale"), factor * x.d)
        return Change(factor * x.x, d, x.anew_BL, x.places_BL2, x.at_BM)

    def product(self, x: Change, linear: Weights) -> Change:
        key = self._places.next("product")
        there = self._recording.once(key, lambda: self._plain.product(x.x, linear))
        if x.few is not None:
            # a few vectors per head: too little work to round for
            (few, control), weight = x.few, linear.weight
            out_LHD = self._recording.once((*key, "of out"), lambda: product_of_out(control, weight))
            return Change(there, self._rounding.passed_on(key, few.product(weight, out_LHD)), x.anew_BL)
        if x.d is None:
            return Change(there, None, x.anew_BL)
        d = F.linear(x.d, self._rounding.weight(linear.weight))
        return Change(there, self._stored(key, d), x.anew_BL, None, x.at_BM)

    def split(self, x: Change, n_parts: int) -> tuple[Change, ...]:
        x = x if x.few is None else x.whole()
        parts = x.x.chunk(n_parts, dim=-1)
        changes = [None] * n_parts if x.d is None else x.d.chunk(n_parts, dim=-1)
        return tuple(Change(part, d, x.anew_BL, None, x.at_BM) for part, d in zip(parts, changes, strict=True))

    def attend(self, query: Change, key: Change, value: Change, n_heads: int, keep_BK: Tensor | None) -> Change:
        assert keep_BK is not None, "frames say which keys are kept"
        asked = (query, key, value)
        place, control, there = self._attention(asked, n_heads, keep_BK)
        few = self._attended_few(control, there, asked, n_heads, keep_BK)
        if few is not None:
            return few
        dq, dk, dv = (None if c.d is None else _heads(c.d, n_heads) for c in (c.whole() for c in asked))
        d = attention_change(control, dq, dk, dv, keep_BK[..., 1], query.anew_BL, self._rounding.operand)
        return Change(there, self._stored(place, merged(d)), query.anew_BL)

    def attend_few(self, query: Change, key: Change, value: Change, n_heads: int, keep_BK: Tensor) -> Change | None:
        """`attend` where nothing changes, or few rows and keys do; None where more do."""
        asked = (query, key, value)
        _, control, there = self._attention(asked, n_heads, keep_BK)
        return self._attended_few(control, there, asked, n_heads, keep_BK)

    def _attention(
        self, asked: Sequence[Change], n_heads: int, keep_BK: Tensor
    ) -> tuple[tuple[object, ...], AttentionControl, Tensor]:
        """(which operation this is, what the control's pass leaves of it, its output)."""
        place = self._places.next("attend")

        def of_control() -> tuple[AttentionControl, Tensor]:
            q, k, v = (_heads(c.x, n_heads) for c in asked)
            keep_CK = keep_BK[:1, :, 0]
            control, has_key = attention_control(q, k, v, keep_CK), keep_CK.any(1)[:, None, None, None]
            return control, merged(torch.where(has_key, control.out_CHLA + control.value_mean_CH1A, 0.0))

        return place, *self._recording.once(place, of_control)

    def _attended_few(
        self, control: AttentionControl, there: Tensor, asked: Sequence[Change], n_heads: int, keep_BK: Tensor
    ) -> Change | None:
        before, after = keep_BK.unbind(-1)
        if all(c.d is None and c.few is None for c in asked) and torch.equal(before, after):
            return Change(there)
        few = self._few(control, asked, n_heads, before, after)
        return None if few is None else Change(there, None, asked[0].anew_BL, few=(few, control))

    def _few(
        self, control: AttentionControl, asked: Sequence[Change], n_heads: int, before_BL: Tensor, after_BL: Tensor
    ) -> FewKeys | None:
        """The change of self-attention where few rows change, and few keys come or leave; None where many do."""
        moved_BL, n_items = before_BL != after_BL, len(after_BL)
        query, key, _ = asked
        if any(c.d is not None and c.at_BM is None for c in asked) or query.x.shape[1] != key.x.shape[1]:
            return None
        is_sparse = query.at_BM is not None
        if is_sparse != (key.at_BM is not None) or any(c.few is not None for c in asked):
            return None
        changed_BL = moved_BL if query.anew_BL is None else moved_BL | query.anew_BL
        n_most = int(changed_BL.sum(1).max())
        if n_most > MOST_FEW:
            return None
        at_BM = _first(changed_BL, n_most)
        changes = [c.x.new_zeros((n_items, n_most, c.x.shape[2])) for c in asked]
        if query.at_BM is not None:
            # both name rows, each once
            is_same = (at_BM[:, :, None] == query.at_BM[:, None, :]).to(query.x.dtype)
            changes = [is_same @ c.d for c in asked if c.d is not None]
        dq, dk, dv = (_heads(d, n_heads) for d in changes)
        is_anew_BM = torch.zeros_like(at_BM, dtype=torch.bool)
        if query.anew_BL is not None:
            is_anew_BM = query.anew_BL.gather(1, at_BM)
        return few_keys_change(control, at_BM, (dq, dk, dv), after_BL, is_anew_BM)

    def add(self, x: Change, update: Change) -> Change:
        x, update = x.whole(), update.whole()
        d = x.d if update.d is None else update.d if x.d is None else x.d + update.d
        return Change(x.x + update.x, d, x.anew_BL)

    def norm(self, x: Change, norm: nn.LayerNorm) -> Change:
        place = self._places.next("norm")

        def of_control() -> tuple[NormControl, Tensor]:
            return norm_control(x.x, norm.eps), self._plain.norm(x.x, norm)

        control, there = self._recording.once(place, of_control)
        x = x if x.few is None else x.whole()
        if x.d is None:
            return Change(there, None, x.anew_BL)
        here = NormControl(*(x.of_rows(part) for part in control))
        return Change(there, self._stored(place, norm_change(here, x.d, norm.weight)), x.anew_BL, None, x.at_BM)

    def activate(self, x: Change, kind: Literal["gelu", "relu"] = "gelu") -> Change:
        place = self._places.next("activate")
        there = self._recording.once(place, lambda: self._plain.activate(x.x, kind))
        x = x if x.few is None else x.whole()
        if x.d is None:
            return Change(there, None, x.anew_BL)
        change = gelu_change if kind == "gelu" else relu_change
        return Change(there, self._stored(place, change(x.of_rows(x.x), x.d)), x.anew_BL, None, x.at_BM)

    def join(self, pieces: Sequence[Change]) -> Change:
        pieces = [c.whole() for c in pieces]
        x = torch.cat([c.x for c in pieces], dim=1)
        n_items = [len(c.d) for c in pieces if c.d is not None]
        if not n_items:
            return Change(x)
        parts = [c.x.new_zeros(()).expand(n_items[0], *c.x.shape[1:]) if c.d is None else c.d for c in pieces]
        return Change(x, torch.cat(parts, dim=1))

    def pool(self, x: Change, counted_BL: Tensor) -> Change:
        x = x.whole()
        before, after = counted_BL.unbind(-1)
        mean = self._plain.pool(x.x, before[:1])
        if x.d is None and torch.equal(before, after):
            return Change(mean)
        d = x.x.new_zeros(()).expand(len(counted_BL), *x.x.shape[1:]) if x.d is None else x.d
        return Change(mean, pool_change(x.x, d, before[:1], after))

    def skip(self, *operations: str) -> None:
        """Operations that are done elsewhere: those that follow keep their numbers."""
        for operation in operations:
            self._places.next(operation)

    def _stored(self, key: tuple[object, ...], d: Tensor) -> Tensor:
        return self._rounding.stored(key, d)


def _heads(x: Tensor, n_heads: int) -> Tensor:
    return x.view(*x.shape[:2], n_heads, -1).transpose(1, 2)


def _first(is_so_BL: Tensor, n: int) -> Tensor:
    """(B, n) different places: those where it is so, then any."""
    return torch.argsort((~is_so_BL).byte(), dim=1, stable=True)[:, :n]
