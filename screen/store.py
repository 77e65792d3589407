"""ScreenStore: the Zarr v3 directory of one screen; layout, commit per unit, resume.

Layout (format 1): see docs/store.md. `control/` once per cell, `library/<n>/` one group per library block with its
items, deltas and commit markers. A unit is done when its marker, a group written last and atomically, is there.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from screen.arrays import create_block, create_control, write_cells, write_genes
from screen.errors import StoreError
from screen.genes import Vocabulary
from screen.layout import Layout
from screen.perturbations import Library
from screen.plan import Plan
from screen.tokens import TokenBank

FORMAT, FORMAT_VERSION = "perturbscreen", 1


class ScreenStore:
    """A screen on disk. `create` lays it out, `open` reads its layout back; `block` is the library block."""

    def __init__(self, path: Path, root: zarr.Group) -> None:
        self.path, self.root = path, root
        attributes: Any = dict(root.attrs)
        self.layout = Layout(**{**attributes["layout"], "pred_tps": tuple(attributes["layout"]["pred_tps"])})
        self.provenance: dict[str, Any] = attributes["provenance"]

    @property
    def block(self) -> zarr.Group:
        """The library block (the first one)."""
        group = self.root["library/0"]
        assert isinstance(group, zarr.Group)
        return group

    def array(self, name: str) -> zarr.Array[Any]:
        """An array by its path below the root."""
        found = self.root[name]
        assert isinstance(found, zarr.Array)
        return found

    def item(self, name: str) -> zarr.Array[Any]:
        """An array by its path below the library block."""
        return self.array(f"library/0/{name}")

    @property
    def n_units(self) -> int:
        """Units the plan was cut into."""
        n_items, unit_rows = int(self.block.attrs["n_items"]), int(self.block.attrs["unit_rows"])  # type: ignore[arg-type]
        return -(-n_items // unit_rows)

    @staticmethod
    def create(
        path: Path,
        plan: Plan,
        library: Library,
        vocabulary: Vocabulary,
        bank: TokenBank,
        layout: Layout,
        provenance: Mapping[str, Any],
    ) -> "ScreenStore":
        """Lays out an empty store, under another name until it is whole. Raises StoreError if something else is there."""
        if path.exists():
            raise StoreError(f"{path} exists and is no perturbscreen store; choose another --out or move it away")
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        attributes = {"format": FORMAT, "format_version": FORMAT_VERSION, "layout": _jsonable(layout.__dict__)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            root = zarr.create_group(partial, overwrite=True)
            write_genes(root, vocabulary)
            write_cells(root, bank, layout.pred_tps)
            create_control(root, bank.n_cells, len(vocabulary), layout)
            create_block(root, plan, library, vocabulary, layout)
            root.attrs.update({**attributes, "provenance": _jsonable(provenance)})
            partial.replace(path)
        except PermissionError as error:
            raise StoreError(f"cannot write to {path.parent}: {error.strerror}; choose another --out") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return ScreenStore.open(path, "r+")

    @staticmethod
    def exists(path: Path) -> bool:
        """Whether a laid-out store is there."""
        try:
            return (path / "zarr.json").is_file() and FORMAT in json.loads((path / "zarr.json").read_text())[
                "attributes"
            ].get("format", "")
        except (OSError, ValueError, KeyError):
            return False

    @staticmethod
    def open(path: str | Path, mode: str = "r") -> "ScreenStore":
        """Opens a store. Raises StoreError if it is none, or of a newer format."""
        path = Path(path)
        if not ScreenStore.exists(path):
            raise StoreError(
                f"{path} is no perturbscreen store; run `perturbscreen run CONFIG --out {path.parent}` first"
            )
        root = zarr.open_group(path, mode=mode)  # type: ignore[arg-type]
        version = root.attrs["format_version"]
        if version != FORMAT_VERSION:
            raise StoreError(
                f"{path} has format version {version}; this perturbscreen reads {FORMAT_VERSION}: use a matching version"
            )
        return ScreenStore(path, root)

    # writing

    def write_controls(self, cell_N: NDArray[np.int64], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Unedited predictions of some cells: names below `control/` -> values, first axis as `cell_N`."""
        for name, values in arrays.items():
            self.array(f"control/{name}").oindex[cell_N] = values

    def write_unit(self, rows: slice, columns: Mapping[str, NDArray[Any]], marker: Mapping[str, Any]) -> None:
        """Writes the arrays of a unit, then its marker. `columns` maps names below the block to values of the rows."""
        digest = hashlib.sha256()
        for name in sorted(columns):
            values = columns[name]
            self.item(name)[rows] = values
            digest.update(name.encode() + np.ascontiguousarray(values).tobytes())
        number = rows.start // int(self.block.attrs["unit_rows"])  # type: ignore[arg-type]
        self._commit(number, {**marker, "rows": [rows.start, rows.stop], "sha256": digest.hexdigest()})

    def _commit(self, number: int, attributes: Mapping[str, Any]) -> None:
        """A zarr group whose metadata file appears in one step: marker and checksum of a finished unit."""
        folder = self.path / "library" / "0" / "commits" / f"{number:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": _jsonable(attributes)})
        partial = folder / f".zarr.json.{os.getpid()}"
        partial.write_text(text)
        partial.replace(folder / "zarr.json")

    def committed(self) -> list[int]:
        """Numbers of the finished units, ascending."""
        folder = self.path / "library" / "0" / "commits"
        return sorted(int(p.parent.name) for p in folder.glob("*/zarr.json")) if folder.is_dir() else []

    @property
    def is_complete(self) -> bool:
        """Whether every unit is committed."""
        return len(self.committed()) == self.n_units

    def set_view(self, view: Mapping[str, Any]) -> None:
        """How tables and exports present the results; the results themselves stay as they are."""
        self.provenance = {**self.provenance, "view": _jsonable(view)}
        self.root.attrs.update({"provenance": self.provenance})

    def results_digest(self) -> str:
        """SHA-256 over the checksums of every finished unit and how tables present them."""
        digest = hashlib.sha256(json.dumps(self.provenance["view"], sort_keys=True).encode())
        for number in self.committed():
            marker = json.loads((self.path / "library/0/commits" / f"{number:06d}" / "zarr.json").read_text())
            digest.update(f"{number}{marker['attributes']['sha256']}".encode())
        return digest.hexdigest()

    # reading

    def delta(self, time: int, rows: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        """Log-expression changes of some rows, decoded: (rows, G)."""
        stored = self.item(f"delta/t{time}")
        raw = stored[rows] if isinstance(rows, slice) else stored.oindex[rows]
        return np.asarray(raw, dtype=np.float32) / np.float32(self.layout.delta_scale)

    def strings(self, name: str) -> NDArray[np.object_]:
        """A text array as Python strings."""
        values: Any = self.array(name)[...]
        return np.array([str(v) for v in values], dtype=np.object_)


def _jsonable(value: Any) -> Any:
    """Plain JSON types: paths and numpy scalars become text and numbers."""
    return json.loads(json.dumps(value, default=lambda v: v.item() if isinstance(v, np.generic) else str(v)))
