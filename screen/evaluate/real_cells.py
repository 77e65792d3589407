"""RealCells: the cells of a real perturbation screen that are compared, and their counts, read in blocks."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.cells.bank import MISSING, SOURCE
from screen.cells.counts import Counts, Reading, find_counts
from screen.cells.files.cell_file import CellFile
from screen.cells.metadata import ALL_CELLS, Cells
from screen.cells.pairing import shuffled
from screen.cells.values import suggested
from screen.cells.vocabulary import Vocabulary
from screen.errors import CellError, some
from screen.evaluate.energy import log1p_cp10k
from screen.evaluate.labels import Genes, Labels, read_labels

FEWEST_CELLS = 10
"""Real cells that a perturbation needs, and the control: each half has five."""
MOST_CONTROLS = 5_000
EVERY_TYPE = "all"
Ints = NDArray[np.int64]
Strings = NDArray[np.str_]


@dataclass(frozen=True)
class RealCells:
    """An open file of a real screen: of every cell its label and cell type, and which perturbations the labels mean.

    shared  columns of the model's genes that the file has, ascending; G below are these
    """

    file: str
    control: str
    label_C: Strings
    type_C: Strings
    labels: Labels
    vocabulary: Vocabulary
    shared: Ints
    counts: Counts
    notes: tuple[str, ...]

    @property
    def types(self) -> list[str]:
        """Cell types in which there are control cells, by name."""
        return sorted(set(self.type_C[self.label_C == self.control].tolist()) - {MISSING})

    def rows_of(self, labels: Sequence[str], cell_type: str, most: int) -> Ints:
        """At most so many cells with one of the labels, ascending: a random part that is the same each time."""
        row_R = np.flatnonzero(np.isin(self.label_C, labels) & (self.type_C == cell_type))
        if len(row_R) > most:
            row_R = np.sort(shuffled(row_R, "evaluate", sorted(labels), cell_type)[:most])
        return row_R

    def blocks(self, row_R: Ints) -> Iterator[Any]:
        """Log1p counts per 10,000 of the shared genes of ascending rows, some at a time: CSR (rows, G)."""
        for _, counts_RG in self.counts.model_blocks(row_R):
            yield log1p_cp10k(counts_RG[:, self.shared])


@contextmanager
def open_real(
    path: Path,
    column: str,
    control: str,
    vocabulary: Vocabulary,
    wanted: Mapping[Genes, str],
    celltype: str | None = None,
    layer: str | None = None,
) -> Iterator[RealCells]:
    """Opens an h5ad of raw counts and finds what its perturbation column means.

    wanted  the perturbations that will be asked for -> names, for the message where the file has none of them
    Raises CellError: no such column or control (naming the nearest), no counts, nothing in common; GeneError: no shared gene.
    """
    with CellFile.open(path) as file:
        cells = Cells(path.name, file.frame("obs"), None, {SOURCE: ALL_CELLS})
        label_C = cells.column(column, "--perturbation-column")
        type_C = np.full(len(label_C), EVERY_TYPE) if celltype is None else cells.column(celltype, "--celltype")
        distinct = sorted(set(label_C.tolist()) - {MISSING})
        _check_control(control, label_C, distinct, column, path.name)
        labels = read_labels(distinct, control, vocabulary)
        if not set(labels.of_genes) & set(wanted):
            raise CellError(_nothing_in_common(distinct, labels, control, column, wanted, path.name))
        # joint edits are also held against the real changes of their genes alone
        needed = {*wanted, *((x,) for genes in wanted if len(genes) > 1 for x in genes)}
        used = {name for genes, names in labels.of_genes.items() if genes in needed for name in names} | {control}
        row_R = np.flatnonzero(np.isin(label_C, sorted(used)))
        counts, _, notes = find_counts(file, Reading(layer), {SOURCE: row_R}, vocabulary, cells)
        shared = np.flatnonzero(np.asarray(counts.select_FG.sum(axis=0)).ravel() > 0)
        yield RealCells(
            path.name, control, label_C, type_C, labels, vocabulary, shared, counts,
            tuple(n for n in notes if "letter case" in n or "were used" in n),
        )  # fmt: skip


def _check_control(control: str, label_C: Strings, distinct: Sequence[str], column: str, file: str) -> None:
    n_of = Counter(label_C.tolist())
    n_controls = n_of[control]
    if control not in distinct:
        raise CellError(
            f'{file} has no control cells: column "{column}" never says "{control}" (--control); it says '
            f"{some(distinct, 10) or 'nothing'}{suggested(control, {d: n_of[d] for d in distinct})}"
        )
    if n_controls < FEWEST_CELLS:
        raise CellError(
            f'{file} has {n_controls} control cells ("{control}" in "{column}"); {FEWEST_CELLS} or more are needed'
        )


def _nothing_in_common(
    distinct: Sequence[str], labels: Labels, control: str, column: str, wanted: Mapping[Genes, str], file: str
) -> str:
    theirs = [x for x in distinct if x != control]
    ours = list(wanted.values())
    known = f"{len(theirs) - len(labels.unknown):,} of these {len(theirs):,} name genes of the model"
    return (
        f'no perturbation of {file} was screened: column "{column}" says {some(theirs) or "nothing else"} ({known}); the '
        f'screen has {some(ours)}; joint ones are joined by "+" or "_"'
    )
