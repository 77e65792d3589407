"""CellFile: an h5ad or AnnData Zarr directory opened to be read: its tables and matrices, checked before memory is asked
for or native code runs."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from screen.cells.files.damage import file_errors
from screen.cells.files.hdf5 import check_hdf5, opened_hdf5
from screen.cells.files.on_disk import CscOnDisk, CsrOnDisk, DenseOnDisk, Matrix
from screen.cells.files.other_formats import what_it_lacks
from screen.cells.files.zarr_directory import check_zarr, opened_zarr
from screen.errors import CellError

LARGEST_COUNT = 2**53
"""Up to here every whole number is a float64."""


@dataclass(frozen=True)
class CellFile:
    """An open h5ad or AnnData Zarr directory.

    Everything raises CellError of one line: what cannot be read, why, and that the file may be damaged.
    """

    path: Path
    file: Any

    @staticmethod
    @contextmanager
    def open(path: Path) -> Iterator["CellFile"]:
        """Opens a file or directory that has obs and var."""
        opened = opened_zarr if path.is_dir() else opened_hdf5
        with opened(path) as file:
            with file_errors(f"cannot read {path}"):
                names = list(file)
            if not {"obs", "var"} <= set(names) or {"mod", "X"} & set(names) == {"mod"}:
                raise CellError(what_it_lacks(names, path))
            yield CellFile(path, file)

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

        with file_errors(f"cannot read {key} of {self.path}"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # anndata warns about old layouts, and reads them all the same
            if not hasattr(self.file[key], "shape"):
                self._require_fit(self.file[key])
                return _a_frame(anndata.io.read_elem(self.file[key]), key)
            if self.path.is_dir():
                raise ValueError(f"{key} is no table")
            self._require_fit(self.file)
            whole = anndata.read_h5ad(self.path, backed="r")  # before anndata 0.7: categories are kept in `uns`
            whole.file.close()
            return _a_frame(getattr(whole, key), key)

    def matrix(self, key: str, n_rows: int, n_columns: int) -> Matrix:
        """A matrix of the file, which must be of this size."""
        what = f"{key} of {self.path.name}"
        with file_errors(f"cannot read {what}"):
            found = self.file[key]
            self._require_fit(found)
            is_dense = hasattr(found, "shape")
            shape = tuple(found.shape if is_dense else _sparse_shape(found))
        if shape != (n_rows, n_columns):
            raise CellError(f"{what} is {shape}, but there are {n_rows} cells and {n_columns} genes")
        with file_errors(f"cannot read {what}"):
            if is_dense:
                return DenseOnDisk(what, found)
            return (CscOnDisk if _format(found) == "csc" else CsrOnDisk)(what, found, shape)

    def _require_fit(self, found: Any) -> None:
        """Arrays that say they are larger than this file can hold are not asked for. Raises ValueError."""
        (check_zarr if self.path.is_dir() else check_hdf5)(found, self.path)


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
