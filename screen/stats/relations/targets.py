"""Targets: what becomes of the edited gene itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from screen.edits import parse
from screen.stats.deg import Names, OwnGene, Summary
from screen.stats.relations.background import with_null_z
from screen.stats.relations.kinds import KIND, WHICH, typed

TARGETS_SCHEMA: dict[str, Any] = WHICH | {
    "feature": pl.String, "feature_symbol": pl.String, "n_cells": pl.Int32, "mean_delta": pl.Float64, "se": pl.Float64,
    "statistic": pl.Float64, "p_value": pl.Float64, "fdr": pl.Float64, "null_z": pl.Float64, "expected": pl.Int8,
    "is_as_expected": pl.Boolean,
}  # fmt: skip
"""Of `relations/targets.parquet`: a row per perturbation, stratum, time point and edited gene.

mean_delta to fdr  what the table of genes says of the edited gene
null_z             the same change beside those that null perturbations make to this gene (20 at least)
expected           1 for edits that should raise it, -1 for those that should lower it; is_as_expected: the mean change has that
                   sign; null where it is 0
"""


def on_target(
    table: pl.DataFrame, summaries: Sequence[Summary], names: Names, strata: Sequence[str], background: pl.DataFrame
) -> pl.DataFrame:
    """TARGETS_SCHEMA, in the order of the ranking `table` (with n_joint), of its rows that have a cell."""
    of_group: Mapping[tuple[str, str, int], tuple[OwnGene, ...]] = {
        (names.id[s.perturbation], strata[s.stratum], s.time): s.own for s in summaries
    }
    own_N = [of_group.get(key, ()) for key in table.select("perturbation", "stratum", "time").rows()]
    row_M = np.repeat(np.arange(len(own_N)), [len(x) for x in own_N])
    own_M = [own for some in own_N for own in some]
    column_M = np.array([o.column for o in own_M], dtype=np.int64)
    rows = table[row_M].select(*WHICH, "n_cells").with_columns(
        feature=pl.Series(names.feature[column_M].tolist(), dtype=pl.String),
        feature_symbol=pl.Series(names.feature_symbol[column_M].tolist(), dtype=pl.String),
        is_pool=pl.lit(False), is_own=pl.lit(True),
        **{
            name: pl.Series([getattr(o, name) for o in own_M], dtype=pl.Float64)
            for name in ("mean_delta", "se", "statistic", "p_value", "fdr")
        },
    )  # fmt: skip
    direction = {mode: parse(mode).direction for mode in table["mode"].unique().to_list()}
    expected = pl.col("mode").replace_strict(list(direction), list(direction.values()), return_dtype=pl.Int8)
    rows = with_null_z(rows.with_columns(pl.col(k).cast(v) for k, v in KIND.items()), background).with_columns(
        expected=expected
    )
    sign = pl.col("mean_delta").sign()
    rows = rows.with_columns(is_as_expected=pl.when(sign != 0).then(sign == pl.col("expected")))
    return typed(rows.to_dict(), TARGETS_SCHEMA)
