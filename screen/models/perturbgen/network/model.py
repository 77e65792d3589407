"""PerturbGen: source encoder, time-aware decoder with cross-attention, count head.

Our own implementation of the published architecture; parameter names below this module are upstream's below
`decoder.pretrained_model.` (encoder, decoder) and `decoder.` (count head), so that its checkpoints load.
Token logits are not part of the model: prediction never needs them.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from screen.models.perturbgen.network.count_head import CountHead
from screen.models.perturbgen.network.encoder import NestedEncoder, TransformerEncoder
from screen.models.perturbgen.network.layers import DecoderBlock, PositionEncoding
from screen.models.perturbgen.network.sizes import Sizes

PAD = 0


def keys_kept(ids_BL: Tensor) -> Tensor | None:
    """Boolean (B, L) of the positions that may be attended to, or None when no position is a pad."""
    keep = ids_BL != PAD
    return None if bool(keep.all()) else keep


class PerturbGen(nn.Module):
    """All weights of one model. Inference methods take integer ids and return float32.

    encode       (B, L) source ids -> (B, L, D)
    decode       (B, L) target ids of one time point + context -> (B, L, D)
    predict      source and target ids -> last decoder layer per predicted time point, with context mode
    pool         mean over positions that are genes and not excluded -> (B, D)
    """

    theta: nn.Parameter

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.token_embedding = nn.Embedding(sizes.n_tokens, sizes.width)
        self.pos_embedding = PositionEncoding(sizes.position_mode, sizes.n_time_rows, sizes.n_positions, sizes.width)
        if sizes.encoder.kind == "scmaskgit":
            self.encoder_layers: nn.Module = NestedEncoder(sizes.encoder)
        else:
            self.encoder_layers = TransformerEncoder(sizes.encoder, sizes.position_mode)
        self.decoder_block = nn.ModuleList(
            DecoderBlock(sizes.width, sizes.n_heads, sizes.head_width) for _ in range(sizes.n_blocks)
        )
        if sizes.loss_mode is not None:
            self.count_decoder = CountHead(sizes)
            if sizes.dispersion_levels:
                self.theta = nn.Parameter(torch.zeros(sizes.n_genes, sizes.dispersion_levels))

    def encode(self, src_BL: Tensor) -> Tensor:
        """Encoder output (B, L, D); pad positions hold values that the decoder never reads."""
        out: Tensor = self.encoder_layers(src_BL, keys_kept(src_BL))
        return out

    def embed(self, ids_BL: Tensor, time: int) -> Tensor:
        """What the decoder's first block reads (B, L, D) at target time point `time` (1..T)."""
        row = time + 1 if self.sizes.encoder.kind == "scmaskgit" else time
        out: Tensor = self.token_embedding(ids_BL) + self.pos_embedding(row, ids_BL.shape[1])
        return out

    def decode(self, ids_BL: Tensor, time: int, context_BKD: Tensor, context_keep_BK: Tensor | None) -> Tensor:
        """Last decoder layer (B, L, D) for target time point `time` (1..T), conditions included in `ids_BL`."""
        x_BLD = self.embed(ids_BL, time)
        keep_BL = keys_kept(ids_BL)
        for block in self.decoder_block:
            x_BLD = block(x_BLD, keep_BL, context_BKD, context_keep_BK)
        return x_BLD

    def predict(
        self,
        src_BL: Tensor,
        tgt_BL: Mapping[int, Tensor],
        pred_tps: Sequence[int],
        context_tps: Sequence[int] | None = None,
        context_mode: bool = False,
    ) -> dict[int, Tensor]:
        """Last decoder layer for each predicted time point.

        With `context_mode` every other time point of `context_tps` (None: the predicted ones) is decoded first, in
        ascending order and later ones too, and its output joins the context. `tgt_BL` holds the ids of every time
        point that is predicted or is context.
        """
        encoded_BLD = self.encode(src_BL)
        return {
            t: self._decode_in_context(t, encoded_BLD, src_BL, tgt_BL, context_tps or pred_tps, context_mode)
            for t in pred_tps
        }

    def _decode_in_context(
        self,
        time: int,
        encoded_BLD: Tensor,
        src_BL: Tensor,
        tgt_BL: Mapping[int, Tensor],
        others: Sequence[int],
        context_mode: bool,
    ) -> Tensor:
        context, kept = [encoded_BLD], [src_BL != PAD]
        for other in sorted(others) if context_mode else ():
            if other != time:
                decoded = self.decode(tgt_BL[other], other, torch.cat(context, 1), torch.cat(kept, 1))
                context.append(decoded)
                kept.append(tgt_BL[other] != PAD)
        keep_BK = torch.cat(kept, 1)
        return self.decode(tgt_BL[time], time, torch.cat(context, 1), None if bool(keep_BK.all()) else keep_BK)

    @staticmethod
    def pool(hidden_BLD: Tensor, ids_BL: Tensor, excluded: Tensor) -> Tensor:
        """Mean embedding (B, D) over positions whose id is not in `excluded`; NaN where nothing is left.

        `excluded` is (K,) for every row, or (B, K), row by row.
        """
        counted_BL = ~(ids_BL[:, :, None] == excluded.expand(len(ids_BL), -1)[:, None, :]).any(-1)
        total_BD = torch.where(counted_BL[..., None], hidden_BLD, 0.0).sum(1)
        return total_BD / counted_BL.sum(1, keepdim=True)

    def dispersion(self, level_B: Tensor) -> Tensor:
        """Inverse dispersion (B, G) of the NB for each cell's dispersion level."""
        return torch.exp(self.theta[:, level_B]).T
