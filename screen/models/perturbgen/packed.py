"""PackedPerturbGen: batches of edited items with only the work that an edit makes necessary.

What the plain model does for one item, computed once per cell where no edit reaches it: encoder output, keys and values
of unchanged context, first self-attention of an unedited target, whole decoder passes. Of the first self-attention of
an edited row, what the rows get that a few edited tokens do not touch. Never any token logits.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from screen.models.adapter import Batching, BatchRows, Readout, Row, keep_of
from screen.models.delta.few import few_rows
from screen.models.delta.recording import LatestRecordings
from screen.models.ops import Ops, PlainOps, X
from screen.models.packed import pooled
from screen.models.perturbgen.adapter import PerturbGenAdapter
from screen.models.perturbgen.chains import ENCODED, REUSE, SOURCE, Chain, Needs, context_of, needs
from screen.models.perturbgen.network.layers import DecoderBlock, KeysValues
from screen.models.perturbgen.network.model import PerturbGen


@dataclass(frozen=True)
class Shared:
    """What one cell's items take over from its control; K tokens of a piece, I the width of all heads.

    first      time point -> (L, D) after the first block's self-attention
    context    piece -> per block (keys, values), each (K, I)
    hidden     predicted chain -> (L, D), last decoder layer
    ids        state -> (L,) the cell's own row
    """

    first: Mapping[int, Tensor]
    context: Mapping[Chain, Sequence[KeysValues[Tensor]]]
    hidden: Mapping[Chain, Tensor]
    ids: Mapping[int, Tensor]


@dataclass(frozen=True)
class PackedPerturbGen:
    """Runs batches by `ops`.

    reuse  what is taken over from the control; the rest is computed again
    """

    adapter: PerturbGenAdapter
    ops: PlainOps
    batching: Batching
    reuse: frozenset[str] = REUSE
    _recordings: LatestRecordings = field(default_factory=LatestRecordings, compare=False)

    @property
    def chains(self) -> dict[int, Chain]:
        """Predicted time point -> what is decoded for it."""
        return self.adapter.chains

    @torch.inference_mode()
    def control(self, rows: BatchRows, length_B: Mapping[int, Sequence[int]]) -> tuple[Readout, list[Shared]]:
        """The unedited prediction of B cells, and per cell what its items take over.

        `length_B` are the rows' own lengths by state, condition tokens included, at least 1.
        """
        one = _Pass(self.adapter.model, self.ops, rows, None, needs(self.chains.values(), {SOURCE}), None)
        hidden = {t: one.hidden(c) for t, c in self.chains.items()}
        wanted = [needs(self.chains.values(), e, self.reuse) for e in self.batching.edits]
        shared = [self._shared(one, wanted, b, {s: n[b] for s, n in length_B.items()}) for b in range(len(rows))]
        return self._readout(rows, hidden, None), shared

    def forget(self) -> None:
        """Lets go of what threads recorded of the cells that they met last."""
        self._recordings.forget()

    @torch.inference_mode()
    def predict(self, rows: BatchRows, before_CD: Mapping[int, Tensor], shared: Sequence[Shared]) -> Readout:
        """Readouts of B items, from the control embeddings and shared activations of the C cells they belong to."""
        need = needs(self.chains.values(), rows.edited, self.reuse)
        recordings = self._recordings if "few" in self.reuse else None
        one = _Pass(self.adapter.model, self.ops, rows, shared, need, recordings)
        unchanged = frozenset[int]() if self.batching.pools_anew else frozenset(c[-1] for c in need.unchanged)
        wanted = {t: c for t, c in self.chains.items() if t not in unchanged or self.batching.keeps_hidden}
        hidden = {t: one.hidden(c).expand(len(rows), -1, -1) for t, c in wanted.items()}
        return self._readout(rows, hidden, before_CD, unchanged)

    def _readout(
        self,
        rows: BatchRows,
        hidden: Mapping[int, Tensor],
        before_CD: Mapping[int, Tensor] | None,
        unchanged: frozenset[int] = frozenset(),
    ) -> Readout:
        embedding, cosine = pooled({t: x for t, x in hidden.items() if t not in unchanged}, rows, before_CD)
        value, size_factor = self.adapter.values(embedding, rows)
        kept = hidden if self.batching.keeps_hidden else {}
        return Readout(embedding, value, size_factor, kept, {} if before_CD is None else cosine, unchanged)

    def _shared(self, one: "_Pass", wanted: Sequence[Needs], b: int, length: Mapping[int, int]) -> Shared:
        """Row b of everything that items can take over, cut to the cell's own length."""
        first = {t: one.first(t)[b, : length[t]].clone() for w in wanted for t in w.first}
        context = {
            p: [_of_row(one.context(p, i), b, length[_state(p)]) for i in range(len(self.adapter.model.decoder_block))]
            for p in {p for w in wanted for p in w.context}
        }
        kept = {c for w in wanted for c in w.unchanged} if self.batching.pools_anew else set()
        kept |= set(self.chains.values()) if self.batching.keeps_hidden else set()
        hidden = {c: one.hidden(c)[b, : length[c[-1]]].clone() for c in kept}
        edited = {s for e in self.batching.edits for s in e}
        return Shared(first, context, hidden, {s: one.rows.row(s).ids_BL[b, : length[s]].clone() for s in edited})


def _state(piece: Chain) -> int:
    """The state whose tokens a piece of context holds."""
    return piece[-1] if piece else SOURCE


def _of_row(kv: KeysValues[Tensor], b: int, length: int) -> KeysValues[Tensor]:
    key, value = (x[b, :length].clone() for x in kv)
    return key, value


class _Pass:
    """One batch on its way through the model; remembers what more than one prediction needs."""

    def __init__(
        self, model: PerturbGen, ops: PlainOps, rows: BatchRows, shared: Sequence[Shared] | None, need: Needs,
        recordings: LatestRecordings | None,
    ) -> None:  # fmt: skip
        self.model, self.ops, self.rows, self.shared, self.need = model, ops, rows, shared, need
        self._recordings = recordings
        self._first: dict[int, Tensor] = {}
        self._hidden: dict[Chain, Tensor] = {}
        self._context: dict[tuple[Chain, int], KeysValues[Tensor]] = {}
        self._n_readers = Counter(p for chain in need.decoded for p in context_of(chain))

    def hidden(self, chain: Chain) -> Tensor:
        """Last decoder layer of a chain, (B, L, D), or (1, L, D) where one cell's control serves every item."""
        if chain not in self._hidden:
            if chain == ENCODED:
                self._hidden[chain] = self._edited(SOURCE, self.model.encoded)
            elif self.shared is not None and chain not in self.need.decoded:
                self._hidden[chain] = self._of_items([s.hidden[chain] for s in self.shared], self._row(chain))
            else:
                self._hidden[chain] = self._decoded(chain)
        return self._hidden[chain]

    def first(self, time: int) -> Tensor:
        """After the first block's self-attention, (B or 1, L, D)."""
        if time not in self._first:
            row = self.rows.target[time]
            if self.shared is not None and time in self.need.first:
                self._first[time] = self._of_items([s.first[time] for s in self.shared], row)
            else:
                self._first[time] = self._edited(time, partial(self._attend_itself, time=time))
        return self._first[time]

    def _attend_itself(self, ops: Ops[X], row: Row, time: int) -> X:
        return self._block(0).attend_itself(ops, self.model.embedded(ops, row.ids_BL, time), row.keep_BL)

    def _edited(self, state: int, run: Callable[[Ops[Any], Row], Any]) -> Tensor:
        """What a part of the network makes of the rows of a state, (B, L, D); cells whose edits change few tokens by themselves."""
        row, index_B = self.rows.row(state), self.rows.index_B
        few: list[tuple[Tensor, Tensor]] = []
        if self._recordings is not None and self.shared is not None and state in self.rows.edited:
            for c, cell in enumerate(self.shared):
                at, recording = (index_B == c).nonzero()[:, 0], self._recordings.of([cell], state)
                found = few_rows(run, self.ops, recording, cell.ids[state], row.ids_BL[at])
                if found is not None:
                    few.append((at, found))
        if not few:
            return cast(Tensor, run(self.ops, row))
        out = few[0][1].new_empty((len(index_B), *few[0][1].shape[1:]))
        is_left_B = torch.ones_like(index_B, dtype=torch.bool)
        for at, found in few:
            out[at], is_left_B[at] = found, False
        if is_left_B.any():
            out[is_left_B] = run(
                self.ops, Row(row.ids_BL[is_left_B], None if row.keep_BL is None else row.keep_BL[is_left_B])
            )
        return out

    def context(self, piece: Chain, i: int) -> KeysValues[Tensor]:
        """Keys and values (B or 1, K, I) of a piece of context, for block i."""
        if (piece, i) in self._context:
            return self._context[piece, i]
        if self.shared is not None and piece in self.need.context:
            row = self._row(piece)
            key, value = (self._of_items([s.context[piece][i][n] for s in self.shared], row) for n in (0, 1))
            found = key, value
        else:
            found = self._block(i).cross_attn.keys_values(self.ops, self.hidden(piece))
        if self.shared is None or self._n_readers[piece] > 1:
            self._context[piece, i] = found
        return found

    def _block(self, number: int) -> DecoderBlock:
        block = self.model.decoder_block[number]
        assert isinstance(block, DecoderBlock)
        return block

    def _row(self, piece: Chain) -> Row:
        return self.rows.target[piece[-1]] if piece else self.rows.source

    def _decoded(self, chain: Chain) -> Tensor:
        pieces = context_of(chain)
        row, keep_BK = self.rows.target[chain[-1]], keep_of([self._row(p) for p in pieces])
        x = self.first(chain[-1])
        for i in range(len(self.model.decoder_block)):
            block = self._block(i)
            if i > 0:
                x = block.attend_itself(self.ops, x, row.keep_BL)
            context = [self.context(p, i) for p in pieces]
            key, value = (self.ops.join([kv[n] for kv in context]) for n in (0, 1))
            x = block.attend_context(self.ops, x, (key, value), keep_BK)
        return x

    def _of_items(self, per_cell: Sequence[Tensor], row: Row) -> Tensor:
        """(L, ...) of each cell -> (B, L, ...) of each item, padded with zeros; (1, L, ...) where there is one cell."""
        width = row.ids_BL.shape[1]
        if len(per_cell) == 1 and len(per_cell[0]) == width:
            return per_cell[0][None]
        out = per_cell[0].new_zeros((len(per_cell), width, *per_cell[0].shape[1:]))
        for c, x in enumerate(per_cell):
            out[c, : len(x)] = x
        return out if len(per_cell) == 1 else out.index_select(0, self.rows.index_B)
