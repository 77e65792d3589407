"""GeneIndex: a state's rows by gene, made once for a screen: which cells hold it, how often and at what rank."""

from collections.abc import Collection, Iterator

import numpy as np
from numpy.typing import NDArray

from screen.cells.bank import SOURCE, Ragged, TokenBank
from screen.cells.vocabulary import EOS, NO_TOKEN, Vocabulary

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Cells = NDArray[np.int32]

CELLS_AT_ONCE = 256
"""Rows looked at together while counting and indexing: what they need stays in the cache."""
IDS_AT_ONCE = 2**20
NOWHERE = np.iinfo(np.int64).max


class GeneIndex:
    """One state's rows by gene, within the first `max_len` ids and beyond them. Six bytes per id.

    cell_N, rank_N   cell of every gene id, and how many gene ids stand before it; by bucket, then cell, then rank
    offset_N         where each bucket begins: 2 g is gene g within the cut, 2 g + 1 beyond it; the last is the end
    has_repeat_C     some gene of the vocabulary is in the row more than once within the cut
    """

    def __init__(self, tokens: Ragged, column_of_token: Ints, n_genes: int, max_len: int) -> None:
        longest = int(tokens.length_C.max(initial=0))
        rank_bits, cell_bits = longest.bit_length(), len(tokens).bit_length()
        key_N = _keys(tokens, column_of_token, max_len, rank_bits, cell_bits)
        key_N.sort()
        self.offset_N = np.searchsorted(key_N, np.arange(2 * n_genes + 1) << (cell_bits + rank_bits))
        self.cell_N = np.empty(len(key_N), dtype=np.int32)
        self.rank_N = np.empty(len(key_N), dtype=np.min_scalar_type(longest))
        for first in range(0, len(key_N), IDS_AT_ONCE):
            some = slice(first, first + IDS_AT_ONCE)
            self.cell_N[some] = (key_N[some] >> rank_bits) & ((1 << cell_bits) - 1)
            self.rank_N[some] = key_N[some] & ((1 << rank_bits) - 1)
        repeated_N, is_beyond_N = self._repeats()
        self._has_repeats = len(repeated_N) > 0
        self.has_repeat_C = np.zeros(len(tokens), dtype=bool)
        self.has_repeat_C[repeated_N[~is_beyond_N]] = True

    def _repeats(self) -> tuple[Cells, Bools]:
        """(cell, whether it is beyond the cut) of every id that follows another of the same gene in its row."""
        at_N = np.flatnonzero(self.cell_N[1:] == self.cell_N[:-1]) + 1
        bucket_N = np.searchsorted(self.offset_N, at_N, side="right") - 1
        is_repeat_N = self.offset_N[bucket_N] < at_N
        return self.cell_N[at_N[is_repeat_N]], bucket_N[is_repeat_N] % 2 == 1

    @property
    def is_seen_G(self) -> Bools:
        """Whether any row holds the gene where the model sees it."""
        is_used_N: Bools = np.diff(self.offset_N) > 0
        return is_used_N[::2]

    def tally(self, stratum_C: Ints, n_strata: int) -> tuple[Ints, Ints]:
        """(S, G) each: entries of every gene within the cut in the cells of each stratum, and the sum of their ranks."""
        n_genes = len(self.offset_N) // 2
        n_SG, rank_SG = np.zeros((2, n_strata, n_genes), dtype=np.int64)
        for gene in np.flatnonzero(self.is_seen_G).tolist():
            some = slice(self.offset_N[2 * gene], self.offset_N[2 * gene + 1])
            stratum_N = stratum_C[self.cell_N[some]]
            n_SG[:, gene] = np.bincount(stratum_N, minlength=n_strata)
            rank_SG[:, gene] = np.bincount(stratum_N, self.rank_N[some], n_strata)
        return n_SG, rank_SG

    def cells(self, gene: int) -> Cells:
        """Cells whose row holds the gene where the model sees it, ascending."""
        return self._cells(2 * gene)

    def beyond(self, gene: int) -> Cells:
        """Cells whose row holds the gene beyond the cut, ascending."""
        return self._cells(2 * gene + 1)

    def _cells(self, bucket: int) -> Cells:
        cell_N = self.cell_N[self.offset_N[bucket] : self.offset_N[bucket + 1]]
        return cell_N[np.diff(cell_N, prepend=-1) > 0] if self._has_repeats else cell_N

    def find(self, cell_B: Ints, gene_B: Ints) -> tuple[Ints, Ints]:
        """(how often each gene is in each cell's row, rank of the first among the row's genes or NOWHERE), within the cut."""
        at_B = self._place(cell_B, gene_B)
        is_hit_B = at_B < self.offset_N[2 * gene_B + 1]
        hit = np.flatnonzero(is_hit_B)
        is_hit_B[hit] = self.cell_N[at_B[hit]] == cell_B[hit]
        hit = np.flatnonzero(is_hit_B)
        rank_B, count_B = np.full(len(cell_B), NOWHERE), is_hit_B.astype(np.int64)
        rank_B[hit] = self.rank_N[at_B[hit]]
        if self._has_repeats:
            again = hit[self.has_repeat_C[cell_B[hit]]]
            count_B[again] = self._place(cell_B[again] + 1, gene_B[again]) - at_B[again]
        return count_B, rank_B

    def _place(self, cell_B: Ints, gene_B: Ints) -> Ints:
        """Where in the genes' buckets within the cut the first entry of that cell, or of one behind it, stands."""
        place_B, end_B = self.offset_N[2 * gene_B], self.offset_N[2 * gene_B + 1]
        for bit in reversed(range(int((end_B - place_B).max(initial=0)).bit_length())):
            next_B = np.minimum(place_B + (1 << bit), end_B)
            place_B = np.where(self.cell_N.take(next_B - 1, mode="wrap") < cell_B, next_B, place_B)
        return place_B


def _keys(tokens: Ragged, column_of_token: Ints, max_len: int, rank_bits: int, cell_bits: int) -> Ints:
    """(bucket, cell, rank) in one number, for every id that is a gene of the vocabulary; unsorted."""
    # ids beyond the table are no genes, however large they are
    column_of_token = np.append(column_of_token, NO_TOKEN)
    key_N, n = np.empty(len(tokens.token_T), dtype=np.int64), 0
    for first, part in in_parts(tokens):
        gene_T, start_C = column_of_token.take(part.token_T, mode="clip"), part.offset_C1[:-1]
        n_before_T1 = np.concatenate([[0], np.cumsum(part.token_T > EOS)])
        # what is the same in a row: its cell, and what its ranks are counted from
        of_row_C = (np.arange(first, first + len(part)) << rank_bits) - n_before_T1[start_C]
        bucket_T = 2 * gene_T
        if int(part.length_C.max(initial=0)) > max_len:
            bucket_T += np.arange(len(gene_T)) - np.repeat(start_C, part.length_C) >= max_len
        key_T = (bucket_T << (cell_bits + rank_bits)) + np.repeat(of_row_C, part.length_C) + n_before_T1[:-1]
        key_T = key_T[gene_T != NO_TOKEN]
        key_N[n : n + len(key_T)] = key_T
        n += len(key_T)
    return key_N[:n]


def in_parts(tokens: Ragged) -> Iterator[tuple[int, Ragged]]:
    """(first row, rows): the same rows in order, some at a time, without copying ids."""
    for first in range(0, len(tokens), CELLS_AT_ONCE):
        offset_C1 = tokens.offset_C1[first : first + CELLS_AT_ONCE + 1]
        yield first, Ragged(tokens.token_T[offset_C1[0] : offset_C1[-1]], offset_C1 - offset_C1[0])


class BankIndex:
    """The GeneIndex of every state of a bank, made when it is first asked for; planner and row lengths share it."""

    def __init__(self, bank: TokenBank, vocabulary: Vocabulary, max_len: int) -> None:
        self.bank, self.vocabulary, self.max_len = bank, vocabulary, max_len
        self._made: dict[int, GeneIndex] = {}

    def __getitem__(self, state: int) -> GeneIndex:
        if state not in self._made:
            table = self.vocabulary.column_of_token("src" if state == SOURCE else "tgt")
            tokens = self.bank.states[state].tokens
            self._made[state] = GeneIndex(tokens, table, len(self.vocabulary), self.max_len)
        return self._made[state]

    def keep(self, states: Collection[int]) -> None:
        """Forgets what was made of other states; it is made again if asked for."""
        self._made = {s: index for s, index in self._made.items() if s in states}
