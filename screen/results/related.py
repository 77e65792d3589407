"""Related: what perturbations have to do with each other, of a finished screen; `screen.stats.relations` makes the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from screen.directory import (
    BACKGROUND,
    EPISTASIS,
    EPISTASIS_GENES,
    FACTORS,
    HALVES,
    MODULES,
    ON_TARGET,
    SIMILARITY,
)
from screen.errors import ConfigError, StoreError, nearest, some
from screen.stats.deg import Names
from screen.stats.relations.background import ALL, with_null_z
from screen.stats.relations.intervals import intervals
from screen.stats.relations.items import Items
from screen.stats.relations.kinds import KIND
from screen.stats.tables import strata_of
from screen.store.find import find

if TYPE_CHECKING:
    from screen.results.results import Results

TABLES = {
    "genes": BACKGROUND, "targets": ON_TARGET, "halves": HALVES, "similarity": SIMILARITY, "modules": MODULES,
    "factors": FACTORS, "epistasis": EPISTASIS, "epistasis_genes": EPISTASIS_GENES,
}  # fmt: skip
"""What the tables are called -> their files."""
OF_NO_PERTURBATION = ("genes", "factors")


def table_of(
    results: Results, table: str, perturbation: str | None, stratum: str | None, time: int | None, mode: str | None
) -> pl.DataFrame:
    """Rows of one of TABLES. Raises ConfigError, GeneError, StoreError."""
    results.check_counts()
    if table not in TABLES:
        raise ConfigError(f'no table "{table}"; there are {some(TABLES, len(TABLES))}{nearest(table, TABLES)}')
    if table in OF_NO_PERTURBATION and perturbation is not None:
        raise ConfigError(f'the table "{table}" is of no single perturbation; leave it out, or take another table')
    if not (results.tables / TABLES[table]).is_file():
        if table == "halves" and results.store.layout.keeps_summaries:
            raise StoreError(
                f"{results.directory} keeps summaries: halves of the cells need the single cells; screen with "
                "`output.keep: predictions`"
            )
        raise StoreError(
            f"{results.tables} has no {TABLES[table]}; `perturbscreen deg {results.asked_by} --relations` makes it"
        )
    return results.rows_of(TABLES[table], perturbation, stratum, time, mode)


def null_z(
    results: Results, perturbation: str, stratum: str | None, time: int | None, mode: str | None
) -> pl.DataFrame:
    """Rows of the table of genes beside what null perturbations do to each gene; a member of the null is judged by the others."""
    background = table_of(results, "genes", None, None, None, None)
    rows = results.differential(perturbation, stratum, time, mode)
    rows = rows.with_columns(is_own=pl.col("target").str.split("+").list.contains(pl.col("feature")))
    return with_null_z(in_pool(results, rows, background), background).drop("n_joint", "is_own", "is_pool")


def in_pool(results: Results, rows: pl.DataFrame, background: pl.DataFrame) -> pl.DataFrame:
    """Rows that say which perturbation, where and in how many cells, with KIND and is_pool: whether it is one of its null."""
    own_cells = pl.col("n_cells") >= (results.min_cells if (results.hits["n_cells"] >= results.min_cells).any() else 1)
    key = ["perturbation", "stratum", "time"]
    rows = rows.join(results.hits.select(*key, "is_null"), on=key, how="left", maintain_order="left")
    rows = rows.with_columns(n_joint=1 + pl.col("target").str.count_matches("+", literal=True).cast(pl.Int32))
    rows = rows.with_columns(pl.col(k).cast(v) for k, v in KIND.items())
    rows = rows.join(background.select(*KIND, "pool").unique(), on=list(KIND), how="left", maintain_order="left")
    return rows.with_columns(is_pool=own_cells & ((pl.col("pool") == ALL) | pl.col("is_null"))).drop("pool", "is_null")


def strength_intervals(
    results: Results, stratum: str | None, time: int | None, mode: str | None, n_draws: int, seed: int
) -> pl.DataFrame:
    """Of ranked perturbations; `screen.stats.relations.intervals` says how."""
    results.check_counts()
    results.check_place(stratum, time)
    store = results.store
    if store.layout.keeps_summaries:
        raise StoreError(
            f"{results.directory} keeps summaries: intervals need the single cells; screen with `output.keep: predictions`"
        )
    if n_draws < 2:
        raise ConfigError(f"{n_draws} draws give no interval; take 2 or more")
    if mode is not None:
        find(store, mode=mode)
    view, names = results.view, Names(store)
    items = Items(store, strata_of(store, view["strata"], view["deg"]["replicate"], view.get("where")))
    wanted = {"stratum": stratum, "time": time, "mode": mode}
    ranked = results.hits.drop_nulls("strength_rank").filter(**{k: v for k, v in wanted.items() if v is not None})
    number = {perturbation: i for i, perturbation in enumerate(names.id.tolist())}
    return intervals(ranked, items, number, len(names.feature), n_draws, seed)
