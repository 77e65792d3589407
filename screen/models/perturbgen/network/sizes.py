"""Sizes: every number that fixes the shape of a PerturbGen model, read off a checkpoint's tensors."""

from dataclasses import dataclass
from typing import Literal

from screen.models.perturbgen.network.layers import PositionMode

EncoderKind = Literal["scmaskgit", "Transformer_encoder"]
LossMode = Literal["mse", "nb", "zinb"]

# Upstream's fixed choices, which no tensor shape shows.
SCMASKGIT_HEADS = 8
TRANSFORMER_ENCODER_HEADS = 4
# Rows that upstream adds to the token table and to the position table.
CONDITION_SLOTS = 50
POSITION_SLOTS = 100


@dataclass(frozen=True)
class EncoderSizes:
    """kind; embedding rows; width; heads and head width; number of blocks; rows of the position and time tables.

    `chained` (scmaskgit only): False is upstream's behaviour (each block sees the embedding, only the last one counts).
    """

    kind: EncoderKind
    n_tokens: int
    width: int
    n_heads: int
    head_width: int
    n_blocks: int
    n_positions: int
    n_times: int
    feed_forward_width: int
    chained: bool = False


@dataclass(frozen=True)
class Sizes:
    """Decoder and count head: V tokens, D width, H heads of width A, blocks, S positions, T target times, G genes.

    `dispersion_levels` is the number of columns of theta (0 for mse); `loss_mode` names the count head.
    `count_activation` is softmax (shares of a cell's total) or softplus (absolute means).
    """

    encoder: EncoderSizes
    n_tokens: int
    width: int
    n_heads: int
    head_width: int
    n_blocks: int
    n_positions: int
    n_time_points: int
    n_genes: int
    position_mode: PositionMode
    loss_mode: LossMode | None
    dispersion_levels: int = 0
    count_activation: Literal["softmax", "softplus"] = "softmax"
    predicts_size_factor: bool = False

    @property
    def n_time_rows(self) -> int:
        """Rows of the decoder's time table: two more than the target times with scmaskgit, one more otherwise."""
        return self.n_time_points + (2 if self.encoder.kind == "scmaskgit" else 1)

    @property
    def max_len(self) -> int:
        """Longest token row, conditions not counted: upstream sizes its position table as this plus 100."""
        return self.n_positions - POSITION_SLOTS
