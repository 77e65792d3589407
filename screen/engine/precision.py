"""Pilot: whether a precision says the same as the plain model, on this model and these cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from screen.config.sections import ComputeConfig
from screen.engine.choose import candidates, choose_executor
from screen.engine.executor import DELTA, AnyPrecision, Executor
from screen.engine.packed import PackedEngine
from screen.engine.reference import ReferenceEngine
from screen.engine.sample import sample
from screen.engine.screen import Screen
from screen.engine.unit import Unit
from screen.errors import ConfigError, PredictionError
from screen.models.delta.forward import DeltaForward
from screen.models.delta.rounding import LargestSeen

N_CELLS, ITEMS_PER_CELL, TOP = 8, 12, 10
"""Of the sample, and how many of the strongest items are compared; a cell has an item of every mode and site at least."""
MOST = 1e9
"""The error of a precision that gives no finite numbers."""
LIMITS: Mapping[str, float] = {
    "median_error": 0.01,
    "p90_error": 0.05,
    "rank_correlation": 0.99,
    "top_overlap": 0.9,
}
"""Errors at most, agreements at least."""


Groups = Mapping[str, NDArray[np.float64]]
"""Mode, site and time point -> changes (I, N) of the items that are screened there."""


def yardstick(precision: str) -> str:
    """What a precision is held to."""
    return "the plain model in float64" if precision in DELTA else "float32"


@dataclass(frozen=True)
class Agreement:
    """A precision against `yardstick` on a sample of items.

    median_error, p90_error  rms error of an item's change over its rms, quantiles over items
    by_group                 the same two of every mode, site and time point
    rank_correlation         Spearman, over items, of the rms change
    top_overlap              share of the TOP strongest items that are the same
    """

    precision: str
    n_items: int
    median_error: float
    p90_error: float
    rank_correlation: float
    top_overlap: float
    by_group: Mapping[str, tuple[float, float]]

    @property
    def worst(self) -> tuple[str, tuple[float, float]]:
        """The group whose errors are nearest to the limits, or beyond them."""
        most = {n: max(a / LIMITS["median_error"], b / LIMITS["p90_error"]) for n, (a, b) in self.by_group.items()}
        name = max(most, key=lambda n: most[n], default="all")
        return name, self.by_group.get(name, (self.median_error, self.p90_error))

    @property
    def is_close(self) -> bool:
        """Whether every figure is within LIMITS; errors of every group."""
        _, (median, p90) = self.worst
        errors = median <= LIMITS["median_error"] and p90 <= LIMITS["p90_error"]
        return (
            errors and self.rank_correlation >= LIMITS["rank_correlation"] and self.top_overlap >= LIMITS["top_overlap"]
        )

    def __str__(self) -> str:
        name, (median, p90) = self.worst
        return (
            f"{self.precision} against {yardstick(self.precision)} on {self.n_items} items: error {self.median_error:.2g} of the "
            f"change (median), {self.p90_error:.2g} (90 %), most for {name} ({median:.2g}, {p90:.2g}); "
            f"rank correlation {self.rank_correlation:.3f}; "
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
            "by_group": {name: list(errors) for name, errors in self.by_group.items()},
            "against": yardstick(self.precision),
            "limits": dict(LIMITS),
        }


def pilot(screen: Screen, executor: Executor) -> Agreement:
    """Runs a sample of the screen in the executor's precision and as it should be.

    That is float32, or, for a precision that may be nearer than float32 is, the plain model in float64.
    """
    small = _sample_of(screen)
    if executor.is_delta:
        on_cpu = replace(executor, device=torch.device("cpu"), precision="float64")
        exact = changes_by_group(small, ReferenceEngine(small, on_cpu))
    else:
        exact = changes_by_group(small, PackedEngine(small, replace(executor, precision="float32")))
    try:
        rough = changes_by_group(small, PackedEngine(small, executor))
    except PredictionError:
        # float32 gave numbers, this precision NaN or infinity: nothing agrees
        return Agreement(executor.precision, sum(map(len, exact.values())), MOST, MOST, 0.0, 0.0, {})
    return agreement(executor.precision, exact, rough)


def find_scales(screen: Screen, executor: Executor) -> dict[str, int]:
    """What changes are multiplied by before they are stored as float16: exponents of two, by operation of the model.

    From the largest changes of a sample of the screen's items.
    """
    small = _sample_of(screen)
    engine = PackedEngine(small, replace(executor, precision="delta32"))
    model, seen = engine.computer.model, LargestSeen()
    assert isinstance(model, DeltaForward)
    engine.computer.model = replace(model, rounding=seen, at_once=False)
    changes_by_group(small, engine)
    return seen.scales()


def _sample_of(screen: Screen) -> Screen:
    keeps = screen.layout.expression_scale is None
    layout = replace(screen.layout, dtype="float32", keep_gene_cosine=False, keep_embeddings=keeps)
    return sample(screen.altered(layout=layout), N_CELLS, ITEMS_PER_CELL, is_even=True)


def agreement(precision: str, exact: Groups, rough: Groups) -> Agreement:
    """Figures of items' changes, as they should be and in another precision, by mode, site and time point.

    Items that do not change are left out of the errors.
    """
    exact_IN, rough_IN = (np.concatenate(list(x.values())) for x in (exact, rough))
    rms_I, rough_I = (np.sqrt(np.mean(x**2, axis=1)) for x in (exact_IN, rough_IN))
    errors = {name: _errors(exact[name], rough[name]) for name in exact}
    error_I = np.concatenate(list(errors.values()))
    top = min(TOP, len(rms_I))
    shared = set(np.argsort(-rms_I)[:top]) & set(np.argsort(-rough_I)[:top])
    correlation = np.corrcoef(_ranks(rms_I), _ranks(rough_I))[0, 1] if len(rms_I) > 1 else 1.0
    of_groups = {name: _quantiles(x) for name, x in errors.items() if len(x)}
    return Agreement(
        precision, len(rms_I), *_quantiles(error_I), float(correlation), len(shared) / max(top, 1), of_groups
    )


def _errors(exact_IN: NDArray[np.float64], rough_IN: NDArray[np.float64]) -> NDArray[np.float64]:
    """(I,) rms error of each change over its rms, of those that change."""
    rms_I = np.sqrt(np.mean(exact_IN**2, axis=1))
    error_I = np.sqrt(np.mean((rough_IN - exact_IN) ** 2, axis=1))
    return np.asarray(error_I[rms_I > 0] / rms_I[rms_I > 0])


def _quantiles(error_I: NDArray[np.float64]) -> tuple[float, float]:
    """(median, 90 %), 0 for none."""
    return (float(np.median(error_I)), float(np.quantile(error_I, 0.9))) if len(error_I) else (0.0, 0.0)


@dataclass(frozen=True)
class Decision:
    """Who computes, what it says of itself, and how the precisions that were tried agreed, the last one last.

    Where the last did not agree either, float32 is what computes.
    """

    executor: Executor
    record: Mapping[str, Any]
    tried: tuple[Agreement, ...] = ()


def executor_for(compute: ComputeConfig, screen: Screen, decided: Mapping[str, Any] | None) -> Decision:
    """Who computes a screen here; `decided` is what an existing store was created with. Raises ConfigError.

    Any precision but float32 is tried first; where it does not agree the next is, at last float32, unless the user asked for it.
    """
    executor = choose_executor(compute, screen, decided)
    if executor.precision in ("float32", "float64") or decided is not None:
        return Decision(executor, executor.record())
    if compute.precision == "auto":
        return first_that_agrees(screen, executor, candidates(compute, executor.device))
    found = first_that_agrees(screen, executor, (executor.precision, "float32"))
    require_agreement(found.tried[-1])
    return found


def first_that_agrees(screen: Screen, executor: Executor, precisions: Sequence[AnyPrecision]) -> Decision:
    """Tries precisions in order; the last is not tried, but taken where no other agrees."""
    tried: list[Agreement] = []
    for precision in precisions[:-1]:
        one = replace(executor, precision=precision)
        if precision == "delta16":
            one = replace(one, scales=find_scales(screen, one))
        tried.append(pilot(screen, one))
        if tried[-1].is_close:
            return Decision(one, one.record(), tuple(tried))
    last = replace(executor, precision=precisions[-1])
    return Decision(last, last.record(), tuple(tried))


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


def changes_by_group(screen: Screen, engine: PackedEngine | ReferenceEngine) -> dict[str, NDArray[np.float64]]:
    """Log-expression changes, or embedding changes without counts, of the first unit, by mode, site and time point."""
    (unit,) = engine.units([0], lambda n, tokens, padded: None)
    ps = screen.library.perturbations
    kind_I = np.array([f"{ps[p].mode} {'+'.join(ps[p].sites)}" for p in screen.plan.perturbation_I.tolist()])
    found = {}
    for k, t in enumerate(screen.layout.pred_tps):
        change_IN = _of_time(unit, t, screen)
        for kind in np.unique(kind_I).tolist():
            # an edit that does not reach a time point changes nothing there in any precision
            at = screen.plan.is_screened_IT[:, k] & (kind_I == kind)
            if at.any():
                found[f"{kind} t{t}"] = change_IN[at]
    return found


def _of_time(unit: Unit, t: int, screen: Screen) -> NDArray[np.float64]:
    if screen.layout.expression_scale is not None:
        return unit.columns[f"delta/t{t}"].astype(np.float64)
    ((cell_C, columns),) = unit.controls
    before = columns[f"embedding_t{t}"][np.searchsorted(cell_C, screen.plan.cell_I)]
    return unit.columns[f"embedding/t{t}"].astype(np.float64) - before
