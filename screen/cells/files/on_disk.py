"""OnDisk: matrices of a file, read some rows at a time within a bound of memory, and checked before native code runs."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from screen.cells.files.damage import file_errors
from screen.cells.sparse import NUMBERS, check_entries, check_offsets, checked_csr, native

BLOCK_BYTES = 64 * 2**20
SPARSE_ROWS_AT_ONCE = 2_048
COLUMNS_BYTES = 2**30
"""What a block of rows of a matrix in compressed columns may take while it is turned."""
BYTES_PER_ENTRY = 40
"""Row, column and value of an entry as they are gathered and as they are kept, and an eighth of them as they are read."""


class Matrix(Protocol):
    """A matrix of a file, read some rows at a time."""

    shape: tuple[int, int]
    rows_at_once: int

    def read(self, first: int, stop: int) -> Any:
        """Some rows, as CSR (scipy). Raises CellError."""


class DenseOnDisk:
    """A dense matrix."""

    def __init__(self, what: str, array: Any) -> None:
        if array.dtype.kind not in NUMBERS:
            raise ValueError(f"it holds {array.dtype}, no numbers")
        self._what, self._array, self.shape = what, array, tuple(array.shape)
        self.rows_at_once = max(1, BLOCK_BYTES // max(1, array.shape[1] * array.dtype.itemsize))

    def read(self, first: int, stop: int) -> Any:
        """Some rows, as CSR. Raises CellError."""
        from scipy import sparse

        with file_errors(f"cannot read rows {first} to {stop - 1} of {self._what}"):
            return sparse.csr_matrix(native(self._array[first:stop]))


class CsrOnDisk:
    """A matrix in compressed rows: offsets are read and checked once, the rest as it is asked for."""

    rows_at_once = SPARSE_ROWS_AT_ONCE

    def __init__(self, what: str, group: Any, shape: tuple[int, int]) -> None:
        self._what, self.shape, self._data, self._indices = what, shape, group["data"], group["indices"]
        self._indptr = _offsets(group, shape[0])

    def read(self, first: int, stop: int) -> Any:
        """Some rows, as CSR. Raises CellError."""
        with file_errors(f"cannot read rows {first} to {stop - 1} of {self._what}"):
            start, end = int(self._indptr[first]), int(self._indptr[stop])
            offset_R1 = self._indptr[first : stop + 1] - self._indptr[first]
            found = self._data[start:end], self._indices[start:end]
            return checked_csr(*found, offset_R1, (stop - first, self.shape[1]))


class CscOnDisk:
    """A matrix in compressed columns: all of it is gone through for each block of rows, which is kept until the next.

    A block has as many rows as fit the bound; a matrix that fits as a whole is gone through once.
    """

    def __init__(self, what: str, group: Any, shape: tuple[int, int]) -> None:
        self._what, self.shape, self._data, self._indices = what, shape, group["data"], group["indices"]
        self._indptr = _offsets(group, shape[1]).astype(np.int64, copy=False)
        self._most = max(1, COLUMNS_BYTES // BYTES_PER_ENTRY)
        self.rows_at_once, self._n_of_block = self._blocks_that_fit()
        self._block: tuple[int, Any] | None = None

    def read(self, first: int, stop: int) -> Any:
        """Some rows, as CSR. Raises CellError."""
        from scipy import sparse

        n = self.rows_at_once
        with file_errors(f"cannot read rows {first} to {stop - 1} of {self._what}"):
            parts = [self._rows(k)[max(first - k * n, 0) : stop - k * n] for k in range(first // n, -(-stop // n))]
            return parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")

    def _blocks_that_fit(self) -> tuple[int, NDArray[np.int64]]:
        """Rows of a block, and entries of each block: not more than the bound, unless one row has more."""
        n_rows, n_entries = max(1, self.shape[0]), self._indices.shape[0]
        if n_entries <= self._most:
            return n_rows, np.array([n_entries])
        n_of_row = np.zeros(n_rows, dtype=np.int64)
        for _, _, row_T in self._pieces():
            n_of_row += np.bincount(row_T, minlength=n_rows)
        n_blocks = -(-n_entries // self._most)
        while True:
            rows = -(-n_rows // n_blocks)
            n_of_block = np.add.reduceat(n_of_row, np.arange(0, n_rows, rows))
            if rows == 1 or n_of_block.max() <= self._most:
                return rows, n_of_block
            n_blocks += max(1, n_blocks // 8)

    def _rows(self, k: int) -> Any:
        """Block k, as CSR."""
        if self._block is None or self._block[0] != k:
            # the one before may go before the next is made
            self._block = None
            self._block = k, self._turned(k)
        return self._block[1]

    def _turned(self, k: int) -> Any:
        from scipy import sparse

        first = k * self.rows_at_once
        stop, n = min(first + self.rows_at_once, self.shape[0]), int(self._n_of_block[k])
        row_N, column_N = np.empty(n, np.int32), np.empty(n, np.int32)
        value_N = np.empty(n, native(self._data[:0]).dtype)
        filled = 0
        for start, end, row_T in self._pieces():
            here_T = (row_T >= first) & (row_T < stop)
            to = filled + int(np.count_nonzero(here_T))
            row_N[filled:to] = row_T[here_T] - first
            column_N[filled:to] = self._columns(start, end)[here_T]
            value_N[filled:to] = self._data[start:end][here_T]
            filled = to
        return sparse.coo_matrix((value_N, (row_N, column_N)), shape=(stop - first, self.shape[1])).tocsr()

    def _columns(self, start: int, end: int) -> NDArray[np.int32]:
        """The column of each of these entries."""
        first, last = np.searchsorted(self._indptr, [start, end - 1], side="right") - 1
        bounds = np.clip(self._indptr[first : last + 2], start, end)
        return np.repeat(np.arange(first, last + 1, dtype=np.int32), np.diff(bounds))

    def _pieces(self) -> Iterator[tuple[int, int, NDArray[Any]]]:
        """(first, stop, rows) of some entries at a time, checked."""
        n_entries, step = self._indices.shape[0], max(1, self._most // 8)
        for start in range(0, n_entries, step):
            end = min(start + step, n_entries)
            row_T = self._indices[start:end]
            check_entries(np.empty(len(row_T), self._data.dtype), row_T, self.shape[0])
            yield start, end, row_T


def _offsets(group: Any, n: int) -> NDArray[Any]:
    """The offsets of compressed rows or columns, which fit their values. Raises ValueError."""
    indptr, data, indices = np.asarray(group["indptr"][()]), group["data"], group["indices"]
    if data.shape != indices.shape or len(data.shape) != 1:
        raise ValueError(f"there are {data.shape} values, but {indices.shape} columns of values")
    check_offsets(indptr, n, indices.shape[0])
    return indptr
