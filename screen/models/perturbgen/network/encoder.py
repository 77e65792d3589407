"""The two source encoders of PerturbGen: `scmaskgit` and `Transformer_encoder`."""

import math
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from screen.models.attention import attend
from screen.models.perturbgen.network.layers import LAYER_NORM_EPS, EncoderBlock, PositionEncoding, PositionMode
from screen.models.perturbgen.network.sizes import EncoderSizes


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

    def forward(self, ids_BL: Tensor, keep_BL: Tensor | None) -> Tensor:
        """(B, L) token ids -> (B, L, D). The source always sits at row 1 of the time table."""
        x_BLD: Tensor = self.token_embedding(ids_BL) + self.pos_embedding(1, ids_BL.shape[1])
        for block in self.decoder_block.values():
            x_BLD = block(x_BLD, keep_BL)
        return x_BLD


class TorchSelfAttention(nn.Module):
    """Self-attention with torch's own parameter names (in_proj_weight, in_proj_bias, out_proj)."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        # built once only for its names and initial values; the arithmetic below is the shared `attend`
        torch_attention = nn.MultiheadAttention(width, n_heads, batch_first=True)
        self.in_proj_weight = torch_attention.in_proj_weight
        self.in_proj_bias = torch_attention.in_proj_bias
        self.out_proj = nn.Linear(width, width)
        # what a faster engine may put in their place
        self.attend = attend
        self.to_qkv: nn.Module | None = None

    def forward(self, x_BLD: Tensor, keep_BL: Tensor | None) -> Tensor:
        project = self.to_qkv or partial(F.linear, weight=self.in_proj_weight, bias=self.in_proj_bias)
        packed = project(x_BLD)
        packed = packed.view(*x_BLD.shape[:2], 3, self.n_heads, -1)
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        out: Tensor = self.out_proj(self.attend(query, key, value, keep_BL).transpose(1, 2).flatten(2))
        return out


class TorchEncoderLayer(nn.Module):
    """Post-norm encoder layer with exact gelu, under torch's parameter names."""

    def __init__(self, width: int, n_heads: int, feed_forward_width: int) -> None:
        super().__init__()
        self.self_attn = TorchSelfAttention(width, n_heads)
        self.linear1 = nn.Linear(width, feed_forward_width)
        self.linear2 = nn.Linear(feed_forward_width, width)
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, x_BLD: Tensor, keep_BL: Tensor | None) -> Tensor:
        x_BLD = self.norm1(x_BLD + self.self_attn(x_BLD, keep_BL))
        out: Tensor = self.norm2(x_BLD + self.linear2(F.gelu(self.linear1(x_BLD))))
        return out


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

    def forward(self, ids_BL: Tensor, keep_BL: Tensor | None) -> Tensor:
        """(B, L) row ids -> (B, L, D). The source sits at row 0 of the time table."""
        x_BLD: Tensor = self.scale * self.token_embedding(ids_BL) + self.pos_embedding(0, ids_BL.shape[1])
        for layer in self.transformer_encoder.layers:
            x_BLD = layer(x_BLD, keep_BL)
        out: Tensor = self.transformer_encoder.norm(x_BLD)
        return out


class NestedEncoder(nn.Module):
    """Puts the scmaskgit encoder under the prefix `model.`, where upstream's checkpoints keep it."""

    def __init__(self, sizes: EncoderSizes) -> None:
        super().__init__()
        self.model = ScMaskGitEncoder(sizes)

    def forward(self, ids_BL: Tensor, keep_BL: Tensor | None) -> Tensor:
        out: Tensor = self.model(ids_BL, keep_BL)
        return out
