"""Profile level: is the predicted change of every gene near the real one, and nearer than what needs no model?"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screen.cells.pairing import shuffled
from screen.evaluate.profile_metrics import (
    direction_match,
    discrimination,
    mean_absolute_error,
    overlap_at,
    pearson,
    spearman_brown,
    spearman_of_changed,
    weighted_r2,
    weights,
)
from screen.evaluate.rank_metrics import interval, resampled
from screen.evaluate.real_effects import welch_t
from screen.evaluate.screen_level import Compared

Values = NDArray[np.float64]
MOST_DISCRIMINATED = 1_000
"""Perturbations among which one's own is looked for; a random part of more, the same each time."""
OVERLAP_TOP = 50
WARNED = {
    "pearson_from_control": "rewards what all perturbations share: the mean of all perturbations does well at it",
    "mae": "most genes do not change, so predicting no change does well at it",
}
"""Metrics that mislead -> why."""
METRICS = (
    "pearson_from_mean", "pearson_centred", "discrimination_l1", "discrimination_cosine", "overlap_at_n", "overlap_at_50",
    "direction_match", "spearman_of_changed", "weighted_r2", *WARNED,
)  # fmt: skip
CORRECTED = ("pearson_from_mean", "pearson_centred", "pearson_from_control")
"""Correlations: those of two halves are raised to what all the cells would give, 2r / (1 + r)."""
PREDICTORS = ("prediction", "no_change", "perturbation_mean", "additive", "ceiling")
SCHEMA: dict[str, Any] = {
    "stratum": pl.String, "metric": pl.String, "predictor": pl.String, "n": pl.Int32, "mean": pl.Float64,
    "low": pl.Float64, "high": pl.Float64, "warning": pl.String,
}  # fmt: skip


def profiles(compared: Compared, change_PG: NDArray[np.float32], singles: Mapping[int, Values]) -> dict[str, Values]:
    """ "metric/predictor" -> (P,), NaN where it is not defined.

    change_PG  what the screen predicts of the same perturbations and genes
    singles    joint perturbation (row) -> the sum of the real changes of its genes alone
    """
    real = compared.real
    n, n_genes = real.change_PG.shape
    found = {f"{m}/{p}": np.full(n, np.nan) for m in METRICS for p in PREDICTORS}
    if n == 0:
        return found
    real_PG, ours_PG = real.change_PG.astype(np.float64), change_PG.astype(np.float64)
    half_2PG = real.change_2PG.astype(np.float64)
    mean_G, ours_mean_G, mean_2G = real_PG.mean(0), ours_PG.mean(0), half_2PG.mean(1)
    t = _Against(compared)
    for p in range(n):
        keep = np.delete(np.arange(n_genes), compared.own_P[p])
        weight_G = weights(t(p)[keep])
        truth = _Truth(real_PG[p, keep], mean_G[keep], real.is_changed_PG[p, keep], weight_G)
        second = _Truth(half_2PG[1, p, keep], mean_2G[1, keep], real.is_changed_second_PG[p, keep], weight_G)
        of = {
            "prediction": truth.metrics(ours_PG[p, keep], ours_mean_G[keep]),
            "no_change": truth.metrics(np.zeros(len(keep)), np.zeros(len(keep))),
            "perturbation_mean": truth.metrics(mean_G[keep], mean_G[keep]),
            "ceiling": second.metrics(half_2PG[0, p, keep], mean_2G[0, keep]),
        }
        if p in singles:
            of["additive"] = truth.metrics(singles[p][keep], mean_G[keep])
        of["ceiling"] |= {m: spearman_brown(of["ceiling"][m]) for m in CORRECTED}
        for predictor, values in of.items():
            for metric, value in values.items():
                found[f"{metric}/{predictor}"][p] = value
    return found | _discriminated(compared, ours_PG, mean_G, singles)


class _Truth:
    """The real change of one perturbation, that of all on average, which genes changed, and their weights."""

    def __init__(self, real_G: Values, mean_G: Values, is_changed_G: NDArray[np.bool_], weight_G: Values) -> None:
        self.real_G, self.mean_G, self.is_changed_G, self.weight_G = real_G, mean_G, is_changed_G, weight_G

    def metrics(self, x_G: Values, x_mean_G: Values) -> dict[str, float]:
        """Of a predicted change; `x_mean_G`: what is predicted on average over perturbations."""
        real_G, mean_G, is_changed_G = self.real_G, self.mean_G, self.is_changed_G
        n_changed = int(is_changed_G.sum())
        found = {
            "pearson_from_mean": pearson(x_G - mean_G, real_G - mean_G),
            "pearson_centred": pearson(x_G - x_mean_G, real_G - mean_G),
            "overlap_at_n": overlap_at(x_G, real_G, is_changed_G),
            "overlap_at_50": overlap_at(x_G, real_G, is_changed_G, n=OVERLAP_TOP),
            "direction_match": direction_match(x_G, real_G, is_changed_G),
            "spearman_of_changed": spearman_of_changed(x_G, real_G, is_changed_G),
            "weighted_r2": weighted_r2(x_G - mean_G, real_G - mean_G, self.weight_G),
            "pearson_from_control": pearson(x_G, real_G),
            "mae": mean_absolute_error(x_G, real_G),
        }
        if n_changed and not x_G.any():
            # no change orders nothing and has no direction: chance
            found["overlap_at_n"] = n_changed / len(x_G)
            found["overlap_at_50"] = min(OVERLAP_TOP, n_changed) / len(x_G)
            found["direction_match"] = 0.5
        return found


class _Against:
    """Welch's t of a perturbation's cells against those of all the others, gene by gene."""

    def __init__(self, compared: Compared) -> None:
        real = compared.real
        self._n_P = real.n_cells_P.astype(np.float64)
        self._change_PG, self._variance_PG = real.change_PG, real.variance_PG
        self._sum_G = np.einsum("p,pg->g", self._n_P, real.change_PG, dtype=np.float64)
        self._square_G = np.zeros_like(self._sum_G)
        for p in range(len(self._n_P)):
            self._square_G += self._squares(p)

    def _squares(self, p: int) -> Values:
        n = self._n_P[p]
        mean_G, variance_G = (x[p].astype(np.float64) for x in (self._change_PG, self._variance_PG))
        return np.asarray(variance_G * (n - 1) + n * np.square(mean_G))

    def __call__(self, p: int) -> Values:
        n, n_others = self._n_P[p], self._n_P.sum() - self._n_P[p]
        mean_G = self._change_PG[p].astype(np.float64)
        if n_others < 2:
            return np.full(len(mean_G), np.nan)
        others_G = (self._sum_G - n * mean_G) / n_others
        variance_G = np.maximum(self._square_G - self._squares(p) - n_others * np.square(others_G), 0) / (n_others - 1)
        one = (np.array(n), mean_G, self._variance_PG[p].astype(np.float64))
        return welch_t(*one, np.array(n_others), others_G, variance_G)


def _discriminated(
    compared: Compared, ours_PG: Values, mean_G: Values, singles: Mapping[int, Values]
) -> dict[str, Values]:
    n = len(ours_PG)
    some = np.sort(shuffled(np.arange(n), "discrimination")[:MOST_DISCRIMINATED])
    real_PG, half_2PG = (
        x.astype(np.float64) for x in (compared.real.change_PG[some], compared.real.change_2PG[:, some])
    )
    own = [compared.own_P[p] for p in some]
    additive_PG = np.stack([singles.get(int(p), np.zeros(ours_PG.shape[1])) for p in some])
    has_P = np.array([int(p) in singles for p in some])
    found = {}
    for metric in ("l1", "cosine"):
        of = {
            "prediction": discrimination(ours_PG[some], real_PG, own, metric),
            "no_change": discrimination(np.zeros_like(real_PG), real_PG, own, metric),
            "perturbation_mean": discrimination(np.tile(mean_G, (len(some), 1)), real_PG, own, metric),
            "ceiling": discrimination(half_2PG[0], half_2PG[1], own, metric),
        }
        if has_P.any():
            of["additive"] = np.where(has_P, discrimination(additive_PG, real_PG, own, metric), np.nan)
        for predictor, value_P in of.items():
            whole_P = np.full(n, np.nan)
            whole_P[some] = value_P
            found[f"discrimination_{metric}/{predictor}"] = whole_P
    return found


def profile_table(found: Mapping[str, Values], stratum: str) -> pl.DataFrame:
    """SCHEMA: means over perturbations, with the interval of resampled perturbations."""
    rows = []
    for metric in METRICS:
        for predictor in PREDICTORS:
            known = found[f"{metric}/{predictor}"]
            known = known[np.isfinite(known)]
            if not len(known):
                continue
            low, high = interval(known[resampled(len(known))].mean(1))
            row = [stratum, metric, predictor, len(known), float(known.mean()), low, high, WARNED.get(metric)]
            rows.append(row)
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")
