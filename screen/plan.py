"""Plan: library x cells -> ordered items as integers, coverage, units. No torch, no files."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from screen.genes import NO_TOKEN, PAD, Vocabulary
from screen.perturbations import Library, Perturbation
from screen.tokens import SOURCE, Ragged, TokenBank, distinct_tokens, gene_tokens_per_cell

Ints = NDArray[np.int64]


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

    is_screened_IT tells, per predicted time point, whether the item has a prediction there.
    """

    perturbation_I: NDArray[np.int32]
    cell_I: NDArray[np.int32]
    n_edited_I: NDArray[np.int16]
    is_screened_IT: NDArray[np.bool_]
    unit_rows: int
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

    def fingerprint(self) -> str:
        """SHA-256 over the items and their order."""
        digest = hashlib.sha256(f"{self.unit_rows};".encode())
        for array in (self.perturbation_I, self.cell_I, self.is_screened_IT):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


class GeneIndex:
    """Gene column -> cells whose row holds it within (or, for `beyond`, only after) the first `max_len` ids."""

    def __init__(self, tokens: Ragged, column_of_token: NDArray[np.int64], n_genes: int, max_len: int) -> None:
        row_T = np.repeat(np.arange(len(tokens)), tokens.length_C)
        position_T = np.arange(len(tokens.token_T)) - tokens.offset_C1[row_T]
        token_T = np.minimum(tokens.token_T, len(column_of_token) - 1)
        gene_T = np.where(tokens.token_T == token_T, column_of_token[token_T], NO_TOKEN)
        within_T = position_T < max_len
        self._within = _cells_by_gene(gene_T[within_T], row_T[within_T], n_genes, len(tokens))
        self._beyond = _cells_by_gene(gene_T[~within_T], row_T[~within_T], n_genes, len(tokens))

    def cells(self, gene: int) -> Ints:
        """Cells whose row holds the gene where the model sees it, ascending."""
        cell_N, offset_G1 = self._within
        return cell_N[offset_G1[gene] : offset_G1[gene + 1]]

    def beyond(self, gene: int) -> Ints:
        """Cells whose row holds the gene beyond the cut, ascending."""
        cell_N, offset_G1 = self._beyond
        return cell_N[offset_G1[gene] : offset_G1[gene + 1]]


def _cells_by_gene(gene_T: Ints, row_T: Ints, n_genes: int, n_cells: int) -> tuple[Ints, Ints]:
    known = gene_T != NO_TOKEN
    key = np.unique(gene_T[known].astype(np.int64) * n_cells + row_T[known])
    offset_G1 = np.searchsorted(key, np.arange(n_genes + 1) * n_cells)
    return key % n_cells, offset_G1


def index_genes(bank: TokenBank, vocabulary: Vocabulary, max_len: int, states: Sequence[int]) -> dict[int, GeneIndex]:
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


class _Counter:
    """Counts, per cell, how many of a perturbation's genes are where; one screen's indices and row sizes."""

    def __init__(self, bank: TokenBank, index: Mapping[int, GeneIndex], window: Window) -> None:
        self.bank, self.index, self.window = bank, index, window
        self.n_tokens = {t: gene_tokens_per_cell(bank.states[t].tokens, window.max_len) for t in window.pred_tps}
        self.n_source = distinct_tokens(bank.states[SOURCE].tokens, window.max_len, (PAD,))

    def n_present(self, p: Perturbation, states: Sequence[int], beyond: bool = False) -> NDArray[np.int64]:
        """(C,) how many of the genes are in any of the states' rows."""
        count_C = np.zeros(self.bank.n_cells, dtype=np.int64)
        for gene in p.genes:
            found = [self.index[s].beyond(gene) if beyond else self.index[s].cells(gene) for s in states]
            if found:
                count_C[np.unique(np.concatenate(found))] += 1
        return count_C

    def is_screened(self, p: Perturbation) -> NDArray[np.bool_]:
        """(C, T) whether anything is left of the source, and to pool at each predicted time point."""
        columns = []
        for t in self.window.pred_tps:
            left_C = self.n_tokens[t]
            if self.window.excludes_genes(p, t):
                left_C = left_C - self.n_present(p, [t])
            if p.mode == "overexpress" and t in p.pert_tps:
                left_C = np.minimum(left_C, self.window.max_len - len(p.genes))
            columns.append(left_C > 0)
        if "src" in p.sites and p.mode in ("pad", "delete"):
            has_source_C = self.n_source > self.n_present(p, [SOURCE])
            columns = [column & has_source_C for column in columns]
        return np.stack(columns, axis=1)


def make_plan(
    library: Library,
    bank: TokenBank,
    vocabulary: Vocabulary,
    window: Window,
    *,
    stratum_C: NDArray[np.int64],
    stratum: Sequence[str],
    unit_rows: int = 2048,
    cells_per_block: int = 4096,
) -> Plan:
    """Items and coverage of a library on a bank.

    A knock-out item exists where any of its genes is in an edited row; an overexpression item for every cell.
    """
    states = sorted({s for p in library.perturbations for s in edited_states(p)} | set(window.pred_tps))
    counter = _Counter(bank, index_genes(bank, vocabulary, window.max_len, states), window)
    shape = (len(library), len(stratum))
    tally = {name: np.zeros(shape, dtype=np.int64) for name in ("screened", "absent", "truncated", "emptied")}
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]] = []
    for number, p in enumerate(library.perturbations):
        n_present_C = counter.n_present(p, edited_states(p))
        has_gene_C = n_present_C > 0 if p.is_knockout else np.ones(bank.n_cells, dtype=bool)
        screened_CT = counter.is_screened(p)
        is_item_C = has_gene_C & screened_CT.any(1)
        cells = np.flatnonzero(is_item_C)
        parts.append((np.full(len(cells), number), cells, n_present_C[cells], screened_CT[cells]))
        cut_C = ~has_gene_C & (counter.n_present(p, edited_states(p), beyond=True) > 0)
        classes = {
            "screened": is_item_C,
            "emptied": has_gene_C & ~is_item_C,
            "truncated": cut_C,
            "absent": ~has_gene_C & ~cut_C,
        }
        for name, is_class_C in classes.items():
            tally[name][number] = np.bincount(stratum_C[is_class_C], minlength=len(stratum))
    perturbation_I, cell_I, n_edited_I, screened_IT = (np.concatenate(x) for x in zip(*parts, strict=True))
    order = np.lexsort((cell_I, perturbation_I, cell_I // cells_per_block))
    n_cells_S = np.bincount(stratum_C, minlength=len(stratum))
    return Plan(
        perturbation_I[order].astype(np.int32),
        cell_I[order].astype(np.int32),
        n_edited_I[order].astype(np.int16),
        screened_IT[order],
        unit_rows,
        stratum_C,
        Coverage(tuple(stratum), n_cells_S, *(tally[k] for k in ("screened", "absent", "truncated", "emptied"))),
    )
