"""RowLengths: how long edited rows are and at what rank their genes stand, without editing a row."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from screen.cells.bank import SOURCE, Ragged, TokenBank
from screen.cells.vocabulary import EOS, NO_TOKEN, PAD, Vocabulary
from screen.edits import NO_EDIT, TABLE, Counts
from screen.planning.perturbations import Library, edited_states
from screen.planning.window import Window

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

CELLS_AT_ONCE = 1024
NO_PERTURBATION = -1
NOWHERE = np.iinfo(np.int64).max
_CHANGES_LENGTH = np.zeros(1 + max(mode.code for mode in TABLE), dtype=bool)
_CHANGES_LENGTH[[mode.code for mode in TABLE if mode.lengths is not None]] = True


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
