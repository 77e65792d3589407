"""Accuracy: how near predictions come to the cells that were observed, cell by cell, beside what needs no model."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.cells.bank import SOURCE
from screen.cells.h5ad import source_counts
from screen.checking.cells import CheckedCells
from screen.checking.intervals import with_interval
from screen.checking.observed import Observed, Values, in_parts, pearson
from screen.checking.predicted import Predicted, where_there
from screen.checking.scatter import log_likelihood_of_means
from screen.engine.control import log_likelihood

BASELINES = {"type_mean_of_log": "r_type_mean_of_log", "type_mean": "r_type_mean", "source": "r_source"}
"""What predictions are held against -> its column."""
NEGLIGIBLE = 0.002
"""A gain in r up to which a cell's own source adds nothing worth an edit."""
SAME = 1e-9
"""1 - cosine of embeddings up to which two predictions are one."""


@dataclass(frozen=True)
class Accuracy:
    """Per cell at one time point, (C,) each by column name, NaN where there is none; `has_counts`: of observed counts."""

    time: int
    columns: dict[str, Values]
    has_counts: bool


def accuracy(cells: CheckedCells, found: Predicted, stratum_C: NDArray[np.int64], time: int) -> Accuracy:
    """What is observed against what is predicted.

    r_*         Pearson's correlation over genes with the observed log1p CP10K: of the model; of the mean over the other
                cells of the stratum, of logs and of counts; of the source copied; of the model from others' sources
    nll_*       negative log-likelihood per gene of the observed counts
    source_*    how far the prediction moves when the source is another's: 1 - cosine, root mean square of log units
    """
    columns = _moved(found, time)
    counts_CG = cells.loaded.bank.states[time].counts
    if f"expression_t{time}" not in found.own or counts_CG is None:
        return Accuracy(time, columns, False)
    observed = Observed(counts_CG, stratum_C)
    columns |= _correlations(cells, found, observed, time)
    columns["gain"] = columns["r_model"] - columns["r_other_source"]
    columns["gain_of_random"] = columns["r_other_source"] - columns["r_third_source"]
    if observed.is_counts:
        columns |= _likelihoods(cells, found, observed, time)
    return Accuracy(time, columns, True)


def _moved(found: Predicted, time: int) -> dict[str, Values]:
    own, other = (
        where_there(c[f"embedding_t{time}"], c, time, found.other_C).astype(np.float64)
        for c in (found.own, found.other)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine_C = (own * other).sum(1) / np.sqrt((own**2).sum(1) * (other**2).sum(1))
    columns = {"source_shift": np.maximum(1 - cosine_C, 0)}
    if f"expression_t{time}" in found.own:
        change_CG = found.other[f"expression_t{time}"] - found.own[f"expression_t{time}"]
        there_CG = where_there(change_CG, found.own, time, found.other_C)
        columns["source_change"] = np.sqrt(np.square(there_CG).mean(1, dtype=np.float64))
    return columns


def _correlations(cells: CheckedCells, found: Predicted, observed: Observed, time: int) -> dict[str, Values]:
    name, n_cells = f"expression_t{time}", cells.n_cells
    model = where_there(found.own[name], found.own, time, np.arange(n_cells))
    other = where_there(found.other[name], found.other, time, found.other_C)
    third = where_there(found.third[name], found.third, time, found.third_C)
    source = _source(cells)
    parts: dict[str, list[Values]] = {}
    for some in in_parts(n_cells):
        log_NG = observed.log(some)
        rows: dict[str, NDArray[np.floating]] = {
            "r_model": model[some],
            "r_type_mean_of_log": observed.mean_of_others(some, of_log=True),
            "r_other_source": other[some],
            "r_third_source": third[some],
        }
        if observed.is_counts:
            rows["r_type_mean"] = np.log1p(observed.mean_of_others(some, of_log=False))
        if source is not None:
            rows["r_source"] = source.log(some)
        for column, values_NG in rows.items():
            parts.setdefault(column, []).append(pearson(values_NG, log_NG))
    return {column: np.concatenate(values) for column, values in parts.items()}


def _source(cells: CheckedCells) -> Observed | None:
    """What the sources look like; None where they are ranked genes alone."""
    if cells.config.cells.h5ad is None:
        return None
    row_C = cells.loaded.bank.states[SOURCE].cell_index_C
    counts_CG = source_counts(cells.config.cells, cells.loaded.vocabulary, row_C)
    return Observed(counts_CG, np.zeros(cells.n_cells, dtype=np.int64))


def _likelihoods(cells: CheckedCells, found: Predicted, observed: Observed, time: int) -> dict[str, Values]:
    """Negative log-likelihoods; none where the model's count head does not say how counts scatter."""
    embedding = where_there(found.own[f"embedding_t{time}"], found.own, time, np.arange(cells.n_cells))
    of_model = log_likelihood(cells.loaded.adapter, embedding, observed.counts_CG, observed.total_C)
    if of_model is None:
        return {}
    has_counts_C = observed.total_C > 0
    both = {"nll_model": of_model, "nll_type_mean": log_likelihood_of_means(observed)}
    return {name: np.where(has_counts_C, -value_C, np.nan) for name, value_C in both.items()}


def prediction_figures(found: Accuracy) -> dict[str, Any] | None:
    """Means with intervals of r and likelihood, and the model's distance to its best baseline; None without counts."""
    if not found.has_counts:
        return None
    columns = found.columns
    r = {"model": columns["r_model"], **{n: columns[c] for n, c in BASELINES.items() if c in columns}}
    figures = {name: with_interval(value_C) for name, value_C in r.items()}
    mean = {n: f["mean"] for n, f in figures.items() if f is not None and n != "model"}
    best = max(mean, key=lambda n: mean[n], default=None)
    nll = {n.removeprefix("nll_"): with_interval(columns[n]) for n in ("nll_model", "nll_type_mean") if n in columns}
    return {
        "time": found.time,
        "r": figures,
        "best_baseline": best,
        "minus_best_baseline": None if best is None else with_interval(r["model"] - r[best]),
        "nll_per_gene": nll or None,
    }


def source_figures(found: Accuracy) -> dict[str, Any]:
    """What a cell's own source adds, with a verdict: "ignored", "no gain", "gain", or "unknown"."""
    columns = {n: with_interval(v) for n, v in found.columns.items() if n.startswith(("gain", "source_"))}
    gain, shift = columns.get("gain"), columns["source_shift"]
    verdict = "unknown"
    if shift is not None and float(np.nanmax(found.columns["source_shift"])) <= SAME:
        verdict = "ignored"
    elif gain is not None and gain["ci95"] is not None:
        is_nil = gain["ci95"][0] <= 0 <= gain["ci95"][1] or gain["mean"] < NEGLIGIBLE
        verdict = "no gain" if is_nil else "gain"
    return {
        "time": found.time,
        "verdict": verdict,
        "gain": gain,
        "gain_of_random": columns.get("gain_of_random"),
        "embedding_shift": shift,
        "change": columns.get("source_change"),
    }
