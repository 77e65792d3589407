"""Times: tables of a finished screen with its time points side by side, and what differs between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from screen.directory import COMPARE, PARTS
from screen.errors import ConfigError, StoreError, nearest, some

if TYPE_CHECKING:
    from screen.results.results import Results

WIDE = {
    "hits": (
        ("perturbation", "target", "target_symbol", "mode", "site", "stratum", "is_null"),
        ("strength_rank", "strength", "null_z", "q_value", "n_deg", "n_cells"),
    ),
    "gene_sets": (
        (
            "perturbation", "target", "target_symbol", "mode", "site", "stratum", "collection", "gene_set", "n_set",
        ),
        ("score", "null_z", "q_value"),
    ),
}  # fmt: skip
"""Table -> what a row of it is about, and what stands there once for each time point."""
MAX_FDR, LEAST = 0.05, 0.01
"""Of a gene that differs between time points."""


def wide(results: Results, table: str = "hits") -> pl.DataFrame:
    """`Results.wide`."""
    if table not in WIDE:
        raise ConfigError(f'no table "{table}" wide by time; there are {some(WIDE)}{nearest(table, WIDE)}')
    key, values = WIDE[table]
    long = results.hits if table == "hits" else results.gene_sets()
    found = long.select(key).unique(maintain_order=True)
    for time in results.times:
        here = long.filter(time=time).select(*key, *(pl.col(v).alias(f"{v}_t{time}") for v in values))
        found = found.join(here, on=key, how="left", nulls_equal=True, maintain_order="left")
    order = [f"{value}_t{time}" for value in values for time in results.times]
    return found.select(*key, *order)


def compared(
    results: Results, perturbation: str | None, stratum: str | None, times: tuple[int, int] | None, mode: str | None
) -> pl.DataFrame:
    """`Results.compared`."""
    there = results.compared_times
    if not there:
        a, b = (*results.times, *results.times)[:2] if len(results.times) < 2 else results.times[:2]
        what = (
            f"`perturbscreen deg {results.asked_by} --compare {a},{b}` does"
            if len(results.times) > 1
            else f"it has one time point, {a}"
        )
        raise StoreError(f"no time points were compared in {results.tables}; {what}")
    if times is not None and tuple(times) not in there:
        raise ConfigError(f"time points {list(times)} were not compared; there are {some([list(p) for p in there], 9)}")
    rows = results.rows_of(f"{COMPARE}/{PARTS}", perturbation, stratum, None, mode)
    return rows if times is None else rows.filter(time_before=times[0], time=times[1])


def differing(results: Results) -> pl.DataFrame:
    """Perturbations, strata and pairs of time points that were compared, largest difference first, of those with a rank at either.

    difference  root mean square over the genes of the table of what `Results.compared` calls mean_delta
    n_genes     of them, those with fdr below 0.05 that differ by more than 0.01
    strength, strength_before  of the hits
    Raises StoreError where the table is damaged.
    """
    key = ["perturbation", "stratum", "time_before", "time"]
    difference = pl.col("mean_delta").cast(pl.Float64)
    differs = (pl.col("fdr") < MAX_FDR) & (difference.abs() > LEAST)
    size = difference.pow(2).mean().sqrt().alias("difference")
    table = results.asked(
        f"{COMPARE}/{PARTS}", lambda rows: rows.group_by(key).agg(size, n_genes=differs.sum().cast(pl.Int32))
    )
    hits = results.hits.filter(~pl.col("is_null"))
    named = hits.select("perturbation", "target_symbol", "mode", "site").unique(maintain_order=True)
    table = table.join(named, on="perturbation", how="inner")
    for time, strength, rank in (("time_before", "strength_before", "rank_before"), ("time", "strength", "rank")):
        here = {time: "time", strength: "strength", rank: "strength_rank"}
        at = hits.select("perturbation", "stratum", **{name: pl.col(column) for name, column in here.items()})
        table = table.join(at, on=["perturbation", "stratum", time], how="left")
    ranked = table.filter(pl.any_horizontal(pl.col("rank", "rank_before").is_not_null())).drop("rank", "rank_before")
    return ranked.sort("difference", *key, descending=[True, *[False] * len(key)], nulls_last=True)
