"""The seam: networks look at no activation, use every weight through it, and cost what they are counted to cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from screen.models.adapter import Row, Rows, row_of
from screen.models.cost import counted
from screen.models.ops import PLAIN, Arithmetic, LaidOutOps, Ops, PlainOps, X, ops_of
from screen.models.perturbgen.adapter import ATTENTION_CHOICES, PerturbGenAdapter
from screen.models.perturbgen.network.layers import EncoderBlock
from screen.models.perturbgen.random import random_model, sizes_of
from screen.models.products import OneDnnProduct, Weights, has_onednn_products
from screen.models.synthetic import SyntheticSizes
from tests.support.golden import golden_json, scale_error
from tests.support.toy import LONGEST, Tower, TowerAdapter

VARIANTS = sorted(golden_json("config")["variants"])
CPU = torch.device("cpu")
MANY = 100
"""Roundings that add up on the way through a golden network, at most."""


@dataclass(frozen=True, eq=False)
class Sealed:
    """An activation that nothing but ops can look at: it is no tensor and has no operators."""

    hidden: Tensor


class SealedOps(Ops[Sealed]):
    """Plain arithmetic on sealed activations; remembers which weights were used."""

    def __init__(self) -> None:
        self.used: set[int] = set()

    def within(self, *place: object) -> "SealedOps":
        assert place
        return self

    def _use(self, *weights: Tensor) -> None:
        self.used |= {id(w) for w in weights}

    def embed(self, ids_BL: Tensor, table_VD: Tensor) -> Sealed:
        self._use(table_VD)
        return Sealed(PLAIN.embed(ids_BL, table_VD))

    def add_position(self, x: Sealed, position: Callable[[int], Tensor]) -> Sealed:
        return Sealed(PLAIN.add_position(x.hidden, position))

    def scale(self, x: Sealed, factor: float) -> Sealed:
        return Sealed(PLAIN.scale(x.hidden, factor))

    def product(self, x: Sealed, linear: Weights) -> Sealed:
        self._use(linear.weight)
        return Sealed(PLAIN.product(x.hidden, linear))

    def split(self, x: Sealed, n_parts: int) -> tuple[Sealed, ...]:
        return tuple(map(Sealed, PLAIN.split(x.hidden, n_parts)))

    def attend(self, query: Sealed, key: Sealed, value: Sealed, n_heads: int, keep_BK: Tensor | None) -> Sealed:
        return Sealed(PLAIN.attend(query.hidden, key.hidden, value.hidden, n_heads, keep_BK))

    def add(self, x: Sealed, update: Sealed) -> Sealed:
        return Sealed(PLAIN.add(x.hidden, update.hidden))

    def norm(self, x: Sealed, norm: nn.LayerNorm) -> Sealed:
        self._use(norm.weight)
        return Sealed(PLAIN.norm(x.hidden, norm))

    def activate(self, x: Sealed, kind: Literal["gelu", "relu"] = "gelu") -> Sealed:
        return Sealed(PLAIN.activate(x.hidden, kind))

    def join(self, pieces: Sequence[Sealed]) -> Sealed:
        return Sealed(PLAIN.join([x.hidden for x in pieces]))

    def pool(self, x: Sealed, counted_BL: Tensor) -> Sealed:
        return Sealed(PLAIN.pool(x.hidden, counted_BL))


def ids(n_rows: int, length: int, n_tokens: int, seed: int) -> Tensor:
    """Rows with a hole and a padded end."""
    found = torch.randint(4, n_tokens, (n_rows, length), generator=torch.Generator().manual_seed(seed))
    found[0, length // 2 :] = 0
    found[-1, 1] = 0
    return found


def adapters(golden_model: Any) -> list[tuple[Any, Rows]]:
    """Every golden variant, with context and without, and the toy, each with rows to read."""
    target = {t: row_of(ids(3, 6 + t, 60, t)) for t in (1, 2, 3)}
    made: list[tuple[Any, Rows]] = [
        (PerturbGenAdapter(golden_model(v), (1, 2), (1, 2, 3), mode), Rows(row_of(ids(3, 9, 60, 0)), target, {}, {}))
        for v in VARIANTS
        for mode in (False, True)
    ]
    torch.manual_seed(0)
    toy = TowerAdapter(Tower(60).eval().requires_grad_(False))
    return [*made, (toy, Rows(row_of(ids(3, 9, 60, 0)), {}, {}, {}))]


@torch.inference_mode()
def test_no_layer_looks_at_an_activation_and_none_bypasses_the_ops(golden_model: Any) -> None:
    for adapter, rows in adapters(golden_model):
        sealed, plain = adapter.forward(SealedOps(), rows), adapter.forward(PLAIN, rows)
        assert set(sealed) == set(plain) == set(adapter.reads_out)
        for state, x in plain.items():
            assert torch.equal(sealed[state].hidden, x) or scale_error(sealed[state].hidden, x) <= 1e-6


@torch.inference_mode()
def test_every_weight_of_a_product_is_used_through_the_ops(golden_model: Any) -> None:
    for adapter, rows in adapters(golden_model):
        ops = SealedOps()
        adapter.forward(ops, rows)
        layers = (nn.Linear, nn.LayerNorm)
        weights = {
            name: m.weight
            for name, m in adapter.model.named_modules()
            if isinstance(m, layers) and not name.startswith("count_decoder")
        }
        assert weights
        assert [name for name, w in weights.items() if id(w) not in ops.used] == []


class Bypass(EncoderBlock):
    """A layer as one would write it without the seam."""

    def forward(self, ops: Ops[X], x: X, keep_BL: Tensor | None) -> X:
        mixed = self.self_attn.itself(ops, x, keep_BL)
        hidden: Any = F.layer_norm(x + mixed, self.norm1.normalized_shape)  # type: ignore[operator]
        return ops.add_norm(hidden, self.feed_forward(ops, hidden), self.norm3)


def test_a_layer_that_bypasses_the_ops_fails() -> None:
    x = torch.randn(1, 4, 8)
    assert Bypass(8, 2, 4)(PLAIN, x, None).shape == x.shape
    with pytest.raises(TypeError):
        Bypass(8, 2, 4)(SealedOps(), Sealed(x), None)


@torch.inference_mode()
@pytest.mark.skipif(not has_onednn_products(), reason="this torch has no oneDNN products")
def test_every_arithmetic_serves_every_network(golden_model: Any) -> None:
    everywhere = dict.fromkeys(ATTENTION_CHOICES.values(), 1)
    made: dict[str, tuple[PlainOps, float]] = {
        "onednn": (ops_of(Arithmetic("float32", "onednn", everywhere), CPU, ATTENTION_CHOICES), 1e-5),
        "fused": (ops_of(Arithmetic(), CPU, ATTENTION_CHOICES, fuse=True), 1e-5),
        "fp16x2": (ops_of(Arithmetic("fp16x2"), CPU, ATTENTION_CHOICES, fuse=True), MANY * 2.0**-11),
        "tf32": (ops_of(Arithmetic("tf32"), CPU, ATTENTION_CHOICES), MANY * 2.0**-11),
        "bf16": (ops_of(Arithmetic("bf16"), CPU, ATTENTION_CHOICES), 1.0),
    }
    for adapter, rows in adapters(golden_model):
        plain = adapter.forward(PLAIN, rows)
        worst = {
            name: max(scale_error(x, plain[state]) for state, x in adapter.forward(ops, rows).items())
            for name, (ops, _) in made.items()
        }
        for name, (_, tolerance) in made.items():
            assert worst[name] <= tolerance, (name, worst[name])
            assert name in ("onednn", "fused") or worst[name] > 1e-7, name
        # three bits fewer, in attention too
        assert worst["bf16"] <= 4 * 2**3 * worst["tf32"]


def test_a_weight_is_laid_out_once_whoever_meets_it() -> None:
    made: list[Weights] = []

    def lay_out(linear: Weights) -> Callable[[Tensor], Tensor]:
        made.append(linear)
        return OneDnnProduct(linear) if has_onednn_products() else lambda x: F.linear(x, linear.weight, linear.bias)

    linear, x = nn.Linear(4, 5).requires_grad_(False), torch.randn(2, 3, 4)
    ops = LaidOutOps(lay_out).attending(PLAIN._attend, {"encoder": PLAIN._attend})
    for there in (ops, ops.within("encoder"), ops.within("encoder").within(0), ops.within("decoder")):
        torch.testing.assert_close(there.product(x, linear), linear(x), rtol=0, atol=1e-6)
    assert made == [linear]


def test_parts_of_a_network_attend_as_they_are_told() -> None:
    seen: list[str] = []

    def attend(name: str) -> Any:
        return lambda q, k, v, keep: (seen.append(name), q)[1]

    ops, x = PlainOps().attending(attend("rest"), {"encoder": attend("encoder")}), torch.randn(1, 2, 4)
    for there in (ops.within("encoder"), ops.within("encoder").within(3), ops.within("decoder", (1,)), ops):
        there.attend(x, x, x, 2, None)
    assert seen == ["encoder", "encoder", "rest", "rest"]


lengths = st.integers(1, 30)
RANDOM = random_model(
    sizes_of(
        SyntheticSizes(
            width=16, n_heads=2, encoder_head_width=6, head_width=4, n_encoder_blocks=2, n_blocks=2, n_genes=9,
            n_source_tokens=40, max_len=30, n_times=2,
        )
    )
)  # fmt: skip


@given(lengths, lengths, lengths)
def test_what_is_counted_over_a_forward_is_what_the_formula_says(n_source: int, one: int, two: int) -> None:
    # of one prediction: several share keys and values of the source, which a forward pass does not
    for chain in ({1: (1,)}, {2: (1, 2)}):
        (time,) = chain
        adapter = PerturbGenAdapter(RANDOM, (time,), (1, 2), context_mode=time == 2)
        assert adapter.chains == chain
        n_target = {1: one, 2: two}
        ours = counted(adapter, n_source, n_target).flops
        shared = 0 if time == 1 else _keys_values_again(n_source)
        assert ours - shared + adapter.cost.head() == adapter.cost.control(n_source, n_target)


def _keys_values_again(n_source: int) -> int:
    """Keys and values of the source, which the second pass of a chain makes again."""
    sizes = RANDOM.sizes
    return 2 * n_source * sizes.width * 2 * sizes.n_heads * sizes.head_width * sizes.n_blocks


def test_the_cost_of_a_model_without_a_formula_is_counted() -> None:
    cost = TowerAdapter(Tower(60)).cost
    n, width = 7, 12
    products, attention = 2 * n * width * (4 * width + 4 * width), 4 * n * n * width
    assert cost.control(n, {}) == cost.items({0}, n, {}) == 2 * (products + attention)
    assert cost.weight_bytes() == 8 * sum(p.numel() for p in Tower(60).parameters())
    assert Tower(60).places.num_embeddings == LONGEST
    assert Row(torch.ones(1, 1), None).keep_BL is None
