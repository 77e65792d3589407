"""Pack: a unit's items -> batches under a token budget, without padding wherever possible. No torch, no files."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from screen.cells.bank import SOURCE, Ragged, TokenBank
from screen.cells.vocabulary import EOS, NO_TOKEN, PAD, Vocabulary
from screen.edits import NO_EDIT, TABLE, Counts
from screen.planning.perturbations import Library
from screen.planning.plan import Plan, Window, edited_states

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MAX_PADDED = 0.03
"""Share of padded tokens up to which small groups of unequal shape are put into one batch."""
SMALL = 4
"""A group is small if it fills less than one SMALL-th of a batch."""
CELLS_AT_ONCE = 1024
NO_PERTURBATION = -1
NOWHERE = np.iinfo(np.int64).max
_CHANGES_LENGTH = np.zeros(1 + max(mode.code for mode in TABLE), dtype=bool)
_CHANGES_LENGTH[[mode.code for mode in TABLE if mode.lengths is not None]] = True


@dataclass(frozen=True)
class Batch:
    """B items that one forward pass reads.

    item_B                        rows of the plan (of controls: the cells); cell_B and perturbation_B are theirs
    n_source, n_target            padded width of each state's edited row, condition tokens not counted, at least 1
    source_is_full, target_is_full  every row fills that width without any pad, so no key mask is needed
    n_padded_tokens               pads that only fill rows up to the width (not the holes that an edit leaves)
    """

    item_B: Ints
    cell_B: NDArray[np.int32]
    perturbation_B: NDArray[np.int32]
    n_source: int
    n_target: Mapping[int, int]
    source_is_full: bool
    target_is_full: Mapping[int, bool]
    n_padded_tokens: int

    @property
    def n_items(self) -> int:
        return len(self.item_B)

    @property
    def n_tokens(self) -> int:
        """Tokens over all items and states, pads included."""
        return self.n_items * (self.n_source + sum(self.n_target.values()))


def padded_share(batches: Iterable[Batch]) -> float:
    """Padded tokens over all tokens; 0 for no batch."""
    sizes = [(b.n_padded_tokens, b.n_tokens) for b in batches]
    return sum(p for p, _ in sizes) / max(sum(n for _, n in sizes), 1)


class _StateRows:
    """What one state's rows hold where the model sees them.

    n_used_C    1 + the last position that is no pad; 0 for none
    n_tokens_C  ids that are no pad
    n_genes_C   gene ids, repeats included
    has_repeat_C  some gene of the vocabulary is there more than once
    key_N       (cell * G + gene) << bits | rank of every gene id, ascending, and a last one beyond all; empty if not asked
    """

    def __init__(self, tokens: Ragged, column_of_token: Ints, n_genes: int, max_len: int, with_keys: bool) -> None:
        self.n_genes, self.bits = n_genes, int(max_len).bit_length()
        n_cells = len(tokens)
        self.n_used_C, self.n_tokens_C, self.n_genes_C = (np.zeros(n_cells, dtype=np.int64) for _ in range(3))
        self.has_repeat_C = np.zeros(n_cells, dtype=bool)
        keys = [np.zeros(0, dtype=np.int64)]
        for first in range(0, n_cells, CELLS_AT_ONCE):
            rows = slice(first, min(first + CELLS_AT_ONCE, n_cells))
            row_T, position_T, token_T = _window(tokens, rows, max_len)
            self._count(rows, row_T, position_T, token_T)
            if with_keys:
                keys.append(self._keys(rows, row_T, token_T, column_of_token))
        self.key_N = np.concatenate([*keys, [NOWHERE]])

    def _count(self, rows: slice, row_T: Ints, position_T: Ints, token_T: NDArray[np.int32]) -> None:
        n_rows, is_token_T = rows.stop - rows.start, token_T != PAD
        np.maximum.at(self.n_used_C[rows], row_T[is_token_T], position_T[is_token_T] + 1)
        self.n_tokens_C[rows] = np.bincount(row_T[is_token_T], minlength=n_rows)
        self.n_genes_C[rows] = np.bincount(row_T[token_T > EOS], minlength=n_rows)

    def _keys(self, rows: slice, row_T: Ints, token_T: NDArray[np.int32], column_of_token: Ints) -> Ints:
        is_gene_T = token_T > EOS
        before_C = np.cumsum(self.n_genes_C[rows]) - self.n_genes_C[rows]
        rank_T = np.cumsum(is_gene_T) - 1 - before_C[row_T]
        known_T = token_T < len(column_of_token)
        gene_T = np.where(known_T, column_of_token[np.where(known_T, token_T, PAD)], NO_TOKEN)
        kept_T = gene_T != NO_TOKEN
        cell_T = row_T[kept_T] + rows.start
        key_N = np.sort(((cell_T * self.n_genes + gene_T[kept_T]) << self.bits) | rank_T[kept_T])
        place_N = key_N >> self.bits
        self.has_repeat_C[place_N[1:][place_N[1:] == place_N[:-1]] // self.n_genes] = True
        return key_N

    def find(self, cell_B: Ints, gene_B: Ints) -> tuple[Ints, Ints]:
        """(how often each gene is in each cell's row, rank of the first among the row's genes or NOWHERE)."""
        place_B = cell_B * self.n_genes + gene_B
        at_B = np.searchsorted(self.key_N, place_B << self.bits)
        found_B = self.key_N[at_B]
        is_hit_B = (found_B >> self.bits) == place_B
        count_B = is_hit_B.astype(np.int64)
        again = np.flatnonzero(is_hit_B & self.has_repeat_C[cell_B])
        count_B[again] = np.searchsorted(self.key_N, (place_B[again] + 1) << self.bits) - at_B[again]
        return count_B, np.where(is_hit_B, found_B & ((1 << self.bits) - 1), NOWHERE)


def _window(tokens: Ragged, rows: slice, max_len: int) -> tuple[Ints, Ints, NDArray[np.int32]]:
    """(row number within the slice, position, id) of the first `max_len` ids of some rows."""
    offset_C1 = tokens.offset_C1[rows.start : rows.stop + 1]
    row_T = np.repeat(np.arange(len(offset_C1) - 1), np.diff(offset_C1))
    position_T = np.arange(offset_C1[0], offset_C1[-1]) - offset_C1[row_T]
    seen_T = position_T < max_len
    return row_T[seen_T], position_T[seen_T], tokens.token_T[offset_C1[0] : offset_C1[-1]][seen_T]


class RowLengths:
    """Lengths of edited rows and ranks of perturbed genes, for many items at once, without editing a row.

    `times` are the predicted and context time points. `exclude_src`: every source row is read as empty.
    `kind_P` numbers the different sets of states that perturbations edit; perturbation NO_PERTURBATION is no edit.
    """

    def __init__(
        self,
        bank: TokenBank,
        vocabulary: Vocabulary,
        window: Window,
        library: Library,
        times: Sequence[int],
        *,
        exclude_src: bool = False,
    ) -> None:
        self.states = (SOURCE, *sorted(times))
        self._max_len, self._exclude_src = window.max_len, exclude_src
        # the last row of every table is NO_PERTURBATION
        edits = [*(edited_states(p) for p in library.perturbations), ()]
        edited = {s for e in edits for s in e}
        kinds = {e: n for n, e in enumerate(dict.fromkeys(edits))}
        self.kind_P = np.array([kinds[e] for e in edits])
        self._first_P = np.array([e[0] if e else SOURCE for e in edits], dtype=np.int64)
        codes = [p.edit.mode.code for p in library.perturbations]
        self._code_P = np.array([*codes, NO_EDIT], dtype=np.int64)
        self._edits_P = {s: np.array([s in e for e in edits], dtype=bool) for s in {*self.states, *edited}}
        self._n_genes_P = np.array([*(len(p.genes) for p in library.perturbations), 0], dtype=np.int64)
        self._n_inserted_P = np.array([*(p.n_inserted for p in library.perturbations), 0], dtype=np.int64)
        self._offset_P = np.cumsum(self._n_genes_P) - self._n_genes_P
        self._gene_N = np.array([g for p in library.perturbations for g in p.genes], dtype=np.int64)
        tables = {s: vocabulary.column_of_token("src" if s == SOURCE else "tgt") for s in self._edits_P}
        self._rows = {
            s: _StateRows(bank.states[s].tokens, tables[s], len(vocabulary), window.max_len, s in edited)
            for s in self._edits_P
        }

    def is_regular_C(self, state: int) -> Bools:
        """Whether a cell's row holds no gene twice and no pad between its ids."""
        rows = self._rows[state]
        has_pad_C: Bools = rows.n_used_C > rows.n_tokens_C
        return ~(rows.has_repeat_C | has_pad_C)

    def edited(self, cell_B: NDArray[np.integer], perturbation_B: NDArray[np.integer]) -> dict[int, tuple[Ints, Bools]]:
        """State (source and every time point) -> (length_B, is_full_B) of the rows as the model reads them.

        length_B   1 + the last position that is no pad, condition tokens not counted; 0 for an empty row
        is_full_B  the row is exactly that many ids, at least one, and no pad; otherwise length_B is an upper bound
        """
        cell, perturbation = cell_B.astype(np.int64), perturbation_B.astype(np.int64)
        found = {s: self._lengths(s, cell, perturbation) for s in self.states}
        if self._exclude_src:
            found[SOURCE] = np.zeros(len(cell_B), dtype=np.int64), np.zeros(len(cell_B), dtype=bool)
        return found

    def rank(self, cell_B: NDArray[np.integer], perturbation_B: NDArray[np.integer]) -> tuple[Ints, Ints]:
        """(rank_B of the first perturbed gene, length_B: genes in that row), as RowBuilder.rank; rank -1 is absent."""
        cell, perturbation = cell_B.astype(np.int64), perturbation_B.astype(np.int64)
        first_B = self._first_P[perturbation]
        rank_B, length_B = np.full(len(cell_B), -1), np.zeros(len(cell_B), dtype=np.int64)
        for state in np.unique(first_B).tolist():
            at = np.flatnonzero(first_B == state)
            best = self._hits(state, cell[at], perturbation[at])[1]
            rank_B[at] = np.where(best == NOWHERE, -1, best)
            length_B[at] = self._rows[state].n_genes_C[cell[at]]
        return rank_B, length_B

    def _lengths(self, state: int, cell_B: Ints, perturbation_B: Ints) -> tuple[Ints, Bools]:
        rows = self._rows[state]
        length_B = rows.n_used_C[cell_B]
        is_full_B = (length_B > 0) & (length_B == rows.n_tokens_C[cell_B])
        code_B = np.where(self._edits_P[state][perturbation_B], self._code_P[perturbation_B], NO_EDIT)
        at = np.flatnonzero(_CHANGES_LENGTH[code_B])
        if len(at) == 0:
            return length_B, is_full_B
        n_hit = self._hits(state, cell_B[at], perturbation_B[at])[0]
        before = Counts(
            length_B[at], is_full_B[at], rows.n_tokens_C[cell_B[at]] - n_hit, n_hit, self._n_inserted_P[perturbation_B[at]],
            self._max_len, "src" if state == SOURCE else "tgt",
        )  # fmt: skip
        for mode in TABLE:
            is_mode = code_B[at] == mode.code
            if mode.lengths is not None and is_mode.any():
                length, is_full = mode.lengths(before)
                length_B[at[is_mode]], is_full_B[at[is_mode]] = length[is_mode], is_full[is_mode]
        return length_B, is_full_B

    def _hits(self, state: int, cell_B: Ints, perturbation_B: Ints) -> tuple[Ints, Ints]:
        """(how many ids of each row are perturbed genes, lowest rank of one or NOWHERE)."""
        n_B, first_B = self._n_genes_P[perturbation_B], self._offset_P[perturbation_B]
        count_B, rank_B = np.zeros(len(cell_B), dtype=np.int64), np.full(len(cell_B), NOWHERE)
        for j in range(int(n_B.max(initial=0))):
            at = np.flatnonzero(n_B > j)
            count, rank = self._rows[state].find(cell_B[at], self._gene_N[first_B[at] + j])
            count_B[at] += count
            rank_B[at] = np.minimum(rank_B[at], rank)
        return count_B, rank_B


def pack(
    lengths: RowLengths,
    item_B: NDArray[np.integer],
    cell_B: NDArray[np.integer],
    perturbation_B: NDArray[np.integer],
    budget_tokens: int,
) -> list[Batch]:
    """Batches that hold each item once; a pure function of the arguments, whatever the order of the items.

    item_B, cell_B, perturbation_B  (B,): rows of the plan, of one unit and one block of cells, and their content
    budget_tokens                   most tokens a batch may have in its widest state; one longer item is a batch alone
    Items of one shape (all widths equal, full or not) share batches of near-equal size. A group that fills less than
    a quarter of a batch is joined to the next shape where at most 3 % of the tokens of all states become pads.
    """
    assert len(item_B) == len(cell_B) == len(perturbation_B)
    if len(item_B) == 0:
        return []
    rows = lengths.edited(cell_B, perturbation_B)
    length_BS = np.stack([length_B for length_B, _ in rows.values()], axis=1)
    is_full_BS = np.stack([is_full_B for _, is_full_B in rows.values()], axis=1)
    width_BS = np.maximum(length_BS, 1)
    order = np.lexsort((item_B, cell_B, *~is_full_BS.T[::-1], *width_BS.T[::-1]))
    length_BS, is_full_BS, width_BS = length_BS[order], is_full_BS[order], width_BS[order]
    items, cells = item_B[order].astype(np.int64), cell_B[order].astype(np.int32)
    perturbations = perturbation_B[order].astype(np.int32)
    batches = []
    for part in _cuts(length_BS, is_full_BS, width_BS, budget_tokens):
        width_S, n_real = width_BS[part].max(0), int(length_BS[part].sum())
        is_full_S = (is_full_BS[part] & (length_BS[part] == width_S)).all(0).tolist()
        n_source, *n_target = width_S.tolist()
        batches.append(
            Batch(
                items[part],
                cells[part],
                perturbations[part],
                n_source,
                dict(zip(lengths.states[1:], n_target, strict=True)),
                is_full_S[0],
                dict(zip(lengths.states[1:], is_full_S[1:], strict=True)),
                (part.stop - part.start) * int(width_S.sum()) - n_real,
            )
        )
    return batches


def _cuts(length_BS: Ints, is_full_BS: Bools, width_BS: Ints, budget_tokens: int) -> Iterator[slice]:
    """Consecutive slices of the sorted items, one per batch."""
    differs_B = (width_BS[1:] != width_BS[:-1]).any(1) | (is_full_BS[1:] != is_full_BS[:-1]).any(1)
    start_G = [0, *(np.flatnonzero(differs_B) + 1).tolist()]
    stop_G = [*start_G[1:], len(width_BS)]
    n_real_B1 = [0, *np.cumsum(length_BS.sum(1)).tolist()]
    first, last, width = 0, 0, [1]
    for start, stop, width_S in zip(start_G, stop_G, width_BS[start_G].tolist(), strict=True):
        joint = [max(pair) for pair in zip(width, width_S, strict=True)] if first < last else width_S
        n_tokens = (stop - first) * sum(joint)
        is_small = first < last and SMALL * (last - first) < max(1, budget_tokens // max(width))
        can_join = (stop - first) * max(joint) <= budget_tokens
        if is_small and can_join and n_tokens - (n_real_B1[stop] - n_real_B1[first]) <= MAX_PADDED * n_tokens:
            last, width = stop, joint
            continue
        yield from _near_equal(first, last, max(1, budget_tokens // max(width)))
        first, last, width = start, stop, width_S
    yield from _near_equal(first, last, max(1, budget_tokens // max(width)))


def _near_equal(first: int, last: int, max_items: int) -> Iterator[slice]:
    n_parts = -(-(last - first) // max_items)
    bounds = [first + (last - first) * i // n_parts for i in range(n_parts)] + [last]
    yield from (slice(a, b) for a, b in pairwise(bounds))


def pack_controls(lengths: RowLengths, cell_C: NDArray[np.integer], budget_tokens: int) -> list[Batch]:
    """Batches of unedited cells; items are the cells themselves."""
    return pack(lengths, cell_C, cell_C, np.full(len(cell_C), NO_PERTURBATION), budget_tokens)


def pack_unit(lengths: RowLengths, plan: Plan, number: int, budget_tokens: int) -> list[tuple[int, list[Batch]]]:
    """(block of cells, its batches) of a unit, in order. Items that edit other states never share a batch."""
    packed: list[tuple[int, list[Batch]]] = []
    for rows in plan.blocks(number):
        item_I, cell_I, perturbation_I = np.arange(rows.start, rows.stop), plan.cell_I[rows], plan.perturbation_I[rows]
        kind_I = lengths.kind_P[perturbation_I]
        batches = []
        for kind in np.unique(kind_I):
            at = kind_I == kind
            batches += pack(lengths, item_I[at], cell_I[at], perturbation_I[at], budget_tokens)
        packed.append((int(cell_I[0]) // plan.cells_per_block, batches))
    return packed
