"""Differential expression: the rows of a group's table, per gene, and what the ranking keeps of it."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from screen.config.sections import DegConfig
from screen.stats.groups import Group, Strata
from screen.stats.tests.table import columns
from screen.store.reader import StoreReader

FOLDER = "deg"
N_TOP_GENES = 10
DEG_FDR, DEG_MIN_DELTA = 0.05, 0.01
MEAN_FLOOR = 1e-9
"""Added to both means (counts per 10,000) before log2 of their ratio."""
_ALWAYS: dict[str, Any] = {
    "perturbation": pl.String, "target": pl.String, "target_symbol": pl.String, "mode": pl.String, "site": pl.String,
    "stratum": pl.String, "time": pl.Int8, "n_cells": pl.Int32, "n_replicates": pl.Int32, "coverage": pl.Float32,
    "feature": pl.String, "feature_symbol": pl.String, "target_mean": pl.Float32, "ref_mean": pl.Float32,
    "log2_fold_change": pl.Float32, "mean_delta": pl.Float32, "se": pl.Float32, "statistic": pl.Float32,
    "p_value": pl.Float64, "fdr": pl.Float64,
}  # fmt: skip
"""Of every part, whatever was computed: pdex's names and ours. What could not be computed is null."""


def schema_of(config: DegConfig) -> dict[str, Any]:
    """Column -> polars type of the tables under these settings: what is always there, then the columns of tests."""
    return _ALWAYS | columns(config)


SCHEMA = schema_of(DegConfig())
"""Unless a test is chosen that has columns of its own."""


class Names:
    """What the tables call things: genes and perturbations of one store."""

    def __init__(self, store: StoreReader) -> None:
        self.feature = store.strings("genes/ensembl_id")
        self.feature_symbol = store.strings("genes/symbol")
        self.id, self.mode, self.site, self.target, self.symbol = (
            store.perturbations(n) for n in ("id", "mode", "site", "target_gene", "target_symbol")
        )
        self.must_screen, self.is_null = (
            np.concatenate([b.read(f"perturbations/{n}") for b in store.blocks]) for n in ("must_screen", "is_null")
        )
        # random genes of a first run that a later one asks for
        named = np.isin(self.id.astype(str), store.provenance["view"].get("named", []))
        self.must_screen, self.is_null = self.must_screen | named, self.is_null & ~named


def frame(group: Group, names: Names, strata: Strata, config: DegConfig) -> pl.DataFrame:
    """`schema_of(config)`, one row per gene that the settings keep."""
    genes, p = group.genes, group.perturbation
    assert genes is not None
    statistic, p_value, fdr = group.primary
    floor = MEAN_FLOOR
    fold = np.log2(np.maximum(genes.target_mean, 0) + floor) - np.log2(np.maximum(genes.ref_mean, 0) + floor)
    kept = _kept(genes.mean_delta, fdr, config)
    schema, of_tests = schema_of(config), {name: genes.of(name) for name in columns(config)}
    values = {
        "feature": names.feature, "feature_symbol": names.feature_symbol, "target_mean": genes.target_mean,
        "ref_mean": genes.ref_mean, "log2_fold_change": fold, "mean_delta": genes.mean_delta, "se": genes.se,
        "statistic": statistic, "p_value": p_value, "fdr": fdr, **of_tests,
    }  # fmt: skip
    table = pl.DataFrame({k: v[kept] if v.dtype != object else v[kept].tolist() for k, v in values.items()})
    lead = {
        "perturbation": names.id[p], "target": names.target[p], "target_symbol": names.symbol[p], "mode": names.mode[p],
        "site": names.site[p], "stratum": strata.name_S[group.stratum], "time": group.time, "n_cells": group.n_cells,
        "n_replicates": group.n_replicates if strata.replicate_C is not None else None,
        "coverage": group.n_cells / int(strata.n_cells_S[group.stratum]),
    }  # fmt: skip
    table = table.with_columns(**{k: pl.lit(v, schema[k]) for k, v in lead.items()})
    return table.with_columns(pl.selectors.float().fill_nan(None)).select(
        pl.col(name).cast(dtype) for name, dtype in schema.items()
    )


def _kept(mean_G: np.ndarray[Any, Any], fdr_G: np.ndarray[Any, Any], config: DegConfig) -> np.ndarray[Any, Any]:
    """Genes whose rows are written, ascending: the `top` by |mean change|, of those within the thresholds."""
    is_kept_G = np.ones(len(mean_G), dtype=bool)
    if config.max_fdr is not None:
        is_kept_G &= fdr_G <= config.max_fdr
    if config.min_delta is not None:
        is_kept_G &= np.abs(mean_G) >= config.min_delta
    kept = np.flatnonzero(is_kept_G)
    if config.top is not None and len(kept) > config.top:
        kept = np.sort(kept[np.argsort(-np.abs(mean_G[kept]), kind="stable")[: config.top]])
    return kept


@dataclass(frozen=True)
class Summary:
    """What the ranking keeps of a Group: one perturbation in one stratum at one time point.

    strength  root mean square over genes of the mean change, NaN without counts; n_deg None then
    top_up, top_down  the genes that change most, at most N_TOP_GENES of each
    """

    perturbation: int
    stratum: int
    time: int
    n_cells: int
    strength: float
    n_deg: int | None
    embedding_shift: float
    rank: float
    length: float
    n_edited: float
    top_up: list[str]
    top_down: list[str]


def is_changed(group: Group) -> np.ndarray[Any, Any]:
    """(G,) which genes count as differentially expressed: false discovery rate below DEG_FDR, |mean change| above DEG_MIN_DELTA."""
    assert group.genes is not None
    _, _, fdr_G = group.primary
    return (fdr_G < DEG_FDR) & (np.abs(group.genes.mean_delta) > DEG_MIN_DELTA)


def summarise(group: Group, names: Names) -> Summary:
    """The numbers of a group that a ranking needs, without its genes."""
    strength, n_deg, up, down = math.nan, None, list[str](), list[str]()
    if group.genes is not None:
        mean_G = group.genes.mean_delta
        order = np.argsort(mean_G, kind="stable")
        strength = float(np.sqrt(np.mean(mean_G**2)))
        n_deg = int(is_changed(group).sum())
        up = [str(names.feature_symbol[i]) for i in order[::-1][:N_TOP_GENES] if mean_G[i] > 0]
        down = [str(names.feature_symbol[i]) for i in order[:N_TOP_GENES] if mean_G[i] < 0]
    lead = (group.perturbation, group.stratum, group.time, group.n_cells, strength, n_deg)
    return Summary(*lead, group.embedding_shift, group.rank, group.length, group.n_edited, up, down)


def scan(directory: str | Path) -> pl.LazyFrame:
    """The differential-expression table of a screen directory, read lazily."""
    return pl.scan_parquet(Path(directory) / FOLDER / "part-*.parquet")
