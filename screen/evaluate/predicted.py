"""Predicted: what a screen says of the perturbations of one edit and time point, in one of its strata or in all together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screen.config.sections import DegConfig
from screen.errors import ConfigError, nearest, some
from screen.evaluate.labels import Genes
from screen.results.results import Results
from screen.stats.groups import GroupReader
from screen.stats.tables import strata_of

Values = NDArray[np.float64]
SCORES = ("strength", "specific_strength", "null_z")
"""Columns of the hits that are taken for the predicted size of an effect."""
NUMBERS = (*SCORES, "rank_position")


@dataclass(frozen=True)
class Edit:
    """Which edit and time point are compared: "src", "mask", 1."""

    site: str
    mode: str
    time: int

    def __str__(self) -> str:
        return f"{self.site}:{self.mode} at time point {self.time}"


@dataclass(frozen=True)
class Predicted:
    """P perturbations: their genes, ids, columns of the hits (NUMBERS, n_cells; means over strata, weighted by cells)."""

    genes: tuple[Genes, ...]
    id_P: tuple[str, ...]
    name_P: tuple[str, ...]
    number_P: Mapping[str, Values]
    n_too_few: int
    change_PG: NDArray[np.float32] | None = None


def edit_of(results: Results, mode: str | None, time: int | None) -> Edit:
    """The edit that is asked for, or the only one. `mode` is a mode, or "src:mask" where a mode has several sites.

    Raises ConfigError naming what there is.
    """
    own = results.hits.filter(~pl.col("is_null"))
    pairs = sorted(set(own.select("site", "mode").rows()))
    chosen = [(s, m) for s, m in pairs if mode in (None, m, f"{s}:{m}")]
    there = [m if sum(m == x for _, x in pairs) == 1 else f"{s}:{m}" for s, m in pairs]
    if not chosen:
        raise ConfigError(f'no mode "{mode}" in this screen; there is {some(there, 20)}{nearest(str(mode), there)}')
    if len(chosen) > 1:
        raise ConfigError(f"one mode is compared at a time, and this screen has {some(there, 20)}: say --mode (mode=)")
    results.check_place(None, time)
    if time is None and len(results.times) > 1:
        raise ConfigError(
            f"one time point is compared at a time, and this screen has {some(results.times, 20)}: say --time (time=)"
        )
    return Edit(*chosen[0], results.times[0] if time is None else time)


def predicted(results: Results, edit: Edit, strata: Sequence[str], column_of: Mapping[str, int]) -> Predicted:
    """Of all perturbations with `min_cells` cells or more (all, if none has so many); `column_of`: Ensembl ID -> gene."""
    rows = results.hits.filter(
        pl.col("stratum").is_in(list(strata)), site=edit.site, mode=edit.mode, time=edit.time
    ).drop_nulls("strength")
    weighted = [
        (pl.col(n) * pl.col("n_cells")).sum() / pl.col("n_cells").filter(pl.col(n).is_not_null()).sum() for n in NUMBERS
    ]
    found = rows.group_by("perturbation", "target", "target_symbol", maintain_order=True).agg(
        *(w.alias(n) for w, n in zip(weighted, NUMBERS, strict=True)), pl.col("n_cells").sum()
    )
    found = found.with_columns(pl.selectors.float().fill_nan(None)).sort("perturbation")
    enough = found.filter(pl.col("n_cells") >= results.min_cells)
    kept = enough if enough.height else found
    genes = tuple(tuple(sorted(column_of[e] for e in t.split("+"))) for t in kept["target"].to_list())
    number_P = {n: kept[n].cast(pl.Float64).fill_null(float("nan")).to_numpy() for n in (*NUMBERS, "n_cells")}
    return Predicted(
        genes, tuple(kept["perturbation"]), tuple(kept["target_symbol"]), number_P, found.height - kept.height
    )


def predicted_changes(
    results: Results, edit: Edit, strata: Sequence[str], ids: Sequence[str], genes: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(P, G) mean change of log expression of some genes by perturbations, over all the cells of the strata."""
    store = results.store
    groups = strata_of(store, store.provenance["view"]["strata"], None)
    wanted = [s for s, name in enumerate(groups.name_S) if name in strata]
    place = {i: n for n, i in enumerate(ids)}
    sum_PG, n_P = np.zeros((len(ids), len(genes))), np.zeros(len(ids))
    every = store.perturbations("id").tolist()
    for block in store.blocks:
        reader = GroupReader(store, block, groups, DegConfig(top=0))
        mine = [p for p in range(block.first, block.first + block.n_perturbations) if every[p] in place]
        for group in reader.groups(*mine):
            if group.time != edit.time or group.stratum not in wanted or group.genes is None:
                continue
            at = place[every[group.perturbation]]
            sum_PG[at] += group.n_cells * group.genes.mean_delta[genes]
            n_P[at] += group.n_cells
    return (sum_PG / np.maximum(n_P, 1)[:, None]).astype(np.float32)
