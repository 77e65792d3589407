"""Rows: the table of differences between time points, `compare/part-*.parquet`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from screen.config.sections import DegConfig
from screen.directory import COMPARE, PARTS
from screen.stats.deg import Names, Piece, columns_of_genes, columns_of_groups, rows, schema_of
from screen.stats.groups import Strata
from screen.stats.times.pairs import Pair

if TYPE_CHECKING:
    import pyarrow as pa

_AS_COUNTS = ("target_mean", "ref_mean", "log2_fold_change")
"""Columns of the table of differential expression that a difference of changes has not."""


def pair_schema(config: DegConfig) -> dict[str, Any]:
    """Column -> polars type: those of the table of differential expression, but

    time_before           the other time point, after `time`
    change, change_before mean change at each of the two, in place of means of counts
    mean_delta            change - change_before, over the cells (replicates) that have both; se, statistic, p_value and fdr are
                          of it
    """
    found: dict[str, Any] = {}
    for name, dtype in schema_of(config).items():
        if name == "mean_delta":
            found |= {"change": pl.Float32, "change_before": pl.Float32}
        if name not in _AS_COUNTS:
            found[name] = dtype
        if name == "time":
            found["time_before"] = pl.Int8
    return found


def pair_table(groups: Sequence[Pair], names: Names, strata: Strata, config: DegConfig) -> "pa.Table":
    """`pair_schema(config)`, a row per pair and gene that the settings keep."""
    piece = Piece(groups)
    of_groups = columns_of_groups(piece, names, strata) | {"time_before": [g.time_before for g in groups]}
    of_genes = columns_of_genes(piece, config)
    of_genes |= {"change": piece.target_NG, "change_before": piece.ref_NG}
    return rows(pair_schema(config), piece, names, config, of_groups, of_genes)


def scan(directory: str | Path) -> pl.LazyFrame:
    """The table of differences between time points of a screen directory, or of an analysis in it, read lazily."""
    return pl.scan_parquet(sorted(Path(directory, COMPARE).glob(PARTS)), glob=False)
