"""Ranked sets: the running-sum permutation test (GSEA) of all genes in order of their mean change, by gseapy, for few perturbations."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screen.stats.deg import Names
from screen.stats.enrich import LEAD, N_GENES_SHOWN, RANKED_SCHEMA
from screen.stats.sets.gene_sets import GeneSets

N_PERMUTATIONS = 1000


def ranked(mean_G: NDArray[np.float64], sets: GeneSets, names: Names, seed: int = 0) -> pl.DataFrame:
    """The running-sum test (GSEA) of all genes in order of their mean change, a row per set, best first.

    By gseapy, preranked: p is the share of N_PERMUTATIONS draws of genes with as large a score of the same sign, the same for
    the same seed, and not below 1 / (N_PERMUTATIONS + 1). Nothing where no gene changes. Source: Subramanian et al. 2005.
    (gseapy's adaptive method was seen not to end where many genes do not change.)
    """
    import gseapy
    import pandas as pd

    if not mean_G.any():
        return pl.DataFrame(schema={k: v for k, v in RANKED_SCHEMA.items() if k not in LEAD})
    order_G = np.argsort(-mean_G, kind="stable")
    rank = pd.Series(strictly_falling(mean_G[order_G]), index=names.feature[order_G])
    members = {str(s): names.feature[m].tolist() for s, m in enumerate(sets.member_SG)}
    found = gseapy.prerank(
        rnk=rank, gene_sets=members, outdir=None, no_plot=True, min_size=1, max_size=len(mean_G), method="permutation",
        permutation_num=N_PERMUTATIONS, seed=seed, threads=1,
    ).res2d  # fmt: skip
    symbol = dict(zip(names.feature.tolist(), names.feature_symbol.tolist(), strict=True))
    place = found["Term"].astype(int).to_numpy()
    table = pl.DataFrame(
        {
            "collection": [sets.collection_S[s] for s in place],
            "gene_set": [sets.name_S[s] for s in place],
            "n_set": sets.member_SG.sum(1)[place],
            "es": found["ES"].astype(float).to_numpy(),
            "nes": found["NES"].astype(float).to_numpy(),
            "p_value": found["NOM p-val"].astype(float).to_numpy(),
            "fdr": found["FDR q-val"].astype(float).to_numpy(),
            "leading_edge": [[symbol[g] for g in text.split(";") if g][:N_GENES_SHOWN] for text in found["Lead_genes"]],
        }
    )
    # none of so many draws as large is not never
    table = table.with_columns(pl.col("p_value", "fdr").clip(1 / (N_PERMUTATIONS + 1)))
    best = [pl.col("p_value"), -pl.col("nes").abs(), pl.col("gene_set")]
    return table.sort(best).with_columns(pl.selectors.float().fill_nan(None))


def strictly_falling(values_G: NDArray[np.float64]) -> NDArray[np.float64]:
    """Descending values, each below the one before by a billionth of the largest at least.

    Ties keep their order instead of one by chance, and no set weighs nothing: gseapy fails on a set of unchanged genes.
    """
    step_G = 1e-9 * float(np.abs(values_G).max(initial=0)) * np.arange(len(values_G))
    return np.asarray(np.minimum.accumulate(values_G + step_G) - step_G)


def joined(strongest: pl.DataFrame, found: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """RANKED_SCHEMA: the tests of some rows of the ranking, in its order."""
    parts = [pl.DataFrame(schema=RANKED_SCHEMA)]
    for row, table in zip(strongest.select(*LEAD).iter_rows(named=True), found, strict=True):
        lead = {k: pl.lit(v, RANKED_SCHEMA[k]) for k, v in row.items()}
        parts.append(table.with_columns(**lead).select(pl.col(k).cast(v) for k, v in RANKED_SCHEMA.items()))
    return pl.concat(parts)
