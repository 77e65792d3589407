"""PerturbGenAdapter: runs the plain model on rows; the definition that every faster engine must equal."""

import copy
import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from screen.cells.vocabulary import SPECIAL_IDS
from screen.errors import ConfigError
from screen.models.adapter import PackedModel, Readout, Rows, Schema
from screen.models.perturbgen.chains import Chain, chain_of
from screen.models.perturbgen.cost import Cost
from screen.models.perturbgen.files.checkpoint import fingerprint as weights_fingerprint
from screen.models.perturbgen.network.count_head import CountOutput
from screen.models.perturbgen.network.model import PerturbGen
from screen.models.products import Arithmetic, with_products

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
            self.condition_ids,
        )
        return hashlib.sha256((weights_fingerprint(self.model) + repr(settings)).encode()).hexdigest()

    def packed(
        self,
        device: torch.device,
        arithmetic: Arithmetic,
        edits: frozenset[frozenset[int]],
        keeps_hidden: bool,
        pools_anew: bool,
        fuse: bool | None = None,
    ) -> PackedModel:
        """The model made ready for batches on a device; the count head stays float32."""
        from screen.models.perturbgen.packed import PackedPerturbGen

        # on another device a copy: the plain model stays where it is
        plain = self.model if device.type == "cpu" else copy.deepcopy(self.model).to(device)
        model = with_products(
            plain,
            arithmetic.product(device),
            arithmetic.attention(device),
            fuse=device.type == "cuda" if fuse is None else fuse,
            exact=("count_decoder",),
            attend_in={"encoder_layers": arithmetic.attention(device, in_encoder=True)},
        )
        return PackedPerturbGen(self, model, edits, keeps_hidden, pools_anew)

    @torch.inference_mode()
    def predict(self, rows: Rows, keep_hidden: bool = False) -> Readout:
        """Encoder, decoder per time point, pooling, count head; nothing shared, nothing skipped."""
        hidden = self.model.predict(rows.source_BL, rows.target_BL, self.pred_tps, self.context_tps, self.context_mode)
        embedding = {t: self._pool(hidden[t], rows, t) for t in self.pred_tps}
        value: dict[int, Tensor] = {}
        size_factor: dict[int, Tensor] = {}
        for t in self.pred_tps if self.schema.expression_scale is not None else ():
            output = self.model.count_decoder(embedding[t])
            value[t], size_factor[t] = self.values(output), self.size_factors(output, rows.size_factor_B.get(t))
        return Readout(embedding, value, size_factor, hidden if keep_hidden else {})

    def _pool(self, hidden_BLD: Tensor, rows: Rows, time: int) -> Tensor:
        always_K = torch.tensor([*SPECIAL_IDS, *self.condition_ids])
        per_item_BK = rows.excluded_BK[time]
        excluded_BK = torch.cat([always_K.expand(len(per_item_BK), -1), per_item_BK], dim=1)
        return self.model.pool(hidden_BLD, rows.target_BL[time], excluded_BK)

    def values(self, output: CountOutput) -> Tensor:
        """(B, G) what the readout says, per unit of size factor."""
        if self.readout == "expected" and output.dropout_logit_BG is not None:
            return output.head_BG * torch.sigmoid(-output.dropout_logit_BG)
        return output.head_BG

    def size_factors(self, output: CountOutput, observed_B: Tensor | None) -> Tensor:
        """(B,) what `values` are multiplied by to give expected counts."""
        if self.size_factor == "none" or self.model.sizes.loss_mode == "mse":
            return output.head_BG.new_ones(len(output.head_BG))
        if self.size_factor == "predicted" and output.size_factor_B1 is not None:
            return output.size_factor_B1[:, 0]
        if observed_B is None:
            raise ConfigError(
                "size_factor is `observed`, but the cells have no counts; give tgt_adata_folder or use `none`"
            )
        return observed_B
