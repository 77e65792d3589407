"""Cost: floating-point operations and bytes of packed batches, by arithmetic.

Two operations per multiply-add of every matrix product and of attention, as torch's FlopCounterMode counts; element-wise
work is not counted. Lengths may be numbers or arrays; n_target includes condition tokens.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from screen.models.perturbgen.chains import ENCODED, SOURCE, Chain, context_of, needs
from screen.models.perturbgen.network.sizes import Sizes

FLOAT_BYTES = 4
LIVE_COPIES = 8
"""Width-sized activations of one token that are alive at once in a decoder block, queries to residual sum."""


@dataclass(frozen=True)
class Cost:
    """What a model with these sizes and predicted chains costs."""

    sizes: Sizes
    chains: Mapping[int, Chain]

    def encode(self, n_source: Any) -> Any:
        """FLOPs of encoding one source row, dead blocks left out."""
        e = self.sizes.encoder
        inner = e.n_heads * e.head_width
        block = 2 * n_source * e.width * (4 * inner + 2 * e.feed_forward_width) + 4 * n_source**2 * inner
        return block * (e.n_blocks if e.chained or e.kind == "Transformer_encoder" else 1)

    def items(
        self, edited: Collection[int], n_source: Any, n_target: Mapping[int, Any], shares_queries: bool = False
    ) -> Any:
        """FLOPs of one item that edits these states. `shares_queries`: all items of its batch are of one cell."""
        need = needs(self.chains.values(), edited)
        changed = [t for t, c in self.chains.items() if c not in need.unchanged]
        total = self.encode(n_source) if SOURCE in edited and changed else 0
        total = total + self._decoded(need.decoded, need.context, need.first, n_source, n_target, shares_queries)
        return total + self.head() * len(changed)

    def control(self, n_source: Any, n_target: Mapping[int, Any]) -> Any:
        """FLOPs of one cell's control."""
        decoded = needs(self.chains.values(), {SOURCE}).decoded
        total = self.encode(n_source) + self._decoded(decoded, (), (), n_source, n_target, False)
        return total + self.head() * len(self.chains)

    def _decoded(
        self,
        decoded: Collection[Chain],
        kept: Collection[Chain],
        first: Collection[int],
        n_source: Any,
        n_target: Mapping[int, Any],
        shares_queries: bool,
    ) -> Any:
        s = self.sizes
        inner = s.n_heads * s.head_width
        length = {ENCODED: n_source, **{c: n_target[c[-1]] for c in decoded}, **{p: n_target[p[-1]] for p in kept if p}}
        anew = {p for c in decoded for p in context_of(c)} - set(kept)
        total = sum((2 * length[p] * s.width * 2 * inner * s.n_blocks for p in anew), 0)
        for t in {c[-1] for c in decoded}:
            # the first block's self-attention is the same for every chain that ends at t
            n_chains = sum(c[-1] == t for c in decoded)
            n_blocks = n_chains * (s.n_blocks - 1) + (t not in first)
            total = total + n_blocks * self._self_attention(n_target[t])
        for chain in decoded:
            n, n_context = n_target[chain[-1]], sum(length[p] for p in context_of(chain))
            n_queries = s.n_blocks - (shares_queries and chain[-1] in first)
            total = total + 2 * n * s.width * inner * (s.n_blocks + n_queries) + 4 * n * n_context * inner * s.n_blocks
            total = total + 4 * n * s.width**2 * s.n_blocks
        return total

    def _self_attention(self, n: Any) -> Any:
        inner = self.sizes.n_heads * self.sizes.head_width
        return 8 * n * self.sizes.width * inner + 4 * n**2 * inner

    def head(self) -> int:
        """FLOPs of the count head for one pooled embedding."""
        s = self.sizes
        if s.loss_mode is None:
            return 0
        n_outputs = s.n_genes * (2 if s.loss_mode == "zinb" else 1) + s.predicts_size_factor
        return 2 * s.width * (2 * s.width + n_outputs)

    def shared_bytes(self, edits: Collection[Collection[int]], n_source: Any, n_target: Mapping[int, Any]) -> Any:
        """Bytes that the items of one cell take over from its control."""
        s, wanted = self.sizes, [needs(self.chains.values(), e) for e in edits]
        first = {t for w in wanted for t in w.first}
        pieces = {p for w in wanted for p in w.context}
        total = sum((n_target[t] * s.width for t in first), 0)
        per_token = 2 * s.n_heads * s.head_width * s.n_blocks
        total = total + sum((per_token * (n_target[p[-1]] if p else n_source) for p in pieces), 0)
        return FLOAT_BYTES * (total + len(self.chains) * (s.width + 2 * s.n_genes))

    def working_bytes(self, n_tokens: int) -> int:
        """Bytes that a batch of `n_tokens` tokens in its widest state needs while it runs, roughly."""
        s = self.sizes
        context = 2 * s.n_heads * s.head_width * (s.n_blocks if len(self.chains) > 1 else 1)
        return FLOAT_BYTES * n_tokens * (LIVE_COPIES * max(s.width, s.encoder.width) + context)

    def weight_bytes(self) -> int:
        """Bytes of the weights, laid out once more for fast products."""
        s, e = self.sizes, self.sizes.encoder
        inner = s.n_heads * s.head_width
        blocks = s.n_blocks * s.width * (8 * inner + 2 * s.width)
        held = e.n_blocks if e.chained or e.kind == "Transformer_encoder" else 1
        blocks += held * e.width * (4 * e.n_heads * e.head_width + 2 * e.feed_forward_width)
        tables = e.width * (e.n_tokens + e.n_positions) + s.width * (s.n_tokens + s.n_positions + 2 * s.n_genes)
        return FLOAT_BYTES * (2 * blocks + tables)
