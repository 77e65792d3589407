"""Intervals of strength and rank: what they would be in other cells of the same kind, by weighting the cells at random.

Every draw gives each cell (each replicate, where there are some) a weight, the same for all perturbations, so that ranks are of
the same cells. Weights are never 0: a perturbation in few cells keeps them all. Source: the Bayesian bootstrap, Rubin 1981.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from screen.stats.gene_results import mean_by
from screen.stats.parts import each
from screen.stats.relations.items import MOST_CELLS, Items, some_of
from screen.stats.relations.kinds import MOST, Integers, Values

INTERVALS_SCHEMA: dict[str, Any] = {
    "strength_rank": pl.Int32, "perturbation": pl.String, "target": pl.String, "target_symbol": pl.String, "mode": pl.String,
    "site": pl.String, "stratum": pl.String, "time": pl.Int8, "n_cells": pl.Int32, "strength": pl.Float64,
    "strength_low": pl.Float64, "strength_high": pl.Float64, "rank_low": pl.Int32, "rank_high": pl.Int32,
}  # fmt: skip
"""A row per ranked perturbation, at most the 2,000 first of each mode, site, stratum and time point; 95 % intervals."""
KEY = ("mode", "site", "stratum", "time")
ENDS, READ_BYTES = (0.025, 0.975), 32 * 2**20


def intervals(
    ranked: pl.DataFrame, items: Items, number: Mapping[str, int], n_genes: int, n_draws: int, seed: int
) -> pl.DataFrame:
    """INTERVALS_SCHEMA, in the order of `ranked`, rows of the ranking with a rank. The same for the same seed."""
    parts = [pl.DataFrame(schema=INTERVALS_SCHEMA)]
    for part in ranked.partition_by(*KEY, maintain_order=True):
        some = part.sort("strength_rank").head(MOST)
        stratum, time = items.strata.name_S.index(some["stratum"][0]), int(some["time"][0])
        perturbation_N = np.array([number[p] for p in some["perturbation"].to_list()], dtype=np.int64)
        unit_C = unit_of(items)
        weight_BU = np.random.default_rng(seed).exponential(size=(n_draws, int(unit_C.max()) + 1))
        most_cells = min(int(some["n_cells"].to_numpy().max()), MOST_CELLS)
        cut = list(items.cut(perturbation_N, max(READ_BYTES // (8 * most_cells * n_genes), 1)))
        found = each(drawn, [(items, perturbation_N[at], stratum, time, weight_BU, unit_C) for at in cut])
        strength_NB = np.empty((len(some), n_draws))
        for at, strength_MB in zip(cut, found, strict=True):
            strength_NB[at] = strength_MB
        rank_NB = 1 + np.argsort(np.argsort(-strength_NB, axis=0, kind="stable"), axis=0, kind="stable")
        low_N, high_N = np.quantile(strength_NB, ENDS, axis=1)
        rank_low_N, rank_high_N = np.quantile(rank_NB, ENDS, axis=1, method="nearest")
        some = some.with_columns(strength_low=low_N, strength_high=high_N, rank_low=rank_low_N, rank_high=rank_high_N)
        parts.append(some.select(pl.col(k).cast(v) for k, v in INTERVALS_SCHEMA.items()))
    return pl.concat(parts)


def unit_of(items: Items) -> Integers:
    """What is drawn of each cell: itself, or its replicate; a cell without one, itself."""
    n, replicate_C = len(items.strata.stratum_C), items.strata.replicate_C
    if replicate_C is None:
        return np.arange(n)
    alone_C = int(replicate_C.max(initial=-1)) + 1 + np.arange(n)
    return np.where(replicate_C >= 0, replicate_C, alone_C)


def drawn(
    items: Items, perturbation_M: Integers, stratum: int, time: int, weight_BU: Values, unit_C: Integers
) -> Values:
    """(M, draws) strengths of perturbations of one library block."""
    place_I, row_I, cell_I = items.of_many(perturbation_M.tolist(), time)
    found_MB = np.empty((len(perturbation_M), len(weight_BU)))
    for m in range(len(perturbation_M)):
        at = np.flatnonzero((place_I == m) & (items.strata.stratum_C[cell_I] == stratum))
        at = at[some_of(len(at))]
        change_NG = items.changes(int(perturbation_M[m]), time, row_I[at])
        found_MB[m] = strengths(change_NG.astype(np.float64), unit_C[cell_I[at]], weight_BU)
    return found_MB


def strengths(change_NG: Values, unit_N: Integers, weight_BU: Values) -> Values:
    """(draws,) root mean square of the weighted mean change.

    What the drawing itself adds to a mean square is taken off on average: the draws lie about what was observed.
    Replicates weigh alike, whatever their number of cells.
    """
    unit_R, code_N = np.unique(unit_N, return_inverse=True)
    mean_RG = mean_by(change_NG, code_N)
    gram_RR = mean_RG @ mean_RG.T / mean_RG.shape[1]
    weight_BR = weight_BU[:, unit_R]
    weight_BR = weight_BR / weight_BR.sum(1, keepdims=True)
    square_B = np.einsum("br,rs,bs->b", weight_BR, gram_RR, weight_BR, optimize=True)
    away_BR = weight_BR - 1 / len(unit_R)
    added = float(np.einsum("br,rs,bs->b", away_BR, gram_RR, away_BR, optimize=True).mean())
    return np.asarray(np.sqrt(np.maximum(square_B - added, 0)), dtype=np.float64)
