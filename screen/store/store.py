"""ScreenStore: a screen's Zarr v3 directory, laid out, written unit by unit and finished.

A unit is done when its marker is there: a chunk of the array `commits`, written last and in one step, that holds the
checksums of the unit's files and who computed them. Everything else may be written any number of times.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.buffer import Buffer
from zarr.buffer import cpu
from zarr.storage import MemoryStore

from screen.cells.bank import TokenBank
from screen.cells.vocabulary import Vocabulary
from screen.errors import StoreError, WriteError
from screen.files import checksum, sweep, whole_folder, write_file
from screen.planning.layout import Layout
from screen.planning.perturbations import Library
from screen.planning.plan import Plan
from screen.store.arrays import checksums, create_block, write_cells, write_genes
from screen.store.export import anndata_of
from screen.store.folder import damages
from screen.store.lock import writing
from screen.store.marker import chunk_of, marker_of_controls, marker_of_unit, sealed
from screen.store.reader import FORMAT, FORMAT_VERSION, Block, StoreReader

Columns = Mapping[str, NDArray[Any]]


def scratch_of(path: Path) -> Path:
    """Where the files of a store lie that are not whole yet; nothing there is worth keeping once nobody writes."""
    return path.with_name(f".{path.name}.writing")


class ScreenStore(StoreReader):
    """A screen on disk. `create` lays it out, `add_block` appends perturbations, `open` reads it back.

    >>> import screen
    >>> store = screen.ScreenStore.open("runs/demo/screen.zarr")
    >>> store.n_cells, store.is_complete, store.layout.pred_tps
    (8, True, (1,))
    >>> store.to_dask("delta/t1")  # every change in log units, an item a row, lazily
    dask.array<read, shape=(49, 1500), dtype=float32, chunksize=(49, 1500), chunktype=numpy.ndarray>
    """

    @staticmethod
    def create(
        path: Path,
        vocabulary: Vocabulary,
        bank: TokenBank,
        layout: Layout,
        provenance: Mapping[str, Any],
        then: Callable[["ScreenStore"], object] = lambda store: None,
    ) -> "ScreenStore":
        """Lays out a store, under another name until it is whole: without a library block, unless `then` adds one.

        Raises StoreError if something else is there or nothing can be written.
        """
        ScreenStore.require_free(path)
        attributes: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION, "layout": layout.as_json()}
        with _whole(path, scratch_of(path)) as partial:
            root = zarr.create_group(partial, overwrite=True)
            write_genes(root, vocabulary)
            write_cells(root, bank, layout.pred_tps)
            files = checksums(partial)
            root.create_group("library")
            root.attrs.update({**attributes, "provenance": jsonable(provenance), "files": files})
            then(ScreenStore.open(partial, "r+"))
        return ScreenStore.open(path, "r+")

    @staticmethod
    def require_free(path: Path) -> None:
        """Raises StoreError where something is that is no store."""
        if path.exists() and not ScreenStore.exists(path):
            raise StoreError(f"{path} exists and is no perturbscreen store; choose another --out or move it away")

    def add_block(self, plan: Plan, library: Library, vocabulary: Vocabulary, attributes: Mapping[str, Any]) -> Block:
        """Appends an empty library block, under another name until it is whole; nothing else is touched."""
        path = self.path / "library" / str(len(self.blocks))
        self._forget_consolidated()
        with _whole(path, scratch_of(self.path)) as partial:
            block = zarr.create_group(partial)
            create_block(block, plan, library, vocabulary, self.layout, jsonable(attributes))
            block.attrs.update({"files": checksums(partial)})
        self.read_blocks()
        return self.blocks[-1]

    def write_controls(self, block: Block, cell_N: NDArray[np.int64], columns: Columns, scratch: Path) -> None:
        """Unedited predictions of the cells of one block of cells that have items, unless they are there.

        Names below `control/` -> values, first axis as `cell_N`. Cells whose control an earlier library block holds
        are left to it.
        """
        number = int(cell_N[0]) // block.cells_per_block
        if (block.path / "control" / "commits" / f"c.{number}").is_file():
            return
        start = number * block.cells_per_block
        n_rows = min(block.cells_per_block, self.n_cells - start)
        is_new = ~self._is_predicted(block, cell_N)
        files: dict[str, str] = {}
        if is_new.any():
            for name, values in columns.items():
                whole = np.zeros((n_rows, *values.shape[1:]), values.dtype)
                whole[cell_N[is_new] - start] = values[is_new]
                files |= _write(block, f"control/{name}", slice(start, start + n_rows), whole, scratch)
        _commit(block, "control/commits", number, marker_of_controls(files), scratch)

    def _is_predicted(self, block: Block, cell_N: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether an earlier library block holds the controls of these cells, all of their time points."""
        found = np.zeros(len(cell_N), dtype=bool)
        for earlier in self.blocks[: block.number]:
            found |= earlier.has_control(cell_N)
        return found

    def write_unit(
        self, block: Block, number: int, columns: Columns, executor: Mapping[str, Any], scratch: Path
    ) -> None:
        """Writes the arrays of a unit, then its marker, which says who computed it.

        `columns` maps names below the block to values of its rows; every effect is a column of its own, `items/<effect>`.
        """
        rows = block.rows(number)
        effects = [columns[f"items/{name}"].astype(np.float32) for name in self.layout.effects]
        files = _write(block, "items/effects", rows, np.stack(effects, axis=1), scratch)
        for name in sorted(n for n in columns if not n.startswith("items/")):
            files |= _write(block, name, block.rows_in(name, number), columns[name], scratch)
        _commit(block, "commits", number, marker_of_unit(executor, rows, files), scratch)

    def discard_unit(self, block: Block, number: int) -> None:
        """Takes a unit's marker away: the next run computes it again."""
        (block.path / "commits" / f"c.{number}").unlink(missing_ok=True)
        self._forget_consolidated()

    def discard_controls(self, block: Block, number: int) -> None:
        """Takes the controls of a block of cells away, with the markers of the units that stand against them."""
        (block.path / "control" / "commits" / f"c.{number}").unlink(missing_ok=True)
        for unit in block.units_of_cells(number):
            self.discard_unit(block, unit)

    def sweep(self) -> None:
        """Removes the files that were being written when a run was killed."""
        sweep(self.path, "**/*.partial")

    def finish(self) -> None:
        """Gathers all metadata in one file, so that opening reads one."""
        memory = _in_memory({str(p.relative_to(self.path)): p for p in self.path.rglob("zarr.json")})
        with damages(self.path), warnings.catch_warnings():
            # the Zarr v3 specification does not speak of it yet; readers that do not know it ignore it
            warnings.filterwarnings("ignore", message="Consolidated metadata")
            zarr.consolidate_metadata(MemoryStore(memory))
        write_file(self.path / "zarr.json", memory["zarr.json"].to_bytes(), durable=True)

    @property
    def is_consolidated(self) -> bool:
        """Whether the metadata of all arrays are gathered."""
        return "consolidated_metadata" in self._metadata()

    def _metadata(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / "zarr.json").read_text())
        return found

    def _write_metadata(self, metadata: Mapping[str, Any]) -> None:
        write_file(self.path / "zarr.json", json.dumps(metadata, indent=2).encode(), durable=True)

    def _forget_consolidated(self) -> None:
        """Metadata that were gathered when the store was finished do not know of what comes now."""
        metadata = self._metadata()
        if metadata.pop("consolidated_metadata", None) is not None:
            self._write_metadata(metadata)

    def results_digest(self, view: Mapping[str, Any]) -> str:
        """SHA-256 over the checksums of every finished unit and how tables present them."""
        digest = hashlib.sha256(json.dumps(jsonable(view), sort_keys=True).encode())
        for block in self.blocks:
            digest.update(str(block.attributes["library"]).encode())
            for number in block.committed():
                files = block.marker(number)["files"]
                digest.update(f"{block.number} {number} {json.dumps(files, sort_keys=True)}".encode())
        return digest.hexdigest()

    def set_view(self, view: Mapping[str, Any]) -> None:
        """How tables and exports present the results; the results themselves stay as they are."""
        self.provenance = {**self.provenance, "view": jsonable(view)}
        metadata = self._metadata()
        metadata.pop("consolidated_metadata", None)
        metadata["attributes"]["provenance"] = self.provenance
        self._write_metadata(metadata)

    def to_anndata(self, perturbation: str | None = None, mode: str | None = None) -> Any:
        """Predictions as an AnnData, one row per cell and time point; see `screen.store.export.anndata_of`."""
        return anndata_of(self, perturbation, mode)


def _write(block: Block, name: str, rows: slice, values: NDArray[Any], scratch: Path) -> dict[str, str]:
    """Writes one file of an array; the file's name below the block -> its checksum."""
    dense, array = block.dense(name), block.array(name)
    number = rows.start // (array.shards or array.chunks)[0]
    file = f"{name}/{'.'.join(['c', str(number), *('0' for _ in array.shape[1:])])}"
    path = block.path / file
    with writing(block.path / name):
        if dense is not None:
            dense.write(number, values, scratch)
        elif (content := _encoded(block.path / name, rows, values).get(path.name)) is not None:
            write_file(path, content, scratch=scratch, durable=True)
        else:
            path.unlink(missing_ok=True)
            return {}
        return {file: checksum(path)}


def _encoded(folder: Path, rows: slice, values: NDArray[Any]) -> dict[str, bytes]:
    """Name -> content of the files of some rows as zarr writes them; none where every value is the fill value."""
    memory = _in_memory({"zarr.json": folder / "zarr.json"})
    zarr.open_array(MemoryStore(memory), mode="r+")[rows] = values
    return {name: content.to_bytes() for name, content in memory.items() if name != "zarr.json"}


def _in_memory(files: Mapping[str, Path]) -> dict[str, Buffer]:
    """Files as zarr reads and writes them in memory."""
    return {name: cpu.Buffer.from_bytes(path.read_bytes()) for name, path in files.items()}


def _commit(block: Block, name: str, number: int, marker: Mapping[str, Any], scratch: Path) -> None:
    """Writes a marker in one step, after everything that it speaks of."""
    with writing(block.path / name):
        path = block.path / name / f"c.{number}"
        write_file(path, chunk_of(sealed(jsonable(marker))), scratch=scratch, durable=True)


@contextmanager
def _whole(path: Path, scratch: Path) -> Iterator[Path]:
    """A folder that gets its name when everything in it is written. Raises StoreError or WriteError where it cannot be."""
    try:
        with whole_folder(path, scratch) as partial:
            yield partial
    except PermissionError as error:
        raise StoreError(f"cannot write to {path.parent}: {error.strerror}; choose another --out") from error
    except OSError as error:
        raise WriteError(
            f"cannot write to {path.parent}: {error.strerror or error}; make room, then run again"
        ) from error


def jsonable(value: Any) -> Any:
    """Plain JSON types: paths and numpy scalars become text and numbers."""
    return json.loads(json.dumps(value, default=lambda v: v.item() if isinstance(v, np.generic) else str(v)))
