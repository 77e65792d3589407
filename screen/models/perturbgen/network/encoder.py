"""The two source encoders of PerturbGen: `scmaskgit` and `Transformer_encoder`."""

import math
from functools import partial

from torch import Tensor, nn

from screen.models.ops import Ops, X
from screen.models.perturbgen.network.layers import LAYER_NORM_EPS, EncoderBlock, PositionEncoding, PositionMode
from screen.models.perturbgen.network.sizes import EncoderSizes
from screen.models.products import Pair


class ScMaskGitEncoder(nn.Module):
    """Embeds a source row and encodes it.

    Upstream hands the *embedding*, not the previous block's output, to every block, and keeps the last block's output:
    only the last block counts. `chained: true` runs the blocks one after another instead. Blocks that do not count
    are neither held nor run, so `decoder_block` starts at the first block in use.
    """

    def __init__(self, sizes: EncoderSizes) -> None:
        super().__init__()
        self.chained = sizes.chained
        self.first_block = 0 if sizes.chained else sizes.n_blocks - 1
        self.token_embedding = nn.Embedding(sizes.n_tokens, sizes.width)
        self.pos_embedding = PositionEncoding("time_pos_sin", sizes.n_times, sizes.n_positions, sizes.width)
        self.decoder_block = nn.ModuleDict(
            {
                str(i): EncoderBlock(sizes.width, sizes.n_heads, sizes.head_width)
                for i in range(self.first_block, sizes.n_blocks)
            }
        )

    def forward(self, ops: Ops[X], ids_BL: Tensor, keep_BL: Tensor | None) -> X:
        """(B, L) token ids -> (B, L, D). The source always sits at row 1 of the time table."""
        x = ops.add_position(ops.embed(ids_BL, self.token_embedding.weight), partial(self.pos_embedding, 1))
        for number, block in enumerate(self.decoder_block.values()):
            x = block(ops.within(number), x, keep_BL)
        return x


class TorchSelfAttention(nn.Module):
    """Self-attention with torch's own parameter names (in_proj_weight, in_proj_bias, out_proj)."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        # built once only for its names and initial values; the arithmetic is that of `ops`
        torch_attention = nn.MultiheadAttention(width, n_heads, batch_first=True)
        self.in_proj_weight = torch_attention.in_proj_weight
        self.in_proj_bias = torch_attention.in_proj_bias
        self.out_proj = nn.Linear(width, width)

    def forward(self, ops: Ops[X], x: X, keep_BL: Tensor | None) -> X:
        # queries, keys and values have their weights in one
        query, key, value = ops.split(ops.product(x, Pair(self.in_proj_weight, self.in_proj_bias)), 3)
        return ops.product(ops.attend(query, key, value, self.n_heads, keep_BL), self.out_proj)


class TorchEncoderLayer(nn.Module):
    """Post-norm encoder layer with exact gelu, under torch's parameter names."""

    def __init__(self, width: int, n_heads: int, feed_forward_width: int) -> None:
        super().__init__()
        self.self_attn = TorchSelfAttention(width, n_heads)
        self.linear1 = nn.Linear(width, feed_forward_width)
        self.linear2 = nn.Linear(feed_forward_width, width)
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, ops: Ops[X], x: X, keep_BL: Tensor | None) -> X:
        x = ops.add_norm(x, self.self_attn(ops, x, keep_BL), self.norm1)
        return ops.add_norm(x, ops.feed_forward(x, self.linear1, self.linear2), self.norm2)


class _LayerStack(nn.Module):
    """Holds `layers` and the final `norm` under the names torch gives them."""

    def __init__(self, sizes: EncoderSizes) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TorchEncoderLayer(sizes.width, sizes.n_heads, sizes.feed_forward_width) for _ in range(sizes.n_blocks)
        )
        self.norm = nn.LayerNorm(sizes.width, eps=LAYER_NORM_EPS)


class TransformerEncoder(nn.Module):
    """Upstream's `Transformer_encoder`: chained layers over sqrt(D)-scaled embeddings; source ids are row ids."""

    def __init__(self, sizes: EncoderSizes, position_mode: PositionMode) -> None:
        super().__init__()
        self.scale = math.sqrt(sizes.width)
        self.token_embedding = nn.Embedding(sizes.n_tokens, sizes.width)
        self.pos_embedding = PositionEncoding(position_mode, sizes.n_times, sizes.n_positions, sizes.width)
        self.transformer_encoder = _LayerStack(sizes)

    def forward(self, ops: Ops[X], ids_BL: Tensor, keep_BL: Tensor | None) -> X:
        """(B, L) row ids -> (B, L, D). The source sits at row 0 of the time table."""
        embedded = ops.scale(ops.embed(ids_BL, self.token_embedding.weight), self.scale)
        x = ops.add_position(embedded, partial(self.pos_embedding, 0))
        for number, layer in enumerate(self.transformer_encoder.layers):
            x = layer(ops.within(number), x, keep_BL)
        return ops.norm(x, self.transformer_encoder.norm)


class NestedEncoder(nn.Module):
    """Puts the scmaskgit encoder under the prefix `model.`, where upstream's checkpoints keep it."""

    def __init__(self, sizes: EncoderSizes) -> None:
        super().__init__()
        self.model = ScMaskGitEncoder(sizes)

    def forward(self, ops: Ops[X], ids_BL: Tensor, keep_BL: Tensor | None) -> X:
        encoded: X = self.model(ops, ids_BL, keep_BL)
        return encoded
