"""Halves: whether half of a perturbation's cells show the change that the other half shows, and whether it is only this one's.

A group's cells are dealt to two halves in turn, in the order of the cells: the same halves always.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from screen.stats.gene_results import mean_by
from screen.stats.parts import each
from screen.stats.relations.items import MOST_CELLS, Items, some_of
from screen.stats.relations.kinds import WHICH, Bools, Integers, Kind, Values, joined, typed

HALVES_SCHEMA: dict[str, Any] = WHICH | {
    "n_cells": pl.Int32, "split_half_cosine": pl.Float64, "centred_split_half_cosine": pl.Float64, "found_rank": pl.Int32,
    "n_others": pl.Int32, "identifiability": pl.Float64,
}  # fmt: skip
"""Of `relations/halves.parquet`: a row per perturbation, stratum and time point with the cells that a rank needs.

split_half_cosine  of the mean changes of two halves of its cells
centred_*          the same of what sets it apart: the mean of all perturbations' same halves is subtracted
found_rank         place of its own second half among the second halves of all, by that cosine to its first: 1, it is found
n_others           perturbations of the kind that it was found among, its own apart: at most the 2,000 strongest
identifiability    1 - (found_rank - 1) / n_others: 1 found, 0.5 by chance
"""
READ_BYTES = 32 * 2**20
"""Of changes that a thread reads at once."""


def halves(kinds: Sequence[Kind], items: Items, number: Mapping[str, int], n_genes: int) -> pl.DataFrame:
    """HALVES_SCHEMA, by kind; `number` of every perturbation in the store."""
    parts = []
    for kind in (k.strongest() for k in kinds):
        stratum, time = items.strata.name_S.index(kind.key["stratum"]), int(kind.key["time"])
        perturbation_N = np.array([number[p] for p in kind.table["perturbation"].to_list()], dtype=np.int64)
        most_cells = min(int(kind.table["n_cells"].to_numpy().max()), MOST_CELLS)
        some = list(items.cut(perturbation_N, max(READ_BYTES // (8 * most_cells * n_genes), 1)))
        found = each(half_means, [(items, perturbation_N[at], stratum, time, n_genes) for at in some])
        n_N, half_N2G = np.zeros(len(kind), dtype=np.int64), np.empty((len(kind), 2, n_genes))
        for at, (n_M, half_M2G) in zip(some, found, strict=True):
            n_N[at], half_N2G[at] = n_M, half_M2G
        columns: dict[str, Any] = kind.table.select(*WHICH).to_dict()
        columns |= {"n_cells": n_N} | judged(half_N2G)
        parts.append(typed(columns, HALVES_SCHEMA))
    return joined(parts, HALVES_SCHEMA)


def half_means(
    items: Items, perturbation_M: Integers, stratum: int, time: int, n_genes: int
) -> tuple[Integers, Values]:
    """(cells that were read, (M, 2, G) mean changes of the two halves) of perturbations of one library block.

    NaN where there is one cell only.
    """
    place_I, row_I, cell_I = items.of_many(perturbation_M.tolist(), time)
    is_here_I = items.strata.stratum_C[cell_I] == stratum
    place_I, row_I = place_I[is_here_I], row_I[is_here_I]
    edge_M1 = np.searchsorted(place_I, np.arange(len(perturbation_M) + 1))
    chosen = [a + some_of(b - a) for a, b in pairwise(edge_M1.tolist())]
    n_M = np.array([len(at) for at in chosen])
    code_I = np.concatenate([2 * m + np.arange(n) % 2 for m, n in enumerate(n_M.tolist())])
    half_XG, row_I = np.full((2 * len(n_M), n_genes), np.nan), row_I[np.concatenate(chosen)]
    order_I = np.argsort(row_I, kind="stable")
    change_IG = items.changes(int(perturbation_M[0]), time, row_I[order_I])
    half_XG[np.unique(code_I)] = mean_by(change_IG, code_I[order_I])
    half_XG[np.repeat(n_M < 2, 2)] = np.nan
    return n_M, half_XG.reshape(len(n_M), 2, n_genes)


def judged(half_N2G: Values) -> dict[str, Values]:
    """The columns that follow from two halves of every perturbation: cosines, found_rank, n_others, identifiability."""
    known_N: Bools = np.asarray(np.isfinite(half_N2G).all((1, 2)))
    half_K2G, n_others = half_N2G[known_N], int(known_N.sum()) - 1
    centred_K2G = half_K2G - half_K2G.mean(0) if n_others > 0 else half_K2G
    first_KG, second_KG = _unit(centred_K2G[:, 0]), _unit(centred_K2G[:, 1])
    closeness_KK = first_KG @ second_KG.T
    own_K = np.diag(closeness_KK)
    rank_K = np.where(np.isfinite(own_K), 1 + (closeness_KK > own_K[:, None]).sum(1), np.nan)
    found = {
        "split_half_cosine": np.einsum("kg,kg->k", _unit(half_K2G[:, 0]), _unit(half_K2G[:, 1])),
        "centred_split_half_cosine": own_K, "found_rank": rank_K, "n_others": np.full(len(own_K), float(n_others)),
        "identifiability": 1 - (rank_K - 1) / n_others if n_others > 0 else np.full(len(own_K), np.nan),
    }  # fmt: skip
    columns = {name: np.full(len(known_N), np.nan) for name in found}
    for name, values_K in found.items():
        columns[name][known_N] = values_K
    return columns


def _unit(change_NG: Values) -> Values:
    """Rows of length 1; NaN for rows of zeros."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(change_NG / np.sqrt(np.square(change_NG).sum(1, keepdims=True)))
