"""ScreenWorker: what a Dask worker holds of a screen, and the units it computes.

The scheduler hands out shares: some consecutive units of one library block. Any worker may compute any share any number
of times; what is committed already is left alone.
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distributed import Worker, WorkerPlugin, get_worker

from screen.config.sections import ComputeConfig
from screen.engine.executor import Executor, find_device
from screen.engine.precision import Decision, executor_for
from screen.engine.screen import Screen
from screen.errors import ScreenError
from screen.machine import available_cores
from screen.running.cluster.handoff import read_handoff
from screen.running.runner import Engine, make_engine, run_units
from screen.store.store import ScreenStore

PLUGIN, TOPIC = "perturbscreen", "perturbscreen"
TELL_EVERY_S = 0.5


@dataclass(frozen=True)
class Share:
    """Units of one library block, ascending; where the screen and its store are; who was decided to compute."""

    handoff: Path
    store: Path
    block: int
    numbers: tuple[int, ...]
    executor: Executor
    compute: ComputeConfig
    n_lanes: int | None

    @property
    def label(self) -> str:
        """'units 12-18 of library block 0'."""
        first, last = self.numbers[0], self.numbers[-1]
        units = f"unit {first}" if first == last else f"units {first}-{last}"
        return f"{units} of library block {self.block}"


@dataclass(frozen=True)
class Failure:
    """Why a share cannot be computed, whoever tries: the error's message, and the exit code that goes with it."""

    label: str
    message: str
    exit_code: int


class ScreenWorker(WorkerPlugin):  # type: ignore[misc]
    """Keeps model, cells and engine of the last screen between shares; one share at a time."""

    name = PLUGIN

    def setup(self, worker: Worker) -> None:
        """Called by Dask where the worker runs."""
        self._worker = worker
        self._lock = threading.Lock()
        self._screens: dict[Path, Screen] = {}
        self._engine: tuple[object, Engine] | None = None

    def decide(self, handoff: Path, compute: ComputeConfig, decided: Mapping[str, Any] | None) -> Decision:
        """Who computes on a worker like this one."""
        with self._lock:
            return executor_for(compute, self._screen(handoff), decided)

    def compute(self, share: Share) -> Failure | None:
        """Computes and commits the units of a share. Returns what no other worker could do better; raises the rest."""
        with self._lock:
            try:
                self._compute(share)
            except ScreenError as error:
                self._engine = None
                return Failure(share.label, str(error), error.exit_code)
            except BaseException:
                self._engine = None
                raise
        return None

    def _compute(self, share: Share) -> None:
        engine, store, teller = self._engine_of(share), ScreenStore.open(share.store, "r+"), _Teller(self._worker)
        try:
            run_units(engine, store, teller.count, store.blocks[share.block], share.numbers)
        finally:
            teller.tell()

    def _engine_of(self, share: Share) -> Engine:
        key = (share.handoff, share.executor, share.n_lanes)
        if self._engine is None or self._engine[0] != key:
            self._engine = None
            device = find_device(share.compute.device)
            lanes = share.n_lanes or (available_cores() if device.type == "cpu" else None)
            executor = replace(share.executor, device=device, n_lanes=lanes)
            self._engine = key, make_engine(share.compute, self._screen(share.handoff), executor)
        return self._engine[1]

    def _screen(self, handoff: Path) -> Screen:
        if handoff not in self._screens:
            self._screens = {handoff: read_handoff(handoff)}
        return self._screens[handoff]


class _Teller:
    """Tells the scheduler how many items are done, not more than twice a second."""

    def __init__(self, worker: Worker) -> None:
        self._worker, self._lock = worker, threading.Lock()
        self._counted, self._last = [0, 0, 0], time.monotonic()

    def count(self, n_items: int, n_tokens: int, n_padded: int) -> None:
        """Adds items, tokens read, and of these padding."""
        with self._lock:
            self._counted = [a + b for a, b in zip(self._counted, (n_items, n_tokens, n_padded), strict=True)]
            is_time = time.monotonic() - self._last >= TELL_EVERY_S
        if is_time:
            self.tell()

    def tell(self) -> None:
        """Sends what was counted since the last time."""
        with self._lock:
            counted, self._counted, self._last = self._counted, [0, 0, 0], time.monotonic()
        if counted[0]:
            self._worker.log_event(TOPIC, counted)


def compute_share(share: Share) -> Failure | None:
    """The task that workers run."""
    plugin: ScreenWorker = get_worker().plugins[PLUGIN]
    return plugin.compute(share)


def decide_there(handoff: Path, compute: ComputeConfig, decided: Mapping[str, Any] | None) -> Decision:
    """The task that asks a worker who computes."""
    plugin: ScreenWorker = get_worker().plugins[PLUGIN]
    return plugin.decide(handoff, compute, decided)
