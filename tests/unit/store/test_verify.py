"""verify finds every flipped bit: in results, in markers, and in what cannot be computed again."""

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
