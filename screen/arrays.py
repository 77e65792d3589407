"""Arrays: the creation of every array of a store. The page docs/store.md describes each."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import zarr

from screen.genes import Vocabulary
from screen.layout import Layout
from screen.perturbations import Library
from screen.plan import Plan
from screen.tokens import SOURCE, State, TokenBank

GENES_PER_CHUNK = 256
ROWS_PER_CHUNK = 256
CELLS_PER_CHUNK = 256


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


def _put(group: zarr.Group, name: str, values: Any, dimension: str) -> None:
    """A small array in one chunk; text as variable-length UTF-8."""
    dims = (dimension,)
    array = np.asarray(values)
    if array.dtype.kind in "OUT":
        array = np.asarray([str(v) for v in array], dtype=np.dtypes.StringDType())
        stored = _array(group, name, array.shape, str, array.shape, dimension_names=dims)
    else:
        stored = _array(group, name, array.shape, array.dtype, array.shape, compressors="auto", dimension_names=dims)
    if array.size:
        stored[...] = array


def stored_name(column: str) -> str:
    """The array name of a metadata column: a slash would make a group of it."""
    return column.replace("%", "%25").replace("/", "%2F")


def write_genes(root: zarr.Group, vocabulary: Vocabulary) -> None:
    genes = root.create_group("genes")
    for name in ("ensembl_id", "symbol", "name"):
        _put(genes, name, getattr(vocabulary, name), "gene")


def write_cells(root: zarr.Group, bank: TokenBank, pred_tps: Sequence[int]) -> None:
    cells = root.create_group("cells")
    _put(cells, "id", bank.cell_id_C, "cell")
    for number in (SOURCE, *pred_tps):
        group = cells.create_group("source" if number == SOURCE else f"t{number}")
        _write_state(group, bank.states[number])


def _write_state(group: zarr.Group, state: State) -> None:
    _put(group, "cell_index", state.cell_index_C, "cell")
    _put(group, "n_tokens", state.tokens.length_C, "cell")
    if state.size_factor_C is not None:
        _put(group, "size_factor", state.size_factor_C, "cell")
    obs = group.create_group("obs")
    for column, values in state.obs.items():
        _put(obs, stored_name(column), values, "cell")
    if state.counts is not None:
        counts = group.create_group("true_counts", attributes={"shape": list(state.counts.shape), "encoding": "csr"})
        for name, dimension in (("data", "entry"), ("indices", "entry"), ("indptr", "cell_edge")):
            _put(counts, name, getattr(state.counts, name), dimension)


def create_control(root: zarr.Group, n_cells: int, n_genes: int, layout: Layout) -> None:
    """Empty arrays for the unedited predictions."""
    control = root.create_group("control", attributes={"expression_scale": layout.expression_scale})
    rows = min(CELLS_PER_CHUNK, n_cells)
    arrays: list[tuple[str, int | None, str, str]] = [("embedding", layout.width, "float32", "embedding")]
    arrays.append(("is_predicted", None, "bool", ""))
    if layout.expression_scale is not None:
        arrays += [("expression", n_genes, "float32", "gene"), ("total", None, "float32", "")]
    for name, width, dtype, dimension in arrays:
        shape, chunks = ((n_cells,), (n_cells,)) if width is None else ((n_cells, width), (rows, width))
        names = ("cell",) if width is None else ("cell", dimension)
        for t in layout.pred_tps:
            _array(control, f"{name}_t{t}", shape, dtype, chunks, dimension_names=names)


def create_block(root: zarr.Group, plan: Plan, library: Library, vocabulary: Vocabulary, layout: Layout) -> None:
    attributes = {
        "n_items": plan.n_items,
        "unit_rows": plan.unit_rows,
        "cells_per_block": plan.cells_per_block,
        "library_fingerprint": library.fingerprint(vocabulary),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    block = root.create_group("library/0", attributes=attributes)
    block.create_group("commits")
    table = block.create_group("perturbations")
    ps = library.perturbations
    _put(table, "id", library.ids(vocabulary), "perturbation")
    _put(table, "mode", [p.mode for p in ps], "perturbation")
    _put(table, "site", [p.site_label for p in ps], "perturbation")
    _put(table, "target_gene", ["+".join(vocabulary.ensembl_id[g] for g in p.genes) for p in ps], "perturbation")
    _put(table, "target_symbol", [p.symbols(vocabulary) for p in ps], "perturbation")
    items = block.create_group("items")
    _put(items, "perturbation", plan.perturbation_I, "item")
    _put(items, "cell", plan.cell_I, "item")
    _put(items, "n_edited", plan.n_edited_I, "item")
    for k, t in enumerate(layout.pred_tps):
        _put(items, f"is_screened_t{t}", plan.is_screened_IT[:, k], "item")
    unit = min(plan.unit_rows, plan.n_items)
    for name in _scalars(layout):
        _array(
            items,
            name,
            (plan.n_items,),
            "int16" if name in ("rank", "length") else "float32",
            (unit,),
            dimension_names=("item",),
        )
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
            dimension_names=("item", "embedding" if name == "embedding" else "gene"),
            compressors="auto" if name == "gene_cosine" else None,
        )
