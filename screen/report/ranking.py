"""Ranking: the hits as columns of numbers, names once, as the page's scripts read them."""

from typing import TYPE_CHECKING, Any

import polars as pl

from screen.report.numbers import floats, rounded

if TYPE_CHECKING:
    from screen.report.names import ScreenNames

N_CHANGES = 5
"""Genes that change most, up and down, named beside each hit."""
NUMBERS = {
    "strength": 4, "n_cells": 0, "n_deg": 0, "rank_position": 4, "n_edited": 3, "coverage": 3, "null_z": 3,
    "p_value": 3, "q_value": 3, "universal_cosine": 2, "specific_q_value": 3, "embedding_shift": 3,
}  # fmt: skip
"""Column of hits.parquet -> significant digits that the page keeps; 0: whole numbers."""


def ranking(hits: pl.DataFrame, names: "ScreenNames") -> dict[str, Any]:
    """Column -> values, a row per perturbation, stratum and time point with at least one cell, strongest first.

    perturbation, stratum, time  numbers of `ScreenNames`; rank  strength_rank, null for null genes and for few cells
    up, down                     numbers of the genes that change most
    """
    there = hits.filter(pl.col("n_cells") > 0)
    found: dict[str, Any] = {
        "perturbation": names.perturbations(there["perturbation"]).tolist(),
        "stratum": names.strata_of(there["stratum"]).tolist(),
        "time": names.times_of(there["time"]).tolist(),
        "rank": there["strength_rank"].to_list(),
    }
    found |= {name: rounded(floats(there[name]), digits) for name, digits in NUMBERS.items()}
    for direction in ("up", "down"):
        listed = there[f"top_{direction}"].list.head(N_CHANGES).to_list()
        found[direction] = [[names.gene_of[g] for g in genes if g in names.gene_of] for genes in listed]
    return found
