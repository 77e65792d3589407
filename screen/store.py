"""ScreenStore: the Zarr v3 directory of one screen; layout, commit per unit, resume.

Layout (format 1): see docs/store.md. `control/` once per cell, `library/<n>/` one group per library block with its
items, deltas and commit markers. A unit is done when its marker, a group written last and atomically, is there.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from screen.effects import Effect
from screen.errors import StoreError
from screen.genes import Vocabulary
from screen.perturbations import Library
from screen.plan import Plan
from screen.tokens import SOURCE, State, TokenBank

FORMAT, FORMAT_VERSION = "perturbscreen", 1
FLOAT16_SCALE = 4096.0
GENES_PER_CHUNK = 256
ROWS_PER_CHUNK = 256
CELLS_PER_CHUNK = 256


@dataclass(frozen=True)
class Layout:
    """What a store holds beside the items: dtype of deltas, optional arrays, expression scale."""

    pred_tps: tuple[int, ...]
    width: int
    expression_scale: str | None
    dtype: str = "float16"
    keep_embeddings: bool = False
    keep_gene_cosine: bool = False

    @property
    def delta_scale(self) -> float:
        """What deltas are multiplied by before they are stored."""
        return FLOAT16_SCALE if self.dtype == "float16" else 1.0


def _array(
    group: zarr.Group, name: str, shape: Sequence[int], dtype: Any, chunks: Sequence[int], **options: Any
) -> zarr.Array[Any]:
    return group.create_array(
        name,
        shape=tuple(shape),
        dtype=dtype,
        chunks=tuple(max(1, c) for c in chunks),
        compressors=options.pop("compressors", None),
        **options,
    )


def _put(group: zarr.Group, name: str, values: Any) -> None:
    """A small array in one chunk; text as variable-length UTF-8."""
    array = np.asarray(values)
    if array.dtype.kind in "OUT":
        array = np.asarray([str(v) for v in array], dtype=np.dtypes.StringDType())
        stored = _array(group, name, array.shape, str, array.shape)
    else:
        stored = _array(group, name, array.shape, array.dtype, array.shape, compressors="auto")
    if array.size:
        stored[...] = array


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
        path.parent.mkdir(parents=True, exist_ok=True)
        root = zarr.create_group(partial, overwrite=True)
        _write_genes(root, vocabulary)
        _write_cells(root, bank, layout.pred_tps)
        _create_control(root, bank.n_cells, len(vocabulary), layout)
        _create_block(root, plan, library, vocabulary, layout)
        root.attrs.update(
            {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "layout": _jsonable(layout.__dict__),
                "provenance": _jsonable(provenance),
            }
        )
        partial.replace(path)
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

    def finished_ns(self) -> int:
        """When the newest commit marker was written, in nanoseconds since 1970."""
        markers = [p.stat().st_mtime_ns for p in (self.path / "library" / "0" / "commits").glob("*/zarr.json")]
        return max(markers, default=0)

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


def encode(effects: Iterable[Sequence[Effect | None]], layout: Layout, n_genes: int) -> dict[str, NDArray[Any]]:
    """The columns of consecutive items, one Effect (or None: nothing predicted) per predicted time point of each item."""
    rows = list(effects)
    columns: dict[str, NDArray[Any]] = {}
    for k, t in enumerate(layout.pred_tps):
        found = [r[k] for r in rows]
        columns[f"items/embedding_cosine_t{t}"] = np.array(
            [e.embedding_cosine if e else 0.0 for e in found], dtype=np.float32
        )
        if layout.expression_scale is not None:
            delta = _stack([e.delta_G if e else None for e in found], n_genes)
            columns[f"delta/t{t}"] = (delta * np.float32(layout.delta_scale)).astype(layout.dtype)
            columns[f"items/total_t{t}"] = np.array([e.total if e else 0.0 for e in found], dtype=np.float32)
            columns[f"items/rms_delta_t{t}"] = np.array([e.rms_delta if e else 0.0 for e in found], dtype=np.float32)
        if layout.keep_embeddings:
            columns[f"embedding/t{t}"] = _stack([e.embedding_D if e else None for e in found], layout.width)
        if layout.keep_gene_cosine:
            columns[f"gene_cosine/t{t}"] = _stack([e.gene_cosine_G if e else None for e in found], n_genes)
    return columns


def _stack(vectors: Sequence[NDArray[np.float32] | None], width: int) -> NDArray[np.float32]:
    out = np.zeros((len(vectors), width), dtype=np.float32)
    for row, vector in enumerate(vectors):
        if vector is not None:
            out[row] = vector
    return out


def stored_name(column: str) -> str:
    """The array name of a metadata column: a slash would make a group of it."""
    return column.replace("/", "_")


def _write_genes(root: zarr.Group, vocabulary: Vocabulary) -> None:
    genes = root.create_group("genes")
    for name in ("ensembl_id", "symbol", "name"):
        _put(genes, name, getattr(vocabulary, name))


def _write_cells(root: zarr.Group, bank: TokenBank, pred_tps: Sequence[int]) -> None:
    cells = root.create_group("cells")
    _put(cells, "id", bank.cell_id_C)
    for number in (SOURCE, *pred_tps):
        group = cells.create_group("source" if number == SOURCE else f"t{number}")
        _write_state(group, bank.states[number])


def _write_state(group: zarr.Group, state: State) -> None:
    _put(group, "cell_index", state.cell_index_C)
    _put(group, "n_tokens", state.tokens.length_C)
    if state.size_factor_C is not None:
        _put(group, "size_factor", state.size_factor_C)
    obs = group.create_group("obs")
    for column, values in state.obs.items():
        _put(obs, stored_name(column), values)
    if state.counts is not None:
        counts = group.create_group("true_counts", attributes={"shape": list(state.counts.shape), "encoding": "csr"})
        for name in ("data", "indices", "indptr"):
            _put(counts, name, getattr(state.counts, name))


def _create_control(root: zarr.Group, n_cells: int, n_genes: int, layout: Layout) -> None:
    control = root.create_group("control", attributes={"expression_scale": layout.expression_scale})
    for t in layout.pred_tps:
        if layout.expression_scale is not None:
            _array(control, f"expression_t{t}", (n_cells, n_genes), "float32", (min(CELLS_PER_CHUNK, n_cells), n_genes))
            _array(control, f"total_t{t}", (n_cells,), "float32", (n_cells,))
        _array(
            control,
            f"embedding_t{t}",
            (n_cells, layout.width),
            "float32",
            (min(CELLS_PER_CHUNK, n_cells), layout.width),
        )
        _array(control, f"is_predicted_t{t}", (n_cells,), "bool", (n_cells,))


def _create_block(root: zarr.Group, plan: Plan, library: Library, vocabulary: Vocabulary, layout: Layout) -> None:
    attributes = {
        "n_items": plan.n_items,
        "unit_rows": plan.unit_rows,
        "library_fingerprint": library.fingerprint(vocabulary),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    block = root.create_group("library/0", attributes=attributes)
    block.create_group("commits")
    table = block.create_group("perturbations")
    ps = library.perturbations
    _put(table, "id", library.ids(vocabulary))
    _put(table, "mode", [p.mode for p in ps])
    _put(table, "site", [p.site_label for p in ps])
    _put(table, "target_gene", ["+".join(vocabulary.ensembl_id[g] for g in p.genes) for p in ps])
    _put(table, "target_symbol", [p.symbols(vocabulary) for p in ps])
    items = block.create_group("items")
    _put(items, "perturbation", plan.perturbation_I)
    _put(items, "cell", plan.cell_I)
    _put(items, "n_edited", plan.n_edited_I)
    for k, t in enumerate(layout.pred_tps):
        _put(items, f"is_screened_t{t}", plan.is_screened_IT[:, k])
    unit = min(plan.unit_rows, plan.n_items)
    for name in _scalars(layout):
        _array(items, name, (plan.n_items,), "int16" if name in ("rank", "length") else "float32", (unit,))
    for name, width, dtype in _matrices(layout, len(vocabulary)):
        _create_matrix(block, name, plan, width, dtype, layout)


def _scalars(layout: Layout) -> list[str]:
    with_counts = ["total", "rms_delta"] if layout.expression_scale is not None else []
    return ["rank", "length"] + [f"{n}_t{t}" for t in layout.pred_tps for n in ["embedding_cosine", *with_counts]]


def _matrices(layout: Layout, n_genes: int) -> list[tuple[str, int, str]]:
    wanted = [("delta", n_genes, layout.dtype)] if layout.expression_scale is not None else []
    wanted += [("embedding", layout.width, "float32")] if layout.keep_embeddings else []
    wanted += [("gene_cosine", n_genes, "float32")] if layout.keep_gene_cosine else []
    return wanted


def _create_matrix(block: zarr.Group, name: str, plan: Plan, width: int, dtype: str, layout: Layout) -> None:
    """One array per time point: a shard is the rows of one unit, an inner chunk 256 rows x 256 genes."""
    group = block.create_group(name)
    rows, columns = min(ROWS_PER_CHUNK, plan.unit_rows), min(GENES_PER_CHUNK, width)
    shards = (plan.unit_rows, -(-width // columns) * columns)
    attributes: dict[str, Any] = {}
    if name == "delta":
        attributes = {
            "scale_factor": 1.0 / layout.delta_scale,
            "long_name": "log1p CP10K change against the same cell's control",
        }
    for t in layout.pred_tps:
        _array(
            group,
            f"t{t}",
            (plan.n_items, width),
            dtype,
            (rows, columns),
            shards=shards,
            attributes=attributes,
            compressors="auto" if name == "gene_cosine" else None,
        )


def _jsonable(value: Any) -> Any:
    """Plain JSON types: paths and numpy scalars become text and numbers."""
    return json.loads(json.dumps(value, default=lambda v: v.item() if isinstance(v, np.generic) else str(v)))
