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
BYTES_PER_ENTRY = 48
"""Row, column and value of an entry, as they are read, sorted and kept."""


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
        self._indptr = _offsets(group, shape[1])
        self._most = max(1, COLUMNS_BYTES // BYTES_PER_ENTRY)
        self.rows_at_once = self._rows_that_fit()
        self._block: tuple[int, Any] | None = None

    def read(self, first: int, stop: int) -> Any:
        """Some rows, as CSR. Raises CellError."""
        from scipy import sparse

        n = self.rows_at_once
        with file_errors(f"cannot read rows {first} to {stop - 1} of {self._what}"):
            parts = [self._rows(k * n)[max(first - k * n, 0) : stop - k * n] for k in range(first // n, -(-stop // n))]
            return parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")

    def _rows_that_fit(self) -> int:
        """Rows of a block: none of the blocks has more entries than the bound."""
        n_rows = max(1, self.shape[0])
        if self._indices.shape[0] <= self._most:
            return n_rows
        n_of_row = np.zeros(n_rows, dtype=np.int64)
        for _, _, row_T, _ in self._pieces():
            n_of_row += np.bincount(row_T, minlength=n_rows)
        rows = n_rows
        while rows > 1 and np.add.reduceat(n_of_row, np.arange(0, n_rows, rows)).max() > self._most:
            rows = -(-rows // 2)
        return rows

    def _rows(self, first: int) -> Any:
        if self._block is None or self._block[0] != first:
            # the one before may go before the next is made
            self._block = None
            self._block = first, self._turned(first, min(first + self.rows_at_once, self.shape[0]))
        return self._block[1]

    def _turned(self, first: int, stop: int) -> Any:
        """CSR of some rows."""
        from scipy import sparse

        rows, columns, values = [], [], []
        for start, end, row_T, value_T in self._pieces(with_values=True):
            here_T = (row_T >= first) & (row_T < stop)
            column_T = np.searchsorted(self._indptr, np.arange(start, end)[here_T], side="right") - 1
            rows.append((row_T[here_T] - first).astype(np.int32))
            columns.append(column_T.astype(np.int32))
            values.append(value_T[here_T])
        found = [np.concatenate(x) if x else np.zeros(0, np.int32) for x in (values, rows, columns)]
        return sparse.coo_matrix((found[0], (found[1], found[2])), shape=(stop - first, self.shape[1])).tocsr()

    def _pieces(self, with_values: bool = False) -> Iterator[tuple[int, int, NDArray[Any], NDArray[Any]]]:
        """(first, stop, rows, values) of some entries at a time, checked."""
        n_entries, step = self._indices.shape[0], max(1, self._most // 8)
        for start in range(0, n_entries, step):
            end = min(start + step, n_entries)
            row_T = self._indices[start:end]
            value_T = native(self._data[start:end]) if with_values else np.zeros(len(row_T), np.int8)
            check_entries(value_T, row_T, self.shape[0])
            yield start, end, row_T.astype(np.int64, copy=False), value_T


def _offsets(group: Any, n: int) -> NDArray[Any]:
    """The offsets of compressed rows or columns, which fit their values. Raises ValueError."""
    indptr, data, indices = np.asarray(group["indptr"][()]), group["data"], group["indices"]
    if data.shape != indices.shape or len(data.shape) != 1:
        raise ValueError(f"there are {data.shape} values, but {indices.shape} columns of values")
    check_offsets(indptr, n, indices.shape[0])
    return indptr
