"""GeneIndex: which cells' rows hold a gene."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from screen.cells.bank import SOURCE, Ragged, TokenBank
from screen.cells.vocabulary import NO_TOKEN, Vocabulary

Ints = NDArray[np.int64]
Cells = NDArray[np.int32]

CELLS_AT_ONCE = 256
"""Rows looked at together while counting and indexing: what they need stays in the cache."""


class GeneIndex:
    """Gene column -> cells whose row holds it within (or, for `beyond`, only after) the first `max_len` ids."""

    def __init__(self, tokens: Ragged, column_of_token: NDArray[np.int64], n_genes: int, max_len: int) -> None:
        within, beyond = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for first, part in in_parts(tokens):
            row_T = np.repeat(np.arange(len(part)), part.length_C)
            is_within_T = np.arange(len(part.token_T)) - part.offset_C1[row_T] < max_len
            token_T = np.minimum(part.token_T, len(column_of_token) - 1)
            gene_T = np.where(part.token_T == token_T, column_of_token[token_T], NO_TOKEN)
            is_gene_T, key_T = gene_T != NO_TOKEN, gene_T * len(tokens) + (row_T + first)
            within.append(key_T[is_gene_T & is_within_T])
            beyond.append(key_T[is_gene_T & ~is_within_T])
        self._within = _cells_by_gene(within, n_genes, len(tokens))
        self._beyond = _cells_by_gene(beyond, n_genes, len(tokens))

    def cells(self, gene: int) -> Cells:
        """Cells whose row holds the gene where the model sees it, ascending."""
        cell_N, offset_G1 = self._within
        return cell_N[offset_G1[gene] : offset_G1[gene + 1]]

    def beyond(self, gene: int) -> Cells:
        """Cells whose row holds the gene beyond the cut, ascending."""
        cell_N, offset_G1 = self._beyond
        return cell_N[offset_G1[gene] : offset_G1[gene + 1]]


def in_parts(tokens: Ragged) -> Iterator[tuple[int, Ragged]]:
    """(first row, rows): the same rows in order, some at a time, without copying ids."""
    for first in range(0, len(tokens), CELLS_AT_ONCE):
        offset_C1 = tokens.offset_C1[first : first + CELLS_AT_ONCE + 1]
        yield first, Ragged(tokens.token_T[offset_C1[0] : offset_C1[-1]], offset_C1 - offset_C1[0])


def _cells_by_gene(parts: Sequence[Ints], n_genes: int, n_cells: int) -> tuple[Cells, Ints]:
    """(cells of all genes, each gene's ascending and without repeats; where each gene's begin) from gene * C + cell."""
    # np.unique hashes integers, which takes 100 times as long as sorting them
    key_N = np.concatenate(parts)
    key_N.sort()
    is_new_N = np.ones(len(key_N), dtype=bool)
    np.not_equal(key_N[1:], key_N[:-1], out=is_new_N[1:])
    key_N = key_N[is_new_N]
    return (key_N % n_cells).astype(np.int32), np.searchsorted(key_N, np.arange(n_genes + 1) * n_cells)


def index_genes(bank: TokenBank, vocabulary: Vocabulary, max_len: int, states: Iterable[int]) -> dict[int, GeneIndex]:
    """A GeneIndex for each state."""
    tables = {"src": vocabulary.column_of_token("src"), "tgt": vocabulary.column_of_token("tgt")}
    return {
        s: GeneIndex(bank.states[s].tokens, tables["src" if s == SOURCE else "tgt"], len(vocabulary), max_len)
        for s in states
    }
