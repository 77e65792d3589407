"""Enrichment: what the tables of gene sets are called, what is in them, and how they are read. `screen.stats.sets` makes them."""

from pathlib import Path
from typing import Any

import polars as pl

from screen.directory import GENE_SETS, PARTS, SCORES

N_GENES_SHOWN = 200
"""Most genes that a row names."""
WHICH: dict[str, Any] = {
    "perturbation": pl.String, "target": pl.String, "target_symbol": pl.String, "mode": pl.String, "site": pl.String,
    "stratum": pl.String, "time": pl.Int8,
}  # fmt: skip
SET: dict[str, Any] = {"collection": pl.String, "gene_set": pl.String}
OVERLAP: dict[str, Any] = SET | {
    "n_overlap": pl.Int32, "n_set": pl.Int32, "n_query": pl.Int32, "n_background": pl.Int32, "odds_ratio": pl.Float64,
    "p_value": pl.Float64, "fdr": pl.Float64, "genes": pl.List(pl.String),
}  # fmt: skip
SCORES_SCHEMA = (
    WHICH
    | SET
    | {
        "n_set": pl.Int32, "score": pl.Float64, "null_z": pl.Float64, "p_value": pl.Float64, "q_value": pl.Float64,
        "n_null": pl.Int32,
    }
)  # fmt: skip
"""Of `enrichment/scores.parquet`: every perturbation that was asked for, sets that are called and those farthest out.

score    t-value of the set in a linear model of the mean changes (`screen.stats.sets.scores.ulm`), up where positive
null_z   the same, standardised by this set's scores over the null perturbations of the same kind
p_value  how often a null perturbation has any set as far out: corrected for all sets already
q_value  false discovery rate over the perturbations of the same mode, site, stratum and time: which of them shift a set, then which
n_null   null perturbations; too few of them (20), or too few cells (output.min_cells), and z, p and q are null
"""
CHANGED_SCHEMA = WHICH | {"direction": pl.String} | OVERLAP
"""Of `enrichment/part-*.parquet`: the genes that a perturbation changes, up and down, against every set."""
TARGETS_SCHEMA = {k: WHICH[k] for k in ("mode", "site", "stratum", "time")} | OVERLAP
"""Of `enrichment/targets.parquet`: the targets of the strongest perturbations against every set."""
LEAD = {"strength_rank": pl.Int32} | WHICH
RANKED_SCHEMA = (
    LEAD
    | SET
    | {
        "n_set": pl.Int32, "es": pl.Float64, "nes": pl.Float64, "p_value": pl.Float64, "fdr": pl.Float64,
        "leading_edge": pl.List(pl.String),
    }
)  # fmt: skip
"""Of `enrichment/ranked.parquet`: all genes by mean change, for the strongest perturbations, against every set."""


def scan(directory: str | Path) -> pl.LazyFrame:
    """Over-representation among the genes that each perturbation of a screen directory changes, CHANGED_SCHEMA."""
    return pl.scan_parquet(sorted(Path(directory, GENE_SETS).glob(PARTS)), glob=False)


def scan_scores(directory: str | Path) -> pl.LazyFrame:
    """How far each perturbation of a screen directory shifts gene sets, SCORES_SCHEMA."""
    return pl.scan_parquet(Path(directory, SCORES), glob=False)
