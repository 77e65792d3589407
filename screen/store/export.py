"""AnnData views of a store, in upstream's h5ad layout."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.cells.sparse import checked_csr
from screen.errors import StoreError, nearest
from screen.files import scratch_folder, whole
from screen.planning.layout import counts
from screen.store.arrays import group_of, stored_name
from screen.store.find import find
from screen.store.folder import damages
from screen.store.reader import Block, StoreReader

MAX_BYTES, BYTES_PER_VALUE = 8 * 2**30, 82  # measured: peak per row and gene, AnnData included


@dataclass(frozen=True)
class Lines:
    """N lines of an export, one per item and time point: library block and row of the item, perturbation, cell, time."""

    block_N: NDArray[np.int64]
    item_N: NDArray[np.int64]
    perturbation_N: NDArray[np.int64]
    cell_N: NDArray[np.int64]
    time_N: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.item_N)

    def at(self, time: int, block: int | None = None) -> NDArray[np.int64]:
        """Lines of one time point, of one library block or all."""
        chosen = self.time_N == time
        return np.flatnonzero(chosen if block is None else chosen & (self.block_N == block))


def anndata_of(store: StoreReader, perturbation: str | None = None, mode: str | None = None) -> Any:
    """Predictions as an AnnData: one row per cell and time point, as upstream writes them.

    X perturbed counts; layers pred_counts (control) and true_counts; obsm true_cls (control embedding), perturbed_cls,
    mean_cos_similarity (n, 1); varm gene_cos_similarity (G, n), column i belonging to row i; obs the metadata, cell_idx,
    time, perturbation. Arrays that the screen did not keep are left out. Rows of one perturbation with the same cell_idx
    are averaged, zeros included. `perturbation` is a name as of `find`, several edits of it and, without one, all of them
    follow one another.
    Raises GeneError for an unknown perturbation; StoreError for an unfinished screen, one that kept only summaries, or a
    result that does not fit in memory.
    """
    import anndata as ad
    import pandas as pd

    ids, wanted = list(store.perturbations("id")), find(store, perturbation, mode)
    if store.layout.keeps_summaries:
        raise StoreError(
            f"{store.path} holds summaries, no predictions of single cells; screen with `keep: predictions` to export them"
        )
    if not store.is_complete:
        raise StoreError(
            f"{store.path} is unfinished: {store.n_committed} of {store.n_units} units; run it again to finish"
        )
    table = _lines(store, wanted)
    n_genes = len(store.strings("genes/name"))
    if len(table) * n_genes * BYTES_PER_VALUE > MAX_BYTES:
        raise StoreError(
            f"{len(table)} rows x {n_genes} genes do not fit in memory; export one with --perturbation, e.g. {ids[wanted[0]]}"
        )
    layers, obsm, varm = _arrays(store, table)
    obs = _obs(store, table, ids)
    keys = pd.DataFrame({"perturbation": table.perturbation_N, "cell_idx": obs["cell_idx"].to_numpy()})
    code = keys.groupby(["perturbation", "cell_idx"], sort=False).ngroup().to_numpy()
    first = np.flatnonzero(~keys.duplicated().to_numpy())
    average = Averager(code, first)
    var = pd.DataFrame(index=pd.Index(store.strings("genes/name"), dtype=object))
    for column in ("ensembl_id", "symbol"):
        var[column] = store.strings(f"genes/{column}")
    result = ad.AnnData(
        X=average(layers.pop("X")) if layers else None,
        obs=obs.iloc[first].reset_index(drop=True).rename(index=str),
        var=var,
        layers={k: average(v) for k, v in layers.items()},
        obsm={k: average(v) for k, v in obsm.items()},
        varm={k: average(v).T for k, v in varm.items()},
    )
    result.uns["perturbscreen"] = {
        "identity_cells": store.provenance["identity"]["cells"],
        "model": store.provenance["identity"]["model"],
    }
    return result


def write_h5ad(store: StoreReader, path: Path, perturbation: str | None = None) -> tuple[int, int]:
    """Writes anndata_of a store to a file, in one step; returns (rows, genes)."""
    if path.is_dir():
        raise StoreError(f"{path} is a directory; --h5ad names the file to write")
    adata = anndata_of(store, perturbation)
    path.parent.mkdir(parents=True, exist_ok=True)
    # not beside the file: a run that begins in this directory would take it for a killed one's
    with (
        scratch_folder(path.with_name(f".{path.name}.writing")) as scratch,
        whole(path, scratch, durable=True) as partial,
    ):
        adata.write_h5ad(partial)
    return int(adata.n_obs), int(adata.n_vars)


class Averager:
    """Averages rows that share a group code, in order of first appearance."""

    def __init__(self, code: NDArray[np.int64], first: NDArray[np.int64]) -> None:
        self.code, self.n = code, np.bincount(code)
        self.first = first

    def __call__(self, array: NDArray[Any]) -> NDArray[np.float32]:
        if len(self.first) == len(self.code):
            return array.astype(np.float32)
        total = np.zeros((len(self.n), array.shape[1]))
        np.add.at(total, self.code, array)
        return (total / self.n[:, None]).astype(np.float32)


def _lines(store: StoreReader, wanted: Sequence[int]) -> Lines:
    """One line per item and time point that was screened, in upstream's order: batch of cells, time point, cell."""
    found = []
    for block in store.blocks:
        local = [p - block.first for p in wanted if 0 <= p - block.first < block.n_perturbations]
        rows = [block.rows_of(p) for p in local]
        item_N = np.concatenate([np.zeros(0, np.int64), *rows])
        perturbation_N = np.repeat(np.array(local, dtype=np.int64) + block.first, [len(r) for r in rows])
        cell_N = block.read("items/cell", item_N).astype(np.int64)
        block_N = np.full(len(item_N), block.number)
        for k, t in enumerate(store.layout.pred_tps):
            is_screened_N = block.read(f"items/is_screened_t{t}", item_N)
            place_N, time_N = np.full((2, len(item_N)), [[k], [t]])
            columns = (block_N, item_N, perturbation_N, cell_N, time_N, place_N)
            found.append(np.stack(columns)[:, is_screened_N])
    *lines, place_N = np.concatenate(found, axis=1)
    table = Lines(*lines)
    batch_N = table.cell_N // int(store.provenance["view"]["export_batch_size"])
    order_N = np.lexsort((table.cell_N, place_N, batch_N, table.perturbation_N))
    return Lines(*(x[order_N] for x in lines))


Read = Callable[[Block, int, NDArray[np.int64]], NDArray[Any]]
"""Values at rows of one library block and time point."""


def _gather(store: StoreReader, table: Lines, row_N: NDArray[np.int64], read: Read) -> NDArray[np.float32]:
    """What `read` gives for the row (an item or a cell) of every line."""
    out: NDArray[np.float32] | None = None
    for block in store.blocks:
        for t in store.layout.pred_tps:
            at = table.at(t, block.number)
            unique, inverse = np.unique(row_N[at], return_inverse=True)
            values = read(block, t, unique)
            if out is None:
                out = np.zeros((len(table), *values.shape[1:]), dtype=np.float32)
            out[at] = values[inverse]
    assert out is not None
    return out


def _arrays(store: StoreReader, table: Lines) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """(X and layers, obsm, varm), each (lines, ...)."""
    layout, layers = store.layout, {}

    def control(name: str) -> NDArray[np.float32]:
        return _gather(store, table, table.cell_N, lambda b, t, cells: store.control(f"{name}_t{t}", b, cells))

    def item(name: str) -> NDArray[np.float32]:
        return _gather(store, table, table.item_N, lambda b, t, rows: b.read(f"{name}/t{t}", rows))

    def effect(name: str) -> NDArray[np.float32]:
        return _gather(store, table, table.item_N, lambda b, t, rows: b.effect(f"{name}_t{t}", rows))

    if layout.has_counts:
        before = control("expression")
        after = before.astype(np.float64) + item("delta") / np.float32(layout.delta_scale)
        if layout.expression_scale == "model":
            layers = {"X": after, "pred_counts": before}
        else:
            layers = {"X": counts(after, effect("total")), "pred_counts": counts(before, control("total"))}
        true_counts = _true_counts(store, table)
        if true_counts is not None:
            layers["true_counts"] = true_counts
    obsm = {"true_cls": control("embedding")}
    if layout.keep_embeddings:
        obsm["perturbed_cls"] = item("embedding")
    obsm["mean_cos_similarity"] = effect("embedding_cosine")[:, None]
    varm = {"gene_cos_similarity": item("gene_cosine")} if layout.keep_gene_cosine else {}
    return layers, obsm, varm


def _true_counts(store: StoreReader, table: Lines) -> NDArray[np.float32] | None:
    n_genes = len(store.strings("genes/name"))
    parts: NDArray[np.float32] | None = None
    for t in store.layout.pred_tps:
        if f"cells/{group_of(t)}/true_counts" not in store.group:
            return None
        place = f"cells/{group_of(t)}/true_counts"
        data, indices, indptr = (store.read(f"{place}/{n}") for n in ("data", "indices", "indptr"))
        with damages(store.path / place):
            matrix = checked_csr(data, indices, indptr, (store.n_cells, n_genes))
        at = table.at(t)
        if parts is None:
            parts = np.zeros((len(table), matrix.shape[1]), dtype=np.float32)
        parts[at] = matrix[table.cell_N[at]].toarray()
    return parts


def _obs(store: StoreReader, table: Lines, ids: list[str]) -> Any:
    """Metadata of the target state of each line, then cell_idx, time, perturbation, target_gene."""
    import pandas as pd

    var_list: list[str] | None = store.provenance["view"]["var_list"]
    columns: dict[str, NDArray[Any]] = {}
    for t in store.layout.pred_tps:
        place = f"cells/{group_of(t)}/obs"
        with damages(store.path / place):
            names = [str(k) for k, _ in store.group[place].members()]  # type: ignore[union-attr]
        for name in var_list if var_list is not None else sorted(names):
            if stored_name(name) not in names:
                raise StoreError(
                    f'var_list names "{name}", which the cells of time point {t} lack{nearest(name, names)}'
                )
            values = columns.setdefault(name, np.full(len(table), "", dtype=object))
            at = table.at(t)
            values[at] = store.strings(f"cells/{group_of(t)}/obs/{stored_name(name)}")[table.cell_N[at]]
    obs = pd.DataFrame(columns, index=[str(i) for i in range(len(table))])
    cell_idx = np.zeros(len(table), dtype=np.int64)
    for t in store.layout.pred_tps:
        at = table.at(t)
        cell_idx[at] = store.read(f"cells/{group_of(t)}/cell_index")[table.cell_N[at]]
    obs["cell_idx"] = cell_idx
    ours = {
        "time": table.time_N,
        "perturbation": np.array(ids, dtype=object)[table.perturbation_N],
        "target_gene": store.perturbations("target_symbol")[table.perturbation_N],
    }
    for name, values in ours.items():
        obs[name if name not in obs.columns else f"perturbscreen_{name}"] = values
    return obs
