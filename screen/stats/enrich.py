"""Enrichment: gene sets that changed genes, or the targets of strong perturbations, hold more of than chance would.

The background is what could have been drawn: the model's genes, or, of targets, the genes that were screened. Both tests
take genes as independent, which those of one pathway are not: p-values are for ranking sets, not for counting findings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screen.stats.deg import Lead, Names
from screen.stats.false_discovery import benjamini_hochberg
from screen.stats.gene_sets import GeneSets
from screen.stats.groups import Strata

Bools = NDArray[np.bool_]
FOLDER, TARGETS, RANKED = "enrichment", "enrichment/targets.parquet", "enrichment/ranked.parquet"
N_PERMUTATIONS = 1000
N_GENES_SHOWN = 200
"""Most genes that a row names."""
_WHICH: dict[str, Any] = {
    "perturbation": pl.String, "target": pl.String, "target_symbol": pl.String, "mode": pl.String, "site": pl.String,
    "stratum": pl.String, "time": pl.Int8,
}  # fmt: skip
_TEST: dict[str, Any] = {
    "collection": pl.String, "gene_set": pl.String, "n_overlap": pl.Int32, "n_set": pl.Int32, "n_query": pl.Int32,
    "n_background": pl.Int32, "odds_ratio": pl.Float64, "p_value": pl.Float64, "fdr": pl.Float64,
    "genes": pl.List(pl.String),
}  # fmt: skip
CHANGED_SCHEMA = _WHICH | {"direction": pl.String} | _TEST
"""Of `enrichment/part-*.parquet`: the genes that a perturbation changes, up and down, against every set."""
TARGETS_SCHEMA = {k: _WHICH[k] for k in ("mode", "site", "stratum", "time")} | _TEST
"""Of `enrichment/targets.parquet`: the targets of the strongest perturbations against every set."""
_LEAD = {"strength_rank": pl.Int32} | _WHICH
RANKED_SCHEMA = _LEAD | {
    "collection": pl.String, "gene_set": pl.String, "n_set": pl.Int32, "es": pl.Float64, "nes": pl.Float64,
    "p_value": pl.Float64, "fdr": pl.Float64, "leading_edge": pl.List(pl.String),
}  # fmt: skip
"""Of `enrichment/ranked.parquet`: all genes by mean change, for the strongest perturbations, against every set."""


@dataclass(frozen=True)
class OverRepresentation:
    """Fisher's exact test, one-sided, of queries of genes against sets, within a background of G genes (all by default)."""

    sets: GeneSets
    background_G: Bools | None = None

    @cached_property
    def _member_GS(self) -> NDArray[np.float32]:
        member_GS = self.sets.member_GS
        return member_GS if self.background_G is None else member_GS * self.background_G[:, None]

    @cached_property
    def n_set_S(self) -> NDArray[np.int64]:
        """Genes of each set in the background."""
        size_S: NDArray[np.int64] = self._member_GS.sum(0).astype(np.int64)
        return size_S

    @property
    def n_background(self) -> int:
        return self.sets.member_SG.shape[1] if self.background_G is None else int(self.background_G.sum())

    def test(self, query_G: Bools) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(genes of the query in each set, p) (S,): the probability of as many or more in a draw of the query's size."""
        from scipy.stats import hypergeom

        query_G = query_G if self.background_G is None else query_G & self.background_G
        n_overlap_S = (query_G.astype(np.float32) @ self._member_GS).astype(np.int64)
        p_S = np.ones(len(self.sets))
        # without a common gene p is 1
        at = np.flatnonzero(n_overlap_S)
        p_S[at] = hypergeom.sf(n_overlap_S[at] - 1, self.n_background, self.n_set_S[at], int(query_G.sum()))
        return n_overlap_S, p_S

    def table(self, query_G: Bools, symbol: NDArray[np.object_], max_fdr: float) -> pl.DataFrame:
        """The columns of a test, a row per set with at most this false discovery rate over all sets, best first."""
        n_overlap_S, p_S = self.test(query_G)
        fdr_S = benjamini_hochberg(p_S)
        kept = np.flatnonzero((fdr_S <= max_fdr) & (n_overlap_S > 0))
        if not len(kept):
            return pl.DataFrame(schema=_TEST)
        kept = kept[np.argsort(p_S[kept], kind="stable")]
        in_background_G = query_G if self.background_G is None else query_G & self.background_G
        n_query, a = int(in_background_G.sum()), n_overlap_S[kept].astype(np.float64)
        b, c = self.n_set_S[kept] - a, n_query - a
        with np.errstate(divide="ignore", invalid="ignore"):
            odds = a * (self.n_background - a - b - c) / (b * c)
        genes = [np.flatnonzero(self.sets.member_SG[s] & in_background_G)[:N_GENES_SHOWN] for s in kept]
        columns: dict[str, Any] = {
            "collection": [self.sets.collection_S[s] for s in kept], "gene_set": [self.sets.name_S[s] for s in kept],
            "n_overlap": n_overlap_S[kept], "n_set": self.n_set_S[kept], "n_query": [n_query] * len(kept),
            "n_background": [self.n_background] * len(kept), "odds_ratio": odds, "p_value": p_S[kept],
            "fdr": fdr_S[kept], "genes": [[symbol[g] for g in some] for some in genes],
        }  # fmt: skip
        return pl.DataFrame(columns, schema_overrides=_TEST).select(pl.col(k).cast(v) for k, v in _TEST.items())


def changed_of(
    groups: Sequence[Lead],
    mean_NG: NDArray[np.float64],
    is_changed_NG: Bools,
    names: Names,
    strata: Strata,
    test: OverRepresentation,
    max_fdr: float,
) -> pl.DataFrame:
    """CHANGED_SCHEMA of N groups, one after another: the genes that they change (N, G), up and down."""
    found = [
        _changed(group, mean_G, is_changed_G, names, strata, test, max_fdr)
        for group, mean_G, is_changed_G in zip(groups, mean_NG, is_changed_NG, strict=True)
    ]
    return pl.concat([pl.DataFrame(schema=CHANGED_SCHEMA), *found])


def _changed(
    group: Lead, mean_G: NDArray[np.float64], is_changed_G: Bools, names: Names, strata: Strata, test: OverRepresentation,
    max_fdr: float,
) -> pl.DataFrame:  # fmt: skip
    p = group.perturbation
    parts = []
    for direction, query_G in (("up", is_changed_G & (mean_G > 0)), ("down", is_changed_G & (mean_G < 0))):
        if query_G.any():
            found = test.table(query_G, names.feature_symbol, max_fdr)
            parts.append(found.with_columns(direction=pl.lit(direction)))
    if not parts:
        return pl.DataFrame(schema=CHANGED_SCHEMA)
    lead = {
        "perturbation": names.id[p], "target": names.target[p], "target_symbol": names.symbol[p], "mode": names.mode[p],
        "site": names.site[p], "stratum": strata.name_S[group.stratum], "time": group.time,
    }  # fmt: skip
    table = pl.concat(parts).with_columns(**{k: pl.lit(v, CHANGED_SCHEMA[k]) for k, v in lead.items()})
    return table.select(list(CHANGED_SCHEMA))


def ranked(mean_G: NDArray[np.float64], sets: GeneSets, names: Names, seed: int = 0) -> pl.DataFrame:
    """The running-sum test (GSEA) of all genes in order of their mean change, a row per set, best first.

    By gseapy, preranked: p is the share of N_PERMUTATIONS draws of genes with as large a score of the same sign, the same for
    the same seed, and not below 1 / (N_PERMUTATIONS + 1). Nothing where no gene changes. Source: Subramanian et al. 2005.
    (gseapy's adaptive method was seen not to end where many genes do not change.)
    """
    import gseapy
    import pandas as pd

    if not mean_G.any():
        return pl.DataFrame(schema={k: v for k, v in RANKED_SCHEMA.items() if k not in _LEAD})
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
    for row, table in zip(strongest.select(*_LEAD).iter_rows(named=True), found, strict=True):
        lead = {k: pl.lit(v, RANKED_SCHEMA[k]) for k, v in row.items()}
        parts.append(table.with_columns(**lead).select(pl.col(k).cast(v) for k, v in RANKED_SCHEMA.items()))
    return pl.concat(parts)


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
        found = OverRepresentation(sets, background_G).table(query_G, names.feature_symbol, max_fdr)
        lead = {"mode": mode, "site": site, "stratum": stratum, "time": time}
        parts.append(found.with_columns(**{k: pl.lit(v, TARGETS_SCHEMA[k]) for k, v in lead.items()}))
    return pl.concat([pl.DataFrame(schema=TARGETS_SCHEMA), *(p.select(list(TARGETS_SCHEMA)) for p in parts)])


def scan(directory: str | Path) -> pl.LazyFrame:
    """Over-representation among the genes that each perturbation of a screen directory changes, CHANGED_SCHEMA."""
    return pl.scan_parquet(Path(directory) / FOLDER / "part-*.parquet")


def ranked_in(directory: str | Path) -> pl.DataFrame | None:
    """The gene sets of the strongest perturbations of a screen directory, RANKED_SCHEMA; None without gene sets."""
    path = Path(directory) / RANKED
    return pl.read_parquet(path) if path.is_file() else None
