"""Pilot: whether a faster precision says the same as float32, on this model and these cells."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.config.sections import ComputeConfig
from screen.engine.choose import choose_executor
from screen.engine.executor import Executor
from screen.engine.packed import PackedEngine
from screen.engine.sample import sample
from screen.engine.screen import Screen
from screen.engine.unit import Unit
from screen.errors import ConfigError, PredictionError

N_CELLS, ITEMS_PER_CELL, TOP = 8, 12, 10
MOST = 1e9
"""The error of a precision that gives no finite numbers."""
LIMITS: Mapping[str, float] = {
    "median_error": 0.01,
    "p90_error": 0.05,
    "rank_correlation": 0.99,
    "top_overlap": 0.9,
}
"""Errors at most, agreements at least."""


@dataclass(frozen=True)
class Agreement:
    """A precision against float32 on a sample of items.

    median_error, p90_error  rms error of an item's change over its rms, quantiles over items
    rank_correlation         Spearman, over items, of the rms change
    top_overlap              share of the TOP strongest items that are the same
    """

    precision: str
    n_items: int
    median_error: float
    p90_error: float
    rank_correlation: float
    top_overlap: float

    @property
    def is_close(self) -> bool:
        """Whether every figure is within LIMITS."""
        errors = self.median_error <= LIMITS["median_error"] and self.p90_error <= LIMITS["p90_error"]
        return (
            errors and self.rank_correlation >= LIMITS["rank_correlation"] and self.top_overlap >= LIMITS["top_overlap"]
        )

    def __str__(self) -> str:
        return (
            f"{self.precision} against float32 on {self.n_items} items: error {self.median_error:.2g} of the change (median), "
            f"{self.p90_error:.2g} (90 %); rank correlation {self.rank_correlation:.3f}; "
            f"{self.top_overlap:.0%} of the top {TOP} shared"
        )

    def figures(self) -> dict[str, object]:
        """For the provenance: the figures and the limits they were held to."""
        return {
            "precision": self.precision,
            "n_items": self.n_items,
            "median_error": self.median_error,
            "p90_error": self.p90_error,
            "rank_correlation": self.rank_correlation,
            "top_overlap": self.top_overlap,
            "limits": dict(LIMITS),
        }


def pilot(screen: Screen, executor: Executor) -> Agreement:
    """Runs a sample of the screen in float32 and in the executor's precision."""
    keeps = screen.layout.expression_scale is None
    layout = replace(screen.layout, dtype="float32", keep_gene_cosine=False, keep_embeddings=keeps)
    small = sample(screen.altered(layout=layout), N_CELLS, ITEMS_PER_CELL)
    exact = _changes(small, replace(executor, precision="float32"))
    try:
        rough = _changes(small, executor)
    except PredictionError:
        # float32 gave numbers, this precision NaN or infinity: nothing agrees
        return Agreement(executor.precision, len(exact), MOST, MOST, 0.0, 0.0)
    return agreement(executor.precision, exact, rough)


def agreement(precision: str, exact_IN: NDArray[np.float64], rough_IN: NDArray[np.float64]) -> Agreement:
    """Figures of I items' changes (I, N), each in float32 and in another precision."""
    rms_I = np.sqrt(np.mean(exact_IN**2, axis=1))
    error_I = np.sqrt(np.mean((rough_IN - exact_IN) ** 2, axis=1)) / np.maximum(rms_I, np.finfo(float).tiny)
    rough_I = np.sqrt(np.mean(rough_IN**2, axis=1))
    top = min(TOP, len(rms_I))
    shared = set(np.argsort(-rms_I)[:top]) & set(np.argsort(-rough_I)[:top])
    correlation = np.corrcoef(_ranks(rms_I), _ranks(rough_I))[0, 1] if len(rms_I) > 1 else 1.0
    return Agreement(
        precision,
        len(rms_I),
        float(np.median(error_I)),
        float(np.quantile(error_I, 0.9)),
        float(correlation),
        len(shared) / top,
    )


@dataclass(frozen=True)
class Decision:
    """Who computes, what it says of itself, and how the precision that was tried agreed with float32 (None: none was)."""

    executor: Executor
    record: Mapping[str, Any]
    agreement: Agreement | None = None


def executor_for(compute: ComputeConfig, screen: Screen, decided: Mapping[str, Any] | None) -> Decision:
    """Who computes a screen here; `decided` is what an existing store was created with. Raises ConfigError.

    Any precision but float32 is tried first; where it does not agree, float32 is taken, unless the user asked for it.
    """
    executor = choose_executor(compute, screen, decided)
    if executor.precision == "float32" or decided is not None:
        return Decision(executor, executor.record())
    found = pilot(screen, executor)
    if compute.precision != "auto":
        require_agreement(found)
    executor = executor if found.is_close else replace(executor, precision="float32")
    return Decision(executor, executor.record(), found)


def require_agreement(found: Agreement) -> None:
    """Raises ConfigError where a precision that the user asked for does not say the same as float32."""
    if not found.is_close:
        raise ConfigError(
            f"precision {found.precision} is not exact enough for this model and these cells. {found}. Limits: "
            + ", ".join(f"{k} {v:g}" for k, v in LIMITS.items())
            + ". Use --precision float32, or fp16x2 on a GPU"
        )


def _ranks(x_I: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.argsort(np.argsort(x_I)).astype(np.float64)


def _changes(screen: Screen, executor: Executor) -> NDArray[np.float64]:
    """(items x time points that are screened, N): log-expression changes, or embedding changes without counts."""
    (unit,) = PackedEngine(screen, executor).units([0], lambda n, tokens, padded: None)
    rows = []
    for k, t in enumerate(screen.layout.pred_tps):
        change_IN = _of_time(unit, t, screen)
        # an edit that does not reach a time point changes nothing there in any precision
        rows.append(change_IN[screen.plan.is_screened_IT[:, k]])
    return np.concatenate(rows)


def _of_time(unit: Unit, t: int, screen: Screen) -> NDArray[np.float64]:
    if screen.layout.expression_scale is not None:
        return unit.columns[f"delta/t{t}"].astype(np.float64)
    ((cell_C, columns),) = unit.controls
    before = columns[f"embedding_t{t}"][np.searchsorted(cell_C, screen.plan.cell_I)]
    return unit.columns[f"embedding/t{t}"].astype(np.float64) - before
