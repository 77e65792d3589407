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
from screen.planning.layout import MOMENTS, Layout
from screen.store.checks import check_files, check_layout, check_provenance, check_range, check_starts, count_in
from screen.store.folder import DAMAGES, Folder, damages
from screen.store.marker import unsealed

FORMAT, FORMAT_VERSION = "perturbscreen", 2


class Block(Folder):
    """One library block: its perturbations, their items, and which units and controls are done."""

    def __init__(self, path: Path, group: zarr.Group, number: int, store: "StoreReader") -> None:
        self.number, self.layout, self._store = number, store.layout, store
        attributes: Any = dict(group.attrs)
        self.attributes: Mapping[str, Any] = attributes
        with damages(path / "zarr.json"):
            check_files(attributes.get("files", {}))
            self.n_items, self.unit_rows = count_in(attributes, "n_items", 0), count_in(attributes, "unit_rows", 1)
            self.cells_per_block = count_in(attributes, "cells_per_block", 1)
            if not all(isinstance(attributes.get(n), str) for n in ("library", "plan")):
                raise ValueError("it does not say of which library and plan it is")
        # what is being created has its checksums when all of it is written
        super().__init__(path, group, attributes.get("files", {}))

    def _check(self, name: str, array: zarr.Array[Any]) -> None:
        lengths = {
            "items": self.n_items, "control": self.n_cells, "commits": self.n_units, "control/commits": self.n_cell_blocks,
            **dict.fromkeys(self.layout.matrices(1), self.n_items), "items/start": self.n_cell_blocks,
        }  # fmt: skip
        expected = lengths.get(name, lengths.get(name.partition("/")[0]))
        if name != "perturbations/id" and name.startswith("perturbations/"):
            expected = self.n_perturbations
        if expected is not None and array.shape[:1] != (expected,):
            raise ValueError(f"it has {array.shape} entries; {expected} are expected")

    def read(self, name: str, rows: slice | NDArray[np.integer] | None = None) -> NDArray[Any]:
        """Rows of an array as they are stored, all of them by default; cells and perturbations are those there are."""
        found = super().read(name, rows)
        stop = {"items/cell": self.n_cells, "items/perturbation": self.n_perturbations}.get(name)
        if stop is not None:
            with damages(self.path / name):
                check_range(name, found, 0, stop)
        return found

    @cached_property
    def first(self) -> int:
        """The number of the first perturbation among those of the whole store."""
        return sum(b.n_perturbations for b in self._store.blocks[: self.number])

    @property
    def n_cells(self) -> int:
        """Cells of the whole store."""
        return self._store.n_cells

    @property
    def n_cell_blocks(self) -> int:
        """Blocks of cells, those without an item included."""
        return -(-self.n_cells // self.cells_per_block)

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
        with damages(self.path / of):
            names = [re.fullmatch(r"c\.(\d{1,18})", p.name) for p in (self.path / of).iterdir()]
            n_all = self.n_units if of == "commits" else self._n_rows(of)
        return sorted(n for n in (int(found[1]) for found in names if found) if n < n_all)

    def marker(self, number: int, of: str = "commits") -> dict[str, Any]:
        """What the marker of a finished unit says. Raises StoreError where it cannot be read."""
        try:
            found = unsealed(str(self.array(of)[number]))
            if of == "commits" and "executor" not in found:
                raise ValueError("it does not say who computed")
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
        with damages(self.path / "items/start"):
            start_BP = np.asarray(self.array("items/start")[...])
            check_starts(start_BP, self.n_items)
        return start_BP


class StoreReader(Folder):
    """A screen on disk, to be read: `blocks` are its library blocks in the order in which they were added."""

    def __init__(self, path: Path, root: zarr.Group) -> None:
        attributes: Any = dict(root.attrs)
        with damages(path / "zarr.json"):
            self.layout = Layout.from_json(attributes["layout"], path)
            check_layout(self.layout)
            check_provenance(attributes.get("provenance"))
            check_files(attributes.get("files"))
        self.provenance: dict[str, Any] = attributes["provenance"]
        self.fixed_files: dict[str, str] = attributes["files"]
        super().__init__(path, root, self.fixed_files)
        self.blocks: list[Block] = []
        self.read_blocks()

    def _check(self, name: str, array: zarr.Array[Any]) -> None:
        parts = name.split("/")
        whole = {"cells": "cells/id", "genes": "genes/name"}.get(parts[0])
        if whole in (None, name) or "true_counts" in parts:
            return
        if array.shape != self.array(whole).shape:
            raise ValueError(f"it has {array.shape} entries; {self.array(whole).shape} are expected")

    def read_blocks(self) -> None:
        """Finds the library blocks."""
        self.blocks = []
        while (folder := self.path / "library" / str(len(self.blocks)) / "zarr.json").is_file():
            number = len(self.blocks)
            with damages(folder):
                group = self.group[f"library/{number}"]
                assert isinstance(group, zarr.Group)
            self.blocks.append(Block(folder.parent, group, number, self))

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
        # metadata that were gathered for other readers have no checksums, and know nothing of what is being written
        with damages(path / "zarr.json"):
            root = zarr.open_group(path, mode=mode, use_consolidated=False)
            version = root.attrs["format_version"]
        if version != FORMAT_VERSION:
            raise StoreError(
                f"{path} has format version {version}; this perturbscreen reads {FORMAT_VERSION}: use a matching version"
            )
        return cls(path, root)

    @property
    def n_cells(self) -> int:
        return self._n_rows("cells/id")

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

    @property
    def history(self) -> dict[str, Any]:
        """The provenance, with what is known of every library block: its configuration among it."""
        blocks = [{k: v for k, v in b.attributes.items() if k != "files"} for b in self.blocks]
        return {**self.provenance, "library": blocks}

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

    def to_dask(self, name: str, block: int = 0, decode: bool = True) -> Any:
        """An array of a library block with a row per item, as a lazy dask array: one chunk per unit.

        Float32; `delta/t1` are log-expression changes. `decode=False` gives what is stored: of changes that are kept as
        float16, `layout.delta_scale` times as much, in numbers too narrow to be divided or summed.
        Raises StoreError for an array that this store does not hold.
        """
        import dask.array as da

        source = self.blocks[block]
        kept = sorted(f"{name}/t{t}" for name in self.layout.matrices(1) for t in self.layout.pred_tps)
        if name not in kept:
            raise StoreError(f'{self.path} holds no "{name}" per item; it holds {some(kept) or "none"}')
        array = source.array(name)
        heights = tuple(r.stop - r.start for r in map(source.rows, range(source.n_units))) or (0,)

        scale = np.float32(self.layout.delta_scale if name.startswith("delta/") else 1)
        dtype = np.dtype(np.float32) if decode else array.dtype

        def read(block_info: Any = None) -> NDArray[Any]:
            (start, stop), _ = block_info[None]["array-location"]
            stored = source.read(name, slice(start, stop))
            return stored.astype(np.float32) / scale if decode else stored

        meta = np.zeros((0, 0), dtype)
        return da.map_blocks(read, chunks=(heights, array.shape[1:]), dtype=dtype, meta=meta)
