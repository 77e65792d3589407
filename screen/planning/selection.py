"""Selection: which cells each perturbation is screened in, and what became of the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from screen.cells.bank import SOURCE, Ragged, distinct_tokens
from screen.cells.vocabulary import PAD, SPECIAL_IDS
from screen.planning.index import BankIndex, Bools, Cells, in_parts
from screen.planning.perturbations import Library, Perturbation, edited_states
from screen.planning.window import Window


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


class _Finder:
    """Finds a perturbation's cells; one screen's index and row sizes, nothing per item.

    n_genes_TC  different genes per row of each predicted time point
    """

    def __init__(self, index: BankIndex, window: Window) -> None:
        assert index.max_len == window.max_len
        self.bank, self.index, self.window = index.bank, index, window
        rows = [self.bank.states[t].tokens for t in window.pred_tps]
        self.n_genes_TC = np.stack([_n_distinct(r, window.max_len, SPECIAL_IDS) for r in rows])
        self.has_genes_TC = self.n_genes_TC > 0
        self.all_C = np.arange(self.bank.n_cells, dtype=np.int32)

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
            # what stands in column 0 of a source row stays in front, and may be no gene
            if t in edited and p.n_inserted + (t == SOURCE) >= self.window.max_len:
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
    parts = [distinct_tokens(part, max_len, without) for _, part in in_parts(tokens)]
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
    library: Library, index: BankIndex, window: Window, stratum_C: NDArray[np.int64], stratum: Sequence[str]
) -> Selection:
    """Cells and coverage of every perturbation.

    Where the mode needs the gene, an item exists where any of its genes is in an edited row; else for every cell.
    """
    finder = _Finder(index, window)
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
