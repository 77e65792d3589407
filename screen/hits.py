"""Hits: one row per perturbation, stratum and time point, strongest first."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from screen.deg import Names, Summary
from screen.plan import Coverage

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


def hits(
    summaries: Sequence[Summary], names: Names, coverage: Coverage, pred_tps: Sequence[int], min_cells: int
) -> pl.DataFrame:
    """The ranking, SCHEMA, strongest first.

    strength         root mean square over genes of the mean log1p-CP10K change (embeddings only: embedding_shift)
    strength_rank    1 for the strongest of those with at least `min_cells` cells; null for the others, whose mean is mostly
                     noise of single cells (all are ranked if none has that many)
    embedding_shift  mean of 1 - cosine to the control's pooled embedding
    n_deg            genes with fdr < 0.05 and |mean change| > 0.01
    rank_position    mean rank of the edited gene in the edited row (0 = highest expressed); length: genes in that row
    A perturbation that no cell of a stratum allows has n_cells 0, no strength, and comes last.
    """
    by_key: Mapping[tuple[int, int, int], Summary] = {(s.perturbation, s.stratum, s.time): s for s in summaries}
    rows = []
    for p in range(len(names.id)):
        for s, stratum in enumerate(coverage.stratum):
            rows += [_row(p, s, stratum, t, by_key.get((p, s, t)), names, coverage) for t in pred_tps]
    table = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    by = ["strength", "perturbation", "stratum", "time"]
    table = table.sort(by, descending=[True, False, False, False], nulls_last=True)
    enough = pl.col("n_cells") >= (min_cells if any(s.n_cells >= min_cells for s in summaries) else 1)
    is_ranked = enough & pl.col("strength").is_not_null()
    return table.with_columns(strength_rank=pl.when(is_ranked).then(is_ranked.cum_sum().cast(pl.Int32)))


def _row(p: int, s: int, stratum: str, time: int, g: Summary | None, names: Names, coverage: Coverage) -> list[Any]:
    lead = [None, names.id[p], names.target[p], names.symbol[p], names.mode[p], names.site[p], stratum, time]
    missing = [int(x[p, s]) for x in (coverage.absent_PS, coverage.truncated_PS, coverage.emptied_PS)]
    n_stratum = int(coverage.n_cells_S[s])
    if g is None:
        return [*lead, None, None, None, 0, n_stratum, 0.0, *missing, None, None, [], []]
    strength = g.embedding_shift if np.isnan(g.strength) else g.strength
    rank = None if np.isnan(g.rank) else g.rank
    effect = [strength, g.embedding_shift, g.n_deg, g.n_cells, n_stratum, g.n_cells / n_stratum]
    return [*lead, *effect, *missing, rank, g.length, g.top_up, g.top_down]


def write_whole(table: pl.DataFrame, path: Path) -> None:
    """Writes a parquet file in one step; one that says the same is left alone."""
    partial = path.with_name(f".{path.name}")
    table.write_parquet(partial, compression="zstd")
    if path.is_file() and path.read_bytes() == partial.read_bytes():
        partial.unlink()
    else:
        partial.replace(path)
