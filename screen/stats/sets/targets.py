"""Target sets: gene sets that the targets of the strongest perturbations hold more of than those that were screened."""

import numpy as np
import polars as pl

from screen.stats.deg import Names
from screen.stats.enrich import TARGETS_SCHEMA
from screen.stats.sets.gene_sets import GeneSets
from screen.stats.sets.over_representation import overlaps


def of_targets(hits: pl.DataFrame, sets: GeneSets, names: Names, n_targets: int, max_fdr: float) -> pl.DataFrame:
    """TARGETS_SCHEMA: the targets of the `n_targets` strongest against those of all ranked perturbations of the same kind.

    Perturbations of one gene only; ranked ones, so that strength is not noise of single cells.
    """
    column = {e: i for i, e in enumerate(names.feature.tolist())}
    parts = []
    single = hits.filter(pl.col("strength_rank").is_not_null() & pl.col("target").is_in(list(column)))
    for (mode, site, stratum, time), part in single.group_by("mode", "site", "stratum", "time", maintain_order=True):
        gene_N = np.array([column[g] for g in part["target"]])
        background_G = np.zeros(len(column), dtype=bool)
        background_G[gene_N] = True
        query_G = np.zeros_like(background_G)
        query_G[gene_N[:n_targets]] = True
        n_set_S = (background_G @ sets.member_GS).astype(np.int64)
        n_background_N = np.array([background_G.sum()])
        _, found = overlaps(query_G[None], n_set_S[None], n_background_N, sets, names.feature_symbol, max_fdr)
        lead = {"mode": mode, "site": site, "stratum": stratum, "time": time}
        parts.append(found.with_columns(**{k: pl.lit(v, TARGETS_SCHEMA[k]) for k, v in lead.items()}))
    return pl.concat([pl.DataFrame(schema=TARGETS_SCHEMA), *(p.select(list(TARGETS_SCHEMA)) for p in parts)])
