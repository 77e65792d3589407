"""Ops: the one seam between a network and its arithmetic.

A network's layers do everything with activations through an `Ops`, and look at none of them: an activation is whatever
the ops say it is. With `PlainOps` it is a tensor; other ops count operations, or carry changes instead of values. So a
network is written once, and every arithmetic there is serves every network.
"""

import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Literal, TypeVar

import torch
from screen_kernels import add_norm
from torch import Tensor, nn
from torch.nn import functional as F

from screen.models.attention import Attend, attend, attend_by_length, attend_in_bfloat16
from screen.models.products import HalfPairProduct, OneDnnProduct, RoundedProduct, Weights, side_by_side

X = TypeVar("X")
Precision = Literal["float32", "fp16x2", "tf32", "bf16"]
"""Of activations as they are; `screen.engine.executor` has those of changes beside them."""
CpuBackend = Literal["torch", "onednn"]


class Ops(ABC, Generic[X]):
    """What layers do. Activations are (B, L, D); x may have batch size 1 where every row has the same."""

    @abstractmethod
    def within(self, *place: object) -> "Ops[X]":
        """The ops of a named part of the network ("encoder"; 3, its third block): what is done there belongs together."""

    @abstractmethod
    def embed(self, ids_BL: Any, table_VD: Tensor) -> X:
        """Rows of an embedding table."""

    @abstractmethod
    def add_position(self, x: X, position: Callable[[int], Tensor]) -> X:
        """Adds what stands for a token's place; `position(n)` is (n, D), of the first n places."""

    @abstractmethod
    def scale(self, x: X, factor: float) -> X:
        """Every number times a constant."""

    @abstractmethod
    def product(self, x: X, linear: Weights) -> X:
        """x W' + b."""

    @abstractmethod
    def split(self, x: X, n_parts: int) -> tuple[X, ...]:
        """Equal parts of the last axis."""

    @abstractmethod
    def attend(self, query: X, key: X, value: X, n_heads: int, keep_BK: Tensor | None) -> X:
        """Softmax attention, heads side by side in the last axis; keep_BK None keeps every key; no key kept: exactly 0."""

    @abstractmethod
    def add(self, x: X, update: X) -> X:
        """The residual sum."""

    @abstractmethod
    def norm(self, x: X, norm: nn.LayerNorm) -> X:
        """LayerNorm over the last axis."""

    @abstractmethod
    def activate(self, x: X, kind: Literal["gelu", "relu"] = "gelu") -> X:
        """Element by element; gelu is exact (erf)."""

    @abstractmethod
    def join(self, pieces: Sequence[X]) -> X:
        """Pieces of a context one after another, along the tokens."""

    @abstractmethod
    def pool(self, x: X, counted_BL: Tensor) -> X:
        """Mean over the counted tokens, (B, D); NaN where none is."""

    # What follows is defined by the above; an arithmetic may do it in one go.

    def products(self, x: X, *linears: Weights) -> tuple[X, ...]:
        """Several products of one input."""
        return tuple(self.product(x, linear) for linear in linears)

    def add_norm(self, x: X, update: X, norm: nn.LayerNorm) -> X:
        """LayerNorm of the residual sum."""
        return self.norm(self.add(x, update), norm)

    def feed_forward(self, x: X, first: Weights, second: Weights) -> X:
        """second(gelu(first(x)))."""
        return self.product(self.activate(self.product(x, first)), second)


@dataclass(frozen=True)
class Arithmetic:
    """How products and attention are computed.

    cpu_products    what multiplies float32 on a CPU
    attention_from  name of a kind of attention (`AttentionKind.choice`) -> keys from which, on a CPU, it is made of oneDNN
                    products; None, or no entry: never
    """

    precision: Precision = "float32"
    cpu_products: CpuBackend = "torch"
    attention_from: Mapping[str, int | None] = field(default_factory=dict)

    def attention(self, device: torch.device, choice: str) -> Attend:
        """What attends. fp16x2 and tf32 keep float32 attention inputs."""
        onednn_from = self.attention_from.get(choice)
        if self.precision == "bf16":
            return attend_in_bfloat16
        if self.precision == "float32" and device.type == "cpu" and onednn_from is not None:
            return partial(attend_by_length, onednn_from=onednn_from)
        return attend


class PlainOps(Ops[Tensor]):
    """Activations are float32 tensors; products and attention by torch, as the definition has them."""

    def __init__(self, fuse: bool = False) -> None:
        self._fuse = fuse
        self._attend: Attend = attend
        self._parts: dict[object, PlainOps] = {}
        self._laid_out: dict[tuple[int, ...], tuple[list[Tensor], Callable[[Tensor], Tensor]]] = {}
        self._lock = threading.Lock()

    def attending(self, attend_with: Attend, parts: Mapping[str, Attend]) -> "PlainOps":
        """The same ops with other attention, everywhere and in named parts; weights are laid out once for all."""
        made = copy.copy(self)
        made._attend, made._parts = attend_with, {}
        for name, attend_there in parts.items():
            made._parts[name] = self.attending(attend_there, {})
        return made

    def ready(self, model: nn.Module) -> "PlainOps":
        """The same, with what can be laid out of a model's weights laid out here, by all threads, not in a lane."""
        return self

    def within(self, *place: object) -> "PlainOps":
        return self._parts.get(place[0], self) if self._parts else self

    def embed(self, ids_BL: Tensor, table_VD: Tensor) -> Tensor:
        return F.embedding(ids_BL, table_VD)

    def add_position(self, x: Tensor, position: Callable[[int], Tensor]) -> Tensor:
        return x + position(x.shape[1])

    def scale(self, x: Tensor, factor: float) -> Tensor:
        return factor * x

    def product(self, x: Tensor, linear: Weights) -> Tensor:
        return F.linear(x, linear.weight, linear.bias)

    def products(self, x: Tensor, *linears: Weights) -> tuple[Tensor, ...]:
        if not self._fuse:
            return super().products(x, *linears)
        joint = self._once(linears, lambda: self._made(side_by_side(*linears)))
        return torch.split(joint(x), [len(linear.weight) for linear in linears], dim=-1)

    def _made(self, linear: Weights) -> Callable[[Tensor], Tensor]:
        return partial(self.product, linear=linear)

    def split(self, x: Tensor, n_parts: int) -> tuple[Tensor, ...]:
        return x.chunk(n_parts, dim=-1)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, n_heads: int, keep_BK: Tensor | None) -> Tensor:
        q, k, v = (x.view(*x.shape[:2], n_heads, -1).transpose(1, 2) for x in (query, key, value))
        return self._attend(q, k, v, keep_BK).transpose(1, 2).flatten(2)

    def add(self, x: Tensor, update: Tensor) -> Tensor:
        return x + update

    def norm(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)

    def add_norm(self, x: Tensor, update: Tensor, norm: nn.LayerNorm) -> Tensor:
        return add_norm(x.expand_as(update), update, norm.weight, norm.bias, norm.eps)

    def activate(self, x: Tensor, kind: Literal["gelu", "relu"] = "gelu") -> Tensor:
        return F.gelu(x) if kind == "gelu" else F.relu(x)

    def join(self, pieces: Sequence[Tensor]) -> Tensor:
        n_rows = max(len(x) for x in pieces)
        return torch.cat([x.expand(n_rows, -1, -1) for x in pieces], dim=1) if len(pieces) > 1 else pieces[0]

    def pool(self, x: Tensor, counted_BL: Tensor) -> Tensor:
        total_BD = torch.where(counted_BL[..., None], x, 0.0).sum(1)
        return total_BD / counted_BL.sum(1, keepdim=True)

    def _once(
        self, linears: Sequence[Weights], make: Callable[[], Callable[[Tensor], Tensor]]
    ) -> Callable[[Tensor], Tensor]:
        """What was made of these weights, the first time that a lane met them."""
        key = tuple(id(x.weight) for x in linears)
        known = self._laid_out.get(key)
        if known is not None:
            return known[1]
        with self._lock:
            if key not in self._laid_out:
                made = make()
                if linears[0].weight.is_cuda:
                    # other lanes read it on other streams
                    torch.cuda.current_stream(linears[0].weight.device).synchronize()
                # the weights are kept beside it: their addresses stand for them
                self._laid_out[key] = [x.weight for x in linears], made
        return self._laid_out[key][1]


PLAIN = PlainOps()
"""The definition."""


class LaidOutOps(PlainOps):
    """Products by weights that are laid out, rounded or split, as `make` does it, when they are first met."""

    def __init__(self, make: Callable[[Weights], Callable[[Tensor], Tensor]], fuse: bool = False) -> None:
        super().__init__(fuse)
        self._make = make

    def product(self, x: Tensor, linear: Weights) -> Tensor:
        return self._once([linear], lambda: self._make(linear))(x)

    def ready(self, model: nn.Module) -> "LaidOutOps":
        for layer in model.modules() if not self._fuse else ():
            if isinstance(layer, nn.Linear):
                self._once([layer], partial(self._make, layer))
        return self

    def _made(self, linear: Weights) -> Callable[[Tensor], Tensor]:
        return self._make(linear)


class HalfPairOps(LaidOutOps):
    """fp16x2: the second product of a feed-forward reads gelu's output in two parts, which one pass makes."""

    def __init__(self, fuse: bool = False) -> None:
        super().__init__(HalfPairProduct, fuse)

    def feed_forward(self, x: Tensor, first: Weights, second: Weights) -> Tensor:
        # the two of a feed-forward stand for its second product, which may be met alone as well
        after_gelu = self._once([second, first], lambda: HalfPairProduct(second, "gelu"))
        return after_gelu(self.product(x, first))


def product_ops(arithmetic: Arithmetic, device: torch.device, fuse: bool | None = None) -> PlainOps:
    """Ops whose products are an arithmetic's. `fuse` (None: on a GPU): several products of one input are one."""
    fuse = device.type == "cuda" if fuse is None else fuse
    if arithmetic.precision == "fp16x2":
        return HalfPairOps(fuse)
    if arithmetic.precision != "float32":
        return LaidOutOps(partial(RoundedProduct, precision=arithmetic.precision), fuse)
    if device.type == "cpu" and arithmetic.cpu_products == "onednn":
        return LaidOutOps(OneDnnProduct, fuse)
    return PlainOps(fuse)


def ops_of(
    arithmetic: Arithmetic, device: torch.device, choices: Mapping[str, str], fuse: bool | None = None
) -> PlainOps:
    """Ops of an arithmetic for a network. `choices`: part of it ("" for all others) -> its `AttentionKind.choice`."""
    parts = {part: arithmetic.attention(device, choice) for part, choice in choices.items()}
    rest = parts.pop("", arithmetic.attention(device, ""))
    return product_ops(arithmetic, device, fuse).attending(rest, parts)
