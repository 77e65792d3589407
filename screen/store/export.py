"""Exports in upstream's h5ad layout, and AnnData views of a store."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.cells.sparse import checked_csr
from screen.errors import StoreError
from screen.planning.layout import LOG1P, counts
from screen.store.arrays import group_of
from screen.store.folder import damages
from screen.store.lines import Lines, Wanted, cells_of, facts_of, gather, genes_of, lines_of, metadata_of
from screen.store.reader import StoreReader

MAX_BYTES, BYTES_PER_VALUE = 8 * 2**30, 82  # measured: peak per row and gene, AnnData included


class UpstreamRows:
    """Rows of an export as upstream writes them, one per cell and time point, to be read some at a time.

    X perturbed counts; layers pred_counts (control) and true_counts; obsm true_cls (control embedding), perturbed_cls,
    mean_cos_similarity (n, 1); varm gene_cos_similarity (G, n), column i belonging to row i; obs the metadata, cell_idx,
    target_cell, source_cell, time, perturbation, target_gene. Arrays that the screen did not keep are left out. Rows of one perturbation
    with the same cell_idx are averaged, zeros included.
    """

    def __init__(self, store: StoreReader, wanted: Wanted) -> None:
        import pandas as pd

        self.store, self.lines = store, lines_of(store, wanted)
        obs, ids = metadata_of(store, self.lines), store.perturbations("id")
        cells = cells_of(store, self.lines)
        cell_idx_N, perturbation_N = cells.pop("cell_idx"), self.lines.perturbation_N
        keys = pd.DataFrame({"perturbation": perturbation_N, "cell_idx": cell_idx_N})
        self._row_N = keys.groupby(["perturbation", "cell_idx"], sort=False).ngroup().to_numpy()
        obs["cell_idx"] = cell_idx_N
        target_N = store.perturbations("target_symbol")[perturbation_N]
        for name, values in (cells | {"perturbation": ids[perturbation_N], "target_gene": target_N}).items():
            obs[name if name not in obs else f"perturbscreen_{name}"] = values
        first = np.flatnonzero(~keys.duplicated().to_numpy())
        self.obs = pd.DataFrame({k: v[first] for k, v in obs.items()}, index=[str(i) for i in range(len(first))])
        self.var = genes_of(store)
        what = {None: "", "model": "the model's own log expression"}.get(store.layout.expression_scale, "counts")
        facts = facts_of(store, wanted)
        self.uns = {"X": "predictions for edited cells", "scale": what, "layout": "upstream"} | facts
        is_expected = store.layout.expression_scale == LOG1P and facts["readout"] == "expected"
        self.notes: Sequence[str] = _notes(len(self.lines), len(first), is_expected)

    @cached_property
    def _true_counts(self) -> dict[int, Any]:
        return _true_counts(self.store)

    def arrays(self, start: int, stop: int) -> dict[str, NDArray[np.float32]]:
        """Every array's part of rows start to stop, by its place in the file."""
        line_N = np.flatnonzero((self._row_N >= start) & (self._row_N < stop))
        average = Averager(self._row_N[line_N] - start)
        layers, obsm, varm = _arrays(self.store, self.lines.take(line_N), self._true_counts)
        found = {"X": average(layers.pop("X"))} if layers else {}
        for part, arrays in (("layers", layers), ("obsm", obsm), ("varm", varm)):
            found |= {f"{part}/{name}": average(values) for name, values in arrays.items()}
        return {name: values.T if name.startswith("varm/") else values for name, values in found.items()}


def _notes(n_lines: int, n_rows: int, is_expected: bool) -> list[str]:
    """What somebody who compares it with upstream's own file should know."""
    notes = []
    if n_rows < n_lines:
        notes.append(
            f"{n_lines:,} predictions are {n_rows:,} rows: those of one perturbation with the same cell_idx are averaged, as "
            "upstream does"
        )
    if is_expected:
        notes.append(
            "counts are expected ones; of a zero-inflated head upstream writes mu, which is larger (readout: mu, or n_samples: 1)"
        )
    return notes


def anndata_of(store: StoreReader, perturbation: str | None = None, mode: str | None = None) -> Any:
    """Predictions as an AnnData, `UpstreamRows` has all that is in it.

    `perturbation` is a name as of `find`, several edits of it and, without one, all of them follow one another.
    Raises GeneError for an unknown perturbation; StoreError for an unfinished screen, one that kept only summaries, or a
    result that does not fit in memory.
    """
    return in_memory(store, Wanted(() if perturbation is None else (perturbation,), mode))


def in_memory(store: StoreReader, wanted: Wanted) -> Any:
    """`anndata_of` whatever is wanted."""
    import anndata as ad

    rows = UpstreamRows(store, wanted)
    n_rows, n_genes = len(rows.obs), len(rows.var)
    if len(rows.lines) * n_genes * BYTES_PER_VALUE > MAX_BYTES:
        one = store.perturbations("id")[wanted.perturbations(store)[0]]
        raise StoreError(
            f"{n_rows} rows x {n_genes} genes do not fit in memory; take one perturbation, e.g. {one}, or write them all to "
            f"a file: `perturbscreen export {store.path.parent} --h5ad FILE`"
        )
    parts: dict[str, dict[str, Any]] = {"layers": {}, "obsm": {}, "varm": {}}
    arrays = rows.arrays(0, n_rows)
    x = arrays.pop("X", None)
    for place, values in arrays.items():
        part, _, name = place.partition("/")
        parts[part][name] = values
    return ad.AnnData(X=x, obs=rows.obs, var=rows.var, uns={"perturbscreen": rows.uns}, **parts)


class Averager:
    """Averages lines of the same row, in order of rows."""

    def __init__(self, row_N: NDArray[np.int64]) -> None:
        self.row_N, self.n_lines = row_N, np.bincount(row_N)

    def __call__(self, array: NDArray[Any]) -> NDArray[np.float32]:
        if (self.row_N == np.arange(len(self.row_N))).all():
            return array.astype(np.float32)
        total = np.zeros((len(self.n_lines), array.shape[1]))
        np.add.at(total, self.row_N, array)
        return (total / self.n_lines[:, None]).astype(np.float32)


def _arrays(
    store: StoreReader, table: Lines, true_counts: Mapping[int, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """(X and layers, obsm, varm), each (lines, ...)."""
    layout, layers = store.layout, {}

    def control(name: str) -> NDArray[np.float32]:
        return gather(store, table, table.cell_N, lambda b, t, cells: store.control(f"{name}_t{t}", b, cells))

    def item(name: str) -> NDArray[np.float32]:
        return gather(store, table, table.item_N, lambda b, t, rows: b.read(f"{name}/t{t}", rows))

    def effect(name: str) -> NDArray[np.float32]:
        return gather(store, table, table.item_N, lambda b, t, rows: b.effect(f"{name}_t{t}", rows))

    if layout.has_counts:
        before = control("expression")
        after = before.astype(np.float64) + item("delta") / np.float32(layout.delta_scale)
        if layout.expression_scale == "model":
            layers = {"X": after, "pred_counts": before}
        else:
            layers = {"X": counts(after, effect("total")), "pred_counts": counts(before, control("total"))}
        if true_counts:
            layers["true_counts"] = _at(true_counts, table)
    obsm = {"true_cls": control("embedding")}
    if layout.keep_embeddings:
        obsm["perturbed_cls"] = item("embedding")
    obsm["mean_cos_similarity"] = effect("embedding_cosine")[:, None]
    varm = {"gene_cos_similarity": item("gene_cosine")} if layout.keep_gene_cosine else {}
    return layers, obsm, varm


def _true_counts(store: StoreReader) -> dict[int, Any]:
    """Observed counts of the cells by time point, sparse; {} where they were not given."""
    n_genes, found = len(store.strings("genes/name")), {}
    for t in store.layout.pred_tps:
        if f"cells/{group_of(t)}/true_counts" not in store.group:
            return {}
        place = f"cells/{group_of(t)}/true_counts"
        data, indices, indptr = (store.read(f"{place}/{n}") for n in ("data", "indices", "indptr"))
        with damages(store.path / place):
            found[t] = checked_csr(data, indices, indptr, (store.n_cells, n_genes))
    return found


def _at(true_counts: Mapping[int, Any], table: Lines) -> NDArray[np.float32]:
    found = np.zeros((len(table), next(iter(true_counts.values())).shape[1]), dtype=np.float32)
    for t, matrix in true_counts.items():
        at = table.at(t)
        found[at] = matrix[table.cell_N[at]].toarray()
    return found
