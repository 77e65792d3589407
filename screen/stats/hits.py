"""Hits: one row per perturbation, stratum and time point, strongest first, beside what chance and the baseline give."""

import io
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screen.files import holds, write_file
from screen.planning.selection import Coverage
from screen.stats.again.coverage import UNKNOWN
from screen.stats.deg import Names, Summary
from screen.stats.false_discovery import benjamini_hochberg
from screen.stats.null import Calibration, baseline_residual, calibrate, covariates
from screen.stats.parts import Means

SCHEMA: dict[str, Any] = {
    "strength_rank": pl.Int32, "perturbation": pl.String, "target": pl.String, "target_symbol": pl.String,
    "mode": pl.String, "site": pl.String, "stratum": pl.String, "time": pl.Int8, "is_null": pl.Boolean,
    "strength": pl.Float64, "embedding_shift": pl.Float64, "n_deg": pl.Int32, "n_cells": pl.Int32,
    "n_stratum": pl.Int32, "coverage": pl.Float64, "n_absent": pl.Int32, "n_truncated": pl.Int32,
    "n_emptied": pl.Int32, "rank_position": pl.Float64, "length": pl.Float64, "n_edited": pl.Float64, "null_z": pl.Float64,
    "p_value": pl.Float64, "q_value": pl.Float64, "n_pool": pl.Int32, "baseline_residual": pl.Float64,
    "universal_cosine": pl.Float64, "specific_strength": pl.Float64, "specific_z": pl.Float64,
    "specific_p_value": pl.Float64, "specific_q_value": pl.Float64, "top_up": pl.List(pl.String),
    "top_down": pl.List(pl.String),
}  # fmt: skip
KEY = ("mode", "site", "stratum", "time")
"""Perturbations are compared with those of the same edit, cells and time point."""
ROWS_AT_ONCE = 1024


def hits(
    summaries: Sequence[Summary],
    names: Names,
    coverage: Coverage,
    pred_tps: Sequence[int],
    min_cells: int,
    means: Means | None = None,
) -> pl.DataFrame:
    """The ranking, SCHEMA, strongest first; `means` are the mean changes of every group, None without counts.

    strength           root mean square over genes of the mean log1p-CP10K change (embeddings only: embedding_shift)
    strength_rank      1 for the strongest of the same mode, site, stratum and time point, of those with at least `min_cells`
                       cells; null for the others, whose mean is mostly noise of single cells (all are ranked if none in the
                       screen has that many), and for null perturbations
    embedding_shift    mean of 1 - cosine to the control's pooled embedding
    n_deg              genes with fdr < 0.05 and |mean change| > 0.01
    rank_position      mean rank of the edited gene in the edited row (0 = highest expressed); length: genes in that row
    n_edited           genes of the edit in the edited row, mean: 1 for a knock-out of one gene, for an insertion the share of
                       cells that had the gene
    null_z, p_value    log strength standardised against rank position, cells, length and n_edited; its tail (screen.stats.null)
    q_value            Benjamini-Hochberg over the perturbations of the same edit, stratum and time point
    n_pool             residuals that p rests on; null perturbations that share genes count for fewer
    baseline_residual  log strength that rank position and cells alone do not explain (least squares)
    universal_cosine   cosine of the mean change to the mean over all others: how much of it is everybody's response
    specific_*         the same strength, z, p and q after that response is projected out
    A perturbation that no cell of a stratum allows has n_cells 0, no strength, and comes last.
    """
    by_key: Mapping[tuple[int, int, int], Summary] = {(s.perturbation, s.stratum, s.time): s for s in summaries}
    rows = []
    for p in range(len(names.id)):
        for s, stratum in enumerate(coverage.stratum):
            rows += [_row(p, s, stratum, t, by_key.get((p, s, t)), names, coverage) for t in pred_tps]
    table = _table(rows)
    enough = pl.col("n_cells") >= (min_cells if any(s.n_cells >= min_cells for s in summaries) else 1)
    table = table.with_columns(is_enough=enough & pl.col("strength").is_not_null()).with_row_index("place")
    named = names.must_screen[np.repeat(np.arange(len(names.id)), len(coverage.stratum) * len(pred_tps))]
    # a joint edit of several genes is compared with others of as many
    table = table.with_columns(n_joint=pl.col("target").str.count_matches("+", literal=True))
    parts = [_judged(part, named, means) for part in table.partition_by(*KEY, "n_joint", maintain_order=True)]
    table = pl.concat(parts) if parts else table
    by = ["strength", "perturbation", "stratum", "time"]
    table = table.sort(by, descending=[True, False, False, False], nulls_last=True)
    is_ranked = pl.col("is_enough") & ~pl.col("is_null")
    ranked = table.with_columns(strength_rank=pl.when(is_ranked).then(is_ranked.cum_sum().over(KEY)))
    return ranked.select(pl.col(k).cast(v) for k, v in SCHEMA.items())


_ROW = (
    "perturbation", "target", "target_symbol", "mode", "site", "stratum", "time", "is_null", "strength",
    "embedding_shift", "n_deg", "n_cells", "n_stratum", "coverage", "n_absent", "n_truncated", "n_emptied",
    "rank_position", "length", "n_edited", "top_up", "top_down",
)  # fmt: skip


def _table(rows: Sequence[Sequence[Any]]) -> pl.DataFrame:
    """Rows of what `_ROW` names. By columns, genes as one array: by rows each list of genes would be a series of its own."""
    import pyarrow as pa

    columns = dict(zip(_ROW, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(_ROW, ())
    schema, found = {k: v for k, v in SCHEMA.items() if k in _ROW}, dict[str, pl.Series]()
    for name, dtype in schema.items():
        if dtype == pl.List(pl.String):
            place = np.cumsum([0, *map(len, columns[name])])
            genes = pa.array(list(chain.from_iterable(columns[name])), pa.large_string())
            values: Any = pl.from_arrow(pa.LargeListArray.from_arrays(place, genes))
            found[name] = values.cast(dtype)
        else:
            found[name] = pl.Series(name, columns[name], dtype)
    return pl.DataFrame([found[name].alias(name) for name in schema])


def _row(p: int, s: int, stratum: str, time: int, g: Summary | None, names: Names, coverage: Coverage) -> list[Any]:
    lead = [names.id[p], names.target[p], names.symbol[p], names.mode[p], names.site[p], stratum, time]
    lead.append(bool(names.is_null[p]))
    unscreened = (int(x[p, s]) for x in (coverage.absent_PS, coverage.truncated_PS, coverage.emptied_PS))
    missing = [None if n == UNKNOWN else n for n in unscreened]
    n_stratum = int(coverage.n_cells_S[s])
    if g is None:
        return [*lead, None, None, None, 0, n_stratum, 0.0, *missing, None, None, None, [], []]
    strength = g.embedding_shift if np.isnan(g.strength) else g.strength
    rank = None if np.isnan(g.rank) else g.rank
    effect = [strength, g.embedding_shift, g.n_deg, g.n_cells, n_stratum, g.n_cells / n_stratum]
    return [*lead, *effect, *missing, rank, g.length, g.n_edited, g.top_up, g.top_down]


def _judged(part: pl.DataFrame, is_named: NDArray[np.bool_], means: Means | None) -> pl.DataFrame:
    """The rows of one edit, stratum and time point, with what they are judged by. Rows keep their order."""

    def values(name: str) -> NDArray[np.float64]:
        found = part[name].cast(pl.Float64).fill_null(float("nan")).to_numpy().copy()
        found[~is_enough_P] = np.nan
        return found

    is_enough_P, place_P = part["is_enough"].to_numpy(), part["place"].to_numpy()
    strength_P, rank_P, n_cells_P = (values(n) for n in ("strength", "rank_position", "n_cells"))
    covariate_PK = covariates(rank_P, n_cells_P, values("length"), values("n_edited"))
    is_null_P = part["is_null"].to_numpy()
    # genes that the user chose are no sample of genes: without random ones there is nothing to compare with
    pool_P = is_null_P if is_null_P.any() else ~is_named[place_P]
    pool_P = pool_P if is_null_P.any() or not pool_P.all() else None
    repeats = 1.0 if pool_P is None else _repeats(part["target"].filter(pl.Series(pool_P & is_enough_P)))
    judge = _Judge(covariate_PK, pool_P, is_null_P, repeats)
    z, p, q, n_pool = judge(strength_P)
    columns: dict[str, Any] = {"null_z": z, "p_value": p, "q_value": q, "n_pool": np.full(len(part), n_pool)}
    columns["baseline_residual"] = baseline_residual(strength_P, rank_P, n_cells_P)
    cosine_P, specific_P = (
        (np.full(len(part), np.nan),) * 2 if means is None else _specific(means, place_P, is_enough_P)
    )
    columns |= {"universal_cosine": cosine_P, "specific_strength": specific_P}
    z, p, q, _ = judge(specific_P)
    columns |= {"specific_z": z, "specific_p_value": p, "specific_q_value": q}
    return part.with_columns(**{k: pl.Series(v) for k, v in columns.items()}).with_columns(
        pl.selectors.float().fill_nan(None)
    )


def _repeats(target_N: pl.Series) -> float:
    """In how many of these edits one of their genes is, on average; 1 for none."""
    genes = target_N.str.split("+").explode()
    return max(len(genes) / max(genes.n_unique(), 1), 1.0)


class _Judge:
    """Compares strengths with the pool: the designated perturbations, or, where it is None, all of them."""

    def __init__(
        self, covariate_PK: NDArray[np.float64], pool_P: NDArray[np.bool_] | None, is_null_P: NDArray[np.bool_],
        repeats: float,
    ) -> None:  # fmt: skip
        self._covariate_PK, self._pool_P, self._is_null_P, self._repeats = covariate_PK, pool_P, is_null_P, repeats

    def __call__(self, strength_P: NDArray[np.float64]) -> tuple[Any, Any, Any, int]:
        found: Calibration = calibrate(strength_P, self._covariate_PK, self._pool_P, self._repeats)
        tested_P = np.where(self._is_null_P, np.nan, found.p_P)
        return found.z_P, found.p_P, benjamini_hochberg(tested_P), found.n_pool


def _specific(
    means: Means, place_P: NDArray[np.integer], is_enough_P: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(cosine to the mean change of the other perturbations, root mean square of what is left without it).

    NaN for perturbations with too few cells, which are among nobody's others.
    """
    cosine_P, rest_P = np.full((2, len(place_P)), np.nan)
    chosen = np.flatnonzero(is_enough_P)
    if len(chosen) < 2:
        return cosine_P, rest_P
    pieces = [chosen[i : i + ROWS_AT_ONCE] for i in range(0, len(chosen), ROWS_AT_ONCE)]
    total_G = np.sum([means.rows(place_P[some]).sum(0) for some in pieces], axis=0)
    total = float(total_G @ total_G)
    for some in pieces:
        mean_NG = means.rows(place_P[some])
        with_all_N, square_N = mean_NG @ total_G, np.square(mean_NG).sum(1)
        others_N = np.sqrt(np.maximum(total - 2 * with_all_N + square_N, np.finfo(float).tiny))
        along_N = (with_all_N - square_N) / others_N
        with np.errstate(invalid="ignore"):
            cosine_P[some] = along_N / np.sqrt(square_N)
        rest_P[some] = np.sqrt(np.maximum(square_N - np.square(along_N), 0) / mean_NG.shape[1])
    return cosine_P, rest_P


def write_whole(table: pl.DataFrame, path: Path) -> None:
    """Writes a parquet file in one step; one that says the same is left alone."""
    file = io.BytesIO()
    table.write_parquet(file, compression="zstd")
    if not holds(path, file.getvalue()):
        write_file(path, file.getvalue(), durable=True)
