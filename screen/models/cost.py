"""CountedCost: what a model costs, counted op by op over its own forward pass, for any lengths at once."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from screen.models.adapter import ModelAdapter, Row, Rows
from screen.models.ops import Ops
from screen.models.products import Weights

FLOAT_BYTES = 4
LIVE_COPIES = 8
"""Width-sized activations of one token that are alive at once in a block, queries to residual sum."""


@dataclass(frozen=True)
class Size:
    """An activation as counting sees it: tokens (a number, or an array of them) and width."""

    length: Any
    width: int


class CountingOps(Ops[Size]):
    """Counts two operations per multiply-add of products and attention; element-wise work is not counted.

    shapes, fused_shapes  (in, out) of the products that were met, and of those that are one for several weights
    """

    def __init__(self) -> None:
        self.flops: Any = 0
        self.shapes: set[tuple[int, int]] = set()
        self.fused_shapes: set[tuple[int, int]] = set()

    def within(self, *place: object) -> "CountingOps":
        return self

    def embed(self, ids_BL: Any, table_VD: Tensor) -> Size:
        return Size(ids_BL, table_VD.shape[1])

    def add_position(self, x: Size, position: Callable[[int], Tensor]) -> Size:
        return x

    def scale(self, x: Size, factor: float) -> Size:
        return x

    def product(self, x: Size, linear: Weights) -> Size:
        n_out = linear.weight.shape[0]
        self.flops = self.flops + 2 * x.length * x.width * n_out
        self.shapes.add((x.width, n_out))
        return Size(x.length, n_out)

    def products(self, x: Size, *linears: Weights) -> tuple[Size, ...]:
        self.fused_shapes.add((x.width, sum(len(linear.weight) for linear in linears)))
        return super().products(x, *linears)

    def split(self, x: Size, n_parts: int) -> tuple[Size, ...]:
        return (Size(x.length, x.width // n_parts),) * n_parts

    def attend(self, query: Size, key: Size, value: Size, n_heads: int, keep_BK: Tensor | None) -> Size:
        self.flops = self.flops + 2 * query.length * key.length * (query.width + value.width)
        return Size(query.length, value.width)

    def add(self, x: Size, update: Size) -> Size:
        return x

    def norm(self, x: Size, norm: nn.LayerNorm) -> Size:
        return x

    def activate(self, x: Size, kind: Literal["gelu", "relu"] = "gelu") -> Size:
        return x

    def join(self, pieces: Sequence[Size]) -> Size:
        return Size(sum(x.length for x in pieces), pieces[0].width)

    def pool(self, x: Size, counted_BL: Tensor) -> Size:
        return Size(1, x.width)


def counted(adapter: ModelAdapter, n_source: Any, n_target: Mapping[int, Any]) -> CountingOps:
    """What one forward pass of an item with rows of these lengths asks for."""
    ops, target = CountingOps(), {t: Row(n, None) for t, n in n_target.items()}
    adapter.forward(ops, Rows(Row(n_source, None), target, {}, {}))
    return ops


@dataclass(frozen=True)
class CountedCost:
    """The cost of a model whose items are whole forward passes."""

    adapter: ModelAdapter

    def control(self, n_source: Any, n_target: Mapping[int, Any]) -> Any:
        """FLOPs of one forward pass, count head aside."""
        return counted(self.adapter, n_source, n_target).flops

    def items(
        self, edited: Collection[int], n_source: Any, n_target: Mapping[int, Any], shares_queries: bool = False
    ) -> Any:
        """FLOPs of one item: those of its control."""
        return self.control(n_source, n_target)

    def shared_bytes(self, edits: Collection[Collection[int]], n_source: Any, n_target: Mapping[int, Any]) -> Any:
        """Bytes of a cell's control embeddings and expression."""
        schema = self.adapter.schema
        return FLOAT_BYTES * len(self.adapter.reads_out) * (schema.width + 2 * schema.n_genes)

    def working_bytes(self, n_tokens: int) -> int:
        """As if every state of an item were as wide as its widest, one after another."""
        return FLOAT_BYTES * n_tokens * LIVE_COPIES * self.adapter.schema.width

    def weight_bytes(self) -> int:
        """Every weight, and once more as it is laid out."""
        return 2 * sum(p.numel() * p.element_size() for p in self.adapter.model.parameters())
