"""Shifted sets: the gene sets that the shown perturbations shift, beside what null perturbations do."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from screen.report.numbers import floats, rounded

if TYPE_CHECKING:
    from screen.report.names import ScreenNames
    from screen.results.results import Results

N_SETS = 8
"""Of each group."""


def shifted_sets(results: "Results", names: "ScreenNames", shown: Sequence[int]) -> dict[str, Any] | None:
    """Names of sets, and of every group those farthest out with score, z and q; None where no gene sets were tested."""
    if not results.has_gene_sets:
        return None
    wanted = [names.ids[p] for p in shown]
    table = results.gene_sets().filter(pl.col("perturbation").is_in(wanted))
    far = [pl.col(name).abs() for name in ("null_z", "score")]
    by = ["perturbation", "stratum", "time"]
    table = table.sort(pl.col("q_value"), *(-f for f in far), pl.col("gene_set"), nulls_last=True)
    table = table.filter(pl.int_range(pl.len()).over(by) < N_SETS)
    listed = sorted(set(table["gene_set"].to_list()))
    number = {name: i for i, name in enumerate(listed)}
    group = names.group(
        names.perturbations(table["perturbation"]), names.strata_of(table["stratum"]), names.times_of(table["time"])
    )
    return {
        "names": listed,
        "group": np.asarray(group).tolist(),
        "set": [number[x] for x in table["gene_set"].to_list()],
        "n_set": table["n_set"].to_list(),
        "score": rounded(floats(table["score"]), 3),
        "z": rounded(floats(table["null_z"]), 3),
        "q": rounded(floats(table["q_value"]), 3),
    }
