"""The protocol between the engine and a model: rows in, readouts out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """What a model reads for B items.

    source_BL        source ids, trailing pads cut
    target_BL        ids per predicted or context time point, condition tokens in front, trailing pads cut
    excluded_BK      per predicted time point: gene ids that pooling leaves out (-1 = none)
    size_factor_B    per predicted time point: observed library size, empty where unknown
    n_conditions     condition tokens in front of every target row
    """

    source_BL: Tensor
    target_BL: Mapping[int, Tensor]
    excluded_BK: Mapping[int, Tensor]
    size_factor_B: Mapping[int, Tensor]
    n_conditions: int


@dataclass(frozen=True)
class Row:
    """One state of B items: padded ids, and which positions are keys (None: all of them, there is no pad)."""

    ids_BL: Tensor
    keep_BL: Tensor | None


@dataclass(frozen=True)
class BatchRows:
    """What a model reads for B items at once, condition tokens in front of every target.

    edited         states (0 the source, 1.. target time points) that these items edit; the others are the cells' own
    index_B        which of the batch's different cells each item belongs to
    counted_BL     per predicted time point: positions that pooling counts
    size_factor_B  per predicted time point: observed library size, empty where unknown
    """

    source: Row
    target: Mapping[int, Row]
    edited: frozenset[int]
    index_B: Tensor
    counted_BL: Mapping[int, Tensor]
    size_factor_B: Mapping[int, Tensor]

    def __len__(self) -> int:
        return len(self.index_B)


@dataclass(frozen=True)
class Readout:
    """What a model says for B items, per predicted time point.

    embedding_BD  pooled embedding
    value_BG      expected counts per unit of size factor, or expression where `Schema.expression_scale` says so; empty
                  without a count head
    size_factor_B what value_BG is multiplied by to give expected counts; empty with an expression scale of its own
    hidden_BLD    per-token embeddings, aligned with the target ids; empty unless asked for
    cosine_B      cosine of embedding_BD to the control's, where the model was given it
    unchanged     time points that the edit does not reach: the control's numbers stand, nothing is repeated here
    """

    embedding_BD: Mapping[int, Tensor]
    value_BG: Mapping[int, Tensor]
    size_factor_B: Mapping[int, Tensor]
    hidden_BLD: Mapping[int, Tensor]
    cosine_B: Mapping[int, Tensor] = field(default_factory=dict)
    unchanged: frozenset[int] = frozenset()

    def counts(self, time: int) -> Tensor:
        """Expected counts (B, G)."""
        return self.value_BG[time] * self.size_factor_B[time][:, None]


@dataclass(frozen=True)
class Schema:
    """What a model's readouts hold.

    expression_scale  'log1p_cp10k' (values are counts, normalised by the engine), 'model' (values are already log
                      expression; no totals), or None (embeddings only)
    """

    n_genes: int
    width: int
    expression_scale: str | None


class ModelAdapter(Protocol):
    """A model the engine can run. One file or package in `screen.models` implements it."""

    @property
    def schema(self) -> Schema:
        """Names and sizes of the readouts."""

    @property
    def fingerprint(self) -> str:
        """Identity of weights and settings that change numbers."""

    def predict(self, rows: Rows, keep_hidden: bool = False) -> Readout:
        """Readouts of B items, edited or not."""


class PackedModel(Protocol):
    """A model made ready for batches on one device. What `control` hands back per cell is the model's own business."""

    def control(self, rows: BatchRows, length_B: Mapping[int, Sequence[int]]) -> tuple[Readout, list[Any]]:
        """Readouts of B unedited cells, and per cell what its items can take over.

        `length_B` are the rows' own lengths by state, condition tokens included, at least 1.
        """

    def predict(self, rows: BatchRows, before_CD: Mapping[int, Tensor], shared: Sequence[Any]) -> Readout:
        """Readouts of B items of C cells, given the cells' control embeddings and what `control` gave for them."""
