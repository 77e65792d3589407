"""Background: what each gene does under null perturbations, whichever gene they edit, and how often it is among the most changed.

Some genes answer to every edit. A gene's change by one perturbation says something of that one as far as it is out of what
null perturbations do to it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screen.config.sections import FEWEST_NULLS
from screen.stats.deg import Names
from screen.stats.parts import Means
from screen.stats.relations.kinds import KIND, Bools, Integers, Kind, Values, joined, typed

N_TOP = 5
GENES_SCHEMA: dict[str, Any] = KIND | {
    "feature": pl.String, "feature_symbol": pl.String, "pool": pl.String, "n_null": pl.Int32, "null_mean": pl.Float64,
    "null_sd": pl.Float64, "n_perturbations": pl.Int32, "n_top": pl.Int32, "share_top": pl.Float64,
}  # fmt: skip
"""Of `relations/genes.parquet`: a row per kind of perturbation and gene.

pool             "null": null perturbations; "all": every perturbation, where there are none
n_null           perturbations of the pool that edit other genes; null_mean, null_sd of the mean changes by them (20 at least)
n_perturbations  those that edit other genes, null ones included; n_top: of them, those by which it is among the 5 genes that
                 change most; share_top their ratio
"""
NULLS, ALL = "null", "all"


def gene_background(kinds: Iterable[Kind], means: Means, names: Names) -> pl.DataFrame:
    """GENES_SCHEMA, by kind, then in the order of genes."""
    parts = []
    for kind in kinds:
        pool_N = kind.is_null_N if kind.is_null_N.any() else np.ones(len(kind), dtype=bool)
        n_null_G, mean_G, sd_G = spread(kind, pool_N, means)
        n_G, n_top_G = top_counts(kind, means)
        columns = {**kind.key, "feature": names.feature.tolist(), "feature_symbol": names.feature_symbol.tolist()}
        columns |= {
            "pool": NULLS if kind.is_null_N.any() else ALL,
            "n_null": n_null_G,
            "null_mean": mean_G,
            "null_sd": sd_G,
        }
        columns |= {"n_perturbations": n_G, "n_top": n_top_G, "share_top": n_top_G / np.maximum(n_G, 1)}
        parts.append(typed(columns, GENES_SCHEMA))
    return joined(parts, GENES_SCHEMA)


def spread(kind: Kind, pool_N: Bools, means: Means) -> tuple[Integers, Values, Values]:
    """(n, mean, standard deviation) per gene of the mean changes by the pool's perturbations that edit other genes.

    NaN where these are fewer than FEWEST_NULLS.
    """
    pool = kind.take(np.flatnonzero(pool_N))
    n_G = np.full(means.n_genes, len(pool)) - _own_counts(pool.own_NK, means.n_genes)
    few_G = n_G < FEWEST_NULLS
    sum_G, square_G = np.zeros((2, means.n_genes))
    for row_M, change_MG in pool.mean_changes(means):
        sum_G += np.where(_is_other(pool.own_NK[row_M], means.n_genes), change_MG, 0).sum(0)
    mean_G = sum_G / np.maximum(n_G, 1)
    for row_M, change_MG in pool.mean_changes(means):
        square_G += np.where(_is_other(pool.own_NK[row_M], means.n_genes), np.square(change_MG - mean_G), 0).sum(0)
    sd_G = np.sqrt(square_G / np.maximum(n_G - 1, 1))
    return n_G, np.where(few_G, np.nan, mean_G), np.where(few_G, np.nan, sd_G)


def top_counts(kind: Kind, means: Means) -> tuple[Integers, Integers]:
    """Per gene (perturbations that edit other genes, those by which it is among the N_TOP other genes that change most).

    Of genes that change as much as the last of these, all are among them; one that does not change never is.
    """
    n_top_G = np.zeros(means.n_genes, dtype=np.int64)
    n = min(N_TOP, means.n_genes)
    for row_M, change_MG in kind.mean_changes(means):
        size_MG = np.where(_is_other(kind.own_NK[row_M], means.n_genes), np.abs(change_MG), 0)
        edge_M1 = np.partition(size_MG, -n, axis=1)[:, -n, None]
        n_top_G += ((size_MG >= edge_M1) & (size_MG > 0)).sum(0)
    return len(kind) - _own_counts(kind.own_NK, means.n_genes), n_top_G


def _is_other(own_MK: Integers, n_genes: int) -> Bools:
    """(M, G) whether a gene is none of the edited ones."""
    found_MG: NDArray[np.bool_] = np.ones((len(own_MK), n_genes), dtype=np.bool_)
    row_M, slot_M = np.nonzero(own_MK >= 0)
    found_MG[row_M, own_MK[row_M, slot_M]] = False
    return found_MG


def _own_counts(own_NK: Integers, n_genes: int) -> Integers:
    """(G,) perturbations that edit each gene."""
    return np.bincount(own_NK[own_NK >= 0], minlength=n_genes)


def with_null_z(
    changes: pl.DataFrame, background: pl.DataFrame, key: Sequence[str] = (*KIND, "feature")
) -> pl.DataFrame:
    """Rows of the table of genes with `share_top`, `null_mean`, `null_sd`, `null_z`.

    `changes` has the key (KIND and feature), mean_delta, is_pool (whether its perturbation is one of the pool) and is_own (whether it edits
    the gene). One of the pool is judged by the others.
    """
    chosen = background.select(*key, "n_null", "share_top", "null_mean", "null_sd")
    rows = changes.join(chosen, on=list(key), how="left", maintain_order="left")
    x, n, mean, sd = pl.col("mean_delta").cast(pl.Float64), pl.col("n_null"), pl.col("null_mean"), pl.col("null_sd")
    is_inside = pl.col("is_pool") & ~pl.col("is_own")
    away = x - mean
    others_mean = mean - away / (n - 1)
    # sums of squares without one: what it adds is its distance from the mean of all, squared, times n / (n - 1)
    others_sd = (((n - 1) * sd.pow(2) - away.pow(2) * n / (n - 1)).clip(lower_bound=0) / (n - 2)).sqrt()
    rows = rows.with_columns(
        null_mean=pl.when(is_inside).then(others_mean).otherwise(mean),
        null_sd=pl.when(is_inside).then(others_sd).otherwise(sd),
    )
    z = (x - pl.col("null_mean")) / pl.col("null_sd")
    return rows.with_columns(null_z=pl.when(pl.col("null_sd") > 0).then(z)).drop("n_null")
