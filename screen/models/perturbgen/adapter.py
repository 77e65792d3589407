"""PerturbGenAdapter: runs the plain model on rows; the definition that every faster engine must equal."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from screen.errors import ConfigError
from screen.genes import SPECIAL_IDS
from screen.models.adapter import Readout, Schema
from screen.models.perturbgen.checkpoint import fingerprint as weights_fingerprint
from screen.models.perturbgen.count_head import CountOutput
from screen.models.perturbgen.model import PerturbGen
from screen.rows import Rows

SizeFactor = Literal["observed", "predicted", "none"]


@dataclass(frozen=True)
class PerturbGenAdapter:
    """A model with the settings of one screen.

    readout      expected counts: NB mu, ZINB (1 - pi) mu; or `mu`, which upstream writes at n_samples 1
    size_factor  what the head's shares are multiplied by
    """

    model: PerturbGen
    pred_tps: tuple[int, ...]
    context_tps: tuple[int, ...]
    context_mode: bool = False
    readout: Literal["expected", "mu"] = "expected"
    size_factor: SizeFactor = "observed"
    uses_counts: bool = True
    condition_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.size_factor == "predicted" and not self.model.sizes.predicts_size_factor:
            raise ConfigError(
                "size_factor is `predicted`, but the checkpoint has no size-factor decoder; use `observed`"
            )

    @property
    def schema(self) -> Schema:
        """Counts for nb and zinb, log expression for mse, embeddings only without a count head."""
        sizes = self.model.sizes
        if not self.uses_counts or sizes.loss_mode is None:
            return Schema(sizes.n_genes, sizes.width, None)
        return Schema(sizes.n_genes, sizes.width, "model" if sizes.loss_mode == "mse" else "log1p_cp10k")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over weights and every setting that changes a number."""
        settings = (
            self.pred_tps,
            self.context_tps,
            self.context_mode,
            self.readout,
            self.size_factor,
            self.condition_ids,
        )
        return hashlib.sha256((weights_fingerprint(self.model) + repr(settings)).encode()).hexdigest()

    def flops(self, source_length: int, target_length: int) -> int:
        """Two per multiply-add of every matrix product and attention of one item, for rows of these lengths."""
        sizes, encoder = self.model.sizes, self.model.sizes.encoder
        n_source, n_target, width = source_length, target_length, sizes.width
        inner, encoder_inner = sizes.n_heads * sizes.head_width, encoder.n_heads * encoder.head_width
        block = (
            2 * n_source * width * (4 * encoder_inner + 2 * encoder.feed_forward_width)
            + 4 * n_source**2 * encoder_inner
        )
        n_others = len(set(self.context_tps)) if self.context_mode else 0
        context = n_source + n_target * n_others
        decoder = 2 * n_target * width * (6 * inner + 2 * width) + 4 * context * width * inner
        decoder += 4 * n_target * (n_target + context) * inner
        passes = len(self.pred_tps) * (1 + n_others)
        head = 2 * width * (2 * width + 2 * sizes.n_genes) * len(self.pred_tps)
        return block * (encoder.n_blocks if encoder.chained else 1) + decoder * sizes.n_blocks * passes + head

    @torch.inference_mode()
    def predict(self, rows: Rows, keep_hidden: bool = False) -> Readout:
        """Encoder, decoder per time point, pooling, count head; nothing shared, nothing skipped."""
        hidden = self.model.predict(rows.source_BL, rows.target_BL, self.pred_tps, self.context_tps, self.context_mode)
        embedding = {t: self._pool(hidden[t], rows, t) for t in self.pred_tps}
        value: dict[int, Tensor] = {}
        size_factor: dict[int, Tensor] = {}
        for t in self.pred_tps if self.schema.expression_scale is not None else ():
            output = self.model.count_decoder(embedding[t])
            value[t], size_factor[t] = self._values(output), self._size_factor(output, rows.size_factor_B.get(t))
        return Readout(embedding, value, size_factor, hidden if keep_hidden else {})

    def _pool(self, hidden_BLD: Tensor, rows: Rows, time: int) -> Tensor:
        always_K = torch.tensor([*SPECIAL_IDS, *self.condition_ids])
        per_item_BK = rows.excluded_BK[time]
        excluded_BK = torch.cat([always_K.expand(len(per_item_BK), -1), per_item_BK], dim=1)
        return self.model.pool(hidden_BLD, rows.target_BL[time], excluded_BK)

    def _values(self, output: CountOutput) -> Tensor:
        if self.readout == "expected" and output.dropout_logit_BG is not None:
            return output.head_BG * torch.sigmoid(-output.dropout_logit_BG)
        return output.head_BG

    def _size_factor(self, output: CountOutput, observed_B: Tensor | None) -> Tensor:
        if self.size_factor == "none" or self.model.sizes.loss_mode == "mse":
            return torch.ones(len(output.head_BG))
        if self.size_factor == "predicted" and output.size_factor_B1 is not None:
            return output.size_factor_B1[:, 0]
        if observed_B is None:
            raise ConfigError(
                "size_factor is `observed`, but the cells have no counts; give tgt_adata_folder or use `none`"
            )
        return observed_B
