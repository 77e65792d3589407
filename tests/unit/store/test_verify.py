"""verify finds every flipped bit: in results, in markers, and in what cannot be computed again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from screen.cli.main import main
from tests.support.stores import assert_same_arrays
from tests.support.tiny import tiny, write


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished screen; its configuration lies beside it."""
    folder = tmp_path_factory.mktemp("verify")
    assert main(["run", str(write(tiny(), folder / "s.yaml")), "--out", str(folder / "out")]) == 0
    return folder / "out"


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    path.write_bytes(content)


def test_any_flipped_bit_of_any_file_below_the_roots_metadata_is_found(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, rng = tmp_path / "copy", np.random.default_rng(0)
    shutil.copytree(finished, copy)
    store = copy / "screen.zarr"
    # these hold the checksums of the others
    own = {store / "zarr.json", store / "library/zarr.json", store / "library/0/zarr.json"}
    files = sorted(p for p in store.rglob("*") if p.is_file() and p not in own)
    assert len(files) > 40
    assert main(["verify", str(copy)]) == 0
    for path in files:
        whole = path.read_bytes()
        flip(path, int(rng.integers(0, 8 * len(whole))))
        capsys.readouterr()
        assert main(["verify", str(copy)]) == 1, path
        # a broken array's metadata may keep the store from being read at all, which is named too
        assert str(path.relative_to(store)).removeprefix("library/0/") in capsys.readouterr().err, path
        path.write_bytes(whole)
    assert main(["verify", str(copy)]) == 0


def test_a_damaged_marker_is_forgotten_and_its_unit_computed_again(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    flip(copy / "screen.zarr/library/0/commits/c.0", 1000)
    assert main(["verify", str(copy), "--discard"]) == 1
    assert main(["verify", str(copy)]) == 1
    assert main(["run", str(finished.parent / "s.yaml"), "--out", str(copy)]) == 0
    assert main(["verify", str(copy)]) == 0
    assert_same_arrays(finished, copy)


def test_damage_to_what_cannot_be_computed_again_says_so(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    flip(copy / "screen.zarr/library/0/items/cell/c.0", 77)
    assert main(["verify", str(copy)]) == 1
    said = capsys.readouterr()
    assert "items/cell/c.0" in said.err
    assert "cannot be computed again" in said.out


@pytest.fixture(scope="module")
def with_tables(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with an analysis of its cells."""
    copy = tmp_path_factory.mktemp("tables") / "copy"
    shutil.copytree(finished, copy)
    assert main(["deg", str(copy), "--name", "other", "--strata", ""]) == 0
    return copy


def contents(directory: Path) -> dict[Path, bytes]:
    return {p.relative_to(directory): p.read_bytes() for p in directory.rglob("*") if p.suffix in (".parquet", ".json")}


def test_a_flipped_bit_of_any_table_is_found_and_the_table_made_again(
    finished: Path, with_tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, rng, whole = tmp_path / "copy", np.random.default_rng(0), contents(with_tables)
    shutil.copytree(with_tables, copy)
    tables = sorted(p for p in copy.rglob("*.parquet") if "screen.zarr" not in p.parts)
    assert {p.parent.relative_to(copy).as_posix() for p in tables} >= {
        ".",
        "deg",
        "analyses/other",
        "analyses/other/deg",
    }
    for path in tables:
        flip(path, int(rng.integers(0, 8 * path.stat().st_size)))
        capsys.readouterr()
        assert main(["verify", str(copy)]) == 1, path
        assert path.name in capsys.readouterr().err
        assert main(["verify", str(copy), "--discard"]) == 1
        said = [line for line in capsys.readouterr().out.splitlines() if "makes the tables in" in line]
        command = said[0].split("`")[1].split()[1:]
        again = ["run", str(finished.parent / "s.yaml"), "--out", str(copy)] if command == ["run"] else command
        assert main(again) == 0
        assert main(["verify", str(copy)]) == 0
        assert contents(copy) == whole


def test_a_missing_table_and_one_of_an_earlier_version_are_found(
    with_tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(with_tables, copy)
    stamp = json.loads((copy / "tables.json").read_text())
    del stamp["checksums"]
    (copy / "tables.json").write_text(json.dumps(stamp))
    assert main(["verify", str(copy)]) == 0
    with (copy / "hits.parquet").open("ab") as file:
        file.write(b"x")
    (copy / "analyses/other/hits.parquet").unlink()
    capsys.readouterr()
    assert main(["verify", str(copy)]) == 1
    said = capsys.readouterr().err
    n = stamp["files"]["hits.parquet"]
    assert f"hits.parquet {n + 1:,} bytes instead of {n:,}" in said
    assert "hits.parquet missing" in said
    (copy / "tables.json").write_text("[1, 2]")
    assert main(["verify", str(copy)]) == 1
    assert "tables.json does not say" in capsys.readouterr().err


@pytest.mark.parametrize(
    "files", [{"../victim.parquet": 3}, {"/VICTIM": 3}, {"sub/../../victim.parquet": 3}, {"tables.json": 1}]
)
def test_a_stamp_that_names_what_is_no_table_of_its_folder_touches_nothing_there(
    files: dict[str, int], with_tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, victim = tmp_path / "copy", tmp_path / "victim.parquet"
    shutil.copytree(with_tables, copy)
    victim.write_text("mine")
    named = {name.replace("/VICTIM", str(victim)): n for name, n in files.items()}
    for folder in (copy, copy / "analyses/other"):
        stamp = json.loads((folder / "tables.json").read_text())
        stamp["files"] |= named
        stamp["checksums"] |= dict.fromkeys(named, "00000000")
        (folder / "tables.json").write_text(json.dumps(stamp))
    assert main(["verify", str(copy), "--discard"]) == 1
    assert victim.read_text() == "mine"
    assert "unit(s) are forgotten" not in capsys.readouterr().out
