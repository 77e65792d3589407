"""Plan: the items of a screen as integers, in store order, cut into units. No torch, no files."""

import hashlib
from bisect import bisect_left
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from screen.planning.selection import Coverage, Selection

Ints = NDArray[np.int64]


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

    def cells_of_block(self, block: int) -> NDArray[np.int32]:
        """The cells of one block that have an item, ascending."""
        rows = range(self.n_items)
        start, stop = (
            bisect_left(rows, b, key=lambda i: self.cell_I[i] // self.cells_per_block) for b in (block, block + 1)
        )
        has_item_C = np.zeros(self.cells_per_block, dtype=bool)
        has_item_C[self.cell_I[start:stop] - block * self.cells_per_block] = True
        return (np.flatnonzero(has_item_C) + block * self.cells_per_block).astype(np.int32)

    def part_of(self, cell_N: NDArray[np.integer], n_parts: int) -> Ints:
        """Which n-th of its block every cell is in."""
        part_N: Ints = cell_N % self.cells_per_block * np.int64(n_parts) // self.cells_per_block
        return part_N

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

    def only(self, row_I: NDArray[np.integer]) -> "Plan":
        """The plan of some of its rows, in this order, as one unit."""
        return replace(
            self,
            perturbation_I=self.perturbation_I[row_I],
            cell_I=self.cell_I[row_I],
            n_edited_I=self.n_edited_I[row_I],
            is_screened_IT=self.is_screened_IT[row_I],
            unit_rows=max(len(row_I), 1),
        )

    def fingerprint(self) -> str:
        """SHA-256 over the items, their order, and how they are cut into units and blocks."""
        digest = hashlib.sha256(f"{self.unit_rows};{self.cells_per_block};".encode())
        for array in (self.perturbation_I, self.cell_I, self.is_screened_IT):
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return digest.hexdigest()


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
