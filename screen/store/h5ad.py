"""The h5ad file of an export, written some rows at a time: what is held does not grow with the file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from screen.errors import StoreError
from screen.files import scratch_folder, whole
from screen.store.export import BYTES_PER_VALUE

BLOCK_BYTES = 256 * 2**20
"""Most bytes that are held of the arrays of an export; its tables of rows and genes are held whole."""


class Rows(Protocol):
    """Rows of an export: tables that are held, and arrays that are read some rows at a time."""

    obs: Any
    var: Any
    uns: dict[str, str]
    notes: Sequence[str]

    def arrays(self, start: int, stop: int) -> dict[str, NDArray[np.float32]]:
        """Every array's part of rows start to stop, by its place in the file; columns start to stop below varm."""
        ...


def write_h5ad(rows: Rows, path: Path) -> tuple[int, int]:
    """Writes an export to a file, in one step; returns (rows, genes)."""
    if path.is_dir():
        raise StoreError(f"{path} is a directory; --h5ad names the file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    # not beside the file: a run that begins in this directory would take it for a killed one's
    with (
        scratch_folder(path.with_name(f".{path.name}.writing")) as scratch,
        whole(path, scratch, durable=True) as partial,
    ):
        _write(rows, partial)
    return len(rows.obs), len(rows.var)


def _write(rows: Rows, path: Path) -> None:
    import anndata as ad
    import h5py

    n_rows = len(rows.obs)
    ad.AnnData(obs=rows.obs, var=rows.var, uns={"perturbscreen": rows.uns}).write_h5ad(path)
    step = max(BLOCK_BYTES // (BYTES_PER_VALUE * max(len(rows.var), 1)), 1)
    with h5py.File(path, "r+") as file:
        # an export without rows has its arrays all the same
        for start in range(0, max(n_rows, 1), step):
            stop = min(start + step, n_rows)
            for name, values in rows.arrays(start, stop).items():
                place = (slice(None), slice(start, stop)) if name.startswith("varm/") else (slice(start, stop),)
                _array(file, name, values, n_rows)[place] = values


def _array(file: Any, name: str, values: NDArray[np.float32], n_rows: int) -> Any:
    """The array of the file, made where the first part of it comes."""
    if file.get(name) is None or not file[name].shape:
        if name in file:
            del file[name]
        shape = (values.shape[0], n_rows) if name.startswith("varm/") else (n_rows, *values.shape[1:])
        made = file.create_dataset(name, shape, np.float32)
        made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return file[name]
