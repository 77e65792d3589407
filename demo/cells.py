"""DemoCells: the shipped cells as arrays, in gene columns and in rank-ordered genes."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from screen.demo import DATA

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Strings = npt.NDArray[np.str_]

CONTROL, STIMULATED = "control", "stimulated"
FIRST_GENE_ID = 4  # 0..3 are pad, mask, cls, eos
MAX_LEN = 448


@dataclass(frozen=True)
class Genes:
    """The model's genes, one entry per gene column."""

    ensembl_id: Strings
    symbol: Strings
    token_id: Ints
    row_id: Ints
    median: Floats

    def column_of(self, symbol: str) -> int | None:
        """The gene column of a symbol, None if the model does not know it."""
        found = np.flatnonzero(self.symbol == symbol)
        return int(found[0]) if len(found) else None


@dataclass(frozen=True)
class DemoCells:
    """Counts (C, G; scipy CSR) and what is known of each cell."""

    counts_CG: Any
    name: Strings
    cell_type: Strings
    condition: Strings
    is_held_out: npt.NDArray[np.bool_]
    genes: Genes

    def stratum(self, cell_type: str, condition: str, held_out: bool) -> Ints:
        """Rows of one type in one state, of one side of the split."""
        keep = (self.cell_type == cell_type) & (self.condition == condition)
        return np.flatnonzero(keep & (self.is_held_out == held_out))


def read_genes(folder: Path = DATA) -> Genes:
    """The vocabulary in `genes.tsv`."""
    with (folder / "genes.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return Genes(
        ensembl_id=np.array([row["ensembl_id"] for row in rows]),
        symbol=np.array([row["symbol"] for row in rows]),
        token_id=np.array([int(row["token_id"]) for row in rows]),
        row_id=np.array([int(row["row_id"]) for row in rows]),
        median=np.array([float(row["median"]) for row in rows]),
    )


def read_cells(folder: Path = DATA) -> DemoCells:
    """The cells in `cells.h5ad` with the vocabulary in `genes.tsv`."""
    import anndata

    data = anndata.read_h5ad(folder / "cells.h5ad")
    genes = read_genes(folder)
    if list(data.var_names) != list(genes.ensembl_id):
        raise ValueError(f"{folder}: cells.h5ad and genes.tsv list different genes; run screen.demo.build_data again")
    return DemoCells(
        counts_CG=data.X.tocsr(),
        name=data.obs_names.to_numpy(dtype=str),
        cell_type=data.obs["cell_type"].to_numpy(dtype=str),
        condition=data.obs["condition"].to_numpy(dtype=str),
        is_held_out=data.obs["split"].to_numpy(dtype=str) == "held_out",
        genes=genes,
    )


def read_pairs(cells: DemoCells, folder: Path = DATA) -> Ints:
    """The held-out pairs of `pairs.tsv` as rows of `cells`: (P, 2), source then target."""
    row_of = {name: row for row, name in enumerate(cells.name)}
    with (folder / "pairs.tsv").open(newline="") as file:
        pairs = list(csv.DictReader(file, delimiter="\t"))
    return np.array([(row_of[pair["source"]], row_of[pair["target"]]) for pair in pairs])


def cp10k(counts_CG: Any) -> Any:
    """Counts scaled to 10,000 per cell (CSR, float64); an empty cell stays empty."""
    total_C = np.asarray(counts_CG.sum(axis=1), dtype=np.float64).ravel()
    scaled = counts_CG.astype(np.float64).tocsr(copy=True)
    scaled.data = scaled.data / np.repeat(total_C, np.diff(scaled.indptr)) * 10_000
    return scaled


def log_cp10k(counts_CG: Any) -> Floats:
    """log1p of counts per 10,000, dense."""
    return np.log1p(np.asarray(cp10k(counts_CG).todense(), dtype=np.float64))


def nonzero_median(scaled_CG: Any) -> Floats:
    """Per gene the median of the values above zero; 1 for a gene never seen."""
    by_gene = scaled_CG.tocsc()
    spans = zip(by_gene.indptr[:-1], by_gene.indptr[1:], strict=True)
    return np.array([np.median(by_gene.data[i:j]) if j > i else 1.0 for i, j in spans])


def ranked_columns(counts_CG: Any, median_G: Floats, max_len: int = MAX_LEN) -> list[Ints]:
    """Per cell its gene columns by falling CP10K / median, ties by column, at most `max_len`.

    No cls, no eos. Computed in float64 as count / total * 10,000 / median, in that order.
    """
    scaled = cp10k(counts_CG)
    scaled.sort_indices()
    rows = []
    for i, j in zip(scaled.indptr[:-1], scaled.indptr[1:], strict=True):
        columns = scaled.indices[i:j].astype(np.int64)
        order = np.argsort(-(scaled.data[i:j] / median_G[columns]), kind="stable")
        rows.append(columns[order][:max_len])
    return rows
