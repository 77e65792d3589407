"""Plan: library x cells -> ordered items as integers, coverage, units. No torch, no files."""

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from screen.cells.bank import SOURCE, Ragged, TokenBank, distinct_tokens
from screen.cells.vocabulary import NO_TOKEN, PAD, SPECIAL_IDS, Vocabulary
from screen.planning.perturbations import Library, Perturbation

Ints = NDArray[np.int64]
Cells = NDArray[np.int32]
Bools = NDArray[np.bool_]

CELLS_AT_ONCE = 256
"""Rows looked at together while counting and indexing: what they need stays in the cache."""


@dataclass(frozen=True)
class Window:
    """Which rows a model sees: predicted and context time points, and how many ids of each row (`max_len`).

    pool_everywhere: upstream leaves perturbed genes out of the pooled target embedding at every predicted time point;
    otherwise only where the target is edited.
    """

    pred_tps: tuple[int, ...]
    context_tps: tuple[int, ...]
    max_len: int
    pool_everywhere: bool = False

    def excludes_genes(self, perturbation: Perturbation, time: int) -> bool:
        """Whether pooling at this time point leaves the perturbed genes out (perturbed run only)."""
        return "tgt" in perturbation.sites and (self.pool_everywhere or time in perturbation.pert_tps)


@dataclass(frozen=True)
class Coverage:
    """What became of every cell, per perturbation P and stratum S. The four classes sum to n_cells_S.

    screened   an item exists
    absent     the gene is not in the edited sequence
    truncated  the gene is expressed, but ranks beyond the model's longest row
    emptied    the edit leaves nothing of the source or nothing to pool, or the cell's target state is empty
    """

    stratum: tuple[str, ...]
    n_cells_S: NDArray[np.int64]
    screened_PS: NDArray[np.int64]
    absent_PS: NDArray[np.int64]
    truncated_PS: NDArray[np.int64]
    emptied_PS: NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """I items in store order: by block of cells, then perturbation, then cell. Unit u is rows u*unit_rows onwards.

    is_screened_IT tells, per predicted time point, whether the item has a prediction there. Block b is the cells
    b*cells_per_block onwards.
    """

    perturbation_I: NDArray[np.int32]
    cell_I: NDArray[np.int32]
    n_edited_I: NDArray[np.int16]
    is_screened_IT: NDArray[np.bool_]
    unit_rows: int
    cells_per_block: int
    stratum_C: NDArray[np.int64]
    coverage: Coverage

    @property
    def n_items(self) -> int:
        return len(self.cell_I)

    @property
    def n_units(self) -> int:
        return -(-self.n_items // self.unit_rows)

    def unit(self, number: int) -> slice:
        """Rows of one unit."""
        return slice(number * self.unit_rows, min((number + 1) * self.unit_rows, self.n_items))

    def blocks(self, number: int) -> list[slice]:
        """Rows of one unit, in order, cut where the block of cells changes."""
        rows = self.unit(number)
        block_I = self.cell_I[rows] // self.cells_per_block
        cuts = (np.flatnonzero(np.diff(block_I)) + 1 + rows.start).tolist()
        return [slice(a, b) for a, b in pairwise([rows.start, *cuts, rows.stop]) if a < b]

    def cells_of_block(self, block: int) -> Cells:
        """The cells of one block that have an item, ascending."""
        rows = range(self.n_items)
        start, stop = (
            bisect_left(rows, b, key=lambda i: self.cell_I[i] // self.cells_per_block) for b in (block, block + 1)
        )
        has_item_C = np.zeros(self.cells_per_block, dtype=bool)
        has_item_C[self.cell_I[start:stop] - block * self.cells_per_block] = True
        return (np.flatnonzero(has_item_C) + block * self.cells_per_block).astype(np.int32)

    @property
    def n_blocks(self) -> int:
        """Blocks of cells, those without an item included."""
        return -(-len(self.stratum_C) // self.cells_per_block)

    def starts(self, n_perturbations: int) -> Ints:
        """(blocks, P + 1) the first item of each perturbation in each block of cells, then the block's end."""
        key_I = self.cell_I // self.cells_per_block * np.int64(n_perturbations) + self.perturbation_I
        start_N = np.searchsorted(key_I, np.arange(self.n_blocks * n_perturbations + 1))
        start_BP = start_N[:-1].reshape(self.n_blocks, n_perturbations)
        end_B1 = np.append(start_BP[1:, :1], [[self.n_items]], axis=0)
        return np.concatenate([start_BP, end_B1], axis=1)

    def fingerprint(self) -> str:
        """SHA-256 over the items, their order, and how they are cut into units and blocks."""
        digest = hashlib.sha256(f"{self.unit_rows};{self.cells_per_block};".encode())
        for array in (self.perturbation_I, self.cell_I, self.is_screened_IT):
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return digest.hexdigest()


class GeneIndex:
    """Gene column -> cells whose row holds it within (or, for `beyond`, only after) the first `max_len` ids."""

    def __init__(self, tokens: Ragged, column_of_token: NDArray[np.int64], n_genes: int, max_len: int) -> None:
        within, beyond = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for first, part in _in_parts(tokens):
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


def _in_parts(tokens: Ragged) -> Iterator[tuple[int, Ragged]]:
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


def edited_states(perturbation: Perturbation) -> tuple[int, ...]:
    """State numbers that the perturbation edits."""
    source = (SOURCE,) if "src" in perturbation.sites else ()
    return source + (perturbation.pert_tps if "tgt" in perturbation.sites else ())


class _Finder:
    """Finds a perturbation's cells; one screen's indices and row sizes, nothing per item.

    n_genes_TC  different genes per row of each predicted time point
    """

    def __init__(self, bank: TokenBank, index: Mapping[int, GeneIndex], window: Window) -> None:
        self.bank, self.index, self.window = bank, index, window
        rows = [bank.states[t].tokens for t in window.pred_tps]
        self.n_genes_TC = np.stack([_n_distinct(r, window.max_len, SPECIAL_IDS) for r in rows])
        self.has_genes_TC = self.n_genes_TC > 0
        self.all_C = np.arange(bank.n_cells, dtype=np.int32)

    @cached_property
    def n_source_C(self) -> NDArray[np.int16]:
        """Different ids per source row."""
        return _n_distinct(self.bank.states[SOURCE].tokens, self.window.max_len, (PAD,))

    def present(self, p: Perturbation, states: Sequence[int], beyond: bool = False) -> tuple[Cells, NDArray[np.int16]]:
        """(cells that hold any of the genes in any of the states, ascending; how many of the genes each holds)."""
        if len(states) == 1 and len(p.genes) == 1:
            index, gene = self.index[states[0]], p.genes[0]
            cell_N = index.beyond(gene) if beyond else index.cells(gene)
            return cell_N, np.ones(len(cell_N), dtype=np.int16)
        count_C = np.zeros(self.bank.n_cells, dtype=np.int16)
        for gene in p.genes:
            is_there_C = np.zeros(self.bank.n_cells, dtype=bool)
            for s in states:
                is_there_C[self.index[s].beyond(gene) if beyond else self.index[s].cells(gene)] = True
            count_C += is_there_C
        cell_N = np.flatnonzero(count_C).astype(np.int32)
        return cell_N, count_C[cell_N]

    def candidates(self, p: Perturbation) -> tuple[Cells, NDArray[np.int16], Bools]:
        """(cells that have what the edit needs, genes edited in each, whether time points can be predicted (T, N))."""
        edited, mode = edited_states(p), p.edit.mode
        cell_N, n_edited_N = self.present(p, edited)
        if mode.needs_gene:
            screened_TN, n_genes_TN = self.has_genes_TC[:, cell_N], self.n_genes_TC[:, cell_N]
        else:
            n_edited_N, cell_N = self._spread(cell_N, n_edited_N), self.all_C
            screened_TN, n_genes_TN = self.has_genes_TC.copy(), self.n_genes_TC

        def gone_N(state: int) -> NDArray[np.int16]:
            return n_edited_N if edited == (state,) else self._spread(*self.present(p, [state]))[cell_N]

        for k, t in enumerate(self.window.pred_tps):
            if self.window.excludes_genes(p, t):
                np.greater(n_genes_TN[k], gone_N(t), out=screened_TN[k])
            if t in p.pert_tps and p.n_inserted >= self.window.max_len:
                screened_TN[k] = False
        if "src" in p.sites and not p.n_inserted:
            # a source without any id has nothing left either
            n_gone_N = 0 if mode.leaves_token else gone_N(SOURCE)
            screened_TN &= self.n_source_C[cell_N] > n_gone_N
        return cell_N, n_edited_N, screened_TN

    def truncated(self, p: Perturbation, cell_N: Cells) -> Cells:
        """Cells that lack an item because they hold its genes beyond the cut only; `cell_N` have one before it."""
        beyond_N = self.present(p, edited_states(p), beyond=True)[0] if p.edit.mode.needs_gene else cell_N[:0]
        if len(beyond_N) == 0:
            return beyond_N
        is_within_C = np.zeros(self.bank.n_cells, dtype=bool)
        is_within_C[cell_N] = True
        return beyond_N[~is_within_C[beyond_N]]

    def _spread(self, cell_N: Cells, count_N: NDArray[np.int16]) -> NDArray[np.int16]:
        """(C,) the counts at their cells, 0 elsewhere."""
        count_C = np.zeros(self.bank.n_cells, dtype=np.int16)
        count_C[cell_N] = count_N
        return count_C


def _n_distinct(tokens: Ragged, max_len: int, without: Sequence[int]) -> NDArray[np.int16]:
    parts = [distinct_tokens(part, max_len, without) for _, part in _in_parts(tokens)]
    return np.concatenate(parts).astype(np.int16)


@dataclass(frozen=True)
class Selection:
    """Which cells each perturbation is screened in: few enough bytes for any number of items, which are not held."""

    library: Library
    stratum_C: NDArray[np.int64]
    coverage: Coverage
    finder: _Finder

    @property
    def n_items(self) -> int:
        return int(self.coverage.screened_PS.sum())

    def items(self, number: int) -> tuple[Cells, NDArray[np.int16], Bools]:
        """(cells, ascending; genes edited in each; per predicted time point whether it can be predicted, (T, N))."""
        cell_N, n_edited_N, screened_TN = self.finder.candidates(self.library.perturbations[number])
        is_item_N = screened_TN.any(0)
        if is_item_N.all():
            return cell_N, n_edited_N, screened_TN
        return cell_N[is_item_N], n_edited_N[is_item_N], screened_TN[:, is_item_N]


def select_items(
    library: Library,
    bank: TokenBank,
    vocabulary: Vocabulary,
    window: Window,
    stratum_C: NDArray[np.int64],
    stratum: Sequence[str],
) -> Selection:
    """Cells and coverage of every perturbation.

    Where the mode needs the gene, an item exists where any of its genes is in an edited row; else for every cell.
    """
    states = {s for p in library.perturbations for s in edited_states(p)}
    states |= {t for t in window.pred_tps for p in library.perturbations if window.excludes_genes(p, t)}
    finder = _Finder(bank, index_genes(bank, vocabulary, window.max_len, sorted(states)), window)
    n_cells_S = np.bincount(stratum_C, minlength=len(stratum))
    candidate_PS, screened_PS, truncated_PS = np.zeros((3, len(library), len(stratum)), dtype=np.int64)
    for number, p in enumerate(library.perturbations):
        cell_N, _, screened_TN = finder.candidates(p)
        of_class = (cell_N, cell_N[screened_TN.any(0)], finder.truncated(p, cell_N))
        for tally_PS, cells in zip((candidate_PS, screened_PS, truncated_PS), of_class, strict=True):
            tally_PS[number] = np.bincount(stratum_C[cells], minlength=len(stratum))
    absent_PS, emptied_PS = n_cells_S - candidate_PS - truncated_PS, candidate_PS - screened_PS
    coverage = Coverage(tuple(stratum), n_cells_S, screened_PS, absent_PS, truncated_PS, emptied_PS)
    return Selection(library, stratum_C, coverage, finder)


def order(selection: Selection, *, unit_rows: int, cells_per_block: int) -> Plan:
    """The items in store order, each written once to its row."""
    n_cells, n_perturbations = len(selection.stratum_C), len(selection.library)
    edge_B1 = np.arange(0, n_cells + cells_per_block, cells_per_block, dtype=np.int32)
    n_blocks = len(edge_B1) - 1
    count_BP = np.zeros((n_blocks, n_perturbations), dtype=np.int64)
    for number in range(n_perturbations):
        count_BP[:, number] = np.diff(np.searchsorted(selection.items(number)[0], edge_B1))
    start_BP = (np.cumsum(count_BP) - count_BP.ravel()).reshape(count_BP.shape)
    number_P = np.arange(n_perturbations, dtype=np.int32)
    perturbation_I = np.repeat(np.tile(number_P, n_blocks), count_BP.ravel())
    cell_I = np.empty(selection.n_items, dtype=np.int32)
    n_edited_I = np.empty(selection.n_items, dtype=np.int16)
    is_screened_IT = np.empty((selection.n_items, len(selection.finder.window.pred_tps)), dtype=bool)
    for number in range(n_perturbations):
        cell_N, n_edited_N, screened_TN = selection.items(number)
        count_B = count_BP[:, number]
        moved_B = start_BP[:, number] - (np.cumsum(count_B) - count_B)
        row_N = np.arange(len(cell_N)) + np.repeat(moved_B, count_B)
        cell_I[row_N], n_edited_I[row_N], is_screened_IT[row_N] = cell_N, n_edited_N, screened_TN.T
    return Plan(
        perturbation_I,
        cell_I,
        n_edited_I,
        is_screened_IT,
        unit_rows,
        cells_per_block,
        selection.stratum_C,
        selection.coverage,
    )
