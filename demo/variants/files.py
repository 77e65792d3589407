"""Files: layouts, formats, number types and compression of the same counts."""

import json
import shutil
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import zarr
from scipy import sparse

from demo.variants.recipe import Changes, Place, recipe

KIND = "The file and its layout"


def in_zarr(place: Place, cells: ad.AnnData, zarr_format: int, name: str = "cells.zarr") -> Path:
    """A directory as anndata writes it."""
    path = place.folder / name
    shutil.rmtree(path, ignore_errors=True)
    with ad.settings.override(zarr_write_format=zarr_format):
        cells.write_zarr(path)
    return path


@recipe(KIND, "CSR float32 in X: the plain file")
def plain(place: Place) -> Changes:
    return place.h5ad(place.cells)


@recipe(KIND, "compressed columns (CSC)")
def columns(place: Place) -> Changes:
    cells = place.cells
    cells.X = sparse.csc_matrix(cells.X)
    return place.h5ad(cells)


@recipe(KIND, "dense")
def dense(place: Place) -> Changes:
    cells = place.cells
    cells.X = cells.X.toarray()
    return place.h5ad(cells)


@recipe(KIND, "counts in a layer, X log-normalised, `layer: counts`")
def layer(place: Place) -> Changes:
    cells = place.cells
    cells.layers["counts"] = cells.X.copy()
    cells.X = cells.X.log1p()
    place.h5ad(cells)
    return {"cells": {"layer": "counts"}}


@recipe(KIND, "counts in `raw`, X log-normalised")
def raw(place: Place) -> Changes:
    cells = place.cells
    cells.raw = cells.copy()
    cells.X = cells.X.log1p()
    return place.h5ad(cells)


@recipe(KIND, "counts in `raw`, `layer: raw`", "no such layer")
def raw_by_name(place: Place) -> Changes:
    return {"cells": {**raw(place)["cells"], "layer": "raw"}}


@recipe(KIND, "counts in X, `layer: X`", "no such layer")
def x_by_name(place: Place) -> Changes:
    return {"cells": {**place.h5ad(place.cells)["cells"], "layer": "X"}}


@recipe(KIND, "zeros that are stored, columns as 64-bit numbers")
def stored_zeros(place: Place) -> Changes:
    cells = place.cells
    full = np.indices(cells.shape).reshape(2, -1)
    cells.X = sparse.csr_matrix((cells.X.toarray().ravel(), full), shape=cells.shape)
    cells.X.indices, cells.X.indptr = cells.X.indices.astype(np.int64), cells.X.indptr.astype(np.int64)
    return place.h5ad(cells)


@recipe(KIND, "cells named by numbers")
def numbered(place: Place) -> Changes:
    cells = place.cells
    cells.obs_names = [str(i) for i in range(cells.n_obs)]
    return place.h5ad(cells)


@recipe(KIND, "blanks and letters of another alphabet in the file's name")
def odd_name(place: Place) -> Changes:
    return place.h5ad(place.cells, "Zellen für Müller (2).h5ad")


@recipe(KIND, "an address on the web", "no such file, and no advice")
def address(place: Place) -> Changes:
    return {"cells": {"h5ad": "https://example.org/cells.h5ad"}}


@recipe(KIND, "gzip")
def gzip(place: Place) -> Changes:
    place.cells.write_h5ad(place.folder / "cells.h5ad", compression="gzip")
    return {}


@recipe(KIND, "lzf")
def lzf(place: Place) -> Changes:
    place.cells.write_h5ad(place.folder / "cells.h5ad", compression="lzf")
    return {}


for _name, _code in (
    ("Blosc", 32001),
    ("LZ4", 32004),
    ("Zstandard", 32015),
    ("Blosc2", 32026),
    ("bitshuffle", 32008),
    ("one that nobody registered", 39_999),
):

    @recipe(KIND, f"compressed by a filter that HDF5 needs a plugin for: {_name}", "the filter was not named")
    def plugin(place: Place, code: int = _code) -> Changes:
        changes = place.h5ad(place.cells)
        with h5py.File(place.folder / "cells.h5ad", "r+") as file:
            packed_by(file["X"], "data", code)
        return changes


def packed_by(group: Any, key: str, code: int) -> None:
    """Marks an array as packed by an HDF5 filter; its bytes are none of that filter's, whose plugin is not needed."""
    values = group[key][()]
    del group[key]
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk(values.shape)
    properties.set_filter(code, h5py.h5z.FLAG_OPTIONAL, (3,))
    space, kind = h5py.h5s.create_simple(values.shape), h5py.h5t.py_create(values.dtype)
    array = h5py.h5d.create(group.id, key.encode(), kind, space, properties)
    array.write_direct_chunk((0,), values.tobytes(), filter_mask=0)


for _format in (2, 3):

    @recipe(KIND, f"AnnData Zarr directory, Zarr format {_format}", "no such file")
    def directory(place: Place, zarr_format: Any = _format) -> Changes:
        return {"cells": {"h5ad": in_zarr(place, place.cells, zarr_format).name}}

    @recipe(KIND, f"the same, format {_format}, without consolidated metadata", "no such file")
    def unconsolidated(place: Place, zarr_format: Any = _format) -> Changes:
        path = place.folder / "cells.zarr"
        shutil.rmtree(path, ignore_errors=True)
        root = zarr.open_group(path, mode="w", zarr_format=zarr_format)
        ad.io.write_elem(root, "/", place.cells)
        return {"cells": {"h5ad": path.name}}


@recipe(KIND, "Zarr directory, dense X", "no such file")
def dense_zarr(place: Place) -> Changes:
    cells = place.cells
    cells.X = cells.X.toarray()
    return {"cells": {"h5ad": in_zarr(place, cells, 3).name}}


@recipe(KIND, "Zarr directory, CSC, counts in a layer", "no such file")
def csc_zarr(place: Place) -> Changes:
    cells = place.cells
    cells.layers["counts"] = sparse.csc_matrix(cells.X)
    cells.X = cells.X.log1p()
    return {"cells": {"h5ad": in_zarr(place, cells, 2).name, "layer": "counts"}}


@recipe(KIND, "Zarr directory, zipped", "said to be no complete h5ad")
def zipped(place: Place) -> Changes:
    path = in_zarr(place, place.cells, 2)
    shutil.make_archive(str(place.folder / "cells.zarr"), "zip", path)
    return {"cells": {"h5ad": "cells.zarr.zip"}}


@recipe(KIND, "Zarr directory with an array of pickled objects", "no such file")
def pickled(place: Place) -> Changes:
    path = in_zarr(place, place.cells, 2)
    array = path / "obs" / "condition" / "categories" / ".zarray"
    found = json.loads(array.read_text())
    array.write_text(json.dumps({**found, "filters": [*found["filters"], {"id": "pickle"}]}))
    return {"cells": {"h5ad": path.name}}


@recipe(KIND, "Zarr directory of a SpatialData or MuData object", "no such file")
def spatial(place: Place) -> Changes:
    in_zarr(place, place.cells, 2)
    root = place.folder / "spatial.zarr"
    shutil.rmtree(root, ignore_errors=True)
    zarr.open_group(root, mode="w", zarr_format=2).create_group("tables")
    shutil.copytree(place.folder / "cells.zarr", root / "tables" / "table")
    return {"cells": {"h5ad": "spatial.zarr"}}


@recipe(KIND, "a folder of 10x matrices", "no such file")
def ten_x_folder(place: Place) -> Changes:
    folder = place.folder / "filtered_feature_bc_matrix"
    folder.mkdir(exist_ok=True)
    for name in ("matrix.mtx.gz", "features.tsv.gz", "barcodes.tsv.gz"):
        (folder / name).write_bytes(b"")
    return {"cells": {"h5ad": folder.name}}


@recipe(KIND, "10x's own HDF5 file", "no advice")
def ten_x_file(place: Place) -> Changes:
    with h5py.File(place.folder / "filtered.h5", "w") as file:
        file.create_group("matrix/features")
    return {"cells": {"h5ad": "filtered.h5"}}


@recipe(KIND, "a loom file", "no advice")
def loom(place: Place) -> Changes:
    with h5py.File(place.folder / "cells.loom", "w") as file:
        file["matrix"] = np.zeros((2, 2))
        file.create_group("row_attrs")
        file.create_group("col_attrs")
    return {"cells": {"h5ad": "cells.loom"}}


@recipe(KIND, "an h5ad that is gzipped as a whole", "no advice")
def gzipped(place: Place) -> Changes:
    (place.folder / "cells.h5ad.gz").write_bytes(b"\x1f\x8b\x08\x00 and so on")
    return {"cells": {"h5ad": "cells.h5ad.gz"}}


@recipe(KIND, "an R object (.rds)", "no advice")
def rds(place: Place) -> Changes:
    (place.folder / "seurat.rds").write_bytes(b"\x1f\x8b\x08\x00 and so on")
    return {"cells": {"h5ad": "seurat.rds"}}


@recipe(KIND, "a table of counts as text", "no advice")
def text(place: Place) -> Changes:
    (place.folder / "counts.csv").write_text("cell,STAT1\nA,3\n")
    return {"cells": {"h5ad": "counts.csv"}}


@recipe(KIND, "multimodal, .h5mu", "said that X was missing")
def mudata(place: Place) -> Changes:
    cells = place.cells
    place.h5ad(cells, "cells.h5mu")
    with h5py.File(place.folder / "cells.h5mu", "r+") as file:
        for key in list(file):
            if key not in ("obs", "var"):
                file.move(key, f"mod/rna/{key}")
        file.create_group("mod/prot")
    return {"cells": {"h5ad": "cells.h5mu"}}


@recipe(KIND, "genes in rows, cells in columns", "said that a column was missing")
def wrong_way_round(place: Place) -> Changes:
    return place.h5ad(place.cells.T.copy())


NUMBERS = "Number types"

for _dtype in ("float16", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", ">f4"):

    @recipe(NUMBERS, f"dense {_dtype}")
    def dense_of(place: Place, dtype: str = _dtype) -> Changes:
        cells = place.cells
        cells.X = cells.X.toarray().astype(dtype)
        return place.h5ad(cells)

    @recipe(NUMBERS, f"sparse {_dtype}")
    def sparse_of(place: Place, dtype: str = _dtype) -> Changes:
        changes = place.h5ad(place.cells)
        with h5py.File(place.folder / "cells.h5ad", "r+") as file:
            values = file["X/data"][()]
            del file["X/data"]
            file["X/data"] = values.astype(dtype)
        return changes


@recipe(NUMBERS, "complex numbers")
def complex_numbers(place: Place) -> Changes:
    changes = place.h5ad(place.cells)
    with h5py.File(place.folder / "cells.h5ad", "r+") as file:
        values = file["X/data"][()]
        del file["X/data"]
        file["X/data"] = values.astype(np.complex64)
    return changes
