"""StoreReader: a screen on disk, opened to be read. A store is the Zarr v3 directory that docs/store.md describes."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import zarr
from numpy.typing import NDArray

from screen.errors import StoreError, some
from screen.files import checksum
from screen.planning.layout import MOMENTS, Layout
from screen.store.dense import DenseArray, is_dense
from screen.store.marker import unsealed

FORMAT, FORMAT_VERSION = "perturbscreen", 2
STORE = "screen.zarr"
"""The store's name in an output directory."""
PART_BYTES = 16 * 2**20
DAMAGES = (OSError, ValueError, KeyError, TypeError, IndexError, MemoryError)
"""What reading a damaged marker may raise."""


class Folder:
    """Arrays below one folder of a store, by name, each opened once."""

    def __init__(self, path: Path, group: zarr.Group) -> None:
        self.path, self.group = path, group
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._dense: dict[str, DenseArray | None] = {}

    def array(self, name: str) -> zarr.Array[Any]:
        """An array by its path below the folder."""
        if name not in self._arrays:
            found = self.group[name]
            assert isinstance(found, zarr.Array)
            self._arrays[name] = found
        return self._arrays[name]

    def dense(self, name: str) -> DenseArray | None:
        """The same array as files of rows, None where it is not stored so."""
        if name not in self._dense:
            array = self.array(name)
            self._dense[name] = DenseArray.of(array, self.path / name) if is_dense(array) else None
        return self._dense[name]

    def read(self, name: str, rows: slice | NDArray[np.integer] | None = None) -> NDArray[Any]:
        """Rows of an array as they are stored, all of them by default."""
        rows = slice(None) if rows is None else rows
        dense = self.dense(name)
        if dense is not None:
            return dense.read(rows)
        array = self.array(name)
        return np.asarray(array[rows] if isinstance(rows, slice) else array.oindex[rows.astype(np.int64)])

    def read_part(self, name: str, rows: NDArray[np.integer], columns: slice) -> NDArray[Any]:
        """Some columns of some rows; never more than PART_BYTES beside them is held."""
        array = self.array(name)
        if columns == slice(0, array.shape[1]):
            return self.read(name, rows)
        found = np.empty((len(rows), columns.stop - columns.start), array.dtype)
        step = max(PART_BYTES // (array.shape[1] * array.dtype.itemsize), 1)
        for start in range(0, len(rows), step):
            found[start : start + step] = self.read(name, rows[start : start + step])[:, columns]
        return found

    def strings(self, name: str) -> NDArray[np.object_]:
        """A text array as Python strings."""
        values: Any = self.array(name)[...]
        return np.array([str(v) for v in values], dtype=np.object_)


class Block(Folder):
    """One library block: its perturbations, their items, and which units and controls are done.

    `first` is the number of its first perturbation among those of the whole store.
    """

    def __init__(self, path: Path, group: zarr.Group, number: int, first: int, layout: Layout) -> None:
        super().__init__(path, group)
        self.number, self.first, self.layout = number, first, layout
        attributes: Any = dict(group.attrs)
        self.attributes: Mapping[str, Any] = attributes
        self.n_items, self.unit_rows = int(attributes["n_items"]), int(attributes["unit_rows"])
        self.cells_per_block = int(attributes["cells_per_block"])

    @property
    def n_units(self) -> int:
        """Units the plan was cut into."""
        return -(-self.n_items // self.unit_rows)

    @property
    def n_perturbations(self) -> int:
        return int(self.array("perturbations/id").shape[0])

    def rows(self, unit: int) -> slice:
        """Items of one unit."""
        return slice(unit * self.unit_rows, min((unit + 1) * self.unit_rows, self.n_items))

    def committed(self, of: str = "commits") -> list[int]:
        """Numbers of the finished units (of `control/commits`: blocks of cells), ascending, from one listing."""
        names = (re.fullmatch(r"c\.(\d+)", p.name) for p in (self.path / of).iterdir())
        return sorted(int(found[1]) for found in names if found)

    def marker(self, number: int, of: str = "commits") -> dict[str, Any]:
        """What the marker of a finished unit says. Raises StoreError where it cannot be read."""
        try:
            found = unsealed(str(self.array(of)[number]))
        except DAMAGES as error:
            raise StoreError(
                f"the commit marker {self.path / of / f'c.{number}'} is damaged ({error}); "
                "run `perturbscreen verify DIR --discard`, then the same `run` again"
            ) from error
        return found

    @property
    def is_complete(self) -> bool:
        """Whether every unit is committed."""
        return len(self.committed()) == self.n_units

    def rows_in(self, name: str, unit: int) -> slice:
        """Rows of an array that one unit writes: its items, or, of summaries and moments, its segments."""
        if not name.startswith(("summaries/", "moments/")):
            return self.rows(unit)
        n_rows = int((self.array(name).shards or self.array(name).chunks)[0])
        return slice(unit * n_rows, (unit + 1) * n_rows)

    @property
    def keeps_moments(self) -> bool:
        """Whether units have partial moments beside their changes; blocks of earlier versions have none."""
        return (self.path / "moments").is_dir()

    @property
    def has_all_moments(self) -> bool:
        """Whether every unit has them: an earlier version that finishes the block writes none."""
        folders = [self.path / f"moments/{name}/t{t}" for name in MOMENTS for t in self.layout.pred_tps]
        return self.keeps_moments and all(len(list(f.glob("c.*"))) == self.n_units for f in folders)

    def cells_of(self, units: Sequence[int]) -> list[int]:
        """The block of cells that each of some units begins in."""
        found: list[int] = (
            np.searchsorted(self._start_BP[:, 0], np.array(units) * self.unit_rows, side="right") - 1
        ).tolist()
        return found

    def units_of_cells(self, number: int) -> list[int]:
        """Units with an item of a block of cells."""
        start_P = self._start_BP[number]
        return list(range(int(start_P[0]) // self.unit_rows, -(-int(start_P[-1]) // self.unit_rows)))

    def has_control(self, cell_N: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Whether this library block holds the unedited predictions of cells."""
        found = [self.read(f"control/is_predicted_t{t}", cell_N) for t in self.layout.pred_tps]
        return np.asarray(np.any(found, axis=0))

    def delta(self, time: int, rows: slice | NDArray[np.integer]) -> NDArray[np.float32]:
        """Log-expression changes of some items, decoded: (rows, G)."""
        decoded = self.read(f"delta/t{time}", rows).astype(np.float32)
        decoded /= np.float32(self.layout.delta_scale)
        return decoded

    def effect(self, name: str, rows: slice | NDArray[np.integer] | None = None) -> NDArray[np.float32]:
        """One column of `items/effects` for some items, all by default."""
        values: NDArray[np.float32] = self.read("items/effects", rows)[:, self.layout.effects.index(name)]
        return values

    def rows_of(self, perturbation: int) -> NDArray[np.int64]:
        """Items of one of the block's perturbations, ascending."""
        start_B2 = self._start_BP[:, perturbation : perturbation + 2]
        return np.concatenate([np.arange(a, b) for a, b in start_B2.tolist()])

    @cached_property
    def _start_BP(self) -> NDArray[np.integer]:
        """First item of every perturbation in every block of cells, and after the last the end."""
        return np.asarray(self.array("items/start")[...])


class StoreReader(Folder):
    """A screen on disk, to be read: `blocks` are its library blocks in the order in which they were added."""

    def __init__(self, path: Path, root: zarr.Group) -> None:
        super().__init__(path, root)
        attributes: Any = dict(root.attrs)
        self.layout = Layout.from_json(attributes["layout"], path)
        self.provenance: dict[str, Any] = attributes["provenance"]
        self.fixed_files: dict[str, str] = attributes["files"]
        self.blocks: list[Block] = []
        self.read_blocks()

    def read_blocks(self) -> None:
        """Finds the library blocks."""
        self.blocks = []
        while (folder := self.path / "library" / str(len(self.blocks)) / "zarr.json").is_file():
            number = len(self.blocks)
            group = self.group[f"library/{number}"]
            assert isinstance(group, zarr.Group)
            first = self.blocks[-1].first + self.blocks[-1].n_perturbations if self.blocks else 0
            self.blocks.append(Block(folder.parent, group, number, first, self.layout))

    @staticmethod
    def exists(path: Path) -> bool:
        """Whether a laid-out store is there."""
        try:
            attributes = json.loads((path / "zarr.json").read_text())["attributes"]
            return bool(attributes.get("format") == FORMAT)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False

    @classmethod
    def open(cls, path: str | Path, mode: Literal["r", "r+"] = "r") -> Self:
        """Opens a store. Raises StoreError if it is none, or of another format version."""
        path = Path(path)
        if not StoreReader.exists(path):
            raise StoreError(
                f"{path} is no perturbscreen store; run `perturbscreen run CONFIG --out {path.parent}` first"
            )
        # what is being written is never read through metadata that were consolidated earlier
        root = zarr.open_group(path, mode=mode, use_consolidated=None if mode == "r" else False)
        version = root.attrs["format_version"]
        if version != FORMAT_VERSION:
            raise StoreError(
                f"{path} has format version {version}; this perturbscreen reads {FORMAT_VERSION}: use a matching version"
            )
        return cls(path, root)

    @property
    def n_cells(self) -> int:
        return int(self.array("cells/id").shape[0])

    @property
    def n_units(self) -> int:
        """Units of all library blocks."""
        return sum(b.n_units for b in self.blocks)

    @property
    def n_committed(self) -> int:
        """Finished units of all library blocks."""
        return sum(len(b.committed()) for b in self.blocks)

    @property
    def is_complete(self) -> bool:
        """Whether every unit is committed."""
        return all(b.is_complete for b in self.blocks)

    def perturbations(self, name: str) -> NDArray[np.object_]:
        """A text column about all perturbations, those of every library block in turn."""
        return np.concatenate([b.strings(f"perturbations/{name}") for b in self.blocks])

    def control(self, name: str, block: Block, cells: NDArray[np.integer] | None = None) -> NDArray[Any]:
        """Unedited predictions of some cells (ascending; all by default) that a library block's items stand against.

        A cell's is in the library block that first had an item of it.
        """
        cell_N = np.arange(self.n_cells) if cells is None else np.asarray(cells)
        time = name.rpartition("_t")[2]
        found: NDArray[Any] | None = None
        for earlier in self.blocks[: block.number + 1]:
            values = earlier.read(f"control/{name}", cell_N)
            if found is None:
                found, is_found = values, earlier.read(f"control/is_predicted_t{time}", cell_N)
                continue
            is_new = earlier.read(f"control/is_predicted_t{time}", cell_N) & ~is_found
            found[is_new] = values[is_new]
            is_found |= is_new
        assert found is not None
        return found

    def to_dask(self, name: str, block: int = 0) -> Any:
        """An array of a library block with a row per item, as it is stored, as a lazy dask array: one chunk per unit.

        `to_dask("delta/t1") / store.layout.delta_scale` are log-expression changes. Raises StoreError for an array that
        this store does not hold.
        """
        import dask.array as da

        source = self.blocks[block]
        kept = sorted(f"{name}/t{t}" for name in self.layout.matrices(1) for t in self.layout.pred_tps)
        if name not in kept:
            raise StoreError(f'{self.path} holds no "{name}" per item; it holds {some(kept) or "none"}')
        array = source.array(name)
        heights = tuple(r.stop - r.start for r in map(source.rows, range(source.n_units))) or (0,)

        def read(block_info: Any = None) -> NDArray[Any]:
            (start, stop), _ = block_info[None]["array-location"]
            return source.read(name, slice(start, stop))

        meta = np.zeros((0, 0), array.dtype)
        return da.map_blocks(read, chunks=(heights, array.shape[1:]), dtype=array.dtype, meta=meta)


def damage(folder: Path, files: Mapping[str, str]) -> dict[str, str]:
    """File -> what is wrong with it, of those that differ from their checksums."""
    wrong: dict[str, str] = {}
    for name, expected in files.items():
        try:
            found = checksum(folder / name)
        except OSError as error:
            wrong[name] = "missing" if isinstance(error, FileNotFoundError) else str(error.strerror)
            continue
        if found != expected:
            wrong[name] = f"checksum {found} instead of {expected}"
    return wrong
