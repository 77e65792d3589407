"""Hits: one row per perturbation, stratum and time point, strongest first."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from screen.deg import Group, Names
from screen.plan import Coverage

N_TOP_GENES = 10
DEG_FDR, DEG_MIN_DELTA = 0.05, 0.01

SCHEMA: dict[str, Any] = {
    "strength_rank": pl.Int32,
    "perturbation": pl.String,
    "target": pl.String,
    "target_symbol": pl.String,
    "mode": pl.String,
    "site": pl.String,
    "stratum": pl.String,
    "time": pl.Int8,
    "strength": pl.Float64,
    "embedding_shift": pl.Float64,
    "n_deg": pl.Int32,
    "n_cells": pl.Int32,
    "n_stratum": pl.Int32,
    "coverage": pl.Float64,
    "n_absent": pl.Int32,
    "n_truncated": pl.Int32,
    "n_emptied": pl.Int32,
    "rank_position": pl.Float64,
    "length": pl.Float64,
    "top_up": pl.List(pl.String),
    "top_down": pl.List(pl.String),
}


def hits(groups: Sequence[Group], names: Names, coverage: Coverage, pred_tps: Sequence[int]) -> pl.DataFrame:
    """The ranking, SCHEMA.

    strength         root mean square over genes of the mean log1p-CP10K change (embeddings only: embedding_shift)
    embedding_shift  mean of 1 - cosine to the control's pooled embedding
    n_deg            genes with fdr < 0.05 and |mean change| > 0.01
    rank_position    mean rank of the edited gene in the edited row (0 = highest expressed); length: genes in that row
    A perturbation that no cell of a stratum allows has n_cells 0, no strength, and comes last.
    """
    by_key: Mapping[tuple[int, str, int], Group] = {(g.perturbation, g.stratum, g.time): g for g in groups}
    rows = []
    for p in range(len(names.id)):
        for s, stratum in enumerate(coverage.stratum):
            rows += [_row(p, s, stratum, t, by_key.get((p, stratum, t)), names, coverage) for t in pred_tps]
    table = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    table = table.sort(
        ["strength", "perturbation", "stratum", "time"], descending=[True, False, False, False], nulls_last=True
    )
    rank = pl.when(pl.col("strength").is_not_null()).then(pl.int_range(1, pl.len() + 1, dtype=pl.Int32))
    return table.with_columns(strength_rank=rank)


def _row(p: int, s: int, stratum: str, time: int, g: Group | None, names: Names, coverage: Coverage) -> list[Any]:
    lead = [None, names.id[p], names.target[p], names.symbol[p], names.mode[p], names.site[p], stratum, time]
    missing = [int(x[p, s]) for x in (coverage.absent_PS, coverage.truncated_PS, coverage.emptied_PS)]
    n_stratum = int(coverage.n_cells_S[s])
    if g is None:
        return [*lead, None, None, None, 0, n_stratum, 0.0, *missing, None, None, [], []]
    has_counts = len(g.mean_delta_G) > 0
    strength = g.rms_delta if has_counts else g.embedding_shift
    n_deg = int(np.sum((g.fdr_G < DEG_FDR) & (np.abs(g.mean_delta_G) > DEG_MIN_DELTA))) if has_counts else None
    order = np.argsort(g.mean_delta_G, kind="stable")
    up = [str(names.feature_symbol[i]) for i in order[::-1][:N_TOP_GENES] if g.mean_delta_G[i] > 0]
    down = [str(names.feature_symbol[i]) for i in order[:N_TOP_GENES] if g.mean_delta_G[i] < 0]
    rank = None if np.isnan(g.rank) else g.rank
    effect = [strength, g.embedding_shift, n_deg, g.n_cells, n_stratum, g.n_cells / n_stratum]
    return [*lead, *effect, *missing, rank, g.length, up, down]


def write_hits(table: pl.DataFrame, directory: Path) -> Path:
    """Writes hits.parquet in one step."""
    path = directory / "hits.parquet"
    partial = directory / ".hits.parquet"
    table.write_parquet(partial, compression="zstd")
    partial.replace(path)
    return path
