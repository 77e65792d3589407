"""Sparse: matrices in compressed rows (CSR), made of arrays from a file only after these were checked.

Native code trusts the three arrays: an offset or a column out of range would be read, or written, out of bounds.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

NUMBERS = "biuf"
"""Kinds of dtype that values may have."""


def checked_csr(data: NDArray[Any], indices: NDArray[Any], indptr: NDArray[Any], shape: tuple[int, int]) -> Any:
    """The CSR matrix (scipy) of its values, their columns and where each row begins.

    Linear in the number of values, which are not looked at. Raises ValueError saying what does not fit, and where.
    """
    from scipy import sparse

    check_offsets(indptr, shape[0], len(indices))
    check_entries(data, indices, shape[1])
    # as narrow as the numbers allow: scipy takes these as they are
    wide = np.int32 if max(len(data), *shape) < 2**31 else np.int64
    parts = native(data), indices.astype(wide, copy=False), indptr.astype(wide, copy=False)
    return sparse.csr_matrix(parts, shape=shape)


def native(values: NDArray[Any]) -> NDArray[Any]:
    """The same numbers in a dtype that scipy's native code knows: no float16, bytes in this machine's order."""
    dtype = np.dtype(np.float32) if values.dtype == np.float16 else values.dtype.newbyteorder("=")
    return values.astype(dtype, copy=False)


def check_offsets(offset_C1: NDArray[Any], n_rows: int, n_entries: int, name: str = "indptr") -> None:
    """Offsets start at 0, never fall and end at the number of entries. Raises ValueError naming the first that does not."""
    if offset_C1.dtype.kind not in "iu" or offset_C1.shape != (n_rows + 1,):
        raise ValueError(
            f"{name} must be {n_rows + 1} whole numbers for {n_rows} rows; it is {offset_C1.shape} {offset_C1.dtype}"
        )
    if offset_C1[0] != 0:
        raise ValueError(f"{name} must start at 0; it starts at {offset_C1[0]}")
    falls_C = offset_C1[1:] < offset_C1[:-1]
    if falls_C.any():
        row = int(np.argmax(falls_C))
        raise ValueError(
            f"{name} falls from {offset_C1[row]} to {offset_C1[row + 1]} at row {row}; it may have overflowed 32 bits, or "
            "the file is cut"
        )
    if int(offset_C1[-1]) != n_entries:
        raise ValueError(f"{name} ends at {offset_C1[-1]}, but there are {n_entries} entries")


def check_entries(data: NDArray[Any], indices: NDArray[Any], n_columns: int) -> None:
    """As many values as columns, all columns in range. Raises ValueError."""
    if data.dtype.kind not in NUMBERS or indices.dtype.kind not in "iu":
        raise ValueError(f"values must be numbers and their columns whole ones; they are {data.dtype}, {indices.dtype}")
    if data.shape != indices.shape or data.ndim != 1:
        raise ValueError(f"there are {data.shape} values, but {indices.shape} columns of values")
    if len(indices) == 0:
        return
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= n_columns:
        raise ValueError(f"columns run from {low} to {high}, but the matrix has columns 0 to {n_columns - 1}")
