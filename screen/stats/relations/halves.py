"""Halves: whether half of a perturbation's cells show the change that the other half shows, and whether it is only this one's.

A group's cells are dealt to two halves in turn, in the order of the cells: the same halves always.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from screen.stats.parts import each
from screen.stats.relations.items import Items, some_of
from screen.stats.relations.kinds import WHICH, Integers, Kind, Values, joined, typed

HALVES_SCHEMA: dict[str, Any] = WHICH | {
    "n_cells": pl.Int32, "split_half_cosine": pl.Float64, "specific_split_half_cosine": pl.Float64, "found_rank": pl.Int32,
    "n_others": pl.Int32,
}  # fmt: skip
"""Of `relations/halves.parquet`: a row per perturbation, stratum and time point with the cells that a rank needs.

split_half_cosine  of the mean changes of two halves of its cells
specific_*         the same without everybody's response: each half's direction is that of the mean of all
found_rank         place of its own second half among the second halves of all, by cosine to its first: 1, it is found
n_others           perturbations of the kind that it was found among, its own apart: at most the 2,000 strongest
"""
AT_ONCE = 64


def halves(kinds: Sequence[Kind], items: Items, number: Mapping[str, int], n_genes: int) -> pl.DataFrame:
    """HALVES_SCHEMA, by kind; `number` of every perturbation in the store."""
    parts = []
    for kind in (k.strongest() for k in kinds):
        stratum, time = items.strata.name_S.index(kind.key["stratum"]), int(kind.key["time"])
        perturbation_N = np.array([number[p] for p in kind.table["perturbation"].to_list()], dtype=np.int64)
        cut = [perturbation_N[i : i + AT_ONCE] for i in range(0, len(kind), AT_ONCE)]
        found = each(half_means, [(items, some, stratum, time, n_genes) for some in cut])
        n_N, half_N2G = np.concatenate([n for n, _ in found]), np.concatenate([x for _, x in found])
        columns: dict[str, Any] = kind.table.select(*WHICH).to_dict()
        columns |= {"n_cells": n_N} | judged(half_N2G)
        parts.append(typed(columns, HALVES_SCHEMA))
    return joined(parts, HALVES_SCHEMA)


def half_means(
    items: Items, perturbation_M: Integers, stratum: int, time: int, n_genes: int
) -> tuple[Integers, Values]:
    """(cells that were read, (M, 2, G) mean changes of the two halves); NaN where there is one cell only."""
    n_M, half_M2G = np.zeros(len(perturbation_M), dtype=np.int64), np.full((len(perturbation_M), 2, n_genes), np.nan)
    for m, p in enumerate(perturbation_M.tolist()):
        row_I, cell_I = items.of(p, time)
        row_N = row_I[items.strata.stratum_C[cell_I] == stratum]
        row_N = row_N[some_of(len(row_N))]
        n_M[m] = len(row_N)
        if len(row_N) > 1:
            change_NG = items.changes(p, time, row_N)
            for half in (0, 1):
                half_M2G[m, half] = change_NG[half::2].mean(0, dtype=np.float64)
    return n_M, half_M2G


def judged(half_N2G: Values) -> dict[str, Values]:
    """The columns that follow from two halves of every perturbation: cosines, found_rank, n_others."""
    unit_2NG = np.stack([_unit(half_N2G[:, half]) for half in (0, 1)])
    cosine_N = np.einsum("ng,ng->n", *unit_2NG)
    specific_2NG = np.stack([_unit(_without_mean(half_N2G[:, half])) for half in (0, 1)])
    known_N = np.isfinite(cosine_N)
    rank_N, n_others_N = np.full((2, len(cosine_N)), np.nan)
    first_KG, second_KG = unit_2NG[:, known_N]
    closeness_KK = first_KG @ second_KG.T
    rank_N[known_N] = 1 + (closeness_KK > np.diag(closeness_KK)[:, None]).sum(1)
    n_others_N[known_N] = max(len(closeness_KK) - 1, 0)
    return {
        "split_half_cosine": cosine_N, "specific_split_half_cosine": np.einsum("ng,ng->n", *specific_2NG),
        "found_rank": rank_N, "n_others": n_others_N,
    }  # fmt: skip


def _unit(change_NG: Values) -> Values:
    """Rows of length 1; NaN for rows of zeros."""
    with np.errstate(invalid="ignore"):
        return np.asarray(change_NG / np.sqrt(np.square(change_NG).sum(1, keepdims=True)))


def _without_mean(change_NG: Values) -> Values:
    """What is left of each row without its part along the mean of all rows."""
    known_N = np.isfinite(change_NG).all(1)
    mean_G = change_NG[known_N].sum(0)
    size = float(np.sqrt(mean_G @ mean_G))
    if size == 0 or known_N.sum() < 2:
        return change_NG
    return np.asarray(change_NG - np.outer(change_NG @ (mean_G / size), mean_G / size))
