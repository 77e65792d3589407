"""Epistasis: what joint edits do beyond the sum of their single edits, in all and per gene.

Everything is on the log scale, where adding changes is multiplying expression. Edited genes are left out of what is said of
all genes. A class is given where the interval is clear; null joint edits, where there are 20 with their single edits, say what
joint edits do anyway.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from screen.config.sections import FEWEST_NULLS
from screen.planning.layout import Layout
from screen.stats.deg import Names
from screen.stats.moments import Rounding
from screen.stats.parts import Means, each
from screen.stats.relations.items import Items
from screen.stats.relations.kinds import KIND, WHICH, joined, typed
from screen.stats.relations.pairs import Compared, Joint, compared, joint_edits, on_means
from screen.stats.tail import counted_p

ADDITIVE, SYNERGY, SUPPRESSION, OTHER, UNCLEAR = "additive", "synergy", "suppression", "other response", "unclear"
MARGIN, MUCH_OTHER, MAX_P = 0.1, 0.5, 0.05
"""Share of the sum that counts as an interaction; size of a difference off the sum's direction that counts as another response."""
N_GENES, AT_ONCE = 100, 16
EPISTASIS_SCHEMA: dict[str, Any] = WHICH | {
    "n_cells": pl.Int32, "is_paired": pl.Boolean, "strength_joint": pl.Float64, "strength_additive": pl.Float64,
    "strength_ratio": pl.Float64, "rms_difference": pl.Float64, "noise": pl.Float64, "cosine": pl.Float64,
    "interaction": pl.Float64, "interaction_low": pl.Float64, "interaction_high": pl.Float64, "other": pl.Float64,
    "n_genes": pl.Int32, "null_interaction": pl.Float64, "null_p_value": pl.Float64, "null_other_p_value": pl.Float64,
    "n_null": pl.Int32, "class": pl.String,
}  # fmt: skip
"""Of `relations/epistasis.parquet`: a row per joint edit whose single edits are in the screen, stratum and time point.

n_cells, is_paired  cells that have the joint and every single edit, on which all is compared; not paired (`keep: summaries`): the
                    cells of the joint edit, and means that may be of others
strength_*          root mean square over genes of the joint edit's mean change, and of the sum of the single ones'; their ratio
rms_difference      of joint minus additive; noise: of that, what the spread of cells alone gives; cosine of joint and additive
interaction         joint minus additive along the additive change, as a share of it: 0 additive, 1 twice the sum, -0.5 half of
                    it; with the ends of the 95 % interval over cells (or replicates)
other               size of the rest of the difference, noise taken off, as a share of the sum
n_genes             genes with fdr < 0.05 whose difference is above 0.01 either way
null_interaction    median of the null joint edits of the kind (n_null); null_p_value: how often one is as far from it;
                    null_other_p_value: how often `other` of one is as large
class               synergy, suppression: the interval is beyond the null median (0 without) by more than 0.1, and null_p_value, if
                    there, below 0.05; other response: `other` above 0.5, more than the interaction is, and p below 0.05;
                    additive: the interval is within 0.2; else unclear. null with too few cells or without pairing
"""
EPISTASIS_GENES_SCHEMA: dict[str, Any] = {k: v for k, v in WHICH.items() if k != "is_null"} | {
    "feature": pl.String, "feature_symbol": pl.String, "is_edited": pl.Boolean, "joint_delta": pl.Float32,
    "additive_delta": pl.Float32, "difference": pl.Float32, "se": pl.Float32, "statistic": pl.Float32,
    "p_value": pl.Float64, "fdr": pl.Float64,
}  # fmt: skip
"""Of `relations/epistasis_genes.parquet`: of every joint edit that was asked for, the 100 genes that differ most from the sum."""


def epistasis(
    table: pl.DataFrame, names: Names, layout: Layout, items: Items, means: Means, min_cells: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(EPISTASIS_SCHEMA, EPISTASIS_GENES_SCHEMA), in the order of the ranking `table` (with n_joint)."""
    joints = joint_edits(names)
    found = (
        _from_means(joints, table, names, items, means)
        if layout.keeps_summaries
        else _from_cells(joints, layout, items)
    )
    place = {key: n for n, key in enumerate(table.select("perturbation", "stratum", "time").rows())}
    placed = sorted(
        ((place[(names.id[c.joint.number], items.strata.name_S[s], t)], c) for s, t, c in found), key=lambda x: x[0]
    )
    row_M = np.array([n for n, _ in placed], dtype=np.int64)
    rows = table[row_M].select(*WHICH)
    numbers = pl.DataFrame([_numbers(c) for _, c in placed], schema={k: EPISTASIS_SCHEMA[k] for k in NUMBERS})
    whole = pl.concat([rows, numbers], how="horizontal")
    judged = [judge(part, min_cells) for part in whole.with_row_index("row").partition_by(*KIND, maintain_order=True)]
    whole = pl.concat(judged).sort("row") if judged else whole.with_columns(pl.lit(None).alias(c) for c in JUDGED)
    asked = [(rows[n], c) for n, (_, c) in enumerate(placed) if not rows["is_null"][n]]
    genes = joined([_genes(row, c, names) for row, c in asked], EPISTASIS_GENES_SCHEMA)
    return typed(whole.to_dict(), EPISTASIS_SCHEMA), genes


def _from_cells(joints: Sequence[Joint], layout: Layout, items: Items) -> list[tuple[int, int, Compared]]:
    """(stratum, time point, how it differs)"""
    rounding = Rounding(layout.dtype, layout.delta_scale)
    tasks = [
        (items, joints[i : i + AT_ONCE], t, rounding) for t in layout.pred_tps for i in range(0, len(joints), AT_ONCE)
    ]
    found = each(compared, tasks)
    return [(s, t, c) for (_, _, t, _), some in zip(tasks, found, strict=True) for s, c in some]


def _from_means(
    joints: Sequence[Joint], table: pl.DataFrame, names: Names, items: Items, means: Means
) -> list[tuple[int, int, Compared]]:
    groups = table.filter(pl.col("n_cells") > 0).select("perturbation", "stratum", "time", "n_cells").rows()
    n_cells: Mapping[tuple[str, str, int], int] = {(p, s, t): n for p, s, t, n in groups}
    found = []
    for joint in joints:
        for stratum, name in enumerate(items.strata.name_S):
            for time in sorted({t for _, _, t in n_cells}):
                edits = (joint.number, *joint.singles)
                if all((names.id[p], name, time) in n_cells for p in edits):
                    place_E = np.array([means.place(p, stratum, time) for p in edits], dtype=np.int64)
                    n = n_cells[(names.id[joint.number], name, time)]
                    found.append((stratum, time, on_means(joint, means.rows(place_E), n)))
    return found


NUMBERS = (
    "n_cells", "is_paired", "strength_joint", "strength_additive", "strength_ratio", "rms_difference", "noise", "cosine",
    "interaction", "interaction_low", "interaction_high", "other", "n_genes",
)  # fmt: skip
JUDGED = ("null_interaction", "null_p_value", "null_other_p_value", "n_null", "class")


def _numbers(c: Compared) -> dict[str, Any]:
    """NUMBERS of one joint edit."""
    joint_G, additive_G, difference_G = (x_G[c.other_G] for x_G in (c.joint_G, c.additive_G, c.difference_G))
    joint, additive, difference = (
        float(np.sqrt(np.mean(np.square(x_G)))) for x_G in (joint_G, additive_G, difference_G)
    )
    noise = 0.0 if np.isnan(c.noise) else c.noise
    rest_G = difference_G - c.interaction * additive_G
    rest = float(np.sqrt(max(float(np.mean(np.square(rest_G))) - noise**2, 0))) if additive > 0 else np.nan
    size = joint * additive
    is_changed_G = (c.fdr_G < 0.05) & (np.abs(c.difference_G) > 0.01)
    return {
        "n_cells": c.n_cells, "is_paired": c.is_paired, "strength_joint": joint, "strength_additive": additive,
        "strength_ratio": joint / additive if additive > 0 else None, "rms_difference": difference, "noise": c.noise,
        "cosine": float(np.mean(joint_G * additive_G)) / size if size > 0 else None, "interaction": c.interaction,
        "interaction_low": c.low, "interaction_high": c.high, "other": rest / additive if additive > 0 else None,
        "n_genes": int(is_changed_G.sum()) if np.isfinite(c.p_G).any() else None,
    }  # fmt: skip


def judge(part: pl.DataFrame, min_cells: int) -> pl.DataFrame:
    """The rows of one kind with JUDGED."""
    interaction_M, low_M, high_M, other_M = (
        part[n].cast(pl.Float64).fill_null(np.nan).to_numpy()
        for n in ("interaction", "interaction_low", "interaction_high", "other")
    )
    is_enough_M = (part["n_cells"] >= min_cells).to_numpy() & np.isfinite(interaction_M)
    null_M = is_enough_M & part["is_null"].to_numpy()
    n_null = int(null_M.sum())
    centre, p_M, p_other_M = 0.0, np.full(len(part), np.nan), np.full(len(part), np.nan)
    if n_null >= FEWEST_NULLS:
        centre = float(np.median(interaction_M[null_M]))
        p_M, p_other_M = (
            np.where(is_enough_M, counted_p(x_M, x_M[null_M], null_M), np.nan)
            for x_M in (np.abs(interaction_M - centre), other_M)
        )
    can_M, can_other_M = (~(x_M >= MAX_P) for x_M in (p_M, p_other_M))
    away_M = np.abs(interaction_M - centre)
    classes = [
        (OTHER, (other_M > MUCH_OTHER) & (other_M > away_M) & can_other_M),
        (SYNERGY, (low_M > centre + MARGIN) & can_M),
        (SUPPRESSION, (high_M < centre - MARGIN) & can_M),
        (ADDITIVE, (low_M > centre - 2 * MARGIN) & (high_M < centre + 2 * MARGIN) & (other_M <= MUCH_OTHER)),
    ]
    named = np.select([is_so for _, is_so in classes], [name for name, _ in classes], UNCLEAR)
    is_told_M = is_enough_M & np.isfinite(low_M)
    return part.with_columns(
        null_interaction=pl.lit(centre if n_null >= FEWEST_NULLS else None, dtype=pl.Float64),
        null_p_value=pl.Series(p_M), null_other_p_value=pl.Series(p_other_M), n_null=pl.lit(n_null),
        **{"class": pl.Series([str(c) if is_told else None for c, is_told in zip(named, is_told_M, strict=True)], dtype=pl.String)},
    )  # fmt: skip


def _genes(row: pl.DataFrame, c: Compared, names: Names) -> pl.DataFrame:
    """EPISTASIS_GENES_SCHEMA of one joint edit."""
    at = np.argsort(-np.abs(c.difference_G), kind="stable")[:N_GENES]
    columns: dict[str, Any] = {name: [row[name][0]] * len(at) for name in WHICH if name != "is_null"}
    columns |= {
        "feature": names.feature[at].tolist(), "feature_symbol": names.feature_symbol[at].tolist(),
        "is_edited": ~c.other_G[at], "joint_delta": c.joint_G[at], "additive_delta": c.additive_G[at],
        "difference": c.difference_G[at], "se": c.se_G[at], "statistic": c.statistic_G[at], "p_value": c.p_G[at],
        "fdr": c.fdr_G[at],
    }  # fmt: skip
    return typed(columns, EPISTASIS_GENES_SCHEMA)
