"""H5adFile: an h5ad opened to be read: its tables and matrices, checked before memory is asked for or native code runs."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from screen.cells.sparse import NUMBERS, check_offsets, checked_csr, native
from screen.cells.walk_hdf5 import walked
from screen.errors import CellError, some

BLOCK_BYTES = 64 * 2**20
SPARSE_ROWS_AT_ONCE = 2_048
LARGEST_COUNT = 2**53
"""Up to here every whole number is a float64."""
ROOM_BYTES, MOST_PER_BYTE = 64 * 2**20, 1_100
"""What an array may take in memory: so many bytes, and so many for every byte of the file (gzip gives 1,032 at most)."""


class Matrix(Protocol):
    """A matrix of a file, read some rows at a time."""

    shape: tuple[int, int]
    rows_at_once: int

    def read(self, first: int, stop: int) -> Any:
        """Some rows, as CSR (scipy). Raises CellError."""


@dataclass(frozen=True)
class H5adFile:
    """An open h5ad. Everything raises CellError of one line: what cannot be read, why, and that the file may be damaged."""

    path: Path
    file: Any

    @staticmethod
    @contextmanager
    def open(path: Path) -> Iterator["H5adFile"]:
        """Opens a file that has obs and var."""
        import h5py

        if path.is_file() and (reason := walked(path)) is not None:
            raise CellError(f"cannot read {path}: {reason}; the file is damaged: copy it again")
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            reason = f"{error}; is it a complete h5ad file?" if path.is_file() else "there is no such file"
            raise CellError(f"cannot read {path}: {reason}") from error
        with file:
            with file_errors(f"cannot read {path}"):
                names = list(file)
            if not {"obs", "var"} <= set(names):
                raise CellError(
                    f"{path} is HDF5 but not h5ad: it lacks obs or var and holds {some(names) or 'nothing'}"
                )
            yield H5adFile(path, file)

    @property
    def layers(self) -> list[str]:
        """Names of the layers."""
        with file_errors(f"cannot read the layers of {self.path.name}"):
            return list(self.file["layers"]) if "layers" in self.file else []

    def has(self, key: str) -> bool:
        """Whether there is such a matrix."""
        with file_errors(f"cannot read {key} of {self.path.name}"):
            return key in self.file and _text(self.file[key], "encoding-type") != "null"

    def frame(self, key: str) -> Any:
        """A data frame of the file (obs, var, raw/var), in any layout that anndata has written."""
        import anndata
        import h5py

        with file_errors(f"cannot read {key} of {self.path}"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # anndata warns about old layouts, and reads them all the same
            if isinstance(self.file[key], h5py.Group):
                self._require_fit(self.file[key])
                return _a_frame(anndata.io.read_elem(self.file[key]), key)
            self._require_fit(self.file)
            whole = anndata.read_h5ad(self.path, backed="r")  # before anndata 0.7: categories are kept in `uns`
            whole.file.close()
            return _a_frame(getattr(whole, key), key)

    def matrix(self, key: str, n_rows: int, n_columns: int) -> Matrix:
        """A matrix of the file, which must be of this size."""
        import h5py

        with file_errors(f"cannot read {key} of {self.path.name}"):
            found = self.file[key]
            self._require_fit(found)
            is_dense = isinstance(found, h5py.Dataset)
            shape = tuple(found.shape if is_dense else _sparse_shape(found))
        if shape != (n_rows, n_columns):
            raise CellError(f"{key} of {self.path.name} is {shape}, but there are {n_rows} cells and {n_columns} genes")
        what = f"{key} of {self.path.name}"
        with file_errors(f"cannot read {what}"):
            if is_dense:
                return DenseOnDisk(what, found)
            return InMemory(_transposed(found, shape)) if _format(found) == "csc" else CsrOnDisk(what, found, shape)

    def _require_fit(self, found: Any) -> None:
        """Arrays that say they are larger than this file can hold are not asked for. Raises ValueError."""
        import h5py

        most = ROOM_BYTES + MOST_PER_BYTE * self.path.stat().st_size
        arrays: list[Any] = [found] if isinstance(found, h5py.Dataset) else []
        if not arrays:
            found.visititems(lambda _, x: arrays.append(x) if isinstance(x, h5py.Dataset) else None)
        for array in arrays:
            n_bytes = int(np.prod([float(n) for n in array.shape or ()])) * array.dtype.itemsize
            chunk_bytes = int(np.prod([float(n) for n in array.chunks or ()])) * array.dtype.itemsize
            if max(n_bytes, chunk_bytes) > most:
                raise ValueError(
                    f"{array.name} says that it holds {max(n_bytes, chunk_bytes):,} bytes, which the file cannot: it has "
                    f"{self.path.stat().st_size:,}"
                )


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
        self._indptr = np.asarray(group["indptr"][()])
        check_offsets(self._indptr, shape[0], self._indices.size)
        if self._data.shape != self._indices.shape:
            raise ValueError(f"there are {self._data.shape} values, but {self._indices.shape} columns of values")

    def read(self, first: int, stop: int) -> Any:
        """Some rows, as CSR. Raises CellError."""
        with file_errors(f"cannot read rows {first} to {stop - 1} of {self._what}"):
            start, end = int(self._indptr[first]), int(self._indptr[stop])
            offset_R1 = self._indptr[first : stop + 1] - self._indptr[first]
            found = self._data[start:end], self._indices[start:end]
            return checked_csr(*found, offset_R1, (stop - first, self.shape[1]))


class InMemory:
    """A matrix that was read whole."""

    rows_at_once = SPARSE_ROWS_AT_ONCE

    def __init__(self, found: Any) -> None:
        self._found, self.shape = found, found.shape

    def read(self, first: int, stop: int) -> Any:
        """Some rows, as CSR."""
        return self._found[first:stop]


@contextmanager
def file_errors(what: str) -> Iterator[None]:
    """Whatever h5py or anndata raise on a damaged file, as a CellError of one line."""
    try:
        yield
    except CellError:
        raise
    except MemoryError as error:
        raise CellError(f"{what}: it does not fit in memory ({error}); the file may be damaged") from error
    except Exception as error:
        first_line = str(error).partition("\n")[0] or type(error).__name__
        raise CellError(f"{what}: {first_line}; the file may be damaged") from error


def _a_frame(found: Any, key: str) -> Any:
    import pandas as pd

    if not isinstance(found, pd.DataFrame):
        raise ValueError(f"{key} is no table; it is a {type(found).__name__}")
    return found


def _text(node: Any, attribute: str) -> str:
    """An attribute; where it is none, or no text, as in a damaged file, none: ""."""
    found = node.attrs.get(attribute, "")
    found = found.decode(errors="replace") if isinstance(found, bytes) else found
    return found if isinstance(found, str) else ""


def _format(group: Any) -> str:
    """ "csr" or "csc"."""
    found = (_text(group, "encoding-type") or _text(group, "h5sparse_format")).removesuffix("_matrix")
    if found not in ("csr", "csc"):
        said = str(group.attrs.get("encoding-type", "nothing"))[:40]
        raise ValueError(f'it must be a dense, a csr or a csc matrix; its encoding-type says "{said}"')
    return found


def _sparse_shape(group: Any) -> tuple[int, ...]:
    found = group.attrs.get("shape", group.attrs.get("h5sparse_shape"))
    if found is None:
        raise ValueError("it does not say its shape")
    if np.ndim(found) != 1 or np.asarray(found).dtype.kind not in "iu":
        raise ValueError(f"its shape is {str(found)[:40]}; it must be two whole numbers")
    return tuple(int(n) for n in found)


def _transposed(group: Any, shape: tuple[int, int]) -> Any:
    """CSR of a matrix in compressed columns."""
    return checked_csr(group["data"][()], group["indices"][()], np.asarray(group["indptr"][()]), shape[::-1]).T.tocsr()
