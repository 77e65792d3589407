"""PerturbGen: source encoder, time-aware decoder with cross-attention, count head.

Our own implementation of the published architecture; parameter names below this module are upstream's below
`decoder.pretrained_model.` (encoder, decoder) and `decoder.` (count head), so that its checkpoints load.
Token logits are not part of the model: prediction never needs them.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from screen.models.adapter import Row, keep_of, row_of
from screen.models.ops import PLAIN, Ops, X
from screen.models.perturbgen.chains import Chain, chain_of
from screen.models.perturbgen.network.count_head import CountHead
from screen.models.perturbgen.network.encoder import NestedEncoder, TransformerEncoder
from screen.models.perturbgen.network.layers import DecoderBlock, PositionEncoding
from screen.models.perturbgen.network.sizes import Sizes


class PerturbGen(nn.Module):
    """All weights of one model, and what it does with them, by any ops.

    forward      rows of ids -> last decoder layer per predicted time point, with context mode
    predict, encode, decode  the same with plain ops, from padded ids (B, L)
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
        return self.encoded(PLAIN, row_of(src_BL))

    def decode(self, ids_BL: Tensor, time: int, context_BKD: Tensor, context_keep_BK: Tensor | None) -> Tensor:
        """Last decoder layer (B, L, D) for target time point `time` (1..T), conditions included in `ids_BL`."""
        return self.decoded(PLAIN, row_of(ids_BL), time, context_BKD, context_keep_BK)

    def predict(
        self,
        src_BL: Tensor,
        tgt_BL: Mapping[int, Tensor],
        pred_tps: Sequence[int],
        context_tps: Sequence[int] | None = None,
        context_mode: bool = False,
    ) -> dict[int, Tensor]:
        """Last decoder layer for each predicted time point, as `forward` has it. `tgt_BL` holds the ids of every time
        point that is predicted or is context; None: the context is the predicted ones.
        """
        chains = {t: chain_of(t, context_tps or pred_tps, context_mode) for t in pred_tps}
        return self.forward(PLAIN, row_of(src_BL), {t: row_of(ids_BL) for t, ids_BL in tgt_BL.items()}, chains)

    def forward(self, ops: Ops[X], source: Row, target: Mapping[int, Row], chains: Mapping[int, Chain]) -> dict[int, X]:
        """Last decoder layer (B, L, D) of every chain, by the time point that it predicts; nothing is shared between chains.

        In context mode every other time point of a chain is decoded first, in its order, later ones too, and joins the
        context.
        """
        encoded = self.encoded(ops, source)
        found: dict[int, X] = {}
        for time, chain in chains.items():
            context, rows = [encoded], [source]
            for n, t in enumerate(chain, start=1):
                there = ops.within("decoder", chain[:n])
                context.append(self.decoded(there, target[t], t, ops.join(context), keep_of(rows)))
                rows.append(target[t])
            found[time] = context[-1]
        return found

    def encoded(self, ops: Ops[X], row: Row) -> X:
        """Encoder output (B, L, D)."""
        encoded: X = self.encoder_layers(ops.within("encoder"), row.ids_BL, row.keep_BL)
        return encoded

    def embedded(self, ops: Ops[X], ids_BL: Tensor, time: int) -> X:
        """What the decoder's first block reads (B, L, D) at target time point `time` (1..T)."""
        row = time + 1 if self.sizes.encoder.kind == "scmaskgit" else time
        return ops.add_position(ops.embed(ids_BL, self.token_embedding.weight), partial(self.pos_embedding, row))

    def decoded(self, ops: Ops[X], row: Row, time: int, context: X, context_keep_BK: Tensor | None) -> X:
        """Last decoder layer (B, L, D) of one time point."""
        x = self.embedded(ops, row.ids_BL, time)
        for number, block in enumerate(self.decoder_block):
            x = block(ops.within(number), x, row.keep_BL, context, context_keep_BK)
        return x

    @staticmethod
    def pool(hidden_BLD: Tensor, ids_BL: Tensor, excluded: Tensor) -> Tensor:
        """Mean embedding (B, D) over positions whose id is not in `excluded`; NaN where nothing is left.

        `excluded` is (K,) for every row, or (B, K), row by row.
        """
        counted_BL = ~(ids_BL[:, :, None] == excluded.expand(len(ids_BL), -1)[:, None, :]).any(-1)
        return PLAIN.pool(hidden_BLD, counted_BL)

    def dispersion(self, level_B: Tensor) -> Tensor:
        """Inverse dispersion (B, G) of the NB for each cell's dispersion level."""
        return torch.exp(self.theta[:, level_B]).T
