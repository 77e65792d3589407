"""AnnData Zarr directories are read as the same cells in an h5ad are, and nothing in them is trusted."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import zarr
from scipy import sparse

from screen.errors import CellError
from tests.support.h5ad_files import file, read, same, some_counts, write_zarr
from tests.unit.cells.test_damaged_files import DAMAGES

__all__ = ["file"]

LAYOUTS = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.asarray}


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_directory_is_read_as_the_file_is(layout: str, zarr_format: int, file: Path, tmp_path: Path) -> None:
    counts_CG, expected = some_counts(), read(file, strata=["cell_type"])
    path = write_zarr(tmp_path / "cells.zarr", LAYOUTS[layout](counts_CG), zarr_format)
    assert same(read(path, strata=["cell_type"]), expected)
    normalised, layers = np.log1p(counts_CG), {"counts": LAYOUTS[layout](counts_CG)}
    path = write_zarr(tmp_path / "layer.zarr", normalised, zarr_format, layers=layers)
    assert same(read(path, layer="counts", strata=["cell_type"]), expected)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_consolidated_metadata_are_not_needed_and_not_believed(zarr_format: int, file: Path, tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "cells.zarr", sparse.csr_matrix(some_counts()), zarr_format)
    shutil.rmtree(path)
    data = anndata.read_h5ad(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        anndata.io.write_elem(zarr.open_group(path, mode="w", zarr_format=zarr_format), "/", data)
        assert not (path / ".zmetadata").exists()
        assert same(read(path), read(file))
        zarr.consolidate_metadata(path)
    lying = path / (".zmetadata" if zarr_format == 2 else "zarr.json")
    lying.write_text(lying.read_text().replace('"shape":', '"shape": [1], "was":'))
    assert same(read(path), read(file))


@pytest.mark.parametrize("name", DAMAGES)
def test_a_matrix_that_would_be_read_out_of_bounds_is_refused(name: str, tmp_path: Path) -> None:
    array, change, said = DAMAGES[name]
    path = write_zarr(tmp_path / "cells.zarr", sparse.csr_matrix(some_counts()))
    group = zarr.open_group(path, mode="r+", use_consolidated=False)["X"]
    values = change(group[array][...])
    if values.dtype.kind != "S":
        group.create_array(array, data=values, overwrite=True)
    else:
        metadata = json.loads((path / f"X/{array}/zarr.json").read_text())
        (path / f"X/{array}/zarr.json").write_text(json.dumps({**metadata, "data_type": "bool"}))
        said = "X"
    with pytest.raises(CellError, match=said):
        read(path)


@pytest.mark.parametrize("key", ["X/data", "obs/donor", "var/_index"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_an_array_that_says_it_is_larger_than_its_folder_can_hold_is_not_asked_for(
    key: str, zarr_format: int, tmp_path: Path
) -> None:
    path = write_zarr(tmp_path / "cells.zarr", sparse.csr_matrix(some_counts()), zarr_format)
    metadata = path / key / (".zarray" if zarr_format == 2 else "zarr.json")
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), "shape": [10**11]}))
    with pytest.raises(CellError, match=r"its folder of .* cannot"):
        read(path)


@pytest.mark.parametrize("codec", ["pickle", "json2", "msgpack2"])
def test_a_codec_that_makes_objects_is_not_run(codec: str, tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "cells.zarr", sparse.csr_matrix(some_counts()), 2)
    metadata = path / "obs/condition/categories/.zarray"
    found = json.loads(metadata.read_text())
    metadata.write_text(json.dumps({**found, "filters": [*found["filters"], {"id": codec}]}))
    with pytest.raises(CellError, match=rf"packed with {codec}, which is not unpacked here \(it may run code\)"):
        read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: shutil.rmtree(p / "X"), "neither X nor raw"),
        (lambda p: shutil.rmtree(p / "obs"), "lacks obs or var and holds .*var"),
        (lambda p: shutil.rmtree(p / "X/indices"), "the file may be damaged"),
        (lambda p: (p / "X/indptr/zarr.json").write_text("{"), "the file may be damaged"),
        (lambda p: (p / "zarr.json").write_text("[]"), "the file may be damaged"),
        (lambda p: (p / "X/data/c/0").write_bytes(b"not compressed"), "the file may be damaged"),
    ],
)
def test_a_directory_that_lacks_a_part_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "cells.zarr", sparse.csr_matrix(some_counts()))
    change(path)
    with pytest.raises(CellError, match=message):
        read(path)
