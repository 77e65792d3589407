"""What a run leaves on the disk: files are byte for byte zarr's, and nothing relies on what a power cut would take."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from screen.files import scratch_folder
from screen.store.arrays import FLAT
from screen.store.audit import verify
from screen.store.marker import chunk_of
from screen.store.store import ScreenStore, scratch_of
from tests.support import store_fixture
from tests.support.disk import Disk, watched
from tests.support.store_fixture import FIRST, NEW, opened, run, screen_of, tree

KEPT: dict[str, Any] = {"keep_embeddings": True, "keep_gene_cosine": True, "strata": ["cell_type"]}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Disk]:
    """A screen that was extended, with every array that a store may keep, and what was synced meanwhile."""
    out = tmp_path_factory.mktemp("written") / "out"
    with watched() as disk:
        assert run(screen_of(FIRST, **KEPT), out) == 0
        assert run(screen_of(NEW, **KEPT), out, "--add") == 0
    return out, disk


@given(st.text(min_size=1), st.integers(0, 2))
def test_the_chunk_of_a_marker_is_byte_for_byte_what_zarr_writes_and_reads(text: str, number: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        array = zarr.create_array(
            Path(name) / "x", shape=(3,), chunks=(1,), dtype=str, compressors=None, chunk_key_encoding=FLAT
        )
        array[number] = text
        path = Path(name) / "x" / f"c.{number}"
        assert path.read_bytes() == chunk_of(text)
        path.write_bytes(chunk_of(text * 2))
        assert str(zarr.open_array(Path(name) / "x", mode="r")[number]) == text * 2


def test_markers_are_byte_for_byte_what_zarr_writes(written: tuple[Path, Disk], tmp_path: Path) -> None:
    for block in opened(written[0]).blocks:
        for name in ("commits", "control/commits"):
            copy = tmp_path / str(block.number) / name
            copy.mkdir(parents=True)
            shutil.copy(block.path / name / "zarr.json", copy)
            zarr.open_array(copy, mode="r+")[...] = block.array(name)[...]
            assert store_fixture.files_of(copy) == store_fixture.files_of(block.path / name)
            assert store_fixture.files_of(copy)


def test_arrays_that_are_compressed_are_byte_for_byte_what_zarr_writes(
    written: tuple[Path, Disk], tmp_path: Path
) -> None:
    block = opened(written[0]).blocks[0]
    assert block.dense("gene_cosine/t1") is None
    for t in (1, 2):
        name = f"gene_cosine/t{t}"
        copy = tmp_path / f"t{t}"
        copy.mkdir()
        shutil.copy(block.path / name / "zarr.json", copy)
        zarr.open_array(copy, mode="r+")[...] = block.array(name)[...]
        assert store_fixture.files_of(copy) == store_fixture.files_of(block.path / name)


def test_a_compressed_file_goes_where_a_unit_has_only_zeros_now(written: tuple[Path, Disk], tmp_path: Path) -> None:
    out = Path(shutil.copytree(written[0], tmp_path / "out"))
    store = opened(out, "r+")
    block = store.blocks[0]
    names = {f"{n}/t{t}" for n in ("delta", "embedding", "gene_cosine") for t in (1, 2)}
    columns = {n: block.read(n, block.rows(0)) for n in names}
    columns |= {f"items/{n}": block.effect(n, block.rows(0)) for n in store.layout.effects}
    columns["gene_cosine/t1"] = np.zeros_like(columns["gene_cosine/t1"])
    before = block.marker(0)
    with scratch_folder(scratch_of(store.path)) as scratch:
        store.write_unit(block, 0, columns, before["executor"], scratch)
    del before["files"]["gene_cosine/t1/c.0.0"]
    assert opened(out).blocks[0].marker(0) == before
    assert not (block.path / "gene_cosine/t1/c.0.0").exists()
    assert verify(opened(out)) == []


def test_metadata_that_are_written_again_are_byte_for_byte_zarrs(written: tuple[Path, Disk], tmp_path: Path) -> None:
    ours, theirs = (Path(shutil.copytree(written[0] / "screen.zarr", tmp_path / n)) for n in ("ours", "theirs"))
    store = ScreenStore.open(ours, "r+")
    store.set_view({**store.provenance["view"], "min_cells": 3})
    root = zarr.open_group(theirs, mode="r+", use_consolidated=False)
    provenance: Any = root.attrs["provenance"]
    root.attrs.update({"provenance": {**provenance, "view": {**provenance["view"], "min_cells": 3}}})
    assert ScreenStore.open(ours).provenance["view"]["min_cells"] == 3
    assert json.loads((ours / "zarr.json").read_text()).get("consolidated_metadata") is None
    plain = json.loads((theirs / "zarr.json").read_text())
    plain.pop("consolidated_metadata", None)
    assert (ours / "zarr.json").read_text() == json.dumps(plain, indent=2)
    store.finish()
    with pytest.warns(UserWarning, match="Consolidated metadata"):
        zarr.consolidate_metadata(theirs)
    assert json.loads((ours / "zarr.json").read_text()) == json.loads((theirs / "zarr.json").read_text())


def test_a_marker_is_named_when_all_it_speaks_of_is_on_the_disk(written: tuple[Path, Disk]) -> None:
    out, disk = written
    n_markers = 0
    for at, path in disk.names():
        if path.parent.name == "commits" and path.is_relative_to(out / "screen.zarr"):
            block = path.parents[2] if path.parents[1].name == "control" else path.parents[1]
            text = path.read_bytes()[8:]
            assert [n for n in json.loads(text)["files"] if not disk.is_durable(block / n, at)] == []
            assert disk.is_durable(path)
            n_markers += 1
    blocks = opened(out).blocks
    assert n_markers == sum(len(b.committed(of)) for b in blocks for of in ("commits", "control/commits")) > 10


def test_a_store_a_library_block_and_every_table_are_on_the_disk_when_they_have_their_names(
    written: tuple[Path, Disk],
) -> None:
    out, disk = written
    store = out / "screen.zarr"
    for folder in (store, store / "library/1"):
        assert (str(folder.parent), "synced") in disk.events[dict(map(reversed, disk.names()))[folder] :]
    tables = [*out.glob("deg/*"), *(out / n for n in ("hits.parquet", "coverage.parquet", "provenance.json"))]
    assert len(tables) > 3
    stamped = max(at for at, path in disk.names() if path == out / "tables.json")
    for path in tables:
        assert disk.is_durable(path, stamped), path
    assert disk.is_durable(out / "tables.json")
    assert disk.is_durable(store / "zarr.json")


def test_what_killed_runs_left_is_removed_by_the_next(written: tuple[Path, Disk], tmp_path: Path) -> None:
    out = Path(shutil.copytree(written[0], tmp_path / "out"))
    before = tree(out)
    litter = [
        ".hits.parquet.12-0123456789ab.partial", ".provenance.json.12-0123456789ab.partial",
        "screen.zarr/.zarr.json.12-0123456789ab.partial", "screen.zarr/library/1/commits/c.9.0123.partial",
        ".screen.zarr.writing/12-0123456789ab/.delta.t1.c.0.0.12-0123456789ab.partial",
    ]  # fmt: skip
    for name in litter:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(b"half")
    assert run(screen_of(FIRST, **KEPT), out) == 0
    assert tree(out) == before
    assert {p.name for p in out.iterdir() if p.name.startswith(".")} == set()
