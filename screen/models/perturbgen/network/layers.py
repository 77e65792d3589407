"""The parts that encoder and decoder share: attention, feed-forward, positional encoding.

Architecture and parameter names: PerturbGen, upstream commit a9a9375 (facts only; this is our own implementation).
Axes: B rows, L query tokens, K key tokens, H heads, D width, A width of one head.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from screen_kernels import add_norm
from torch import Tensor, nn
from torch.nn import functional as F

from screen.models.attention import attend

PositionMode = Literal["time_pos_sin", "comb_sin", "sin_learnt", "time_pos_learnt"]
LAYER_NORM_EPS = 1e-5


class AddNorm(nn.Module):
    """LayerNorm of a residual sum, in one pass over memory on a GPU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, update: Tensor) -> Tensor:
        """norm(x + update); x may have batch size 1 where every row of the update has the same residual."""
        return add_norm(x.expand_as(update), update, self.weight, self.bias, LAYER_NORM_EPS)


KeysValues = tuple[Tensor, Tensor]
"""Keys and values of a context, each (B, H, K, A)."""


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
        # what a faster engine may put in their place
        self.attend = attend
        self.to_qkv: nn.Module | None = None
        self.to_kv: nn.Module | None = None

    def _heads(self, x_BLI: Tensor) -> Tensor:
        return x_BLI.view(*x_BLI.shape[:2], self.n_heads, -1).transpose(1, 2)

    def queries(self, x_BLD: Tensor) -> Tensor:
        """(B, H, L, A)."""
        return self._heads(self.to_q(x_BLD))

    def keys_values(self, context_BKD: Tensor) -> KeysValues:
        """Keys and values of a context, which need no knowledge of what will ask for them."""
        if self.to_kv is not None:
            key, value = self.to_kv(context_BKD).chunk(2, dim=-1)
            return self._heads(key), self._heads(value)
        return self._heads(self.to_k(context_BKD)), self._heads(self.to_v(context_BKD))

    def mix(self, query_BHLA: Tensor, context: KeysValues, keep_BK: Tensor | None) -> Tensor:
        """What the queries get from a context, (B, L, D)."""
        out: Tensor = self.to_out(self.attend(query_BHLA, *context, keep_BK).transpose(1, 2).flatten(2))
        return out

    def itself(self, x_BLD: Tensor, keep_BL: Tensor | None) -> Tensor:
        """Self-attention, (B, L, D)."""
        if self.to_qkv is None:
            return self.forward(x_BLD, x_BLD, keep_BL)
        query, key, value = (self._heads(x) for x in self.to_qkv(x_BLD).chunk(3, dim=-1))
        return self.mix(query, (key, value), keep_BL)

    def forward(self, x_BLD: Tensor, context_BKD: Tensor, keep_BK: Tensor | None) -> Tensor:
        """Attend from x to context. Returns (B, L, D)."""
        return self.mix(self.queries(x_BLD), self.keys_values(context_BKD), keep_BK)


class FeedForward(nn.Module):
    """fc2(gelu(fc1(x))), exact (erf) gelu, hidden width = model width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)
        # what a faster engine may put in its place
        self.activation: Callable[[Tensor], Tensor] = F.gelu

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.activation(self.fc1(x)))
        return out


class EncoderBlock(nn.Module):
    """Post-norm self-attention block. Shapes: (B, L, D) -> (B, L, D)."""

    def __init__(self, width: int, n_heads: int, head_width: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, n_heads, head_width)
        self.norm1 = AddNorm(width)
        self.feed_forward = FeedForward(width)
        self.norm3 = AddNorm(width)

    def forward(self, x_BLD: Tensor, keep_BL: Tensor | None) -> Tensor:
        x_BLD = self.norm1(x_BLD, self.self_attn.itself(x_BLD, keep_BL))
        out: Tensor = self.norm3(x_BLD, self.feed_forward(x_BLD))
        return out


class DecoderBlock(nn.Module):
    """Post-norm self-attention, cross-attention to a context, feed-forward. Shapes: (B, L, D) -> (B, L, D)."""

    def __init__(self, width: int, n_heads: int, head_width: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, n_heads, head_width)
        self.norm1 = AddNorm(width)
        self.cross_attn = Attention(width, n_heads, head_width)
        self.norm2 = AddNorm(width)
        self.feed_forward = FeedForward(width)
        self.norm3 = AddNorm(width)

    def attend_itself(self, x_BLD: Tensor, keep_BL: Tensor | None) -> Tensor:
        """The first third of the block: it depends on the target row alone, not on the context."""
        out: Tensor = self.norm1(x_BLD, self.self_attn.itself(x_BLD, keep_BL))
        return out

    def attend_context(self, x_BLD: Tensor, context: KeysValues, context_keep_BK: Tensor | None) -> Tensor:
        """The rest of the block: cross-attention and feed-forward. x or the context may have batch size 1."""
        mixed = self.cross_attn.mix(self.cross_attn.queries(x_BLD), context, context_keep_BK)
        x_BLD = self.norm2(x_BLD, mixed)
        out: Tensor = self.norm3(x_BLD, self.feed_forward(x_BLD))
        return out

    def forward(
        self, x_BLD: Tensor, keep_BL: Tensor | None, context_BKD: Tensor, context_keep_BK: Tensor | None
    ) -> Tensor:
        x_BLD = self.attend_itself(x_BLD, keep_BL)
        return self.attend_context(x_BLD, self.cross_attn.keys_values(context_BKD), context_keep_BK)


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
