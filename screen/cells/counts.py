"""Counts: the matrix of a file that holds counts, read in blocks, with its columns as the model's genes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.cells.amounts import LARGEST_LOG, Totals
from screen.cells.bank import SOURCE
from screen.cells.files.cell_file import LARGEST_COUNT, CellFile
from screen.cells.files.on_disk import Matrix
from screen.cells.gene_columns import select_genes
from screen.cells.metadata import Cells, Ints, Strings, strings
from screen.cells.pairing import Pairs
from screen.cells.vocabulary import NO_TOKEN, Vocabulary
from screen.errors import CellError, nearest, some

ROWS_TRIED = 256
NO_LAYERS = {"X": "X", "raw": "raw/X"}
"""What is no layer and may be named as one."""
RAW, FRACTIONAL = "raw", "fractional"


@dataclass(frozen=True)
class Reading:
    """How the counts of a file are read.

    layer       layer that holds them; None: X, or `raw` where X does not hold counts
    counts      "raw": whole numbers that may be counts; "fractional": any values of 0 or more that are no logarithms
    duplicates  what becomes of a gene in several columns: "error", or "sum"
    is_yaml     whether a YAML file says so, whose keys advice may name
    """

    layer: str | None = None
    counts: str = RAW
    duplicates: str = "error"
    is_yaml: bool = False


class NotCountsError(Exception):
    """Why a matrix does not hold counts; `may_be_meant`: all the same, its values may be what is meant."""

    def __init__(self, why: str, may_be_meant: bool = False) -> None:
        super().__init__(why)
        self.may_be_meant = may_be_meant


@dataclass(frozen=True)
class CountMatrix:
    """A matrix of the file (C cells, F genes of the file), read in blocks of rows.

    gene_F, cell_C   names for messages
    kind             "raw" or "fractional": what its values must be
    """

    label: str
    stored: Matrix
    gene_F: Strings
    cell_C: Strings
    kind: str = RAW

    def blocks(self, row_R: Ints) -> Iterator[tuple[Ints, Any]]:
        """Ascending distinct rows, some at a time, and their counts: CSR [rows, F]. Raises NotCountsError at others."""
        cuts = np.flatnonzero(np.diff(row_R // self.stored.rows_at_once)) + 1
        for part_R in np.split(row_R, cuts):
            first = int(part_R[0])
            counts_RF = self.stored.read(first, int(part_R[-1]) + 1)[part_R - first]
            self._check(counts_RF, part_R)
            yield part_R, counts_RF

    def _check(self, counts_RF: Any, row_R: Ints) -> None:
        value_T = counts_RF.data
        is_value_T = (value_T >= 0) & (value_T <= LARGEST_COUNT)
        is_count_T = is_value_T & (value_T == np.floor(value_T)) if self.kind == RAW else is_value_T
        if is_count_T.all():
            return
        t = int(np.argmin(is_count_T))
        row = row_R[np.searchsorted(counts_RF.indptr, t, side="right") - 1]
        where = f'for cell "{self.cell_C[row]}" and gene "{self.gene_F[counts_RF.indices[t]]}"'
        why = f"{self.label} holds {value_T[t]:g} {where} (largest value thereabouts {value_T.max():g})"
        if not is_value_T.all():
            raise NotCountsError(why)
        totals = Totals.of(counts_RF)
        if totals.are_logged_counts:
            raise NotCountsError(f"{why}: logarithms of counts, log1p; `numpy.expm1` gives them back")
        if totals.are_logarithms:
            raise NotCountsError(f"{why}: logarithms of values scaled to {np.median(totals.unlogged_C):,.0f} a cell")
        scaled = f": values scaled to {np.median(totals.total_C):,.0f} a cell" if totals.are_equal else ""
        raise NotCountsError(f"{why}{scaled}", may_be_meant=True)

    def check_totals(self, totals: Totals, is_logged: bool = False) -> list[str]:
        """Notes on what the values of some cells are. Raises NotCountsError where they only look like counts."""
        if self.kind == RAW:
            if (why := totals.why_rounded()) is not None:
                raise NotCountsError(f"{self.label} holds whole numbers that are no counts: {why}", may_be_meant=True)
            return []
        if is_logged or totals.are_logarithms or totals.are_logged_counts:
            equal = (
                "exp(value) - 1 is whole"
                if totals.are_logged_counts
                else "without them the totals of all cells are equal"
            )
            said = "the file says so (uns/log1p)" if is_logged else equal
            raise NotCountsError(f"{self.label} holds logarithms, by which genes would rank otherwise: {said}")
        notes = []
        if totals.largest < LARGEST_LOG:
            notes.append(
                f"Warning: the largest value of {self.label} is {totals.largest:g}; if these are logarithms, genes are ranked "
                "wrongly: give counts."
            )
        if totals.are_equal:
            notes.append(
                f"{self.label} holds values scaled to {np.median(totals.total_C):,.0f} a cell: genes rank as by counts; sizes of "
                "cells are lost, and predicted counts are on that scale."
            )
        return notes


@dataclass(frozen=True)
class Counts:
    """A matrix of counts, and select_FG: 1 where gene f of the file is gene g of the model."""

    matrix: CountMatrix
    select_FG: Any

    def model_blocks(self, row_R: Ints) -> Iterator[tuple[Ints, Any]]:
        """Some of the rows at a time, and their counts of the model's genes: CSR [rows, G], float64, sorted, no stored zeros."""
        for part_R, counts_RF in self.matrix.blocks(row_R):
            counts_RG = (counts_RF.astype(np.float64) @ self.select_FG).tocsr()
            counts_RG.eliminate_zeros()
            counts_RG.sort_indices()
            yield part_R, counts_RG

    def expressing(self, candidates: Pairs, vocabulary: Vocabulary) -> tuple[NDArray[np.bool_], Totals]:
        """Per cell of the file whether it is a candidate with a count in a gene that has a token on its side; their totals."""
        usable_C, totals = np.zeros(len(self.matrix.cell_C), dtype=bool), []
        every_R, here_in = rows_of_all(candidates, len(usable_C))
        has_token_F = {s: self.select_FG @ (tokens_at(vocabulary, s) != NO_TOKEN) for s in candidates}
        for part_R, found_RF in self.matrix.blocks(every_R):
            counts_RF = found_RF.astype(np.float64, copy=False)
            for state, is_in_C in here_in.items():
                usable_C[part_R] |= (counts_RF @ has_token_F[state] > 0) & is_in_C[part_R]
            totals.append(Totals.of(counts_RF))
        return usable_C, Totals.joined(totals)


def rows_of_all(pairs: Pairs, n_cells: int) -> tuple[Ints, dict[int, NDArray[np.bool_]]]:
    """The rows of every state, ascending and distinct, so that a file is gone through once; per state whether a cell is in it."""
    is_in = {state: np.zeros(n_cells, dtype=np.bool_) for state in pairs}
    for state, row_P in pairs.items():
        is_in[state][row_P] = True
    return np.flatnonzero(np.logical_or.reduce(list(is_in.values()))), is_in


def tokens_at(vocabulary: Vocabulary, state: int) -> Ints:
    """Tokens of the model's genes on the side of a state."""
    return vocabulary.source_token_G if state == SOURCE else vocabulary.target_token_G


def find_counts(
    file: CellFile, reading: Reading, candidates: Pairs, vocabulary: Vocabulary, cells: Cells
) -> tuple[Counts, NDArray[np.bool_], list[str]]:
    """The first of the places for counts that does hold them, cells that express something there, and notes."""
    problems: list[NotCountsError] = []
    for key in _places(file, reading.layer, cells.file):
        matrix, var = _matrix(file, key, cells, reading.counts)
        select_FG, notes = select_genes(vocabulary, var, cells.file, reading.duplicates)
        counts = Counts(matrix, select_FG)
        try:
            usable_C, totals = counts.expressing(candidates, vocabulary)
            notes += matrix.check_totals(totals, key == "X" and file.has("uns/log1p"))
        except NotCountsError as problem:
            problems.append(problem)
            continue
        if problems:
            notes.append(f"The counts of {matrix.label} were used: {problems[0]}.")
        return counts, usable_C, notes
    seen = "; ".join(map(str, problems))
    advice = _advice(file, reading, candidates, cells)
    if reading.is_yaml and reading.counts == RAW and any(p.may_be_meant for p in problems):
        advice += (
            "; if these values are meant (ambient RNA removed, reads shared among genes), say `counts: fractional` in `cells`: "
            "genes are ranked by them as they are"
        )
    needed = "raw counts are" if reading.counts == RAW else "counts, whole or fractional, are"
    raise CellError(f"{cells.file}: {needed} needed, but {seen}; {advice}")


def places_of_counts(file: CellFile, cells: Cells) -> list[str]:
    """The matrices whose first rows look like raw counts, as `layer` names them: "X", "raw", layers in the file's order."""
    first = {SOURCE: np.arange(min(len(cells.obs), ROWS_TRIED))}
    keys = {name: key for name, key in NO_LAYERS.items() if file.has(key)}
    keys |= {layer: f"layers/{layer}" for layer in file.layers}
    return [name for name, key in keys.items() if _looks_like_counts(file, key, RAW, first, cells)]


def _places(file: CellFile, layer: str | None, name: str) -> list[str]:
    """Where counts may be, in order of preference."""
    layers = file.layers
    has = f"layers: {some(layers, 20) or 'none'}"
    if layer is not None:
        if layer in NO_LAYERS and layer not in layers and file.has(NO_LAYERS[layer]):
            return [NO_LAYERS[layer]]
        if layer not in layers:
            raise CellError(f'{name} has no layer "{layer}"; {has}{nearest(layer, layers)}')
        return [f"layers/{layer}"]
    places = [key for key in ("X", "raw/X") if file.has(key)]
    if not places:
        raise CellError(f"{name} has neither X nor raw; set `layer:` to the layer of raw counts; {has}")
    return places


def _advice(file: CellFile, reading: Reading, candidates: Pairs, cells: Cells) -> str:
    """Which layers there are and which look like counts."""
    if not (layers := file.layers):
        return "the file has no layers either; write the raw counts to X"
    good = [
        f'"{layer}"'
        for layer in layers
        if _looks_like_counts(file, f"layers/{layer}", reading.counts, candidates, cells)
    ]
    return f"set `layer:` to raw counts; layers: {some(layers, 20)}; of these look like counts: {some(good) or 'none'}"


def _looks_like_counts(file: CellFile, key: str, kind: str, candidates: Pairs, cells: Cells) -> bool:
    try:
        matrix, _ = _matrix(file, key, cells, kind)
        _, counts_RF = next(matrix.blocks(candidates[SOURCE][:ROWS_TRIED]))
        matrix.check_totals(Totals.of(counts_RF))
    except (NotCountsError, CellError):
        return False
    return True


def _matrix(file: CellFile, key: str, cells: Cells, kind: str) -> tuple[CountMatrix, Any]:
    """One matrix of the file and the data frame of its genes."""
    var = file.frame("raw/var" if key == "raw/X" else "var")
    stored = file.matrix(key, len(cells.obs), len(var))
    label = {"X": "X", "raw/X": "raw"}.get(key, f'layer "{key.removeprefix("layers/")}"')
    return CountMatrix(label, stored, strings(var.index), cells.name_C, kind), var
