"""The store on disk: its files are plain Zarr, it grows, it knows its own, it says how far it is and what is damaged."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from polars.testing import assert_frame_equal

from screen.cli.main import main
from screen.stats import deg
from screen.store.arrays import FLAT
from screen.store.audit import verify
from screen.store.dense import DenseArray, is_dense
from screen.store.folder import Folder
from screen.store.marker import sealed
from screen.store.store import ScreenStore
from tests.support import store_fixture
from tests.support.golden import scale_error
from tests.support.store_fixture import (
    FIRST,
    LARGER,
    NEW,
    OUTPUT,
    Case,
    Grown,
    cases,
    grow,
    opened,
    run,
    screen_of,
    seeds,
    tree,
)
from tests.support.stores import assert_same_arrays
from tests.support.tiny import write


@given(cases, seeds)
def test_written_files_are_byte_for_byte_what_zarr_writes(case: Case, seed: int) -> None:
    values = case.values(seed, share=0)
    with tempfile.TemporaryDirectory() as name:
        ours, theirs = Path(name) / "ours", Path(name) / "theirs"
        array, other = case.array(ours), case.array(theirs)
        for number, rows in enumerate(case.files):
            DenseArray.of(array, ours).write(number, values[rows], Path(name))
        other[...] = values
        assert is_dense(array)
        assert store_fixture.files_of(ours) == store_fixture.files_of(theirs)
        assert_array_equal(zarr.open_array(ours, mode="r")[...], values, strict=True)
        assert_array_equal(DenseArray.of(array, ours).read(slice(None)), values, strict=True)


@given(cases, seeds, st.floats(0, 1))
def test_what_plain_zarr_wrote_is_read_the_same_empty_chunks_included(case: Case, seed: int, share: float) -> None:
    values = case.values(seed, share)
    with tempfile.TemporaryDirectory() as name:
        array = case.array(Path(name) / "x")
        array[...] = values
        assert_array_equal(DenseArray.of(array, Path(name) / "x").read(slice(None)), values, strict=True)


@given(cases, seeds, st.data())
def test_rows_that_a_file_lacks_are_zeros(case: Case, seed: int, data: st.DataObject) -> None:
    values = case.values(seed, share=0)
    with tempfile.TemporaryDirectory() as name:
        array = case.array(Path(name) / "x")
        ours = DenseArray.of(array, Path(name) / "x")
        for number, rows in enumerate(case.files):
            n_rows = data.draw(st.integers(1, rows.stop - rows.start))
            ours.write(number, values[rows][:n_rows], Path(name))
            values[rows][n_rows:] = 0
        assert_array_equal(array[...], values)
        assert_array_equal(ours.read(slice(None)), values, strict=True)


@given(
    cases, seeds, st.lists(st.integers(0, 10**6)), st.sampled_from(["int16", "int32", "int64", "uint8", "uint64"]),
    st.sets(st.integers(0, 40)), st.integers(-50, 50), st.integers(-50, 50),
)  # fmt: skip
@example(Case(300, 1, "int32", 8, 2), 0, [255, 0], "uint8", set(), 0, 0)
def test_any_rows_come_in_the_order_asked_for_and_zeros_where_no_file_is(
    case: Case, seed: int, asked: list[int], dtype: str, gone: set[int], start: int, stop: int
) -> None:
    values = case.values(seed, share=0)
    with tempfile.TemporaryDirectory() as name:
        ours = DenseArray.of(case.array(Path(name) / "x"), Path(name) / "x")
        for number, rows in enumerate(case.files):
            if number in gone:
                values[rows] = 0
            else:
                ours.write(number, values[rows], Path(name))
        row_N = np.array([a % case.n_rows for a in asked] if case.n_rows else [], dtype=dtype)
        assert_array_equal(ours.read(row_N), values[row_N], strict=True)
        assert_array_equal(ours.read(slice(start, stop)), values[start:stop], strict=True)


@given(cases, seeds, st.integers(1, 30), st.data())
def test_rows_some_at_a_time_are_the_same_rows(case: Case, seed: int, height: int, data: st.DataObject) -> None:
    values = case.values(seed, share=0.5)
    with tempfile.TemporaryDirectory() as name:
        array = case.array(Path(name) / "x")
        array[...] = values
        ours = DenseArray.of(array, Path(name) / "x")
        asked = data.draw(st.lists(st.integers(0, 10**6), max_size=40))
        rows = np.array([a % case.n_rows for a in asked] if case.n_rows else [], dtype=np.int64)
        tile = np.empty((height, *values.shape[1:]), values.dtype)
        found = [t.copy() for t in ours.tiles(rows, tile)]
        assert [len(t) for t in found[:-1]] == [height] * (len(found) - 1)
        assert_array_equal(np.concatenate([*found, tile[:0]]), values[rows], strict=True)


@given(cases, seeds)
def test_a_file_that_was_replaced_is_read_by_its_own_index(case: Case, seed: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        array = case.array(Path(name) / "x")
        ours = DenseArray.of(array, Path(name) / "x")
        for share in (1.0, 0.5, 0.0):
            values = case.values(seed, share)
            array[...] = values
            assert_array_equal(ours.read(slice(None)), values, strict=True)


@pytest.mark.parametrize("per_file", [0, 2])
@pytest.mark.parametrize("rows", [np.array([3, -1]), np.array([10]), np.array([12, 2]), slice(0, None, 2)], ids=str)
def test_rows_outside_the_array_and_steps_are_refused_or_read_right(tmp_path: Path, rows: Any, per_file: int) -> None:
    case = Case(10, 2, "float32", 3, per_file)
    array = case.array(tmp_path / "x")
    array[...] = case.values(0, share=0)
    try:
        # zarr writes into the rows that it is given
        expected = array[rows] if isinstance(rows, slice) else array.oindex[rows.copy()]
    except IndexError:
        expected = None
    try:
        found = DenseArray.of(array, tmp_path / "x").read(rows)
    except (IndexError, ValueError):
        return
    assert expected is not None, f"no error, but {found.tolist()}"
    assert_array_equal(found, expected)


@pytest.mark.parametrize("options", store_fixture.LYING_OTHERWISE.values(), ids=store_fixture.LYING_OTHERWISE)
def test_an_array_that_lies_otherwise_is_not_dense_and_read_right(tmp_path: Path, options: dict[str, Any]) -> None:
    usual = {"shape": (20, 4), "chunks": (4, 4), "dtype": "float32", "compressors": None, "chunk_key_encoding": FLAT}
    array = zarr.open_group(tmp_path, mode="w").create_array("x", **{**usual, **options})
    array[:16] = values = np.arange(1, 65, dtype=np.float32).reshape(16, 4)
    folder = Folder(tmp_path, zarr.open_group(tmp_path, mode="r"))
    assert folder.dense("x") is None
    assert_array_equal(folder.read("x", slice(0, 16)), values)
    assert_array_equal(folder.read("x", np.array([9, 2, 2])), values[[9, 2, 2]])
    assert_array_equal(folder.read("x", np.array([17]))[0], array.fill_value)


@given(cases.filter(lambda c: c.n_rows > 0), seeds, st.data())
def test_a_truncated_file_is_an_error_and_never_garbage(case: Case, seed: int, data: st.DataObject) -> None:
    values = case.values(seed, share=0)
    with tempfile.TemporaryDirectory() as name:
        ours = DenseArray.of(case.array(Path(name) / "x"), Path(name) / "x")
        for number, rows in enumerate(case.files):
            ours.write(number, values[rows], Path(name))
        number = data.draw(st.integers(0, len(case.files) - 1))
        rows = case.files[number]
        path = Path(name) / "x" / ours.name(number)
        path.write_bytes(path.read_bytes()[: data.draw(st.integers(0, (rows.stop - rows.start) * ours.row_bytes - 1))])
        with pytest.raises((OSError, ValueError)):
            ours.read(rows)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Grown:
    return grow(tmp_path_factory.mktemp("grown"))


def test_items_of_a_perturbation_are_found_as_by_looking_at_all_of_them(grown: Grown) -> None:
    for block in (*opened(grown.added).blocks, *opened(grown.fresh).blocks):
        perturbation_I = np.asarray(block.array("items/perturbation")[...])
        place_I = np.asarray(block.array("items/cell")[...]) // block.cells_per_block
        start_BP, block_B = np.asarray(block.array("items/start")[...]), np.arange(3)
        assert block_B.tolist() == np.unique(place_I).tolist()
        for p in range(block.n_perturbations):
            assert block.rows_of(p).tolist() == np.flatnonzero(perturbation_I == p).tolist()
        for b in block_B:
            touched = np.flatnonzero(place_I == b) // block.unit_rows
            assert block.units_of_cells(b) == np.unique(touched).tolist()
        assert start_BP[:, 0].tolist() == np.searchsorted(place_I, block_B).tolist()
        assert start_BP[:, -1].tolist() == np.searchsorted(place_I, block_B, side="right").tolist()


def test_adding_touches_nothing_that_was_there(grown: Grown) -> None:
    after = tree(grown.added)
    changed = {n for n in grown.before if after[n] != grown.before[n] and not n.startswith("deg/")}
    made_anew = {"screen.zarr/zarr.json", "provenance.json", "tables.json", "hits.parquet", "coverage.parquet"}
    assert changed == made_anew | {"sessions.jsonl"}
    assert {p.name for p in grown.added.iterdir()} == {"screen.zarr", "deg", *(changed - {"screen.zarr/zarr.json"})}


def test_an_extended_screen_is_bit_for_bit_one_in_one_go(grown: Grown) -> None:
    added, fresh = opened(grown.added), opened(grown.fresh)
    assert [b.cells_per_block for b in (*added.blocks, *fresh.blocks)] == [5, 5, 4]
    assert store_fixture.items_of(added) == store_fixture.items_of(fresh)
    first, second = (block.read("control/is_predicted_t2") for block in added.blocks)
    assert not (first & second).any(), "stored again"
    assert (first | second).all()
    assert 0 < second.sum() < first.sum()
    for block, is_its_C in zip(added.blocks, (first, second), strict=True):
        known = np.unique(block.read("items/cell"))
        for name in added.layout.controls(1):
            assert not block.read(f"control/{name}")[~is_its_C].any(), "stored again"
            if not name.startswith("is_predicted"):
                whole = fresh.read(f"library/0/control/{name}")
                assert_array_equal(added.control(name, block, known), whole[known], err_msg=name)
        for number in block.committed("control/commits"):
            rows = slice(number * block.cells_per_block, (number + 1) * block.cells_per_block)
            assert bool(block.marker(number, "control/commits")["files"]) == is_its_C[rows].any()


def test_whole_batches_round_otherwise_and_stay_within_the_design(grown: Grown, tmp_path: Path) -> None:
    whole = {"cpu_products": "torch"}
    assert run(screen_of(FIRST, whole, **OUTPUT), tmp_path / "out") == 0
    assert run(screen_of(LARGER, whole, **OUTPUT), tmp_path / "out", "--add") == 0
    ours, theirs = store_fixture.items_of(opened(tmp_path / "out")), store_fixture.items_of(opened(grown.fresh))
    assert set(ours) == set(theirs)
    error = np.array([
        np.frombuffer(ours[i][f"delta/t{t}"], "<f4") - np.frombuffer(theirs[i][f"delta/t{t}"], "<f4")
        for i in ours for t in (1, 2)
    ])  # fmt: skip
    assert np.abs(error).max() <= 1e-5
    assert np.sqrt(np.mean(error**2)) <= 3e-6


def test_tables_cover_old_and_new_perturbations_as_one_screen_does(grown: Grown) -> None:
    by = ["perturbation", "stratum", "time"]
    hits = [pl.read_parquet(out / "hits.parquet").sort(by) for out in (grown.added, grown.fresh)]
    tables = [deg.scan(out).collect().sort(*by, "feature") for out in (grown.added, grown.fresh)]
    assert set(hits[0]["perturbation"]) == set(opened(grown.added).perturbations("id"))
    # the mean response over perturbations is added up in another order
    assert_frame_equal(hits[0], hits[1], rel_tol=1e-9, abs_tol=1e-12)
    assert tables[0].equals(tables[1])


def test_old_and_new_perturbations_are_exported_as_from_one_screen(grown: Grown) -> None:
    added, fresh = opened(grown.added), opened(grown.fresh)
    everything = added.to_anndata()
    ids = added.perturbations("id")
    assert everything.obs["perturbation"].unique().tolist() == ids.tolist()
    for p in ids:
        one = added.to_anndata(p)
        store_fixture.assert_same_anndata(one, fresh.to_anndata(p))
        assert_array_equal(one.X, everything[everything.obs["perturbation"] == p].X)


@pytest.mark.parametrize("changed", [{}, {"strata": ["tissue"]}], ids=["same tables", "other tables"])
def test_without_add_new_perturbations_are_refused_and_nothing_is_touched(
    grown: Grown, tmp_path: Path, capsys: Any, changed: dict[str, Any]
) -> None:
    out = Path(shutil.copytree(grown.first, tmp_path / "out"))
    before = tree(out)
    assert run(screen_of(LARGER, **{**OUTPUT, **changed}), out) == 2
    assert "7 of the 12 perturbations asked for are not in it" in capsys.readouterr().err
    assert tree(out) == before


@pytest.mark.parametrize("library", [FIRST, NEW, LARGER], ids=["first", "new", "all"])
def test_what_is_there_is_not_computed_again(grown: Grown, capsys: Any, library: Any) -> None:
    before = tree(grown.added)
    assert run(screen_of(library, **OUTPUT), grown.added) == 0
    assert "nothing is computed again" in capsys.readouterr().out
    assert tree(grown.added) == before


@pytest.mark.parametrize("n_writes", [0, 9, 20, 33])
def test_an_interrupted_addition_of_a_list_of_new_ones_continues_and_no_other_comes_before(
    grown: Grown, tmp_path: Path, capsys: Any, n_writes: int
) -> None:
    out = Path(shutil.copytree(grown.first, tmp_path / "out"))
    with store_fixture.full_disk(n_writes):
        assert run(screen_of(NEW, **OUTPUT), out, "--add") == 1
    more = screen_of([{"genes": [store_fixture.GENES[20]]}], **OUTPUT)
    assert run(more, out, "--add") == 2
    assert "is unfinished" in capsys.readouterr().err
    assert run(screen_of(NEW, **OUTPUT), out) == 0
    assert_same_arrays(grown.added, out)


@pytest.mark.parametrize("name", store_fixture.OTHERS)
def test_another_screen_is_refused_naming_exactly_what_differs(
    grown: Grown, tmp_path: Path, capsys: Any, name: str
) -> None:
    before, config = tree(grown.first), screen_of(FIRST, **OUTPUT)
    words, change = store_fixture.OTHERS[name]
    for section, keys in change(tmp_path).items():
        config[section] = {**config[section], **keys}
    assert main(["run", str(write(config, tmp_path / "s.yaml")), "--out", str(grown.first)]) == 2
    differing = [line.strip() for line in capsys.readouterr().err.splitlines() if line.startswith("  ")]
    assert [line.partition(":")[0] for line in differing] == [name]
    assert words in differing[0]
    assert tree(grown.first) == before


def test_another_version_of_torch_is_noted_and_continues(grown: Grown, tmp_path: Path, capsys: Any) -> None:
    out = Path(shutil.copytree(grown.first, tmp_path / "out"))
    store = opened(out, "r+")
    store.discard_unit(store.blocks[0], 1)
    marker = store.blocks[0].marker(0)
    marker["executor"]["torch"] = "1.13.0"
    store.blocks[0].array("commits")[0] = sealed(marker)
    assert run(screen_of(FIRST, **OUTPUT), out) == 0
    assert f"torch: 1.13.0 before, {torch.__version__} now" in capsys.readouterr().err
    assert_same_arrays(grown.first, out)


def test_status_says_how_far_a_screen_is_and_by_its_exit_code(grown: Grown, tmp_path: Path, capsys: Any) -> None:
    out = Path(shutil.copytree(grown.added, tmp_path / "out"))
    assert main(["status", str(out)]) == 0
    said = capsys.readouterr().out
    assert "library block 0: complete, 2 of 2 units, 15 of 15 edits, 5 perturbations" in said
    assert "library block 1: complete, 7 of 7 units, 49 of 49 edits, 7 perturbations" in said
    assert f"  7 unit(s) by cpu, float32, cpu_products torch, batch_tokens 1, torch {torch.__version__}" in said
    (out / "screen.zarr/library/1/commits/c.6").unlink()
    assert main(["status", str(out)]) == 1
    assert "library block 1: unfinished, 6 of 7 units, 48 of 49 edits" in capsys.readouterr().out
    assert main(["verify", str(out)]) == 1
    assert "8 of 9 units finished, 0 damaged, 1 missing; 0 of the tables damaged" in capsys.readouterr().out


@pytest.mark.parametrize("name", store_fixture.DAMAGES)
def test_damage_is_named_discarded_and_computed_again(grown: Grown, tmp_path: Path, capsys: Any, name: str) -> None:
    out = Path(shutil.copytree(grown.added, tmp_path / "out"))
    damage, words = store_fixture.DAMAGES[name]
    assert main(["verify", str(out)]) == 0
    damage(out / "screen.zarr" / "library" / name)
    assert main(["verify", str(out)]) == 1
    assert words in capsys.readouterr().err
    assert main(["verify", str(out), "--discard"]) == 1
    assert main(["status", str(out)]) == 1
    assert run(screen_of(LARGER, **OUTPUT), out) == 0
    assert main(["verify", str(out)]) == 0
    assert_same_arrays(grown.added, out)


@settings(max_examples=40)
@given(st.data())
def test_any_changed_bit_of_a_result_is_found(grown: Grown, data: st.DataObject) -> None:
    store = opened(grown.fresh)
    block = store.blocks[0]
    commits = data.draw(st.sampled_from(["commits", "control/commits"]))
    file = data.draw(st.sampled_from([f for n in block.committed(commits) for f in block.marker(n, commits)["files"]]))
    path = block.path / file
    content, bit = path.read_bytes(), data.draw(st.integers(0, 8 * path.stat().st_size - 1))
    try:
        path.write_bytes(bytes(b ^ (1 << bit % 8) * (i == bit // 8) for i, b in enumerate(content)))
        assert [(f.block, *f.files) for f in verify(store)] == [(0, file)]
    finally:
        path.write_bytes(content)


def test_one_run_at_a_time_writes_and_a_killed_one_does_not_block(grown: Grown, tmp_path: Path, capsys: Any) -> None:
    out = Path(shutil.copytree(grown.first, tmp_path / "out"))
    with store_fixture.held(out) as holder:
        before = tree(out)
        assert run(screen_of(LARGER, **OUTPUT), out, "--add") == 2
        assert f'"pid": {holder.pid}' in capsys.readouterr().err
        assert tree(out) == before
    assert run(screen_of(LARGER, **OUTPUT), out, "--add") == 0
    assert_same_arrays(grown.added, out)


def test_the_reference_engine_stores_every_control(grown: Grown, tmp_path: Path) -> None:
    assert run(screen_of(LARGER, **OUTPUT), tmp_path / "out", "--engine", "reference") == 0
    ours, theirs = opened(tmp_path / "out").blocks[0], opened(grown.fresh).blocks[0]
    for t in (1, 2):
        assert_array_equal(ours.read(f"control/is_predicted_t{t}"), theirs.read(f"control/is_predicted_t{t}"))
        for name in ("expression", "embedding", "total"):
            found, expected = (b.read(f"control/{name}_t{t}") for b in (ours, theirs))
            assert scale_error(found, expected) <= 1e-5, name


def test_a_finished_store_has_its_metadata_in_one_file_however_it_was_finished(grown: Grown, tmp_path: Path) -> None:
    assert len(store_fixture.consolidated(grown.added)["metadata"]) > 60
    out = Path(shutil.copytree(grown.added, tmp_path / "out"))
    opened(out, "r+")._forget_consolidated()
    for strata in (["cell_type"], ["tissue"]):
        assert run(screen_of(LARGER, strata=strata), out) == 0
        assert store_fixture.consolidated(out) == store_fixture.consolidated(grown.added), strata


def test_an_export_does_not_depend_on_consolidated_metadata(grown: Grown, tmp_path: Path) -> None:
    out = Path(shutil.copytree(grown.added, tmp_path / "out"))
    opened(out, "r+")._forget_consolidated()
    assert store_fixture.consolidated(out) is None
    store_fixture.assert_same_anndata(opened(out).to_anndata(), opened(grown.added).to_anndata())


def test_plain_zarr_reads_every_group_as_xarray_does(grown: Grown) -> None:
    store = opened(grown.added)
    root = zarr.open_group(store.path, mode="r")
    for block in store.blocks:
        delta = root[f"library/{block.number}/delta/t2"]
        assert_array_equal(np.asarray(delta) * np.float32(delta.attrs["scale_factor"]), block.delta(2, slice(None)))  # type: ignore[arg-type]
    for _, group in [("", root), *((n, g) for n, g in root.members(max_depth=None) if isinstance(g, zarr.Group))]:
        sizes: dict[str, set[int]] = {}
        for _, array in group.arrays():
            assert len(store_fixture.dims(array)) == array.ndim
            for dimension, size in zip(store_fixture.dims(array), array.shape, strict=True):
                sizes.setdefault(dimension, set()).add(size)
        assert all(len(s) == 1 for s in sizes.values()), sizes


def test_a_store_of_format_2_is_still_read(tmp_path: Path) -> None:
    store = ScreenStore.open(store_fixture.unpacked(tmp_path))
    for known in json.loads((store_fixture.FORMAT_2 / "expected.json").read_text()):
        found = store.blocks[known["block"]].read(known["array"], np.array(known["place"][:1]))
        assert found[0][tuple(known["place"][1:])] == known["value"], known
    assert verify(store) == []
    assert store.is_complete
    for block in store.blocks:
        for t in (1, 2):
            stored = np.asarray(block.array(f"delta/t{t}")[...], dtype=np.float32)
            assert_array_equal(block.delta(t, slice(None)), stored / 4096)
            lazy = store.to_dask(f"delta/t{t}", block.number)
            assert lazy.chunks[0] == tuple(r.stop - r.start for r in map(block.rows, range(block.n_units)))
            changes, raw = (
                lazy.compute(scheduler="synchronous"),
                store.to_dask(f"delta/t{t}", block.number, decode=False),
            )
            assert_array_equal(changes, stored / 4096, strict=True)
            assert_array_equal(raw.compute(scheduler="synchronous"), stored.astype(np.float16), strict=True)
            # what a user does with them, and what a user of plain zarr finds beside them
            exact = stored.astype(np.float64).mean(0) / 4096
            assert np.abs(lazy.mean(0).compute(scheduler="synchronous") - exact).max() < 1e-6 * np.abs(changes).max()
            assert_array_equal(stored * np.float32(block.array(f"delta/t{t}").attrs["scale_factor"]), changes)
    controls = [block.read("control/expression_t1") for block in store.blocks]
    is_first_C = store.blocks[0].read("control/is_predicted_t1")
    assert is_first_C.any() and not is_first_C.all()
    expected = np.where(is_first_C[:, None], *controls)
    assert_array_equal(store.control("expression_t1", store.blocks[1]), expected)
    adata = store.to_anndata()
    assert set(adata.obs["perturbation"]) == set(store.perturbations("id"))
    assert (*adata.layers, *adata.obsm, *adata.varm) == (
        "pred_counts", "true_counts", "true_cls", "perturbed_cls", "mean_cos_similarity", "gene_cos_similarity",
    )  # fmt: skip
