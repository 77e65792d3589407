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

    @torch.inference_mode()
    def predict(self, rows: Rows, keep_hidden: bool = False) -> Readout:
        """Encoder, decoder per time point, pooling, count head; nothing shared, nothing skipped."""
        hidden = self.model.predict(rows.source_BL, rows.target_BL, self.pred_tps, self.context_tps, self.context_mode)
        embedding = {t: self._pool(hidden[t], rows, t) for t in self.pred_tps}
        value: dict[int, Tensor] = {}
        if self.schema.expression_scale is not None:
            value = {
                t: self._values(self.model.count_decoder(embedding[t]), rows.size_factor_B.get(t))
                for t in self.pred_tps
            }
        return Readout(embedding, value, hidden if keep_hidden else {})

    def _pool(self, hidden_BLD: Tensor, rows: Rows, time: int) -> Tensor:
        always_K = torch.tensor([*SPECIAL_IDS, *self.condition_ids])
        per_item_BK = rows.excluded_BK[time]
        excluded_BK = torch.cat([always_K.expand(len(per_item_BK), -1), per_item_BK], dim=1)
        return self.model.pool(hidden_BLD, rows.target_BL[time], excluded_BK)

    def _values(self, output: CountOutput, observed_B: Tensor | None) -> Tensor:
        if self.model.sizes.loss_mode == "mse":
            return output.head_BG
        value_BG = output.head_BG
        if self.size_factor == "predicted" and output.size_factor_B1 is not None:
            value_BG = value_BG * output.size_factor_B1
        elif self.size_factor == "observed":
            if observed_B is None:
                raise ConfigError(
                    "size_factor is `observed`, but the cells have no counts; give tgt_adata_folder or use `none`"
                )
            value_BG = value_BG * observed_B[:, None]
        if self.readout == "expected" and output.dropout_logit_BG is not None:
            value_BG = value_BG * torch.sigmoid(-output.dropout_logit_BG)
        return value_BG
