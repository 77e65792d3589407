"""look: what a file of cells holds that a configuration must name: counts, genes, states, cell types, donors."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from screen.cells.bank import MISSING, SOURCE
from screen.cells.counts import places_of_counts
from screen.cells.donors import is_donor_like
from screen.cells.files.cell_file import CellFile
from screen.cells.gene_columns import select_genes
from screen.cells.metadata import ALL_CELLS, Cells
from screen.cells.vocabulary import Vocabulary

STATE_WORDS = (
    "condition",
    "stim",
    "treatment",
    "state",
    "perturbation",
    "time",
    "day",
    "hour",
    "status",
    "group",
    "stage",
)
TYPE_WORDS = ("cell_type", "celltype", "cell type", "annotation", "subtype", "cluster", "leiden", "louvain")
"""What names of columns hold, in order of preference."""
SOURCE_WORDS = re.compile(
    r"(?i)^(ctrl|control|unstim\w*|untreated|rest(ing)?|vehicle|dmso|pbs|baseline|naive|mock|wt|non-?targeting)\b|^(t|d|h|day|time)?\W*0\W*(h|hr|hours?|d|days?|m|min)?$"
)
MOST_STATES, MOST_TYPES = 10, 100


@dataclass(frozen=True)
class Looked:
    """What a file holds.

    counts     places that look like raw counts, the first one first: "X", "raw", or a layer
    columns    obs column -> its values, most frequent first, and of how many cells each is
    state, cell_type, donor   columns that look like it; None where none does
    source     value of `state` of the cells before; targets: the others, in their natural order
    genes      notes on how genes are named; [] where there is no vocabulary
    """

    path: Path
    n_cells: int
    counts: Sequence[str]
    columns: Mapping[str, Mapping[str, int]]
    state: str | None
    source: str | None
    targets: Sequence[str]
    cell_type: str | None
    donor: str | None
    genes: Sequence[str]


def look(path: Path, vocabulary: Vocabulary | None = None) -> Looked:
    """Looks at an h5ad or AnnData Zarr directory: its tables, and some rows of its matrices.

    Raises CellError for a file that cannot be read; GeneError where its genes are not the model's.
    """
    with CellFile.open(path) as file:
        cells = Cells(path.name, file.frame("obs"), None, {SOURCE: ALL_CELLS})
        counts = places_of_counts(file, cells)
        genes: Sequence[str] = []
        if vocabulary is not None:
            _, genes = select_genes(
                vocabulary, file.frame("raw/var" if counts[:1] == ["raw"] else "var"), path.name, "sum"
            )
    columns = {str(c): levels_of(cells, str(c)) for c in cells.obs}
    state = _first(columns, STATE_WORDS, 2, MOST_STATES)
    source, targets = _states(columns[state]) if state is not None else (None, [])
    return Looked(
        path=path,
        n_cells=len(cells.obs),
        counts=counts,
        columns=columns,
        state=state,
        source=source,
        targets=targets,
        cell_type=_first({c: v for c, v in columns.items() if c != state}, TYPE_WORDS, 2, MOST_TYPES),
        donor=next(
            (c for c, v in columns.items() if c != state and is_donor_like(c) and 2 <= len(v) <= len(cells.obs) / 2),
            None,
        ),
        genes=genes,
    )


def levels_of(cells: Cells, column: str) -> dict[str, int]:
    """The values of a column, most frequent first, and of how many cells each is; cells without one are left out."""
    value_V, n_V = np.unique(cells.column(column, "look"), return_counts=True)
    order = np.argsort(-n_V, kind="stable")
    return {str(value_V[v]): int(n_V[v]) for v in order if value_V[v] != MISSING}


def _first(columns: Mapping[str, Mapping[str, int]], words: Sequence[str], fewest: int, most: int) -> str | None:
    """The first column, by words, that has so many values."""
    fitting = [c for c, levels in columns.items() if fewest <= len(levels) <= most]
    return next((c for word in words for c in fitting if word in c.lower()), None)


def _states(levels: Mapping[str, int]) -> tuple[str, list[str]]:
    """(the state before, those after): one that is called so, or else the first in natural order."""
    ordered = sorted(levels, key=_natural)
    source = next((v for v in ordered if SOURCE_WORDS.search(v)), ordered[0])
    return source, [v for v in ordered if v != source]


def _natural(text: str) -> list[tuple[float, str]]:
    """6 h before 10 h."""
    return [
        (float(part), "") if part.isdecimal() else (float("inf"), part.lower()) for part in re.split(r"(\d+)", text)
    ]
