"""Differential expression: the rows of groups' tables, per gene, and what the ranking keeps of them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screen.config.sections import DegConfig
from screen.directory import GENES, PARTS
from screen.stats.false_discovery import benjamini_hochberg_rows
from screen.stats.groups import Group, Strata
from screen.stats.tests.table import columns
from screen.store.reader import StoreReader

if TYPE_CHECKING:
    import pyarrow as pa

Values = NDArray[np.float64]
Bools = NDArray[np.bool_]
N_TOP_GENES = 10
DEG_FDR, DEG_MIN_DELTA = 0.05, 0.01
MEAN_FLOOR = 1e-9
"""Added to both means (counts per 10,000) before log2 of their ratio."""
LOG_SCALES = {
    "log1p_cp10k": "natural logarithm of 1 + counts per 10,000 counts of the model's genes",
    "model": "the model's own log expression",
}
_ALWAYS: dict[str, Any] = {
    "perturbation": pl.String, "target": pl.String, "target_symbol": pl.String, "mode": pl.String, "site": pl.String,
    "stratum": pl.String, "time": pl.Int8, "n_cells": pl.Int32, "n_replicates": pl.Int32, "coverage": pl.Float32,
    "feature": pl.String, "feature_symbol": pl.String, "target_mean": pl.Float32, "ref_mean": pl.Float32,
    "log2_fold_change": pl.Float32, "mean_delta": pl.Float32, "se": pl.Float32, "statistic": pl.Float32,
    "p_value": pl.Float64, "fdr": pl.Float64, "test": pl.String,
}  # fmt: skip
"""Of every part, whatever was computed: pdex's names and ours. What could not be computed is null."""
_NEVER_NULL = {
    "perturbation", "target", "target_symbol", "mode", "site", "stratum", "time", "n_cells", "coverage", "feature",
    "feature_symbol", "test",
}  # fmt: skip


def schema_of(config: DegConfig) -> dict[str, Any]:
    """Column -> polars type of the tables under these settings: what is always there, then the columns of tests."""
    return _ALWAYS | columns(config)


SCHEMA = schema_of(DegConfig())
"""Unless a test is chosen that has columns of its own."""


def metadata_of(config: DegConfig, expression_scale: str | None) -> dict[str, str]:
    """What every parquet file says of itself: which test fills p_value, and of what, on which scale."""
    return {
        "perturbscreen.test": config.test_name,
        "perturbscreen.log_scale": LOG_SCALES.get(expression_scale or "", "none"),
        "perturbscreen.replicate": config.replicate or "none: cells count as independent",
    }


class Names:
    """What the tables call things: genes and perturbations of one store."""

    def __init__(self, store: StoreReader) -> None:
        self.feature = store.strings("genes/ensembl_id")
        self.feature_symbol = store.strings("genes/symbol")
        self.id, self.mode, self.site, self.target, self.symbol = (
            store.perturbations(n) for n in ("id", "mode", "site", "target_gene", "target_symbol")
        )
        self.must_screen, self.is_null = (
            np.concatenate([b.read(f"perturbations/{n}") for b in store.blocks]) for n in ("must_screen", "is_null")
        )
        # random genes of a first run that a later one asks for
        named = np.isin(self.id.astype(str), store.provenance["view"].get("named", []))
        self.must_screen, self.is_null = self.must_screen | named, self.is_null & ~named
        self._column = {e: g for g, e in enumerate(self.feature.tolist())}

    @cached_property
    def text_of_genes(self) -> dict[str, tuple[NDArray[np.int32], Any]]:
        """Column of the tables -> what Arrow keeps of it: (place of each gene's text, the text there)."""
        return {name: _as_dictionary(getattr(self, name).tolist()) for name in ("feature", "feature_symbol")}

    def edited(self, perturbation: int) -> list[int]:
        """Columns of the genes that a perturbation edits, as far as the model predicts them."""
        return [self._column[e] for e in self.target[perturbation].split("+") if e in self._column]


class Lead(NamedTuple):
    """Which group: the numbers of its perturbation and of its stratum, and its time point."""

    perturbation: int
    stratum: int
    time: int


class Piece:
    """N groups one after another, what is said of their genes as whole arrays (N, G)."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = groups
        self.leads = [Lead(g.perturbation, g.stratum, g.time) for g in groups]
        self._genes = [g.genes for g in groups if g.genes is not None]
        self.mean_NG, self.se_NG = self._always("mean_delta"), self._always("se")
        self.target_NG, self.ref_NG = self._always("target_mean"), self._always("ref_mean")
        self.statistic_NG, self.p_NG = self.of(groups[0].test.statistic), self.of(groups[0].test.p_value)
        self.fdr_NG = benjamini_hochberg_rows(self.p_NG)
        self.is_changed_NG: Bools = (self.fdr_NG < DEG_FDR) & (np.abs(self.mean_NG) > DEG_MIN_DELTA)

    def _always(self, name: str) -> Values:
        return self._rows([getattr(genes, name) for genes in self._genes])

    def of(self, name: str) -> Values:
        """A value of a test; NaN where it was not computed."""
        return self._rows([genes.of(name) for genes in self._genes])

    def _rows(self, values: Sequence[Values]) -> Values:
        # half the time of `np.stack`, which looks at every row's shape
        return np.concatenate(values).reshape(len(self._genes), -1)

    def has(self, name: str) -> bool:
        """Whether a value of a test was computed for any group."""
        return any(name in genes.of_tests for genes in self._genes)


def table(piece: Piece, names: Names, strata: Strata, config: DegConfig) -> "pa.Table":
    """`schema_of(config)`, a row per group and gene that the settings keep; text as dictionaries, NaN as null."""
    target_NG, ref_NG = (np.log2(np.maximum(x, 0) + MEAN_FLOOR) for x in (piece.target_NG, piece.ref_NG))
    of_genes = {"target_mean": piece.target_NG, "ref_mean": piece.ref_NG, "log2_fold_change": target_NG - ref_NG}
    of_genes |= columns_of_genes(piece, config)
    return rows(schema_of(config), piece, names, config, columns_of_groups(piece, names, strata), of_genes)


def rows(
    schema: Mapping[str, Any],
    piece: Piece,
    names: Names,
    config: DegConfig,
    of_groups: Mapping[str, list[Any]],
    of_genes: Mapping[str, Values],
) -> "pa.Table":
    """A row per group and gene that the settings keep, of columns with a value per group and others with one per gene too."""
    import pyarrow as pa

    kept = _Rows(piece, config)
    found: dict[str, Any] = {}
    for name, values in of_groups.items():
        if schema[name] == pl.String:
            found[name] = _text(values, kept.of_groups)
        else:
            found[name] = _per_row(pa.array(values, _arrow(schema[name])), kept.of_groups)
    for name, (place_G, text) in names.text_of_genes.items():
        found[name] = pa.DictionaryArray.from_arrays(kept.of_genes(place_G), text, safe=False)
    for name, values_NG in of_genes.items():
        found[name] = _numbers(kept.of_both(values_NG), _arrow(schema[name]))
    for name in schema.keys() - found.keys():
        found[name] = pa.nulls(kept.n, _arrow(schema[name]))
    # said to be always there where it is: a fifth less time to write
    fields = [pa.field(name, found[name].type, nullable=name not in _NEVER_NULL) for name in schema]
    return pa.table([found[name] for name in schema], schema=pa.schema(fields))


def columns_of_genes(piece: Piece, config: DegConfig) -> dict[str, Values]:
    """Columns that are a number per group and gene, as far as they were computed, of changes."""
    of_tests = {name: piece.of(name) for name in columns(config) if piece.has(name)}
    return {
        "mean_delta": piece.mean_NG, "se": piece.se_NG, "statistic": piece.statistic_NG, "p_value": piece.p_NG,
        "fdr": piece.fdr_NG, **of_tests,
    }  # fmt: skip


def columns_of_groups(piece: Piece, names: Names, strata: Strata) -> dict[str, list[Any]]:
    """Columns that are one value per group."""
    p_N, groups, n_cells_S = [g.perturbation for g in piece.groups], piece.groups, strata.n_cells_S.tolist()
    has_replicates = strata.replicate_C is not None
    return {
        "perturbation": names.id[p_N].tolist(), "target": names.target[p_N].tolist(),
        "target_symbol": names.symbol[p_N].tolist(), "mode": names.mode[p_N].tolist(), "site": names.site[p_N].tolist(),
        "stratum": [strata.name_S[g.stratum] for g in groups], "time": [g.time for g in groups],
        "n_cells": [g.n_cells for g in groups], "n_replicates": [g.n_replicates if has_replicates else None for g in groups],
        "coverage": [g.n_cells / n_cells_S[g.stratum] for g in groups], "test": [g.test.name for g in groups],
    }  # fmt: skip


def _per_row(values: Any, per_row: Callable[[Any], Any]) -> Any:
    """Numbers of groups, an Arrow array, of each row."""
    import pyarrow as pa

    if values.null_count:
        return values.take(pa.array(per_row(np.arange(len(values)))))
    return pa.array(per_row(values.to_numpy()), values.type)


def _text(values: Sequence[str], per_row: Callable[[Any], Any]) -> Any:
    """Text per row as a dictionary: what parquet keeps of it, without being looked up row by row."""
    import pyarrow as pa

    place_N, text = _as_dictionary(values)
    # places are those of the text: nobody has to look
    return pa.DictionaryArray.from_arrays(per_row(place_N), text, safe=False)


def _as_dictionary(values: Sequence[str]) -> tuple[NDArray[np.int32], Any]:
    """(place of each value, the text there) as Arrow has it; in order of first sight."""
    import pyarrow as pa

    place = {value: i for i, value in enumerate(dict.fromkeys(values))}
    return np.array([place[value] for value in values], dtype=np.int32), pa.array(list(place), pa.string())


def _numbers(values_R: Values, dtype: Any) -> Any:
    """Numbers of this type, NaN as null."""
    import pyarrow as pa

    with np.errstate(over="ignore"):
        found_R = values_R.astype(dtype.to_pandas_dtype()) if pa.types.is_floating(dtype) else values_R
    # where there is none, as they lie
    return pa.array(found_R, dtype, from_pandas=not pa.types.is_floating(dtype) or bool(np.isnan(found_R).any()))


def _arrow(dtype: Any) -> Any:
    """The Arrow type of a polars type."""
    import pyarrow as pa

    found = {
        pl.String: pa.string(),
        pl.Int8: pa.int8(),
        pl.Int32: pa.int32(),
        pl.Float32: pa.float32(),
        pl.Float64: pa.float64(),
    }
    return found[dtype]


class _Rows:
    """The rows of a table, of N groups and G genes: values of each, given by group (N,), gene (G,) or both (N, G).

    All of them, unless a setting limits them, without looking anything up.
    """

    def __init__(self, piece: Piece, config: DegConfig) -> None:
        self._n_groups, self._n_genes = piece.mean_NG.shape
        is_limited = not (config.max_fdr is config.min_delta is config.top is None)
        self._kept_R = np.flatnonzero(_is_kept(piece, config)) if is_limited else None
        self.n = self._n_groups * self._n_genes if self._kept_R is None else len(self._kept_R)

    def of_groups(self, values_N: Any) -> Any:
        return np.repeat(values_N, self._n_genes) if self._kept_R is None else values_N[self._kept_R // self._n_genes]

    def of_genes(self, values_G: Any) -> Any:
        return np.tile(values_G, self._n_groups) if self._kept_R is None else values_G[self._kept_R % self._n_genes]

    def of_both(self, values_NG: Any) -> Any:
        return values_NG.reshape(-1) if self._kept_R is None else values_NG.reshape(-1)[self._kept_R]


def _is_kept(piece: Piece, config: DegConfig) -> Bools:
    """(N, G) which rows are written: by group the `top` by |mean change|, of those within the thresholds."""
    is_kept_NG: Bools = np.ones(piece.mean_NG.shape, dtype=np.bool_)
    if config.max_fdr is not None:
        is_kept_NG &= piece.fdr_NG <= config.max_fdr
    if config.min_delta is not None:
        is_kept_NG &= np.abs(piece.mean_NG) >= config.min_delta
    if config.top is not None:
        size_NG = np.where(is_kept_NG, np.abs(piece.mean_NG), -1.0)
        top_NT = np.argsort(-size_NG, axis=1, kind="stable")[:, : config.top]
        is_top_NG: Bools = np.zeros_like(is_kept_NG)
        is_top_NG[np.arange(len(top_NT))[:, None], top_NT] = True
        is_kept_NG &= is_top_NG
    return is_kept_NG


class OwnGene(NamedTuple):
    """What becomes of a gene that the group's perturbation edits: its column, and what the table of genes says of it."""

    column: int
    mean_delta: float
    se: float
    statistic: float
    p_value: float
    fdr: float


@dataclass(frozen=True)
class Summary:
    """What the ranking keeps of a Group: one perturbation in one stratum at one time point.

    strength  root mean square over genes of the mean change, NaN without counts; n_deg None then, and without a p
    top_up, top_down  the genes that change most, at most N_TOP_GENES of each
    own               the edited genes themselves
    """

    perturbation: int
    stratum: int
    time: int
    n_cells: int
    strength: float
    n_deg: int | None
    embedding_shift: float
    rank: float
    length: float
    n_edited: float
    top_up: list[str]
    top_down: list[str]
    own: tuple[OwnGene, ...] = ()


def summaries(piece: Piece, names: Names) -> list[Summary]:
    """The numbers of groups that a ranking needs, without their genes."""
    strength_N = np.sqrt(np.mean(np.square(piece.mean_NG), axis=1)).tolist()
    # without a p nobody knows
    n_deg_N = [
        int(c.sum()) if np.isfinite(p).any() else None for c, p in zip(piece.is_changed_NG, piece.p_NG, strict=True)
    ]
    top = _top_genes(piece.mean_NG, names)
    of_genes = (piece.mean_NG, piece.se_NG, piece.statistic_NG, piece.p_NG, piece.fdr_NG)
    own_N = [
        tuple(OwnGene(g, *(float(x_NG[n, g]) for x_NG in of_genes)) for g in names.edited(lead.perturbation))
        for n, lead in enumerate(piece.leads)
    ]
    return [
        _summary(group, strength, n_deg, up, down, own)
        for group, strength, n_deg, (up, down), own in zip(piece.groups, strength_N, n_deg_N, top, own_N, strict=True)
    ]


def summary_without_genes(group: Group) -> Summary:
    """Of a screen without counts."""
    return _summary(group, math.nan, None, [], [])


def _summary(
    group: Group, strength: float, n_deg: int | None, up: list[str], down: list[str], own: tuple[OwnGene, ...] = ()
) -> Summary:
    lead = (group.perturbation, group.stratum, group.time, group.n_cells, strength, n_deg)
    return Summary(*lead, group.embedding_shift, group.rank, group.length, group.n_edited, up, down, own)


def _top_genes(mean_NG: Values, names: Names) -> list[tuple[list[str], list[str]]]:
    """Symbols of the genes that rise most and of those that fall most, of each group, most first; of ties as they are sorted."""
    symbol_G = names.feature_symbol
    # of genes that rise by the same the last comes first
    up, down = _least(-mean_NG[:, ::-1], N_TOP_GENES), _least(mean_NG, N_TOP_GENES)
    return list(zip(_symbols(symbol_G[::-1], *up), _symbols(symbol_G, *down), strict=True))


def _least(value_NG: Values, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(n places of each group's least values, or of all, how many of them are below 0), least first, of ties the first."""
    n_genes = value_NG.shape[1]
    n = min(n, n_genes)
    # NaN is not among the least
    value_NG = np.fmin(value_NG, np.inf)
    # one edge at a time: both at once take four times as long
    edge_N1 = np.partition(value_NG, n - 1, axis=1)[:, n - 1 : n]
    at_K = np.flatnonzero(value_NG <= edge_N1)
    row_K, value_K = at_K // n_genes, value_NG.reshape(-1)[at_K]
    order_K = np.lexsort((value_K, row_K))
    # what ties with the n-th may be more than n
    n_N = np.bincount(row_K, minlength=len(value_NG))
    chosen_Nn = order_K[(np.cumsum(n_N) - n_N)[:, None] + np.arange(n)]
    return at_K[chosen_Nn] % n_genes, np.count_nonzero(value_K[chosen_Nn] < 0, axis=1)


def _symbols(symbol_G: NDArray[np.object_], place_Nn: NDArray[np.int64], n_N: NDArray[np.int64]) -> list[list[str]]:
    return [genes[:n] for genes, n in zip(symbol_G[place_Nn].tolist(), n_N.tolist(), strict=True)]


def scan(directory: str | Path) -> pl.LazyFrame:
    """The differential-expression table of a screen directory, read lazily."""
    return pl.scan_parquet(sorted(Path(directory, GENES).glob(PARTS)), glob=False)
