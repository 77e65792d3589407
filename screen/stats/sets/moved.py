"""Moved sets: the table of how far every perturbation shifts gene sets, judged beside null perturbations of the same kind."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screen.config.sections import FEWEST_NULLS
from screen.stats.enrich import SCORES_SCHEMA, WHICH
from screen.stats.parts import Means
from screen.stats.sets.gene_sets import GeneSets
from screen.stats.sets.groups import Groups, pieces
from screen.stats.sets.scores import ulm
from screen.stats.sets.set_null import OF_ALL, OF_NULLS, Judge, Rates, farthest, standardised

Bools = NDArray[np.bool_]
SETS_AT_ONCE = 256


@dataclass(frozen=True)
class Judged:
    """P perturbations of one kind against S sets. Single precision: 8 bytes of memory per perturbation and set.

    score_PS, z_PS    NaN where there is none; z NaN too where a perturbation is not judged
    is_pool_P         the null perturbations; is_tested_P: those whose rates count
    judge, rates      what gives p of |z|, and q of p
    """

    score_PS: NDArray[np.float32]
    z_PS: NDArray[np.float32]
    is_pool_P: Bools
    is_tested_P: Bools
    judge: Judge
    rates: Rates


def judged(score_PS: NDArray[np.float32], is_enough_P: Bools, is_null_P: Bools, is_named_P: Bools) -> Judged:
    """Scores of one kind of perturbation beside its null perturbations.

    Those are the designated ones; where there are none, all that were not asked for by name (`genes: all`), of which hits are few.
    """
    is_known_P = is_enough_P & ~np.isnan(score_PS).all(axis=1)
    is_designated = bool((is_null_P & is_known_P).any())
    is_pool_P = is_known_P & (is_null_P if is_designated else ~is_named_P)
    z_PS = np.full_like(score_PS, np.nan)
    if np.count_nonzero(is_pool_P) >= FEWEST_NULLS:
        for first in range(0, score_PS.shape[1], SETS_AT_ONCE):
            some = slice(first, first + SETS_AT_ONCE)
            z_PS[:, some] = standardised(score_PS[:, some].astype(np.float64), is_pool_P)
        z_PS[~is_known_P] = np.nan
    far_P, is_tested_P = farthest(z_PS), is_known_P & ~is_null_P
    judge = Judge(far_P[is_pool_P], OF_NULLS if is_designated else OF_ALL)
    return Judged(
        score_PS, z_PS, is_pool_P, is_tested_P, judge,
        Rates(judge.p(far_P[is_tested_P], is_pool_P[is_tested_P])),
    )  # fmt: skip


def told(found: Judged, rows: NDArray[np.integer], n_best: int, max_fdr: float) -> tuple[Any, Any, dict[str, Any]]:
    """(row, set, what is told of each pair): of some rows the sets up to a rate, and the n_best farthest out; best first."""
    score, z = (x[rows].astype(np.float64) for x in (found.score_PS, found.z_PS))
    p = found.judge.p(np.abs(z), np.broadcast_to(found.is_pool_P[rows][:, None], z.shape))
    q = found.rates.q(p)
    far = np.nan_to_num(np.abs(np.where(np.isnan(z).all(axis=1, keepdims=True), score, z)), nan=-1.0)
    n_best = min(n_best, far.shape[1])
    is_told = q <= max_fdr
    np.put_along_axis(is_told, np.argpartition(-far, n_best - 1, axis=1)[:, :n_best], True, axis=1)
    row, member = np.nonzero(is_told & ~np.isnan(score))
    order = np.lexsort([member, -far[row, member], row])
    row, member = row[order], member[order]
    columns = {"score": score, "null_z": z, "p_value": p, "q_value": q}
    return row, member, {k: x[row, member] for k, x in columns.items()}


def moved_sets(groups: Groups, sets: GeneSets, means: Means, n_best: int, max_fdr: float) -> pl.DataFrame:
    """SCORES_SCHEMA of every perturbation that is no null one, in the order of the groups, sets farthest out first."""
    parts = [pl.DataFrame(schema={"row": pl.Int64} | SCORES_SCHEMA)]
    names = {
        k: np.array(v, dtype=np.object_) for k, v in (("collection", sets.collection_S), ("gene_set", sets.name_S))
    }
    size_S = sets.member_SG.sum(1)
    for at in groups.kinds():
        score_PS = np.concatenate(list(_scores(groups, at, sets, means)))
        found = judged(score_PS, groups.is_enough_N[at], groups.is_null_N[at], groups.is_named_N[at])
        asked = np.flatnonzero(~groups.is_null_N[at])
        for rows in (asked[some] for some in pieces(len(asked), len(sets))):
            row, member, columns = told(found, rows, n_best, max_fdr)
            place = at[rows][row]
            columns |= {k: x[member] for k, x in names.items()} | {"n_set": size_S[member]}
            which = groups.table[place].select(*WHICH).with_columns(row=pl.Series(place), n_null=pl.lit(found.judge.n))
            table = which.with_columns(**{k: pl.Series(x, dtype=SCORES_SCHEMA[k]) for k, x in columns.items()})
            parts.append(table.select(pl.col(k).cast(v) for k, v in parts[0].schema.items()))
    whole = pl.concat(parts).sort("row", maintain_order=True).drop("row")
    return whole.with_columns(pl.selectors.float().fill_nan(None))


def _scores(groups: Groups, at: NDArray[np.integer], sets: GeneSets, means: Means) -> Iterator[NDArray[np.float32]]:
    for some in pieces(len(at), len(sets) + sets.member_SG.shape[1]):
        here = at[some]
        yield ulm(means.rows(groups.place_N[here]), sets.member_GS, groups.own_NK[here]).astype(np.float32)
