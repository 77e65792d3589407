"""Screen level: do the screen's scores order the real effects better than what is known of a gene anyway?"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screen.evaluate.predicted import SCORES, Predicted
from screen.evaluate.profile_metrics import spearman_brown
from screen.evaluate.rank_metrics import (
    FEWEST,
    auprc_rows,
    correlation_rows,
    filled,
    interval,
    partial_spearman,
    precision_at,
    ranks,
    resampled,
    spearman,
    strongest,
)
from screen.evaluate.real_effects import RealEffects

Values = NDArray[np.float64]
COVARIATES = ("expression", "detection", "rank_position", "n_cells", "n_real_cells")
"""What is known without a model: the gene's mean and share of cells among real controls; its place in the screen's rows
(the highest first); cells of the screen; cells of the real screen."""
TOPS = (10, 50, 100)
SCHEMA: dict[str, Any] = {
    "stratum": pl.String, "effect": pl.String, "score": pl.String, "kind": pl.String, "n": pl.Int32,
    "spearman": pl.Float64, "low": pl.Float64, "high": pl.Float64, "partial_spearman": pl.Float64,
    "auprc": pl.Float64, "auprc_low": pl.Float64, "auprc_high": pl.Float64,
    **{f"precision_{k}": pl.Float64 for k in TOPS}, "gain": pl.Float64, "gain_low": pl.Float64, "gain_high": pl.Float64,
}  # fmt: skip
"""kind: screen, covariate, chance or halves. gain: Spearman minus that of the best covariate, on the same perturbations."""


@dataclass(frozen=True)
class Compared:
    """P perturbations that are in the screen and in the real file, row by row."""

    predicted: Predicted
    real: RealEffects
    screen_P: NDArray[np.int64]
    """Row of `predicted` of each of the real ones."""
    own_P: list[list[int]]
    """Shared columns of each perturbation's own genes."""

    def __len__(self) -> int:
        return len(self.real.genes)

    @property
    def effects(self) -> dict[str, tuple[Values, Values]]:
        """Real effect -> (of all cells (P,), of the halves (2, P))."""
        real = self.real
        return {
            "energy_distance": (real.energy_P, real.energy_2P),
            "n_deg": (real.n_deg_P.astype(np.float64), real.n_deg_2P.astype(np.float64)),
        }

    @property
    def scores(self) -> dict[str, Values]:
        """What orders perturbations: scores of the screen, then covariates; larger is said to be stronger."""
        number = {n: x_P[self.screen_P] for n, x_P in self.predicted.number_P.items()}
        expression, detection = (
            np.array([x_G[own].mean() if own else np.nan for own in self.own_P])
            for x_G in (self.real.expression_G, self.real.detection_G)
        )
        return {
            **{n: number[n] for n in SCORES}, "expression": expression, "detection": detection,
            "rank_position": -number["rank_position"], "n_cells": number["n_cells"],
            "n_real_cells": self.real.n_cells_P.astype(np.float64),
        }  # fmt: skip


def screen_table(compared: Compared, stratum: str) -> pl.DataFrame:
    """SCHEMA: each real effect against each score, beside chance and the real halves."""
    rows = []
    for effect, (value_P, value_2P) in compared.effects.items():
        lead = {"stratum": stratum, "effect": effect}
        rows += [{**lead, **row} for row in _rows_of(compared.scores, value_P)]
        rows.append({**lead, **_chance(value_P)})
        rows.append({**lead, **_halves(value_2P)})
    return pl.DataFrame([_padded(r) for r in rows], schema=SCHEMA).with_columns(pl.selectors.float().fill_nan(None))


def _padded(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row.get(name) for name in SCHEMA}


def _rows_of(scores: Mapping[str, Values], effect_P: Values) -> list[dict[str, Any]]:
    covariate_PK = np.stack([scores[n] for n in COVARIATES], axis=1)
    known = {n: np.isfinite(x_P) & np.isfinite(effect_P) for n, x_P in scores.items()}
    # most scores are known of the same perturbations: these are drawn, and their effects ranked, once
    drawn: dict[bytes, _Drawn] = {}
    found = []
    for name, score_P in scores.items():
        at = known[name]
        row: dict[str, Any] = {"score": name, "kind": "screen" if name in SCORES else "covariate", "n": int(at.sum())}
        if at.sum() >= FEWEST:
            key = at.tobytes()
            if key not in drawn:
                drawn[key] = _Drawn(effect_P[at], covariate_PK[at])
            row |= _judged(score_P[at], drawn[key], has_to_beat=name in SCORES)
        found.append(row)
    return found


class _Drawn:
    """Real effects of P perturbations and what a score of them is to beat, each with its ranks in every resample."""

    def __init__(self, effect_P: Values, covariate_PK: Values | None = None) -> None:
        self.effect_P, self.covariate_PK, self.at_NP = effect_P, covariate_PK, resampled(len(effect_P))
        self.effect_NP = ranks(effect_P[self.at_NP])
        self.is_top_P = strongest(effect_P)

    @cached_property
    def best(self) -> tuple[float, Values]:
        """(Spearman's correlation with the effects, the same in every resample) of the covariate that orders them best."""
        assert self.covariate_PK is not None
        best_P = max((filled(x_P) for x_P in self.covariate_PK.T), key=lambda x_P: spearman(x_P, self.effect_P))
        return spearman(best_P, self.effect_P), correlation_rows(ranks(best_P[self.at_NP]), self.effect_NP)


def _judged(score_P: Values, drawn: _Drawn, has_to_beat: bool) -> dict[str, Any]:
    """What is said of one score; `has_to_beat`: beside the covariates too."""
    effect_P, is_top_P = drawn.effect_P, drawn.is_top_P
    score_NP = score_P[drawn.at_NP]
    rho_N = correlation_rows(ranks(score_NP), drawn.effect_NP)
    rho = spearman(score_P, effect_P)
    auprc_N = auprc_rows(score_NP, is_top_P[drawn.at_NP])
    found: dict[str, Any] = {"spearman": rho, "auprc": float(auprc_rows(score_P[None], is_top_P[None])[0])}
    found["low"], found["high"] = interval(rho_N)
    found["auprc_low"], found["auprc_high"] = interval(auprc_N)
    found |= {f"precision_{k}": precision_at(score_P, effect_P, k) for k in TOPS}
    if has_to_beat:
        assert drawn.covariate_PK is not None
        found["partial_spearman"] = partial_spearman(score_P, effect_P, drawn.covariate_PK)
        best, best_N = drawn.best
        found["gain"] = rho - best
        found["gain_low"], found["gain_high"] = interval(rho_N - best_N)
    return found


def _chance(effect_P: Values) -> dict[str, Any]:
    """What a score that says nothing gets."""
    known_P = effect_P[np.isfinite(effect_P)]
    n = len(known_P)
    row: dict[str, Any] = {"score": "chance", "kind": "chance", "n": n}
    if n < FEWEST:
        return row
    share_of = {"auprc": strongest(known_P), **{f"precision_{k}": strongest(known_P, k) for k in TOPS}}
    return row | {"spearman": 0.0} | {name: float(x_P.mean()) or None for name, x_P in share_of.items()}


def _halves(effect_2P: Values) -> dict[str, Any]:
    """One half of the real cells as the score of the other; Spearman is what it becomes with all cells."""
    at = np.isfinite(effect_2P).all(0)
    row: dict[str, Any] = {"score": "real halves", "kind": "halves", "n": int(at.sum())}
    if at.sum() < FEWEST:
        return row
    row |= _judged(effect_2P[0, at], _Drawn(effect_2P[1, at]), has_to_beat=False)
    return row | {n: spearman_brown(row[n]) for n in ("spearman", "low", "high")}
