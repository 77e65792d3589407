"""Job: what a run of this benchmark is asked for, and what it finds; how its parts say, time and compare."""

import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.record import median
from screen.bench.measure import PUBLISHED, SMALL
from screen.bench.synthetic import synthetic_screen
from screen.engine.executor import default_batch_tokens
from screen.engine.packed import PackedEngine
from screen.engine.reference import ReferenceEngine
from screen.engine.screen import Screen
from screen.models.perturbgen.random import random_model, sizes_of
from screen.models.synthetic import SyntheticSizes

N_TIMED, TIMED_S = 7, 0.02
Columns = dict[str, NDArray[Any]]


@dataclass
class Job:
    """What is asked, and what is found; `figures` becomes the JSON file."""

    device: torch.device
    is_quick: bool
    seconds: float
    limits: Mapping[str, float]
    figures: dict[str, Any] = field(default_factory=lambda: {"checks": [], "failures": []})

    @property
    def sizes(self) -> SyntheticSizes:
        """Of the model in parts that measure."""
        return SMALL if self.is_quick else PUBLISHED

    @property
    def batch_tokens(self) -> int:
        """Rows of the kernels that are timed, tokens of a batch."""
        return 2048 if self.is_quick else default_batch_tokens(self.device)

    def check(self, name: str, errors: Mapping[str, float]) -> None:
        """Records errors, each against its limit; a NaN is above any."""
        wrong = {kind: e for kind, e in errors.items() if not e <= self.limits[kind]}
        self.figures["checks"].append({"name": name, "passed": not wrong, "errors": dict(errors)})
        say(f"{'FAILED' if wrong else 'passed'}  {name}  " + ", ".join(f"{k} {e:.2g}" for k, e in errors.items()))
        for kind, error in wrong.items():
            self.figures["failures"].append(f"{name}: {kind} is {error:.3g}, allowed {self.limits[kind]:.3g}")

    def skip(self, name: str, reason: str) -> None:
        """Records what could not be measured here: neither passed nor failed."""
        self.figures.setdefault("skipped", {})[name] = reason
        say(f"skipped {name}: {reason}")

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What fails inside is recorded and does not stop the rest."""
        start = time.perf_counter()
        try:
            yield
        except Exception as error:
            say(f"FAILED  {name}\n{traceback.format_exc()}")
            self.figures["failures"].append(f"{name}: {type(error).__name__}: {error}")
            self.figures["checks"].append({"name": name, "passed": False})
        self.figures.setdefault("seconds", {})[name] = round(time.perf_counter() - start, 1)


def say(text: str) -> None:
    """One line, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def seconds_of(device: torch.device, work: Callable[[], object]) -> float:
    """Median over N_TIMED rounds of the seconds of one call, after warm-up; by CUDA events on a GPU."""

    def round_s(n: int) -> float:
        if device.type == "cpu":
            start_s = time.perf_counter()
            for _ in range(n):
                work()
            return (time.perf_counter() - start_s) / n
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(n):
            work()
        stop.record()
        stop.synchronize()
        return float(start.elapsed_time(stop)) / 1e3 / n

    round_s(3)
    n = max(1, min(1000, round(TIMED_S / max(round_s(1), 1e-7))))
    return median([round_s(n) for _ in range(N_TIMED)])


def twin(
    sizes: SyntheticSizes, n_cells: int, genes: Sequence[int], model: nn.Module | None = None, **edits: Any
) -> Screen:
    """A screen with a model of its own, always the same one, or this one, whose deltas are kept in float32."""
    own = random_model(sizes_of(sizes)) if model is None else model
    screen = synthetic_screen(sizes, n_cells, genes=genes, model=own, **edits)
    return replace(screen, layout=replace(screen.layout, dtype="float32"))


def results(engine: PackedEngine | ReferenceEngine) -> Columns:
    """All columns of all units; those of controls by cell."""
    columns: dict[str, list[NDArray[Any]]] = {}
    controls: dict[str, dict[int, Any]] = {}
    for unit in engine.units(range(engine.screen.plan.n_units), lambda *_: None):
        for name, x in unit.columns.items():
            columns.setdefault(name, []).append(x)
        for cells, of_cells in unit.controls:
            for name, x in of_cells.items():
                controls.setdefault(f"control/{name}", {}).update(zip(cells.tolist(), x, strict=True))
    found = {name: np.concatenate(parts) for name, parts in columns.items()}
    return found | {name: np.stack([x[c] for c in sorted(x)]) for name, x in controls.items()}


def errors_of(ours: Columns, expected: Columns) -> dict[str, float]:
    """Worst errors by kind: integers by how many differ, readouts of their column's scale, deltas absolute.

    `delta relative` is rms error over rms delta, which a wrong engine fails where deltas are tiny.
    """
    found = {"columns missing": float(len(set(ours) ^ set(expected)))}
    for name in set(ours) & set(expected):
        a, b = ours[name], expected[name]
        if b.dtype.kind in "ib":
            errors = {"integers that differ": float((a != b).sum())}
        elif not np.array_equal(np.isfinite(a), np.isfinite(b)):
            errors = {"readout": float("inf")}
        elif name.startswith(("delta/", "items/rms_delta")):
            errors = {"delta rms": rms(a - b), "delta worst": float(np.abs(a - b).max())}
            errors["delta relative"] = errors["delta rms"] / max(rms(b), 1e-30)
        else:
            errors = {"readout": float(np.nan_to_num(np.abs(a - b)).max() / max(np.nanmax(np.abs(b)), 1e-30))}
        found |= {kind: max(found.get(kind, 0.0), error) for kind, error in errors.items()}
    return found


def rms(x: NDArray[Any]) -> float:
    """Root mean square of all numbers."""
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))
