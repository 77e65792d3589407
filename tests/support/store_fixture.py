"""What tests of the store look at: dense arrays, small screens in many units, and a store of format 2 kept in git."""

import errno
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from zarr.codecs import BytesCodec

from screen.cli.main import main
from screen.store.arrays import FLAT
from screen.store.dense import DenseArray
from screen.store.store import ScreenStore
from tests.support.places import GOLDEN
from tests.support.tiny import E2E, tiny, write

FORMAT_2 = Path(__file__).parent / "store_format_2"
GENES = tuple(f"ENSG{100_000 + 7 * i:011d}" for i in range(61))
"""The genes of `tiny`."""
FIRST = [{"genes": list(GENES[2:7]), "modes": ["mask"]}]
NEW = [
    {"genes": [*GENES[:2], *GENES[7:9]], "modes": ["mask"]},
    {"genes": list(GENES[4:7]), "modes": ["overexpress"], "perturbation_sequence": ["src", "tgt"], "pert_tps": [2]},
]
LARGER = [{"genes": list(GENES[:9]), "modes": ["mask"]}, NEW[1]]
"""FIRST and NEW together. NEW has items of cells that FIRST has none of; blocks of cells are 5 in FIRST, in LARGER 4."""
OUTPUT: dict[str, Any] = {"strata": ["cell_type"]}
ONE_BY_ONE = {"cpu_products": "torch", "batch_tokens": 1}
"""One item per batch: numbers do not depend on which other items are in its unit."""


@dataclass(frozen=True)
class Case:
    """A dense array; `inner` rows per chunk and `per_file` chunks per shard, or, with 0, a chunk per file."""

    n_rows: int
    width: int | None
    dtype: str
    inner: int
    per_file: int

    @property
    def file_rows(self) -> int:
        return self.inner * max(self.per_file, 1)

    @property
    def files(self) -> list[slice]:
        return [slice(i, min(i + self.file_rows, self.n_rows)) for i in range(0, self.n_rows, self.file_rows)]

    def array(self, folder: Path) -> zarr.Array[Any]:
        tail = () if self.width is None else (self.width,)
        shards = (self.file_rows, *tail) if self.per_file else None
        return zarr.create_array(
            folder, shape=(self.n_rows, *tail), chunks=(self.inner, *tail), shards=shards, dtype=self.dtype,
            compressors=None, chunk_key_encoding=FLAT,
        )  # fmt: skip

    def values(self, seed: int, share: float) -> np.ndarray:
        """Random rows, of which this share is zeros; at a share of 0 every value is another than zero."""
        shape = (self.n_rows, *(() if self.width is None else (self.width,)))
        rng = np.random.default_rng(seed)
        found = rng.integers(1, 100, shape).astype(self.dtype)
        found[rng.random(self.n_rows) < share] = 0
        return found


cases = st.builds(
    Case, st.integers(0, 40), st.none() | st.integers(1, 4),
    st.sampled_from(["float16", "float32", "int16", "int32", "bool"]), st.integers(1, 6), st.integers(0, 4),
)  # fmt: skip
seeds = st.integers(0, 2**16)


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "zarr.json"}


LYING_OTHERWISE: dict[str, dict[str, Any]] = {
    "compressed": {"compressors": "auto"},
    "cut along columns": {"chunks": (4, 2)},
    "shards cut along columns": {"chunks": (4, 2), "shards": (8, 4)},
    "big-endian": {"serializer": BytesCodec(endian="big")},
    "big-endian shards": {"serializer": BytesCodec(endian="big"), "shards": (8, 4)},
    "files in folders": {"chunk_key_encoding": {"name": "default", "separator": "/"}},
    "other file names": {"chunk_key_encoding": {"name": "v2", "separator": "."}},
    "index first": {"shards": {"shape": (8, 4), "index_location": "start"}},
    "absent is not zero": {"fill_value": 7},
}


@contextmanager
def small_units(rows: int = 8, cells: int = 4) -> Iterator[None]:
    """Units of so many rows, blocks of so many cells: several of both in a tiny screen."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"MIN_ROWS": rows, "MAX_ROWS": rows, "MIN_CELLS": cells}.items():
            patch.setattr(f"screen.running.unit_sizes.{name}", value)
        yield


def screen_of(library: Any, compute: Any = ONE_BY_ONE, **output: Any) -> dict[str, Any]:
    """The configuration of a tiny screen of this library."""
    return {**tiny(output=output), "library": library, "compute": compute}


def run(config: dict[str, Any], out: Path, *options: str) -> int:
    """`perturbscreen run` of small units into a directory; its exit code."""
    out.parent.mkdir(parents=True, exist_ok=True)
    path = write(config, out.with_name(f"{out.name}.yaml"))
    with small_units():
        return main(["run", str(path), "--out", str(out), *options])


@contextmanager
def full_disk(n_writes: int) -> Iterator[None]:
    """No dense file can be written after the first `n_writes`."""
    write_file, left = DenseArray.write, iter(range(n_writes))

    def write_while_there_is_room(*arguments: Any) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_file(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DenseArray, "write", write_while_there_is_room)
        yield


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Name -> (time of change, content) of every file."""
    return {
        str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()
    }


@dataclass(frozen=True)
class Grown:
    """A screen of FIRST, the same extended to LARGER (and what it was before), and one of LARGER in one go."""

    first: Path
    added: Path
    before: dict[str, tuple[int, bytes]]
    fresh: Path


def grow(folder: Path) -> Grown:
    """The three screens, run into a folder."""
    first, added, fresh = (folder / n for n in ("first", "added", "fresh"))
    assert run(screen_of(FIRST, **OUTPUT), first) == 0
    before = tree(Path(shutil.copytree(first, added)))
    assert run(screen_of(LARGER, **OUTPUT), added, "--add") == 0
    assert run(screen_of(LARGER, **OUTPUT), fresh) == 0
    return Grown(first, added, before, fresh)


def opened(out: Path, mode: Any = "r") -> ScreenStore:
    return ScreenStore.open(out / "screen.zarr", mode)


def items_of(store: ScreenStore) -> dict[tuple[str, int], dict[str, bytes]]:
    """Perturbation and cell -> every value that is kept of the item."""
    found: dict[tuple[str, int], dict[str, bytes]] = {}
    for block in store.blocks:
        names = [n for n, a in block.group.members(max_depth=None) if isinstance(a, zarr.Array) and "item" in dims(a)]
        columns = {n: np.asarray(block.array(n)[...]) for n in names}
        number_I, cell_I = columns.pop("items/perturbation"), columns.pop("items/cell")
        ids = block.strings("perturbations/id")
        for i, (p, cell) in enumerate(zip(number_I, cell_I, strict=True)):
            found[ids[p], int(cell)] = {n: x[i].tobytes() for n, x in columns.items()}
    return found


def dims(array: zarr.Array[Any]) -> tuple[str, ...]:
    names: Any = array.metadata.dimension_names  # type: ignore[union-attr]
    return tuple(names or ())


def assert_same_anndata(one: Any, two: Any) -> None:
    assert one.obs.equals(two.obs)
    assert_array_equal(one.X, two.X, strict=True)
    for part in ("layers", "obsm"):
        ours, theirs = getattr(one, part), getattr(two, part)
        assert set(ours) == set(theirs)
        assert all(np.array_equal(ours[n], theirs[n]) for n in ours)


def consolidated(out: Path) -> Any:
    return json.loads((out / "screen.zarr/zarr.json").read_text()).get("consolidated_metadata")


HOLD = """
import pathlib, sys
from screen.store.lock import only_writer
with only_writer(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[1], "scratch")):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the lock of a directory until it is killed."""
    arguments, pipe = [sys.executable, "-c", HOLD, str(out)], subprocess.PIPE
    with subprocess.Popen(arguments, stdin=pipe, stdout=pipe, cwd=FORMAT_2.parent.parent) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield holder
        holder.kill()


def other_checkpoint(folder: Path) -> dict[str, Any]:
    content = torch.load(E2E / "ckpt" / "count_zinb.ckpt", weights_only=True)
    content["state_dict"]["decoder.count_decoder.mlp.fc1.weight"] *= 1.5
    torch.save(content, folder / "other.ckpt")
    return {"model": {"checkpoint": str(folder / "other.ckpt")}}


OTHERS: dict[str, tuple[str, Callable[[Path], dict[str, Any]]]] = {
    "model": ("another checkpoint", other_checkpoint),
    "layout.keep_embeddings": ("False in the store, True now", lambda _: {"output": {"keep_embeddings": True}}),
    "cells": ("other cells", lambda _: {"cells": {"filter_var": "cell_pairing_index", "filter_cond": ["100", "107"]}}),
}


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def overwritten(path: Path) -> None:
    path.write_bytes(b"\xff" * path.stat().st_size)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "0/delta/t1/c.1.0": (flipped, "library block 0, unit 1: delta/t1/c.1.0 checksum"),
    "1/delta/t2/c.0.0": (truncated, "library block 1, unit 0: delta/t2/c.0.0 checksum"),
    "1/items/effects/c.6.0": (Path.unlink, "library block 1, unit 6: items/effects/c.6.0 missing"),
    "0/control/expression_t2/c.1.0": (flipped, "controls of cells 1: control/expression_t2/c.1.0 checksum"),
    "1/control/is_predicted_t1/c.0": (Path.unlink, "controls of cells 0: control/is_predicted_t1/c.0 missing"),
    "1/commits/c.0": (truncated, "library block 1, unit 0: commits/c.0 is damaged"),
    "0/commits/c.1": (overwritten, "library block 0, unit 1: commits/c.1 is damaged"),
    "0/control/commits/c.1": (truncated, "library block 0, controls of cells 1: control/commits/c.1 is damaged"),
    "0/control/commits/c.0": (Path.unlink, "library block 0, controls of cells 0"),
}


def unpacked(folder: Path) -> Path:
    """The kept store, unpacked into a folder."""
    with tarfile.open(FORMAT_2 / "screen.zarr.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "screen.zarr"


def make() -> None:
    """Writes the kept store and some of its values as plain zarr reads them. Only for a new format: never for this one."""
    with tempfile.TemporaryDirectory() as folder:
        out, kept = Path(folder) / "out", {"keep_embeddings": True, "keep_gene_cosine": True, "store_dtype": "float16"}
        assert run(screen_of(FIRST, **kept), out) == 0
        assert run(screen_of(LARGER, **kept), out, "--add") == 0
        for metadata in out.rglob("zarr.json"):
            metadata.write_text(metadata.read_text().replace(str(GOLDEN), "golden"))
        FORMAT_2.mkdir(exist_ok=True)
        with tarfile.open(FORMAT_2 / "screen.zarr.tar.xz", "w:xz") as archive:
            archive.add(out / "screen.zarr", "screen.zarr", filter=_anonymous)
        (FORMAT_2 / "expected.json").write_text(json.dumps(_expected(out / "screen.zarr"), indent=1) + "\n")


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


def _expected(path: Path) -> list[dict[str, Any]]:
    """Array, row, column and value, as it is stored, of a handful of rows of every kind of array."""
    root, found = zarr.open_group(path, mode="r"), []
    for block in (0, 1):
        matrices = [f"{n}/t{t}" for n in ("delta", "embedding", "gene_cosine") for t in (1, 2)]
        controls = [f"control/{n}_t{t}" for n in ("expression", "embedding", "total", "is_predicted") for t in (1, 2)]
        for name in ["items/effects", "items/cell", *matrices, *controls]:
            array: Any = root[f"library/{block}/{name}"]
            values = array[...]
            for row in (0, 5, len(values) - 1):
                place = (row, *(n // 2 for n in array.shape[1:]))
                found.append({"block": block, "array": name, "place": place, "value": values[place].item()})
    return found


if __name__ == "__main__":
    make()
