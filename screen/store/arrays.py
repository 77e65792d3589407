"""Arrays: the creation of every array of a store. The page docs/store.md describes each."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from screen.cells.bank import SOURCE, State, TokenBank
from screen.cells.vocabulary import Vocabulary
from screen.files import checksum
from screen.planning.layout import MOMENTS, SUMMARIES, Layout
from screen.planning.perturbations import Library
from screen.planning.plan import Plan
from screen.planning.segments import Segments, has_moments

ROWS_PER_CHUNK = 256
"""Rows of an inner chunk, all columns wide: what plain zarr reads at least."""
MOMENTS_PER_CHUNK = 8
"""Rows of an inner chunk of partial moments: what they fill up at most, wide as they are, is not written."""
ROWS_PER_FILE = 2**22
FLAT: Any = {"name": "default", "configuration": {"separator": "."}}
"""Chunk files lie beside their array's metadata, not each in a folder of its own."""


def _array(
    group: zarr.Group, name: str, shape: Sequence[int], dtype: Any, chunks: Sequence[int], **options: Any
) -> zarr.Array[Any]:
    return group.create_array(
        name,
        shape=tuple(shape),
        dtype=dtype,
        chunks=tuple(max(1, c) for c in chunks),
        compressors=options.pop("compressors", None),
        chunk_key_encoding=FLAT,
        **options,
    )


def _put(group: zarr.Group, name: str, values: Any, dimension: str, compressors: Any = "auto") -> None:
    """An array that is written at once, in one chunk up to ROWS_PER_FILE; text as variable-length UTF-8."""
    dims = (dimension,)
    array = np.asarray(values)
    if array.dtype.kind in "OUT":
        array = np.asarray([str(v) for v in array], dtype=np.dtypes.StringDType())
        stored = _array(group, name, array.shape, str, array.shape, dimension_names=dims)
    else:
        chunks = (min(len(array), ROWS_PER_FILE),)
        stored = _array(group, name, array.shape, array.dtype, chunks, compressors=compressors, dimension_names=dims)
    if array.size:
        stored[...] = array


def stored_name(column: str) -> str:
    """The array name of a metadata column: a slash would make a group of it."""
    return column.replace("%", "%25").replace("/", "%2F")


def group_of(state: int) -> str:
    """The group below `cells/` that holds what is known of a state."""
    return "source" if state == SOURCE else f"t{state}"


def checksums(folder: Path) -> dict[str, str]:
    """File below a folder that was just written -> its checksum; its own metadata, which is going to hold them, aside."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / "zarr.json")
    return {str(p.relative_to(folder)): checksum(p) for p in files}


def write_genes(root: zarr.Group, vocabulary: Vocabulary) -> None:
    genes = root.create_group("genes")
    for name in ("ensembl_id", "symbol", "name"):
        _put(genes, name, getattr(vocabulary, name), "gene")


def write_cells(root: zarr.Group, bank: TokenBank, pred_tps: Sequence[int]) -> None:
    cells = root.create_group("cells")
    _put(cells, "id", bank.cell_id_C, "cell")
    for state in dict.fromkeys((SOURCE, *pred_tps)):
        _write_state(cells.create_group(group_of(state)), bank.states[state])


def _write_state(group: zarr.Group, state: State) -> None:
    _put(group, "cell_index", state.cell_index_C, "cell")
    _put(group, "n_tokens", state.tokens.length_C, "cell")
    if state.barcode_C is not None:
        _put(group, "barcode", state.barcode_C, "cell")
    if state.size_factor_C is not None:
        _put(group, "size_factor", state.size_factor_C, "cell")
    obs = group.create_group("obs")
    for column, values in state.obs.items():
        _put(obs, stored_name(column), values, "cell")
    if state.counts is not None:
        counts = group.create_group("true_counts", attributes={"shape": list(state.counts.shape), "encoding": "csr"})
        for name, dimension in (("data", "entry"), ("indices", "entry"), ("indptr", "cell_edge")):
            _put(counts, name, getattr(state.counts, name), dimension)


def create_block(
    block: zarr.Group,
    plan: Plan,
    library: Library,
    vocabulary: Vocabulary,
    layout: Layout,
    attributes: Mapping[str, Any],
) -> None:
    """Fills an empty group as a library block; `attributes` join its own."""
    own: dict[str, Any] = {
        "n_items": plan.n_items,
        "unit_rows": plan.unit_rows,
        "cells_per_block": plan.cells_per_block,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    block.attrs.update(own | dict(attributes))
    _array(block, "commits", (plan.n_units,), str, (1,), dimension_names=("unit",))
    _write_perturbations(block, library, vocabulary)
    _write_items(block, plan, len(library), layout)
    _create_control(block, plan, len(vocabulary), layout)
    for name, (width, dtype) in layout.matrices(len(vocabulary)).items():
        _create_matrix(block, name, plan, width, dtype, layout)
    if layout.has_counts:
        segments = Segments.of(plan)
        if layout.keeps_summaries:
            _create_summaries(block, segments, len(vocabulary), layout)
        elif has_moments(segments, plan, layout):
            _create_moments(block, plan, segments, len(vocabulary), layout)


def _write_perturbations(block: zarr.Group, library: Library, vocabulary: Vocabulary) -> None:
    table = block.create_group("perturbations")
    ps = library.perturbations
    _put(table, "id", library.ids(vocabulary), "perturbation")
    _put(table, "mode", [p.mode for p in ps], "perturbation")
    _put(table, "site", [p.site_label for p in ps], "perturbation")
    _put(table, "target_gene", ["+".join(vocabulary.ensembl_id[g] for g in p.genes) for p in ps], "perturbation")
    _put(table, "target_symbol", [p.symbols(vocabulary) for p in ps], "perturbation")
    _put(table, "must_screen", np.array(library.must_screen, dtype=bool), "perturbation")
    _put(table, "is_null", np.array(library.is_null, dtype=bool), "perturbation")


def _write_items(block: zarr.Group, plan: Plan, n_perturbations: int, layout: Layout) -> None:
    items = block.create_group("items")
    # not compressed: some rows of many are read for every perturbation
    _put(items, "perturbation", plan.perturbation_I, "item", None)
    _put(items, "cell", plan.cell_I, "item", None)
    _put(items, "n_edited", plan.n_edited_I, "item", None)
    for k, t in enumerate(layout.pred_tps):
        _put(items, f"is_screened_t{t}", plan.is_screened_IT[:, k], "item", None)
    start_BP = plan.starts(n_perturbations)
    starts = _array(
        items,
        "start",
        start_BP.shape,
        "int64",
        (len(start_BP), ROWS_PER_CHUNK),
        compressors="auto",
        dimension_names=("block", "perturbation_edge"),
    )
    starts[...] = start_BP
    _array(
        items,
        "effects",
        (plan.n_items, len(layout.effects)),
        "float32",
        (min(plan.unit_rows, plan.n_items), len(layout.effects)),
        attributes={"columns": list(layout.effects)},
        dimension_names=("item", "effect"),
    )


def _create_control(block: zarr.Group, plan: Plan, n_genes: int, layout: Layout) -> None:
    """Empty arrays for the unedited predictions: a chunk is a block of cells."""
    control = block.create_group("control", attributes={"expression_scale": layout.expression_scale})
    n_cells = len(plan.stratum_C)
    _array(control, "commits", (plan.n_blocks,), str, (1,), dimension_names=("block",))
    rows = min(plan.cells_per_block, n_cells)
    for name, (width, dtype) in layout.controls(n_genes).items():
        dimension = "embedding" if name.startswith("embedding") else "gene"
        shape, chunks = ((n_cells,), (rows,)) if width is None else ((n_cells, width), (rows, width))
        names = ("cell",) if width is None else ("cell", dimension)
        _array(control, name, shape, dtype, chunks, dimension_names=names)


def _create_matrix(block: zarr.Group, name: str, plan: Plan, width: int, dtype: str, layout: Layout) -> None:
    """One array per time point: a shard is the rows of one unit, an inner chunk 256 of them, all columns wide."""
    group = block.create_group(name)
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
            (min(ROWS_PER_CHUNK, plan.unit_rows), width),
            shards=(plan.unit_rows, width),
            attributes=attributes,
            dimension_names=("item", "embedding" if name == "embedding" else "gene"),
            compressors="auto" if name == "gene_cosine" else None,
        )


def _write_segments(group: zarr.Group, segments: Segments, layout: Layout) -> None:
    """Which group of items each row is about."""
    for name in ("perturbation", "stratum"):
        _put(group, name, getattr(segments, f"{name}_J"), "segment")
    for k, t in enumerate(layout.pred_tps):
        _put(group, f"n_cells_t{t}", segments.n_cells_JT[:, k], "segment")


def _create_summaries(block: zarr.Group, segments: Segments, n_genes: int, layout: Layout) -> None:
    """Empty statistics of groups of items; a shard is the groups of one unit."""
    group = block.create_group("summaries", attributes={"rows_per_unit": segments.rows_per_unit})
    _write_segments(group, segments, layout)
    chunk_rows = math.gcd(segments.rows_per_unit, ROWS_PER_CHUNK)
    for name in SUMMARIES:
        for t in layout.pred_tps:
            _array(
                group.require_group(name),
                f"t{t}",
                (len(segments.perturbation_J), n_genes),
                "float32",
                (chunk_rows, n_genes),
                shards=(segments.rows_per_unit, n_genes),
                dimension_names=("segment", "gene"),
            )


def _create_moments(block: zarr.Group, plan: Plan, segments: Segments, n_genes: int, layout: Layout) -> None:
    """Empty partial moments of groups of items; a shard is the groups of one unit."""
    group = block.create_group("moments", attributes={"rows_per_unit": segments.rows_per_unit})
    _write_segments(group, segments, layout)
    # by this, tables know whether the groups that they are asked for are made of these
    _put(group, "stratum_of_cell", plan.stratum_C.astype(np.int32), "cell")
    chunk_rows = math.gcd(segments.rows_per_unit, MOMENTS_PER_CHUNK)
    for name, dtype in MOMENTS.items():
        for t in layout.pred_tps:
            _array(
                group.require_group(name),
                f"t{t}",
                (len(segments.perturbation_J), 2, n_genes),
                dtype,
                (chunk_rows, 2, n_genes),
                shards=(segments.rows_per_unit, 2, n_genes),
                dimension_names=("segment", "moment", "gene"),
            )
