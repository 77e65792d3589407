"""Expected: positive controls that the user names, an edit and genes that must respond, looked up in the results."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from screen.config.screen_config import read_yaml
from screen.errors import ConfigError, GeneError
from screen.results.results import Results
from screen.store.find import find_gene

MAX_FDR, TOP_SHARE = 0.05, 0.1
"""A gene responds if its fdr is below the one, and it is among this share of genes that change most."""
SCHEMA: dict[str, Any] = {
    "edit": pl.String, "gene": pl.String, "perturbation": pl.String, "mode": pl.String, "stratum": pl.String,
    "time": pl.Int8, "n_cells": pl.Int32, "change": pl.Float64, "fdr": pl.Float64, "rank": pl.Int32,
    "n_genes": pl.Int32, "is_found": pl.Boolean, "note": pl.String,
}  # fmt: skip
Expect = Mapping[str, Sequence[str]]
"""Edited gene (as `Results.differential` takes it) -> genes that must respond."""


def expected_table(results: Results, expect: Expect) -> pl.DataFrame:
    """SCHEMA: a row per expected gene, edit, stratum and time point, in the order of `expect`.

    rank  1 for the gene whose mean change is largest, the edited genes left out; n_genes: how many there are
    note  why there is nothing to show: a gene that the model lacks, an edit that was not screened, a row that was not written
    """
    rows: list[dict[str, Any]] = []
    for edit, genes in expect.items():
        try:
            table = results.differential(edit)
        except GeneError as error:
            rows += [_missing(edit, gene, str(error)) for gene in genes]
            continue
        for gene in genes:
            rows += _rows(results, table, edit, gene)
    return pl.DataFrame([{n: r.get(n) for n in SCHEMA} for r in rows], schema=SCHEMA)


def _rows(results: Results, table: pl.DataFrame, edit: str, gene: str) -> list[dict[str, Any]]:
    try:
        ids = find_gene(results.store, gene)
    except GeneError as error:
        return [_missing(edit, gene, str(error))]
    if table.is_empty():
        return [_missing(edit, gene, f'"{edit}" was screened in no cell; see the coverage')]
    found = []
    n_all = len(results.store.strings("genes/ensembl_id"))
    for part in table.partition_by("perturbation", "stratum", "time", maintain_order=True):
        others = part.filter(~pl.col("feature").is_in(part["target"][0].split("+")))
        n_genes = n_all - len(part["target"][0].split("+"))
        ranked = others.with_columns(rank=pl.col("mean_delta").abs().rank("min", descending=True))
        lead = {"edit": edit, "gene": gene, "n_genes": n_genes}
        lead |= {n: part[n][0] for n in ("perturbation", "mode", "stratum", "time", "n_cells")}
        hit = ranked.filter(pl.col("feature").is_in(ids))
        if hit.is_empty():
            note = "the edited gene itself" if part["feature"].is_in(ids).any() else "its row was not written (deg)"
            found.append({**lead, "is_found": False, "note": note})
            continue
        row = hit.sort("rank").row(0, named=True)
        is_found = row["fdr"] is not None and row["fdr"] < MAX_FDR and row["rank"] <= TOP_SHARE * n_genes
        found.append(
            {**lead, "change": row["mean_delta"], "fdr": row["fdr"], "rank": int(row["rank"]), "is_found": is_found}
        )
    return found


def _missing(edit: str, gene: str, note: str) -> dict[str, Any]:
    return {"edit": edit, "gene": gene, "is_found": False, "note": note}


def recorded_expect(results: Results) -> dict[str, list[str]]:
    """`expect` of the configurations that the screen was made with."""
    found: dict[str, list[str]] = {}
    for block in results.provenance["library"]:
        try:
            raw = yaml.safe_load(str(block.get("config", "")))
        except yaml.YAMLError:
            continue
        if isinstance(raw, dict) and isinstance(raw.get("expect"), dict):
            found |= checked(raw["expect"], f"the recorded configuration of {results.directory}")
    return found


def read_expect(texts: Iterable[str]) -> dict[str, list[str]]:
    """What options say: EDIT=GENE,GENE, or a YAML file with such a mapping, alone or as the section `expect`.

    Raises ConfigError.
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        edit, is_pair, genes = text.partition("=")
        if is_pair and not Path(text).is_file():
            found |= checked({edit.strip(): [g.strip() for g in genes.split(",") if g.strip()]}, "--expect")
        else:
            raw = read_yaml(Path(text))
            found |= checked(raw["expect"] if isinstance(raw.get("expect"), dict) else raw, text)
    return found


def checked(raw: Mapping[Any, Any], where: str) -> dict[str, list[str]]:
    """A mapping of an edit to a list of genes. Raises ConfigError."""
    for edit, genes in raw.items():
        if not edit or not isinstance(genes, list) or not genes or not all(isinstance(g, str | int) for g in genes):
            raise ConfigError(
                f"expect in {where}: an edited gene and a list of genes that must respond, as {{IFNAR1: [STAT1, IRF9]}}; it "
                f"is {edit!r}: {str(genes)[:80]}"
            )
    return {str(edit): [str(g) for g in genes] for edit, genes in raw.items()}
