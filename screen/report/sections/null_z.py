"""Null z: how far each gene's change is out of what null perturbations do to it, of the genes that the page holds."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screen.report.numbers import floats
from screen.results.related import in_pool
from screen.stats.relations.background import with_null_z
from screen.stats.relations.kinds import KIND

if TYPE_CHECKING:
    from screen.report.details import Changes
    from screen.report.names import ScreenNames
    from screen.results.results import Results

KEY = ("kind", "gene")
"""Numbers in place of KIND and feature: a million rows are joined by them."""


def null_z(
    results: "Results", changes: "Changes", names: "ScreenNames", gene: Sequence[Sequence[int]]
) -> list[list[float | None]]:
    """z of the genes (numbers) of each shown group: one decimal, none from 10 on; None where too few null perturbations tell."""
    if not gene:
        return []
    background = results.relations("genes")
    groups = in_pool(results, _groups(results, changes, names), background)
    kinds = background.select(*KIND).unique(maintain_order=True).with_row_index("kind")
    kind_N = groups.join(kinds, on=list(KIND), how="left", maintain_order="left")["kind"].cast(pl.Int64)
    numbers = pl.DataFrame({"feature": names.features, "gene": np.arange(len(names.features))})
    known = background.join(kinds, on=list(KIND)).join(numbers, on="feature")
    n_N = [len(g) for g in gene]
    row_M, gene_M = np.repeat(np.arange(len(gene)), n_N), np.concatenate([np.asarray(g, dtype=np.int64) for g in gene])
    rows = pl.DataFrame({
        "kind": kind_N[row_M], "gene": gene_M, "mean_delta": changes.change_NG[row_M, gene_M],
        "is_pool": groups["is_pool"][row_M],
        "is_own": (_own(groups["target"], names)[row_M] == gene_M[:, None]).any(1),
    })  # fmt: skip
    z_M = floats(with_null_z(rows, known.with_columns(pl.col(KEY).cast(pl.Int64)), KEY)["null_z"])
    short_M = np.where(np.abs(z_M) < 10, np.round(z_M, 1), np.rint(z_M))
    return [[_plain(z) for z in z_N.tolist()] for z_N in np.split(short_M, np.cumsum(n_N)[:-1])]


def _plain(z: float) -> float | None:
    """77 rather than 77.0, 0 rather than -0.0."""
    if not math.isfinite(z):
        return None
    return int(z) if z.is_integer() else z


def _groups(results: "Results", changes: "Changes", names: "ScreenNames") -> pl.DataFrame:
    """A row per shown group, in their order: which perturbation, where, in how many cells."""
    n_times = len(names.times)
    p_N, place_N = np.divmod(changes.group_N, len(names.strata) * n_times)
    edits = [names.edits[names.edit_P[p]].partition(":") for p in p_N]
    columns = {
        "perturbation": [names.ids[p] for p in p_N], "target": [names.targets[p] for p in p_N],
        "site": [site for site, _, _ in edits], "mode": [mode for _, _, mode in edits],
        "stratum": [names.strata[s] for s in place_N // n_times], "time": [names.times[t] for t in place_N % n_times],
    }  # fmt: skip
    hits, key = results.hits, ["perturbation", "stratum", "time"]
    table = pl.DataFrame(columns).with_columns(pl.col(k).cast(hits.schema[k]) for k in columns)
    return table.join(hits.select(*key, "n_cells"), on=key, how="left", maintain_order="left")


def _own(target: pl.Series, names: "ScreenNames") -> NDArray[np.int64]:
    """(N, K) numbers of the genes that each edits, -1 for none and for those that the model does not predict."""
    own = [[names.feature_number.get(g, -1) for g in genes.split("+")] for genes in target.to_list()]
    most = max(len(genes) for genes in own)
    return np.array([genes + [-1] * (most - len(genes)) for genes in own], dtype=np.int64)
