"""Ragged rows: where the rows of a batch's items lie in flat tensors, and where those of their cells' controls do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

TILE = 64
"""Rows that one program of attention asks for."""


@dataclass(frozen=True)
class RaggedRows:
    """T rows of B items over M rows of C cells' controls; an item has as many rows as its cell.

    start_B1, start_C1  int64, where the rows of an item, and those of a cell's control, start
    cell_B              int64, the cell of every item
    control_T           int64, the control's row under every row
    tile_X2             int32, item and first row, counted within the item, of every tile of at most `tile` rows
    """

    start_B1: Tensor
    start_C1: Tensor
    cell_B: Tensor
    control_T: Tensor
    tile_X2: Tensor
    tile: int

    @property
    def n_rows(self) -> int:
        """T."""
        return len(self.control_T)

    def spans(self) -> Iterator[tuple[int, slice, slice]]:
        """(cell, rows, the control's rows) of every item."""
        start_B1, start_C1 = self.start_B1.tolist(), self.start_C1.tolist()
        for b, cell in enumerate(self.cell_B.tolist()):
            yield cell, slice(*start_B1[b : b + 2]), slice(*start_C1[cell : cell + 2])


def ragged_rows(
    start_C1: Sequence[int] | np.ndarray,
    cell_B: Sequence[int] | np.ndarray,
    device: torch.device | str,
    tile: int = TILE,
) -> RaggedRows:
    """Items of cells in any order, one behind the other. Integers of the host in, tensors of the device out.

    Raises ValueError for starts that decrease, cells that there are not, and a tile that is no power of two from 16 on.
    """
    _check_tile(tile)
    start_C1, cell_B = np.asarray(start_C1, dtype=np.int64), np.asarray(cell_B, dtype=np.int64)
    n_cells, length_C = len(start_C1) - 1, np.diff(start_C1)
    if n_cells < 0 or (length_C < 0).any():
        raise ValueError(
            f"start_C1 is {start_C1.tolist()}; it must hold the start of every cell and the end of the last"
        )
    if ((cell_B < 0) | (cell_B >= n_cells)).any():
        raise ValueError(f"cell_B holds {cell_B.min()} to {cell_B.max()}; allowed: 0 to {n_cells - 1}")
    length_B = length_C[cell_B]
    start_B1, item_T, row_T = _laid_out(length_B)
    _, item_X, tile_X = _laid_out(-(-length_B // tile))
    tile_X2 = np.stack([item_X, tile_X * tile], axis=1).astype(np.int32)
    control_T = row_T + start_C1[cell_B[item_T]]
    starts, rows = ([torch.from_numpy(x).to(device) for x in xs] for xs in ((start_B1, start_C1), (control_T, tile_X2)))
    return RaggedRows(starts[0], starts[1], torch.from_numpy(cell_B).to(device), rows[0], rows[1], tile)


def even_rows(cell_B: Tensor, n_cells: int, n_rows: int, tile: int = TILE) -> RaggedRows:
    """Items of n_cells cells that all have as many rows; nothing is read back from the device.

    Raises ValueError for a tile that is no power of two from 16 on.
    """
    _check_tile(tile)
    n_items, n_tiles, device = len(cell_B), -(-n_rows // tile), cell_B.device
    first_X = torch.arange(0, n_tiles * tile, tile, device=device).repeat(n_items)
    item_X = torch.arange(n_items, device=device).repeat_interleave(n_tiles, output_size=n_items * n_tiles)
    control_BF = (cell_B * n_rows)[:, None] + torch.arange(n_rows, device=device)
    start_B1, start_C1 = (torch.arange(n + 1, device=device) * n_rows for n in (n_items, n_cells))
    return RaggedRows(start_B1, start_C1, cell_B, control_BF.flatten(), torch.stack([item_X, first_X], 1).int(), tile)


def _check_tile(tile: int) -> None:
    if tile < 16 or tile & (tile - 1):
        raise ValueError(f"tile is {tile}; it must be a power of two, at least 16")


def _laid_out(n_B: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(starts, the item of every part, its rank there) of n_B parts of every item, one behind the other."""
    start_B1 = np.concatenate([[0], np.cumsum(n_B)]).astype(np.int64)
    item_T = np.repeat(np.arange(len(n_B)), n_B)
    return start_B1, item_T, np.arange(len(item_T)) - start_B1[item_T]
