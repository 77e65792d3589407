"""PerturbGenAdapter: runs the plain model on rows; the definition that every faster engine must equal."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from screen.errors import ConfigError
from screen.models.adapter import AttentionKind, Batching, ModelAdapter, PackedModel, Rows, Schema
from screen.models.ops import Arithmetic, Ops, X, ops_of
from screen.models.perturbgen.chains import REUSE, Chain, chain_of
from screen.models.perturbgen.cost import Cost
from screen.models.perturbgen.files.checkpoint import fingerprint as weights_fingerprint
from screen.models.perturbgen.network.count_head import CountOutput, negative_log_likelihood
from screen.models.perturbgen.network.model import PerturbGen

SizeFactor = Literal["observed", "predicted", "none"]
ATTENTION_CHOICES = {"": "onednn_attention_from", "encoder": "onednn_encoder_attention_from"}
"""Part of the network -> the name in a store's records of from how many keys on its attention is oneDNN's."""


@dataclass(frozen=True)
class PerturbGenAdapter(ModelAdapter):
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
    conditions: tuple[int, ...] = ()

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

    @property
    def reads_out(self) -> tuple[int, ...]:
        """The predicted time points."""
        return self.pred_tps

    @property
    def condition_ids(self) -> tuple[int, ...]:
        """Ids of every condition value the model knows."""
        return self.conditions

    @property
    def attention(self) -> tuple[AttentionKind, ...]:
        """The decoder's, and the encoder's, whose heads have another width."""
        sizes = self.model.sizes
        return (
            AttentionKind(ATTENTION_CHOICES[""], sizes.n_heads, sizes.head_width),
            AttentionKind(ATTENTION_CHOICES["encoder"], sizes.encoder.n_heads, sizes.encoder.head_width),
        )

    @property
    def chains(self) -> dict[int, Chain]:
        """Predicted time point -> what is decoded for it."""
        return {t: chain_of(t, self.context_tps or self.pred_tps, self.context_mode) for t in self.pred_tps}

    @property
    def cost(self) -> Cost:
        """Operations and bytes of packed batches."""
        return Cost(self.model.sizes, self.chains)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over weights and every setting that changes a number."""
        settings = (
            self.pred_tps,
            self.context_tps,
            self.context_mode,
            self.readout,
            self.size_factor,
            self.conditions,
        )
        return hashlib.sha256((weights_fingerprint(self.model) + repr(settings)).encode()).hexdigest()

    def forward(self, ops: Ops[X], rows: Rows) -> dict[int, X]:
        """Encoder, then the decoder for every chain of time points."""
        return self.model.forward(ops, rows.source, rows.target, self.chains)

    def counts(self, embedding_BD: Tensor, observed_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the count head says, and what that is multiplied by."""
        output = self.model.count_decoder(embedding_BD)
        return self._value(output), self._size_factor(output, observed_B)

    def log_likelihood(self, embedding_BD: Tensor, count_BG: Tensor, observed_B: Tensor | None) -> Tensor | None:
        """Of the negative binomial, zero-inflated or not; None where dispersions differ by group of cells."""
        sizes = self.model.sizes
        if self.schema.expression_scale != "log1p_cp10k" or sizes.dispersion_levels != 1:
            return None
        output = self.model.count_decoder(embedding_BD)
        mu_BG = output.head_BG * self._size_factor(output, observed_B)[:, None]
        dispersion_BG = self.model.dispersion(torch.zeros(len(mu_BG), dtype=torch.long, device=mu_BG.device))
        nll_B = negative_log_likelihood(count_BG, mu_BG, dispersion_BG, output.dropout_logit_BG)
        return -nll_B / count_BG.shape[1]

    def packed(
        self, device: torch.device, arithmetic: Arithmetic, batching: Batching, fuse: bool | None = None
    ) -> PackedModel:
        """The model made ready for batches on a device; the count head stays float32."""
        from screen.models.perturbgen.packed import PackedPerturbGen

        there = self.on(device)
        ops = ops_of(arithmetic, device, ATTENTION_CHOICES, fuse).ready(there.model)
        # cell by cell, which is no work for a GPU; and by weights as they are
        is_few_worth = device.type == "cpu" and arithmetic.precision == "float32"
        return PackedPerturbGen(there, ops, batching, REUSE if is_few_worth else REUSE - {"few"})

    def _value(self, output: CountOutput) -> Tensor:
        """(B, G) what the readout says, per unit of size factor."""
        if self.readout == "expected" and output.dropout_logit_BG is not None:
            return output.head_BG * torch.sigmoid(-output.dropout_logit_BG)
        return output.head_BG

    def _size_factor(self, output: CountOutput, observed_B: Tensor | None) -> Tensor:
        """(B,) what `_value` is multiplied by to give expected counts."""
        if self.size_factor == "none" or self.model.sizes.loss_mode == "mse":
            return output.head_BG.new_ones(len(output.head_BG))
        if self.size_factor == "predicted" and output.size_factor_B1 is not None:
            return output.size_factor_B1[:, 0]
        if observed_B is None:
            raise ConfigError(
                "size_factor is `observed`, but the cells have no counts; give tgt_adata_folder or use `none`"
            )
        return observed_B
