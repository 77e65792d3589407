"""Folder: the arrays below one folder of a store, checked when they are opened; what is damaged is an error of ours."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from screen.errors import StoreError
from screen.files import checksum
from screen.store.dense import DenseArray, is_dense

PART_BYTES = 16 * 2**20
DAMAGES = (
    OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError, RuntimeError, MemoryError,
)  # fmt: skip
"""What zarr, its codecs and json may raise on a damaged file."""


@contextmanager
def damages(place: object) -> Iterator[None]:
    """What a damaged file makes others raise, as a StoreError that says what to do."""
    try:
        yield
    except DAMAGES as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise StoreError(
            f"{place} is damaged ({reason}); `perturbscreen verify DIR` says what else is. Restore it from a copy, or screen "
            "again into another --out"
        ) from error


class Folder:
    """Arrays below one folder of a store, by name, each opened once.

    `files` are the checksums of what was written once: an array's own are compared when it is opened.
    """

    def __init__(self, path: Path, group: zarr.Group, files: Mapping[str, str] = MappingProxyType({})) -> None:
        self.path, self.group, self.files = path, group, files
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._dense: dict[str, DenseArray | None] = {}
        self._rows: dict[str, int] = {}

    def _n_rows(self, name: str) -> int:
        """Rows of an array by its metadata, whatever its values are worth; arrays do not grow. Raises StoreError."""
        if name not in self._rows:
            with damages(self.path / name):
                self._rows[name] = int(self.group[name].shape[0])  # type: ignore[union-attr]
        return self._rows[name]

    def array(self, name: str) -> zarr.Array[Any]:
        """An array by its path below the folder. Raises StoreError where it is damaged or of another size than it must be."""
        if name not in self._arrays:
            with damages(self.path / name):
                own = {n: c for n, c in self.files.items() if n.startswith(f"{name}/")}
                if wrong := damage(self.path, own):
                    raise ValueError("; ".join(f"{n} {w}" for n, w in wrong.items()))
                found = self.group[name]
                assert isinstance(found, zarr.Array)
                self._check(name, found)
            self._arrays[name] = found
        return self._arrays[name]

    def _check(self, name: str, array: zarr.Array[Any]) -> None:
        """Raises ValueError for an array of another size than it must be."""

    def dense(self, name: str) -> DenseArray | None:
        """The same array as files of rows, None where it is not stored so."""
        if name not in self._dense:
            array = self.array(name)
            self._dense[name] = DenseArray.of(array, self.path / name) if is_dense(array) else None
        return self._dense[name]

    def read(self, name: str, rows: slice | NDArray[np.integer] | None = None) -> NDArray[Any]:
        """Rows of an array as they are stored, all of them by default."""
        rows = slice(None) if rows is None else rows
        array, dense = self.array(name), self.dense(name)
        with damages(self.path / name):
            if dense is not None:
                return dense.read(rows)
            return np.asarray(array[rows] if isinstance(rows, slice) else array.oindex[rows.astype(np.int64)])

    def read_part(self, name: str, rows: NDArray[np.integer], columns: slice) -> NDArray[Any]:
        """Some columns of some rows; never more than PART_BYTES beside them is held."""
        array = self.array(name)
        if columns == slice(0, array.shape[1]):
            return self.read(name, rows)
        found = np.empty((len(rows), columns.stop - columns.start), array.dtype)
        step = max(PART_BYTES // (array.shape[1] * array.dtype.itemsize), 1)
        for start in range(0, len(rows), step):
            found[start : start + step] = self.read(name, rows[start : start + step])[:, columns]
        return found

    def strings(self, name: str) -> NDArray[np.object_]:
        """A text array as Python strings."""
        array: Any = self.array(name)
        with damages(self.path / name):
            return np.array([str(v) for v in array[...]], dtype=np.object_)


def damage(folder: Path, files: Mapping[str, str]) -> dict[str, str]:
    """File -> what is wrong with it, of those that differ from their checksums."""
    wrong: dict[str, str] = {}
    for name, expected in files.items():
        try:
            found = checksum(folder / name)
        except OSError as error:
            wrong[name] = "missing" if isinstance(error, FileNotFoundError) else str(error.strerror)
            continue
        if found != expected:
            wrong[name] = f"checksum {found} instead of {expected}"
    return wrong
