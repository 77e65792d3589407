"""The protocol between the engine and a model: rows in, readouts out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from screen.rows import Rows


@dataclass(frozen=True)
class Readout:
    """What a model says for B items, per predicted time point.

    embedding_BD  pooled embedding
    value_BG      expected counts per unit of size factor, or expression where `Schema.expression_scale` says so; empty
                  without a count head
    size_factor_B what value_BG is multiplied by to give expected counts; empty with an expression scale of its own
    hidden_BLD    per-token embeddings, aligned with Rows.target_BL; empty unless asked for
    """

    embedding_BD: Mapping[int, Tensor]
    value_BG: Mapping[int, Tensor]
    size_factor_B: Mapping[int, Tensor]
    hidden_BLD: Mapping[int, Tensor]

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

    def flops(self, source_length: int, target_length: int) -> int:
        """Floating-point operations of one item, for rows of these lengths."""

    def predict(self, rows: Rows, keep_hidden: bool = False) -> Readout:
        """Readouts of B items, edited or not."""
