"""RowLengths: how long edited rows are and at what rank their genes stand, without editing a row."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from screen.cells.bank import SOURCE, Ragged
from screen.cells.vocabulary import EOS, PAD
from screen.edits import NO_EDIT, TABLE, Counts
from screen.planning.index import NOWHERE, BankIndex, Bools, Ints, in_parts
from screen.planning.perturbations import Library, edited_states
from screen.planning.window import Window

NO_PERTURBATION = -1
_CHANGES_LENGTH = np.zeros(1 + max(mode.code for mode in TABLE), dtype=bool)
_CHANGES_LENGTH[[mode.code for mode in TABLE if mode.lengths is not None]] = True


class _Rows:
    """What one state's rows hold where the model sees them, (C,) each.

    n_used_C    1 + the last position that is no pad; 0 for none
    n_tokens_C  ids that are no pad
    n_genes_C   gene ids, repeats included
    is_plain_C  genes stand side by side and no pad before the last id: special ids are only before or behind the genes
    """

    def __init__(self, tokens: Ragged, max_len: int) -> None:
        n_cells = len(tokens)
        self.n_used_C, self.n_tokens_C, self.n_genes_C = (np.zeros(n_cells, dtype=np.int64) for _ in range(3))
        self.is_plain_C = np.ones(n_cells, dtype=bool)
        for first, part in in_parts(tokens):
            has_ids = np.flatnonzero(part.length_C)
            if len(has_ids) == 0:
                continue
            row_C, start_N = first + has_ids, part.offset_C1[has_ids]
            place_T = np.arange(1, len(part.token_T) + 1) - np.repeat(start_N, part.length_C[has_ids])
            token_T = np.where(place_T <= max_len, part.token_T, PAD)
            is_token_T, is_gene_T = token_T != PAD, token_T > EOS
            used_N, last_N = (np.maximum.reduceat(np.where(x, place_T, 0), start_N) for x in (is_token_T, is_gene_T))
            first_N = np.minimum.reduceat(np.where(is_gene_T, place_T, NOWHERE), start_N)
            n_tokens_N, n_genes_N = (np.add.reduceat(x, start_N, dtype=np.int64) for x in (is_token_T, is_gene_T))
            self.n_used_C[row_C], self.n_tokens_C[row_C], self.n_genes_C[row_C] = used_N, n_tokens_N, n_genes_N
            is_one_run_N = (n_genes_N == 0) | (last_N - first_N + 1 == n_genes_N)
            self.is_plain_C[row_C] = is_one_run_N & (used_N == n_tokens_N)


class RowLengths:
    """Lengths of edited rows and ranks of perturbed genes, for many items at once, without editing a row.

    `times` are the predicted and context time points. `exclude_src`: every source row is read as empty.
    `kind_P` numbers the different sets of states that perturbations edit; perturbation NO_PERTURBATION is no edit.
    """

    def __init__(
        self,
        index: BankIndex,
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
        self._rows = {s: _Rows(index.bank.states[s].tokens, window.max_len) for s in self._edits_P}
        self._index = {s: index[s] for s in edited}

    def is_regular_C(self, state: int) -> Bools:
        """Whether a cell's row is special ids, genes of which none is there twice, special ids, and no pad between them.

        Where no perturbation edits the state, repeats are not looked for.
        """
        is_plain_C = self._rows[state].is_plain_C
        return is_plain_C & ~self._index[state].has_repeat_C if state in self._index else is_plain_C

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
            count, rank = self._index[state].find(cell_B[at], self._gene_N[first_B[at] + j])
            count_B[at] += count
            rank_B[at] = np.minimum(rank_B[at], rank)
        return count_B, rank_B
