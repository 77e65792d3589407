"""The parts that encoder and decoder share: attention, feed-forward, positional encoding.

Architecture and parameter names: PerturbGen, upstream commit a9a9375 (facts only; this is our own implementation).
What is computed with activations goes through `screen.models.ops`: X stands for a whole batch of them, (B, L, D).
"""

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn

from screen.models.ops import Ops, X

PositionMode = Literal["time_pos_sin", "comb_sin", "sin_learnt", "time_pos_learnt"]
LAYER_NORM_EPS = 1e-5

KeysValues = tuple[X, X]
"""Keys and values of a context, each (B, K, I): heads side by side."""


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

    def queries(self, ops: Ops[X], x: X) -> X:
        """(B, L, I)."""
        return ops.product(x, self.to_q)

    def keys_values(self, ops: Ops[X], context: X) -> KeysValues[X]:
        """Keys and values of a context, which need no knowledge of what will ask for them."""
        key, value = ops.products(context, self.to_k, self.to_v)
        return key, value

    def mix(self, ops: Ops[X], query: X, context: KeysValues[X], keep_BK: Tensor | None) -> X:
        """What the queries get from a context, (B, L, D)."""
        return ops.product(ops.attend(query, *context, self.n_heads, keep_BK), cast(nn.Linear, self.to_out[0]))

    def itself(self, ops: Ops[X], x: X, keep_BL: Tensor | None) -> X:
        """Self-attention, (B, L, D)."""
        query, key, value = ops.products(x, self.to_q, self.to_k, self.to_v)
        return self.mix(ops, query, (key, value), keep_BL)


class FeedForward(nn.Module):
    """fc2(gelu(fc1(x))), exact (erf) gelu, hidden width = model width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, ops: Ops[X], x: X) -> X:
        return ops.feed_forward(x, self.fc1, self.fc2)


class EncoderBlock(nn.Module):
    """Post-norm self-attention block. Shapes: (B, L, D) -> (B, L, D)."""

    def __init__(self, width: int, n_heads: int, head_width: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, n_heads, head_width)
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.feed_forward = FeedForward(width)
        self.norm3 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, ops: Ops[X], x: X, keep_BL: Tensor | None) -> X:
        x = ops.add_norm(x, self.self_attn.itself(ops, x, keep_BL), self.norm1)
        return ops.add_norm(x, self.feed_forward(ops, x), self.norm3)


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

    def attend_itself(self, ops: Ops[X], x: X, keep_BL: Tensor | None) -> X:
        """The first third of the block: it depends on the target row alone, not on the context."""
        return ops.add_norm(x, self.self_attn.itself(ops, x, keep_BL), self.norm1)

    def attend_context(self, ops: Ops[X], x: X, context: KeysValues[X], context_keep_BK: Tensor | None) -> X:
        """The rest of the block: cross-attention and feed-forward. x or the context may have batch size 1."""
        mixed = self.cross_attn.mix(ops, self.cross_attn.queries(ops, x), context, context_keep_BK)
        x = ops.add_norm(x, mixed, self.norm2)
        return ops.add_norm(x, self.feed_forward(ops, x), self.norm3)

    def forward(self, ops: Ops[X], x: X, keep_BL: Tensor | None, context: X, context_keep_BK: Tensor | None) -> X:
        x = self.attend_itself(ops, x, keep_BL)
        return self.attend_context(ops, x, self.cross_attn.keys_values(ops, context), context_keep_BK)


def sinusoids(n_positions: int, width: int) -> Tensor:
    """The fixed table [n_positions, width]: even columns sin(p w_i), odd columns cos(p w_i), w_i = 10000^(-2i/width)."""
    table = torch.zeros(n_positions, width)
    if table.is_meta:
        # a checkpoint fills it
        return table
    frequency = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10000.0) / width))
    angle = torch.arange(n_positions, dtype=torch.float32)[:, None] * frequency
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
