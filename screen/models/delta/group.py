"""Group: items whose changes are carried together, and the rows of the cells they are of."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from screen.cells.bank import SOURCE
from screen.models.adapter import BatchRows, row_of


@dataclass(frozen=True)
class CellRow:
    """The unedited rows of one cell by state, cut to their own lengths, and what pooling counts of those read out."""

    ids_L: Mapping[int, Tensor]
    counted_L: Mapping[int, Tensor]
    size_factor_1: Mapping[int, Tensor]

    def batch(self, index_B: Tensor) -> tuple[BatchRows, dict[int, list[int]]]:
        """(the rows as a batch of one, their lengths)."""
        row = {s: row_of(ids_L[None]) for s, ids_L in self.ids_L.items()}
        counted = {s: counted_L[None] for s, counted_L in self.counted_L.items()}
        target = {s: r for s, r in row.items() if s != SOURCE}
        length = {s: [len(ids_L)] for s, ids_L in self.ids_L.items()}
        return BatchRows(row[SOURCE], target, counted, self.size_factor_1, frozenset(), index_B), length


@dataclass(frozen=True)
class Group:
    """Items whose changes are carried together.

    cells    theirs; every one of them has an item
    at_B     the items' places in the batch
    cell_B   which of `cells` each belongs to
    """

    cells: tuple[CellRow, ...]
    at_B: Tensor
    cell_B: Tensor

    def of(self, is_so_B: Tensor) -> "Group":
        """That of some items."""
        left, cell_B = torch.unique(self.cell_B[is_so_B], return_inverse=True)
        return Group(tuple(self.cells[c] for c in left.tolist()), self.at_B[is_so_B], cell_B)


def padded(parts: Iterable[Tensor]) -> Tensor:
    """(C, L) a part of every cell's row."""
    return pad_sequence(list(parts), batch_first=True)


def cell_row(rows: BatchRows, length_B: Mapping[int, Sequence[int]], b: int) -> CellRow:
    """The rows of cell b of a batch of controls, without what only fills them up."""
    states = (SOURCE, *rows.target)
    ids = {s: rows.row(s).ids_BL[b, : length_B[s][b]] for s in states}
    counted = {s: counted_BL[b, : length_B[s][b]] for s, counted_BL in rows.counted_BL.items()}
    return CellRow(ids, counted, {s: x[b : b + 1] for s, x in rows.size_factor_B.items()})
