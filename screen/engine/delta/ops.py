"""DeltaOps: the arithmetic of changes. What a layer computes with is how much the edits of one cell change an activation."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from screen_kernels.delta import (
    AttentionControl,
    NormControl,
    attention_change,
    attention_control,
    gelu_change,
    norm_change,
    norm_control,
    pool_change,
    relu_change,
)
from torch import Tensor, nn
from torch.nn import functional as F

from screen.engine.delta.rounding import EXACT, Rounding
from screen.models.ops import Ops, PlainOps
from screen.models.products import Weights

T = TypeVar("T")


@dataclass(frozen=True)
class Change:
    """An activation of one cell, and by how much B items change it.

    x          the control's, (1, L, D)
    d          the difference, (B, L, D); None: nothing changes
    anew_BL    rows that the edits fill; None: none
    places_BL2 each row's place before and after, until positions are added
    """

    x: Tensor
    d: Tensor | None = None
    anew_BL: Tensor | None = None
    places_BL2: Tensor | None = None


@dataclass
class Recording:
    """What the control's pass leaves, by place in the network, operation, and how manieth it is there."""

    kept: dict[tuple[object, ...], Any] = field(default_factory=dict)

    def once(self, key: tuple[object, ...], make: Callable[[], T]) -> T:
        """What was made the first time."""
        if key not in self.kept:
            self.kept[key] = make()
        found: T = self.kept[key]
        return found


class DeltaOps(Ops[Change]):
    """Differences of B items of one cell; what the control alone decides is computed once and recorded.

    Rows come from frames: ids are (B, F, 4), key masks and counted positions (B, F, 2), before and after.
    One object serves one forward pass: operations of one place are told apart by their order.
    """

    def __init__(self, plain: PlainOps, recording: Recording, rounding: Rounding = EXACT) -> None:
        self._plain, self._recording, self._rounding = plain, recording, rounding
        self._place: tuple[object, ...] = ()
        self._n_done: Counter[tuple[object, ...]] = Counter()

    def within(self, *place: object) -> "DeltaOps":
        inner = DeltaOps(self._plain, self._recording, self._rounding)
        inner._place, inner._n_done = (*self._place, *place), self._n_done
        return inner

    def embed(self, ids_BL: Tensor, table_VD: Tensor) -> Change:
        x = F.embedding(ids_BL[:1, :, 0], table_VD)
        places = ids_BL[..., 1::2]
        if torch.equal(ids_BL[..., :2], ids_BL[..., 2:]):
            return Change(x, places_BL2=places[:1])
        changed_BL = ids_BL[..., 0] != ids_BL[..., 2]
        return Change(x, F.embedding(ids_BL[..., 2], table_VD) - x, changed_BL, places)

    def add_position(self, x: Change, position: Callable[[int], Tensor]) -> Change:
        assert x.places_BL2 is not None, "positions are added to embeddings"
        places = x.places_BL2
        table = position(int(places.max()) + 1)
        before = table[places[:1, :, 0]]
        if x.d is None:
            return Change(x.x + before)
        d = x.d + (table[places[..., 1]] - before)
        return Change(x.x + before, self._stored(self._key("position"), d), x.anew_BL)

    def scale(self, x: Change, factor: float) -> Change:
        d = None if x.d is None else self._stored(self._key("scale"), factor * x.d)
        return Change(factor * x.x, d, x.anew_BL, x.places_BL2)

    def product(self, x: Change, linear: Weights) -> Change:
        key = self._key("product")
        there = self._recording.once(key, lambda: self._plain.product(x.x, linear))
        if x.d is None:
            return Change(there, None, x.anew_BL)
        return Change(there, self._stored(key, F.linear(x.d, self._rounding.weight(linear.weight))), x.anew_BL)

    def split(self, x: Change, n_parts: int) -> tuple[Change, ...]:
        parts = x.x.chunk(n_parts, dim=-1)
        changes = [None] * n_parts if x.d is None else x.d.chunk(n_parts, dim=-1)
        return tuple(Change(part, d, x.anew_BL) for part, d in zip(parts, changes, strict=True))

    def attend(self, query: Change, key: Change, value: Change, n_heads: int, keep_BK: Tensor | None) -> Change:
        assert keep_BK is not None, "frames say which keys are kept"
        place = self._key("attend")
        control, there = self._recording.once(
            place, lambda: _attention(query.x, key.x, value.x, n_heads, keep_BK[:1, :, 0])
        )
        before, after = keep_BK.unbind(-1)
        if query.d is key.d is value.d is None and torch.equal(before, after):
            return Change(there)
        dq, dk, dv = (None if c.d is None else _heads(c.d, n_heads) for c in (query, key, value))
        d = attention_change(control, dq, dk, dv, after, query.anew_BL, self._rounding.operand)
        return Change(there, self._stored(place, _merged(d)), query.anew_BL)

    def add(self, x: Change, update: Change) -> Change:
        d = x.d if update.d is None else update.d if x.d is None else x.d + update.d
        return Change(x.x + update.x, d, x.anew_BL)

    def norm(self, x: Change, norm: nn.LayerNorm) -> Change:
        place = self._key("norm")

        def of_control() -> tuple[NormControl, Tensor]:
            return norm_control(x.x, norm.eps), self._plain.norm(x.x, norm)

        control, there = self._recording.once(place, of_control)
        d = None if x.d is None else self._stored(place, norm_change(control, x.d, norm.weight))
        return Change(there, d, x.anew_BL)

    def activate(self, x: Change, kind: Literal["gelu", "relu"] = "gelu") -> Change:
        place = self._key("activate")
        there = self._recording.once(place, lambda: self._plain.activate(x.x, kind))
        if x.d is None:
            return Change(there)
        change = gelu_change if kind == "gelu" else relu_change
        return Change(there, self._stored(place, change(x.x, x.d)), x.anew_BL)

    def join(self, pieces: Sequence[Change]) -> Change:
        x = torch.cat([c.x for c in pieces], dim=1)
        n_items = [len(c.d) for c in pieces if c.d is not None]
        if not n_items:
            return Change(x)
        parts = [c.x.new_zeros(()).expand(n_items[0], *c.x.shape[1:]) if c.d is None else c.d for c in pieces]
        return Change(x, torch.cat(parts, dim=1))

    def pool(self, x: Change, counted_BL: Tensor) -> Change:
        before, after = counted_BL.unbind(-1)
        mean = self._plain.pool(x.x, before[:1])
        if x.d is None and torch.equal(before, after):
            return Change(mean)
        d = x.x.new_zeros(()).expand(len(counted_BL), *x.x.shape[1:]) if x.d is None else x.d
        return Change(mean, pool_change(x.x, d, before[:1], after))

    def _key(self, operation: str) -> tuple[object, ...]:
        """Which operation this is: its place, its kind, how many of these there were before."""
        kind = (*self._place, operation)
        self._n_done[kind] += 1
        return (*kind, self._n_done[kind])

    def _stored(self, key: tuple[object, ...], d: Tensor) -> Tensor:
        return self._rounding.stored(key, d)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, n_heads: int, keep_CK: Tensor
) -> tuple[AttentionControl, Tensor]:
    """(what the control's pass leaves, its output)."""
    q, k, v = (_heads(x, n_heads) for x in (query, key, value))
    control = attention_control(q, k, v, keep_CK)
    has_key = keep_CK.any(1)[:, None, None, None]
    return control, _merged(torch.where(has_key, control.out_CHLA + control.value_mean_CH1A, 0.0))


def _heads(x: Tensor, n_heads: int) -> Tensor:
    return x.view(*x.shape[:2], n_heads, -1).transpose(1, 2)


def _merged(x_BHLA: Tensor) -> Tensor:
    return x_BHLA.transpose(1, 2).flatten(2)
