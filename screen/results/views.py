"""Views: what the page and the plots show of a finished screen, each a table made from its results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screen.edits import DELETE, PAD
from screen.stats.deg import Names
from screen.stats.hits import KEY
from screen.store.arrays import group_of
from screen.store.find import find, find_gene

if TYPE_CHECKING:
    from screen.results.results import Results
    from screen.store.reader import Block

N_DETAILED, N_NAMED = 200, 1000
N_MOVERS = 20
CELLS_SCHEMA: dict[str, Any] = {
    "perturbation": pl.String, "target": pl.String, "target_symbol": pl.String, "mode": pl.String, "site": pl.String,
    "stratum": pl.String, "time": pl.Int8, "cell": pl.String, "cell_idx": pl.Int64, "rank_position": pl.Float64,
    "length": pl.Int32, "n_edited": pl.Int32, "embedding_shift": pl.Float64, "strength": pl.Float64,
}  # fmt: skip
"""Of `cells`: rank_position (0 highest) is null where the gene was not there, strength where the model predicts no counts."""
RANK_SHIFT_KEY = ("target", "target_symbol", "site", "stratum", "time")


def top_perturbations(results: Results, n: int = N_DETAILED, n_named: int = N_NAMED) -> list[str]:
    """Ids of the perturbations that are shown in detail, best first: the n that rank highest, then those that the user named.

    Rank 1 of every mode, site, stratum and time point comes first, then every rank 2: each group has its share. Of those that
    the user named (a list of genes; with `genes: all` nobody is) at most `n_named` more, and only what any cell allows.
    """
    by = [pl.col("strength_rank"), pl.col("q_value"), pl.col("perturbation")]
    found = results.hits.drop_nulls("strength").sort(by, nulls_last=True)["perturbation"].unique(maintain_order=True)
    ranked = set(results.hits.drop_nulls("strength_rank")["perturbation"].to_list())
    names = Names(results.store)
    highest = [i for i in found.to_list() if i in ranked][:n]
    named = set(names.id[names.must_screen].tolist()).difference(highest)
    return highest + [i for i in found.to_list() if i in named][:n_named]


@dataclass(frozen=True)
class Matrix:
    """Mean changes of G genes by P perturbations of one mode, site, stratum and time point, both in the order of a clustering.

    change_PG is NaN where the table of genes has no row (`deg.top`, thresholds).
    """

    mode: str
    site: str
    stratum: str
    time: int
    perturbation_P: list[str]
    symbol_P: list[str]
    feature_G: list[str]
    feature_symbol_G: list[str]
    change_PG: NDArray[np.float64]


def change_matrix(
    results: Results, mode: str, site: str, stratum: str, time: int, n_perturbations: int = 30, n_genes: int = 40
) -> Matrix:
    """The strongest perturbations of a group against the genes that they change most, clustered. (0, 0) where none has a rank.

    Genes that change most: by the root mean square of their mean changes over these perturbations, 0 where there is no row.
    Order of rows and of columns: `clustered`.
    Raises StoreError for a screen without counts.
    """
    best = (
        results.hits.filter(mode=mode, site=site, stratum=stratum, time=time)
        .drop_nulls("strength_rank")
        .sort("strength_rank")
        .head(n_perturbations)
    )
    ids = best["perturbation"].to_list()
    chosen = [pl.col("perturbation").is_in(ids), pl.col("stratum") == stratum, pl.col("time") == time]
    rows = results.changes_where(*chosen, columns=("perturbation", "feature", "feature_symbol", "mean_delta"))
    square = pl.col("mean_delta").cast(pl.Float64).pow(2).sum().alias("square")
    of_gene = rows.group_by("feature", "feature_symbol").agg(square)
    genes = of_gene.sort("square", "feature", descending=[True, False]).head(n_genes)
    place_P, place_G = ({name: i for i, name in enumerate(x)} for x in (ids, genes["feature"].to_list()))
    rows = rows.filter(pl.col("feature").is_in(genes["feature"].to_list()))
    change_PG = np.full((len(ids), len(place_G)), np.nan)
    at_P = [place_P[i] for i in rows["perturbation"].to_list()]
    at_G = [place_G[i] for i in rows["feature"].to_list()]
    change_PG[at_P, at_G] = rows["mean_delta"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    order_P, order_G = clustered(change_PG), clustered(change_PG.T)
    return Matrix(
        mode,
        site,
        stratum,
        time,
        perturbation_P=[ids[i] for i in order_P],
        symbol_P=best["target_symbol"].gather(order_P).to_list(),
        feature_G=genes["feature"].gather(order_G).to_list(),
        feature_symbol_G=genes["feature_symbol"].gather(order_G).to_list(),
        change_PG=change_PG[np.ix_(order_P, order_G)],
    )


def clustered(value_NK: NDArray[np.float64]) -> NDArray[np.int64]:
    """An order of the rows in which those that are alike stand together: average linkage of 1 - cosine, leaves best ordered.

    NaN counts as 0, and a row of zeros is like no other (distance 1). The same rows always give the same order.
    """
    if len(value_NK) < 3:
        return np.arange(len(value_NK))
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import pdist

    known_NK = np.nan_to_num(value_NK, nan=0.0)
    # changes may be so small that their squares vanish
    largest_N = np.abs(known_NK).max(axis=1, initial=0.0)
    known_NK = known_NK / np.where(largest_N > 0, largest_N, 1.0)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        distance = (
            pdist(known_NK, "cosine") if known_NK.shape[1] else np.full(len(known_NK) * (len(known_NK) - 1) // 2, 1.0)
        )
    distance = np.clip(np.nan_to_num(distance, nan=1.0), 0.0, 2.0)
    return np.asarray(leaves_list(linkage(distance, "average", optimal_ordering=True)), dtype=np.int64)


def movers(
    results: Results,
    feature: str,
    stratum: str | None = None,
    time: int | None = None,
    mode: str | None = None,
    n: int = N_MOVERS,
) -> pl.DataFrame:
    """What moves a gene: the n rows of the table of genes in which it changes most, with the perturbation's rank and q.

    feature  a gene's symbol or Ensembl ID, one that the model predicts
    Of perturbations in at least `output.min_cells` cells, unless none is; null ones are among them (`is_null`).
    Raises GeneError, ConfigError and StoreError as `Results.differential`.
    """
    results.check_place(stratum, time)
    wanted = {"stratum": stratum, "time": time, "mode": mode}
    chosen = [pl.col(column) == value for column, value in wanted.items() if value is not None]
    if mode is not None:
        find(results.store, mode=mode)
    rows = results.changes_where(pl.col("feature").is_in(find_gene(results.store, feature)), *chosen, columns=(
        "perturbation", "target", "target_symbol", "mode", "site", "stratum", "time", "n_cells", "feature", "feature_symbol",
        "mean_delta", "se", "fdr",
    ))  # fmt: skip
    enough = rows.filter(pl.col("n_cells") >= results.min_cells)
    rows = rows if enough.is_empty() else enough
    key = ["perturbation", "stratum", "time"]
    rows = rows.join(results.hits.select(*key, "strength_rank", "q_value", "is_null"), on=key, how="left")
    return rows.sort(-pl.col("mean_delta").abs(), *key, nulls_last=True).head(n)


def cells(
    results: Results,
    perturbation: str | None = None,
    stratum: str | None = None,
    time: int | None = None,
    mode: str | None = None,
) -> pl.DataFrame:
    """What happens to every cell: a row per perturbation, cell and time point, CELLS_SCHEMA; arguments of `differential`."""
    results.check_place(stratum, time)
    return cells_of(results, find(results.store, perturbation, mode), stratum, time)


def cells_of(
    results: Results, numbers: Sequence[int], stratum: str | None = None, time: int | None = None
) -> pl.DataFrame:
    """`cells` of many perturbations at once, by their numbers in the store: as these come, by time point, then cell.

    cell             source cell of the pairing; cell_idx: row of the predicted state in its data set, as in the AnnData
    strength         root mean square over genes of this cell's change; embedding_shift: 1 - cosine to its control's embedding
    """
    store = results.store
    strata = results.cell_strata
    names, id_C = Names(store), store.strings("cells/id")
    parts = [pl.DataFrame(schema=CELLS_SCHEMA)]
    for block in store.blocks:
        local = [p - block.first for p in numbers if 0 <= p - block.first < block.n_perturbations]
        if not local:
            continue
        row_I = np.concatenate([np.zeros(0, np.int64), *(block.rows_of(p) for p in local)])
        cell_I = block.read("items/cell", row_I)
        number_I = block.read("items/perturbation", row_I) + block.first
        stratum_I = strata.stratum_C[cell_I]
        for t in store.layout.pred_tps if time is None else [time]:
            is_wanted_I = block.read(f"items/is_screened_t{t}", row_I) & (stratum_I >= 0)
            if stratum is not None:
                is_wanted_I &= stratum_I == strata.name_S.index(stratum)
            at_I = np.flatnonzero(is_wanted_I)
            p_I, c_I = number_I[at_I], cell_I[at_I]
            columns = {
                "perturbation": names.id[p_I], "target": names.target[p_I], "target_symbol": names.symbol[p_I],
                "mode": names.mode[p_I], "site": names.site[p_I],
                "stratum": np.array(strata.name_S, dtype=object)[stratum_I[at_I]], "time": np.full(len(at_I), t),
                "cell": id_C[c_I], "cell_idx": store.read(f"cells/{group_of(t)}/cell_index")[c_I],
                **_effects(block, t, row_I[at_I]),
            }  # fmt: skip
            parts.append(pl.DataFrame({k: pl.Series(v).cast(CELLS_SCHEMA[k]) for k, v in columns.items()}))
    order = {int(p): i for i, p in enumerate(numbers)}
    place = pl.col("perturbation").replace_strict(
        [names.id[p] for p in order], list(order.values()), return_dtype=pl.Int64
    )
    return pl.concat(parts).sort(place, "time", maintain_order=True)


def _effects(block: Block, time: int, row_I: NDArray[np.int64]) -> dict[str, Any]:
    """What is one number of an item."""
    layout = block.layout
    effects = dict(zip(layout.effects, block.read("items/effects", row_I).T.astype(np.float64), strict=True))
    rank_I, no_counts = effects["rank"], np.full(len(row_I), np.nan)
    return {
        "rank_position": pl.Series(np.where(rank_I < 0, np.nan, rank_I), nan_to_null=True),
        "length": effects["length"],
        "n_edited": block.read("items/n_edited", row_I),
        "embedding_shift": 1 - effects[f"embedding_cosine_t{time}"],
        "strength": pl.Series(effects.get(f"rms_delta_t{time}", no_counts), nan_to_null=True),
    }


@dataclass(frozen=True)
class RankShift:
    """A deletion's change minus that of a pad in the gene's place: the part that is only everybody behind it moving up a rank.

    Both tables are empty where not both modes were screened.

    groups  a row per target, site, stratum and time point: strength and n_cells of both modes, `rms_difference` and `n_genes`
    genes   a row per gene as well: mean_delta of both modes and their `difference`
    """

    groups: pl.DataFrame
    genes: pl.DataFrame


def rank_shift(results: Results, target: str, stratum: str | None = None, time: int | None = None) -> RankShift:
    """Deletion minus pad of the same genes, per gene; `target` as in `Results.differential`.

    Strengths are those of the ranking. Genes are those that both tables have, `n_genes`: with `deg.top` not all.
    Raises GeneError, ConfigError and StoreError as `Results.differential`.
    """
    results.check_place(stratum, time)
    numbers, mode_P = find(results.store, target), results.store.perturbations("mode")
    ids = results.store.perturbations("id")[[p for p in numbers if mode_P[p] in (DELETE.name, PAD.name)]].tolist()
    wanted = {"stratum": stratum, "time": time}
    chosen = [pl.col(column) == value for column, value in wanted.items() if value is not None]
    is_one = pl.col("perturbation").is_in(ids)
    columns = (*RANK_SHIFT_KEY, "mode", "feature", "feature_symbol", "mean_delta")
    rows = results.changes_where(is_one, *chosen, columns=columns).drop_nulls("mean_delta")
    key = list(RANK_SHIFT_KEY)
    of_mode = [
        _of_mode(rows.with_columns(pl.col("mean_delta").cast(pl.Float64)), m.name, "mean_delta") for m in (DELETE, PAD)
    ]
    genes = of_mode[0].join(of_mode[1], on=[*key, "feature", "feature_symbol"], how="inner", maintain_order="left")
    first, second = (pl.col(f"mean_delta_{m.name}") for m in (DELETE, PAD))
    genes = genes.with_columns(difference=first - second)
    hits = results.hits.filter(is_one, *chosen).select(*key, "mode", "strength", "n_cells")
    of_mode = [_of_mode(hits, m.name, "strength", "n_cells") for m in (DELETE, PAD)]
    groups = of_mode[0].join(of_mode[1], on=key, how="inner", maintain_order="left")
    rms = pl.col("difference").pow(2).mean().sqrt().alias("rms_difference")
    of_group = genes.group_by(key).agg(rms, n_genes=pl.len())
    return RankShift(groups.join(of_group, on=key, how="inner", maintain_order="left"), genes)


def _of_mode(rows: pl.DataFrame, mode: str, *values: str) -> pl.DataFrame:
    """The rows of one mode, values named by it."""
    return rows.filter(mode=mode).drop("mode").rename(mapping={name: f"{name}_{mode}" for name in values})


def groups_of(results: Results) -> pl.DataFrame:
    """Mode, site, stratum and time point of every group with a ranked perturbation, that with the strongest one first."""
    return results.hits.drop_nulls("strength_rank").select(KEY).unique(maintain_order=True)
