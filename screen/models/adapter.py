"""The protocol between the engine and a model: rows in, readouts out, and what a model says of itself."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self, cast

import torch
from torch import Tensor, nn

from screen.cells.bank import SOURCE
from screen.cells.vocabulary import PAD
from screen.models.ops import PLAIN, Arithmetic, Ops, X, ops_of


@dataclass(frozen=True)
class Row:
    """One state of B items: padded ids, and which positions are keys (None: all of them, there is no pad)."""

    ids_BL: Tensor
    keep_BL: Tensor | None


def row_of(ids_BL: Tensor) -> Row:
    """Padded ids with the keys that they are."""
    keep_BL = ids_BL != PAD
    return Row(ids_BL, None if bool(keep_BL.all()) else keep_BL)


def keep_of(rows: Sequence[Row]) -> Tensor | None:
    """Key mask of several rows side by side, None where every key counts."""
    if all(r.keep_BL is None for r in rows):
        return None
    whole = [torch.ones_like(r.ids_BL, dtype=torch.bool) if r.keep_BL is None else r.keep_BL for r in rows]
    return torch.cat(whole, dim=1)


@dataclass(frozen=True)
class Rows:
    """What a model reads for B items.

    source, target  a row per state; target by time point, condition tokens in front; empty where a model has no targets
    counted_BL      per state read out: positions that pooling counts
    size_factor_B   per state read out: observed library size, empty where unknown
    """

    source: Row
    target: Mapping[int, Row]
    counted_BL: Mapping[int, Tensor]
    size_factor_B: Mapping[int, Tensor]

    def row(self, state: int) -> Row:
        """The row of a state, SOURCE or a time point."""
        return self.source if state == SOURCE else self.target[state]


@dataclass(frozen=True)
class BatchRows(Rows):
    """What a model reads for the B items of a batch.

    edited   states (SOURCE, or time points) that these items edit; the others are the cells' own
    index_B  which of the batch's different cells each item belongs to
    """

    edited: frozenset[int]
    index_B: Tensor

    def __len__(self) -> int:
        return len(self.index_B)


@dataclass(frozen=True)
class Readout:
    """What a model says for B items, per state read out.

    embedding_BD  pooled embedding
    value_BG      expected counts per unit of size factor, or expression where `Schema.expression_scale` says so; empty
                  without a count head
    size_factor_B what value_BG is multiplied by to give expected counts; empty with an expression scale of its own
    hidden_BLD    per-token embeddings, aligned with the state's ids; empty unless asked for
    cosine_B      cosine of embedding_BD to the control's, where the model was given it
    unchanged     states that the edit does not reach: the control's numbers stand, nothing is repeated here
    recomputed    reason -> items that could not be computed as the others
    is_unsure_B   items that could not be computed as the others, known on the device; None: all could
    again         the readout with these computed otherwise
    """

    embedding_BD: Mapping[int, Tensor]
    value_BG: Mapping[int, Tensor]
    size_factor_B: Mapping[int, Tensor]
    hidden_BLD: Mapping[int, Tensor]
    cosine_B: Mapping[int, Tensor] = field(default_factory=dict)
    unchanged: frozenset[int] = frozenset()
    recomputed: Mapping[str, int] = field(default_factory=dict)
    is_unsure_B: Tensor | None = None
    again: Callable[[], "Readout"] | None = None

    def settled(self) -> "Readout":
        """With every item computed, however; the host waits to know which."""
        return self if self.again is None or self.is_unsure_B is None or not self.is_unsure_B.any() else self.again()

    def counts(self, state: int) -> Tensor:
        """Expected counts (B, G)."""
        return self.value_BG[state] * self.size_factor_B[state][:, None]


@dataclass(frozen=True)
class Schema:
    """What a model's readouts hold.

    n_genes           genes of `value_BG`; 0 without counts
    expression_scale  'log1p_cp10k' (values are counts, normalised by the engine), 'model' (values are already log
                      expression; no totals), or None (embeddings only)
    """

    n_genes: int
    width: int
    expression_scale: str | None


@dataclass(frozen=True)
class AttentionKind:
    """Attention of one shape, which is timed on a CPU and chosen by itself. `choice` is its name in a store's records."""

    choice: str
    n_heads: int
    head_width: int


class Cost(Protocol):
    """What a model costs, for planning. Lengths may be numbers or arrays; n_target includes condition tokens."""

    def items(
        self, edited: Collection[int], n_source: Any, n_target: Mapping[int, Any], shares_queries: bool = False
    ) -> Any:
        """FLOPs of one item that edits these states. `shares_queries`: all items of its batch are of one cell."""

    def control(self, n_source: Any, n_target: Mapping[int, Any]) -> Any:
        """FLOPs of one cell's control."""

    def shared_bytes(self, edits: Collection[Collection[int]], n_source: Any, n_target: Mapping[int, Any]) -> Any:
        """Bytes that the items of one cell take over from its control."""

    def working_bytes(self, n_tokens: int) -> int:
        """Bytes that a batch of `n_tokens` tokens in its widest state needs while it runs, roughly."""

    def weight_bytes(self) -> int:
        """Bytes of the weights, those laid out for fast products included."""


class PackedModel(Protocol):
    """A model made ready for batches on one device. What `control` hands back per cell is the model's own business."""

    def control(self, rows: BatchRows, length_B: Mapping[int, Sequence[int]]) -> tuple[Readout, Sequence[Any]]:
        """Readouts of B unedited cells, and per cell what its items can take over.

        `length_B` are the rows' own lengths by state, condition tokens included, at least 1.
        """

    def predict(self, rows: BatchRows, before_CD: Mapping[int, Tensor], shared: Sequence[Any]) -> Readout:
        """Readouts of B items of C cells, given the cells' control embeddings and what `control` gave for them."""

    def forget(self) -> None:
        """Lets go of what threads keep of the cells that they met last: they record it again when their items come."""


@dataclass(frozen=True)
class Batching:
    """What a screen asks of a model in batches.

    edits         the different sets of states that its perturbations edit
    keeps_hidden  per-token embeddings are asked for
    pools_anew    a state that no edit reaches may still be pooled without the perturbed genes
    """

    edits: frozenset[frozenset[int]]
    keeps_hidden: bool = False
    pools_anew: bool = False


class ModelAdapter(ABC):
    """A model with the settings of one screen: a frozen dataclass with a field `model`, the network.

    What is abstract is a model's own. The rest has a definition that serves any model; a family may do better.

    >>> import screen
    >>> sorted(screen.ModelAdapter.__abstractmethods__)
    ['fingerprint', 'forward', 'reads_out', 'schema']
    >>> from screen.models.registry import load
    >>> adapter = load(screen.load_config("demo.yaml")).adapter
    >>> isinstance(adapter, screen.ModelAdapter), adapter.schema.n_genes, adapter.reads_out
    (True, 1500, (1,))
    """

    model: nn.Module

    @property
    @abstractmethod
    def schema(self) -> Schema:
        """Sizes of the readouts."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Identity of weights and settings that change numbers."""

    @property
    @abstractmethod
    def reads_out(self) -> tuple[int, ...]:
        """States that are predicted and pooled: time points, or SOURCE."""

    @abstractmethod
    def forward(self, ops: Ops[X], rows: Rows) -> Mapping[int, X]:
        """Last layer (B, L, D) of every state that is read out. Everything done with activations is an op."""

    def counts(self, embedding_BD: Tensor, observed_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """(value_BG, size_factor_B) of pooled embeddings, as `Readout` has them; for models with an expression scale."""
        raise NotImplementedError("this model predicts embeddings only")

    def log_likelihood(self, embedding_BD: Tensor, count_BG: Tensor, observed_B: Tensor | None) -> Tensor | None:
        """(B,) natural log-likelihood of observed counts given pooled embeddings, mean over genes.

        None for a model that does not say how counts scatter.
        """
        return None

    @property
    def condition_ids(self) -> tuple[int, ...]:
        """Ids of condition tokens, which pooling leaves out."""
        return ()

    @property
    def attention(self) -> tuple[AttentionKind, ...]:
        """Kinds of attention that are worth timing on a CPU."""
        return ()

    @property
    def cost(self) -> Cost:
        """Operations and bytes of packed batches: by default counted, op by op, over `forward`."""
        from screen.models.cost import CountedCost

        return CountedCost(self)

    @torch.inference_mode()
    def predict(self, rows: Rows, keep_hidden: bool = False) -> Readout:
        """The definition: the network by plain ops, pooling, counts; nothing shared, nothing skipped."""
        hidden = self.forward(PLAIN, rows)
        embedding = {s: PLAIN.pool(hidden[s], rows.counted_BL[s]) for s in self.reads_out}
        value, size_factor = self.values(embedding, rows)
        return Readout(embedding, value, size_factor, dict(hidden) if keep_hidden else {})

    def values(self, embedding_BD: Mapping[int, Tensor], rows: Rows) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """`counts` of every state, empty for a model without."""
        found = {
            s: self.counts(x, rows.size_factor_B.get(s))
            for s, x in embedding_BD.items()
            if self.schema.expression_scale is not None
        }
        return {s: v for s, (v, _) in found.items()}, {s: n for s, (_, n) in found.items()}

    def packed(
        self, device: torch.device, arithmetic: Arithmetic, batching: Batching, fuse: bool | None = None
    ) -> PackedModel:
        """The model made ready for batches on a device: by default every item is a whole forward pass.

        `fuse` (None: on a GPU): several products of one input are one.
        """
        from screen.models.packed import PackedForward

        # one kind of attention serves the whole network
        choices = {"": self.attention[0].choice} if self.attention else {}
        there = self.on(device)
        return PackedForward(there, ops_of(arithmetic, device, choices, fuse).ready(there.model), batching)

    def on(self, device: torch.device) -> Self:
        """The same with its network on a device; on another one than the CPU, where it was read, it is a copy."""
        if device.type == "cpu":
            return self
        return self._with(copy.deepcopy(self.model).to(device))

    def in_double(self) -> Self:
        """The same in float64."""
        return self._with(copy.deepcopy(self.model).double())

    def _with(self, model: nn.Module) -> Self:
        return cast(Self, replace(cast(Any, self), model=model))
