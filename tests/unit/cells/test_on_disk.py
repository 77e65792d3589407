"""Matrices of a file are read some rows at a time, whatever their layout, within a bound of memory."""

import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from demo.variants.files import packed_by
from screen.cells.files import on_disk
from screen.cells.files.on_disk import CscOnDisk
from screen.errors import CellError
from tests.support.h5ad_files import file, read, same, some_counts, write

__all__ = ["file"]


@settings(max_examples=60)
@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 2**32 - 1), st.integers(1, 40), st.data())
def test_columns_read_in_blocks_of_rows_are_the_matrix(
    n_rows: int, n_columns: int, seed: int, most: int, data: st.DataObject
) -> None:
    dense = np.random.Generator(np.random.Philox(seed)).poisson(0.7, (n_rows, n_columns))
    found = sparse.csc_matrix(dense)
    group = {"data": found.data, "indices": found.indices, "indptr": found.indptr}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_disk, "COLUMNS_BYTES", most * on_disk.BYTES_PER_ENTRY)
        matrix = CscOnDisk("X", group, (n_rows, n_columns))
        largest = max(np.add.reduceat((dense > 0).sum(axis=1), np.arange(0, n_rows, matrix.rows_at_once)))
        assert matrix.rows_at_once == 1 or largest <= most
        for _ in range(3):
            first = data.draw(st.integers(0, n_rows - 1))
            stop = data.draw(st.integers(first + 1, n_rows))
            np.testing.assert_array_equal(matrix.read(first, stop).toarray(), dense[first:stop])


def test_columns_larger_than_the_bound_give_the_same_cells(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read(file)
    path = write(tmp_path / "columns.h5ad", sparse.csc_matrix(some_counts()))
    monkeypatch.setattr(on_disk, "COLUMNS_BYTES", 16 * on_disk.BYTES_PER_ENTRY)
    assert same(read(path), expected)


def test_columns_take_no_more_memory_than_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = sparse.random(20_000, 300, 0.2, "csc", np.float32, random_state=0)
    with h5py.File(tmp_path / "x.h5", "w") as handle:
        for key in ("data", "indices", "indptr"):
            handle.create_dataset(key, data=getattr(found, key), chunks=(1024,) if key != "indptr" else None)
        monkeypatch.setattr(on_disk, "COLUMNS_BYTES", 6 * 2**20)
        tracemalloc.start()
        matrix = CscOnDisk("X", handle, found.shape)
        total = sum(matrix.read(k, min(k + 500, 20_000)).sum() for k in range(0, 20_000, 500))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # rows of offsets and counts of rows come on top, 8 bytes each
    assert peak < 6 * 2**20 + 8 * 4 * 20_000
    assert peak < found.nnz * 8
    assert abs(total - found.sum()) < 1e-3 * found.sum()


@pytest.mark.parametrize(("code", "name"), [(32001, "Blosc"), (32015, "Zstandard"), (32004, "LZ4"), (307, "bzip2")])
@pytest.mark.parametrize("key", ["X/data", "obs/donor"])
def test_a_filter_that_needs_a_plugin_is_named(code: int, name: str, key: str, file: Path) -> None:
    if h5py.h5z.filter_avail(code):
        pytest.skip("this HDF5 has it")
    with h5py.File(file, "r+") as handle:
        group, _, array = key.rpartition("/")
        packed_by(handle[group], array, code)
    with pytest.raises(
        CellError, match=rf"compressed with {name} \(HDF5 filter {code}\).*`pip install hdf5plugin`"
    ) as told:
        read(file)
    assert "damaged" not in str(told.value)
