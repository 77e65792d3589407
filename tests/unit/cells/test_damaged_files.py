"""Arrays of a file that would be read out of bounds, by name: refused before native code sees them."""

import os
import random
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from screen.cells.bank import Ragged
from screen.cells.files import walk_hdf5
from screen.cells.files.cell_file import CellFile
from screen.cells.sparse import checked_csr
from screen.cells.vocabulary import read_tsv
from screen.errors import CellError, GeneError
from screen.planning.index import GeneIndex
from tests.support.fuzz.formats import FORMATS
from tests.support.h5ad_files import VOCABULARY, file, read

__all__ = ["file"]


def overflowed(indptr: np.ndarray) -> np.ndarray:
    """As a 32-bit count writes it beyond 2^31."""
    found = indptr.astype(np.int32)
    found[5:] += np.int32(-(2**31))
    return found


DAMAGES: dict[str, tuple[str, Any, str]] = {
    "offsets that overflowed": ("indptr", overflowed, "indptr falls from .* overflowed"),
    "offsets that start late": ("indptr", lambda x: np.r_[1, x[1:]], "must start at 0; it starts at 1"),
    "offsets beyond the end": ("indptr", lambda x: np.r_[x[:-1], x[-1] + 1], "ends at .*, but there are"),
    "too few offsets": ("indptr", lambda x: x[:-1], "13 whole numbers for 12 rows"),
    "a column of 10^8": ("indices", lambda x: np.r_[10**8, x[1:]], "run from 0 to 100000000, .* columns 0 to 4"),
    "a column of n_vars": ("indices", lambda x: np.r_[5, x[1:]], "run from 0 to 5"),
    "a negative column": ("indices", lambda x: np.r_[x[:-1], -1], "run from -1"),
    "fewer values than columns": ("data", lambda x: x[:-1], "but .* columns of values"),
    "values that are text": ("data", lambda x: x.astype("S3"), "must be numbers"),
    "a count beyond all counts": ("data", lambda x: np.r_[1e300, x[1:]], "raw counts"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_matrix_that_would_be_read_out_of_bounds_is_refused(name: str, file: Path) -> None:
    array, change, said = DAMAGES[name]
    with h5py.File(file, "r+") as content:
        values = content[f"X/{array}"][()]
        del content[f"X/{array}"]
        content[f"X/{array}"] = change(values)
    with pytest.raises(CellError, match=said):
        read(file)


@pytest.mark.parametrize("key", ["X/data", "obs/donor", "var/_index"])
def test_an_array_that_says_it_is_larger_than_its_file_can_hold_is_not_asked_for(key: str, file: Path) -> None:
    with h5py.File(file, "r+") as content:
        del content[key]
        content.create_dataset(key, (10**11,), "f8", chunks=(1000,))
    with pytest.raises(CellError, match="which the file cannot"):
        read(file)


def test_an_encoding_that_lies_is_refused(file: Path) -> None:
    with h5py.File(file, "r+") as content:
        content["obs"].attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
    with pytest.raises(CellError, match="obs is no table"):
        read(file)


@pytest.mark.parametrize("value", [[0, 0], 3, [], b"\xff", "text", [[1, 2]], [1.5, 2.0], np.uint64(2**63)], ids=str)
@pytest.mark.parametrize("attribute", ["encoding-type", "shape"])
def test_an_attribute_that_is_something_else_is_refused(attribute: str, value: object, file: Path) -> None:
    with h5py.File(file, "r+") as content:
        content["X"].attrs[attribute] = value
    with pytest.raises(CellError, match="X"):
        read(file)


@given(st.data())
def test_a_checked_matrix_is_the_matrix_or_an_error(data: st.DataObject) -> None:
    """Against a reading that looks at one value after another."""
    n_rows, n_columns = data.draw(st.integers(0, 4)), data.draw(st.integers(1, 4))
    number = st.integers(-2, 6)
    indptr, indices, values = (data.draw(st.lists(number, max_size=n)) for n in (n_rows + 2, 6, 6))
    rows = [range(a, b) for a, b in pairwise(indptr)]
    fits = (
        len(indptr) == n_rows + 1
        and len(values) == len(indices)
        and [t for r in rows for t in r] == [*range(len(values))]
    )
    fits = fits and indptr[0] == 0 and all(a <= b for a, b in pairwise(indptr))
    arrays = (np.array(x, dtype=np.int64) for x in (values, indices, indptr))
    if not fits or not all(0 <= c < n_columns for c in indices):
        with pytest.raises(ValueError, match=r"indptr|columns"):
            checked_csr(*arrays, (n_rows, n_columns))
        return
    expected = np.zeros((n_rows, n_columns), dtype=np.int64)
    for row, places in enumerate(rows):
        for t in places:
            expected[row, indices[t]] += values[t]
    np.testing.assert_array_equal(checked_csr(*arrays, (n_rows, n_columns)).toarray(), expected)


@pytest.mark.parametrize("dtype", ["<f2", ">f4", ">i8", "?", "u2"])
def test_values_of_any_number_type_are_read(dtype: str) -> None:
    dense = np.array([[0, 1], [1, 0]])
    found = sparse.csr_matrix(dense)
    made = checked_csr(found.data.astype(dtype), found.indices, found.indptr, (2, 2))
    np.testing.assert_array_equal(made[np.array([1, 0])].toarray().astype(int), dense[::-1])


def test_a_file_whose_structure_hdf5_never_comes_back_from_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk_hdf5, "PATIENCE_S", 5.0)
    FORMATS["h5ad"].make(tmp_path)
    FORMATS["h5ad"].damage(tmp_path, random.Random(303))
    with pytest.raises(CellError, match="does not come to an end"), CellFile.open(next(tmp_path.glob("*.h5ad"))):
        pass


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_what_is_said_of_a_file_after_another_is_said_by_a_fresh_process(
    number: int, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk_hdf5, "PATIENCE_S", 5.0)
    assert walk_hdf5.walked(file) is None
    before = walk_hdf5._walker(os.getpid())
    file.write_bytes(file.read_bytes())
    assert walk_hdf5.walked(file) is None
    assert walk_hdf5._walker(os.getpid()) is before
    os.kill(before._process.pid, number)
    file.write_bytes(file.read_bytes())
    assert walk_hdf5.walked(file) is None
    assert not before.is_alive
    assert walk_hdf5._walker(os.getpid()).is_alive


HEADER = "ensembl_id\tsymbol\ttoken_id\trow_id"
LINES = {
    "99999999999999999999\t4": "vocabulary .*genes.tsv: ", "1000000000\t4": "run from .* to 1000000000",
    "4\t-7": "target tokens .* run from -7", "4": "line 2 has fewer values", "4\t4\t4": "line 2 has more values",
    "4.5\t4": "invalid literal",
}  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_a_token_that_no_table_may_be_made_for_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "genes.tsv"
    path.write_text(f"{HEADER}\nENSG1\tA\t{line}\nENSG2\tB\t9\t9\n")
    with pytest.raises(GeneError, match=LINES[line]):
        read_tsv(path)


def test_an_id_beyond_every_gene_is_no_gene_and_makes_no_table() -> None:
    tokens = Ragged.from_rows([[14, 2**31 - 1, 11], [2**31 - 1]])
    index = GeneIndex(tokens, VOCABULARY.column_of_token("src"), 5, 4)
    assert [index.cells(g).tolist() for g in range(5)] == [[0], [0], [], [], []]
