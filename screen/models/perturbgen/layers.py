"""The parts that encoder and decoder share: attention, feed-forward, positional encoding.

Architecture and parameter names: PerturbGen, upstream commit a9a9375 (facts only; this is our own implementation).
Axes: B rows, L query tokens, K key tokens, H heads, D width, A width of one head.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PositionMode = Literal["time_pos_sin", "comb_sin", "sin_learnt", "time_pos_learnt"]
LAYER_NORM_EPS = 1e-5


def attend(query_BHLA: Tensor, key_BHKA: Tensor, value_BHKA: Tensor, keep_BK: Tensor | None) -> Tensor:
    """Softmax attention over the kept keys; a row that keeps no key gives exactly 0.

    keep_BK is boolean, None keeps every key. Scores are scaled by 1/sqrt(A). Returns (B, H, L, A).
    """
    if keep_BK is None:
        return F.scaled_dot_product_attention(query_BHLA, key_BHKA, value_BHKA)
    mask = keep_BK[:, None, None, :]
    out = F.scaled_dot_product_attention(query_BHLA, key_BHKA, value_BHKA, attn_mask=mask)
    return torch.where(mask.any(-1, keepdim=True), out, torch.zeros_like(out))


class Attention(nn.Module):
    """Multi-head attention whose head width is free of the model width (inner = heads x head width)."""

    def __init__(self, width: int, n_heads: int, head_width: int) -> None:
        super().__init__()
        inner = n_heads * head_width
        self.n_heads = n_heads
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k = nn.Linear(width, inner, bias=False)
        self.to_v = nn.Linear(width, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, width))

    def _heads(self, x_BLI: Tensor) -> Tensor:
        return x_BLI.view(*x_BLI.shape[:2], self.n_heads, -1).transpose(1, 2)

    def forward(self, x_BLD: Tensor, context_BKD: Tensor, keep_BK: Tensor | None) -> Tensor:
        """Attend from x to context (the same tensor for self-attention). Returns (B, L, D)."""
        query, key, value = (
            self._heads(self.to_q(x_BLD)),
            self._heads(self.to_k(context_BKD)),
            self._heads(self.to_v(context_BKD)),
        )
        mixed_BLI = attend(query, key, value, keep_BK).transpose(1, 2).flatten(2)
        out: Tensor = self.to_out(mixed_BLI)
        return out


class FeedForward(nn.Module):
    """fc2(gelu(fc1(x))), exact (erf) gelu, hidden width = model width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class EncoderBlock(nn.Module):
    """Post-norm self-attention block. Shapes: (B, L, D) -> (B, L, D)."""

    def __init__(self, width: int, n_heads: int, head_width: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, n_heads, head_width)
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.feed_forward = FeedForward(width)
        self.norm3 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, x_BLD: Tensor, keep_BL: Tensor | None) -> Tensor:
        x_BLD = self.norm1(x_BLD + self.self_attn(x_BLD, x_BLD, keep_BL))
        out: Tensor = self.norm3(x_BLD + self.feed_forward(x_BLD))
        return out


class DecoderBlock(nn.Module):
    """Post-norm self-attention, cross-attention to a context, feed-forward. Shapes: (B, L, D) -> (B, L, D)."""

    def __init__(self, width: int, n_heads: int, head_width: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, n_heads, head_width)
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.cross_attn = Attention(width, n_heads, head_width)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.feed_forward = FeedForward(width)
        self.norm3 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(
        self, x_BLD: Tensor, keep_BL: Tensor | None, context_BKD: Tensor, context_keep_BK: Tensor | None
    ) -> Tensor:
        x_BLD = self.norm1(x_BLD + self.self_attn(x_BLD, x_BLD, keep_BL))
        x_BLD = self.norm2(x_BLD + self.cross_attn(x_BLD, context_BKD, context_keep_BK))
        out: Tensor = self.norm3(x_BLD + self.feed_forward(x_BLD))
        return out


def sinusoids(n_positions: int, width: int) -> Tensor:
    """The fixed table [n_positions, width]: even columns sin(p w_i), odd columns cos(p w_i), w_i = 10000^(-2i/width)."""
    frequency = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10000.0) / width))
    angle = torch.arange(n_positions, dtype=torch.float32)[:, None] * frequency
    table = torch.zeros(n_positions, width)
    table[:, 0::2] = torch.sin(angle)
    table[:, 1::2] = torch.cos(angle)[:, : width // 2]
    return table


class PositionEncoding(nn.Module):
    """What is added to a token embedding for its time step and its rank.

    Tables keep upstream's names and shapes so that its checkpoints load strictly.
    """

    def __init__(self, mode: PositionMode, n_times: int, n_positions: int, width: int) -> None:
        super().__init__()
        self.mode, self.n_positions = mode, n_positions
        if mode == "comb_sin":
            self.register_buffer("pe", sinusoids(n_times * n_positions, width)[None])
        elif mode == "time_pos_sin":
            self.register_buffer("time_pe", sinusoids(n_times, width)[None])
            self.register_buffer("pos_pe", sinusoids(n_positions, width)[None])
        else:
            self.pos_encoding = nn.Embedding(n_positions, width)
            if mode == "sin_learnt":
                self.register_buffer("time_pe", sinusoids(n_times, width)[None])
            else:
                self.time_encoding = nn.Embedding(n_times, width)

    def forward(self, time: int, length: int) -> Tensor:
        """(length, D): to be added to the embeddings of positions 0 .. length-1 at time step `time`."""
        if self.mode == "comb_sin":
            start = time * self.n_positions
            return self.get_buffer("pe")[0, start : start + length]
        if self.mode == "time_pos_sin":
            return self.get_buffer("time_pe")[0, time] + self.get_buffer("pos_pe")[0, :length]
        position: Tensor = self.pos_encoding.weight[:length]
        if self.mode == "sin_learnt":
            return self.get_buffer("time_pe")[0, time] + position
        return self.time_encoding.weight[time] + position
