"""The loop: units are computed, and written behind the computation's back."""

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Protocol

from screen.config.sections import ComputeConfig
from screen.engine.executor import Executor
from screen.engine.packed import PackedEngine
from screen.engine.reference import ReferenceEngine
from screen.engine.screen import Screen
from screen.engine.unit import Progress, Unit
from screen.files import scratch_folder
from screen.running.summaries import Planned, summarised, with_moments
from screen.store.reader import Block
from screen.store.store import ScreenStore, scratch_of

UNITS_WAITING = 1
"""Finished units that may wait for the writer."""


class Engine(Protocol):
    """Computes units of a plan."""

    @property
    def screen(self) -> Planned:
        """What it computes."""

    def units(self, numbers: Iterable[int], progress: Progress) -> Generator[Unit, None, None]:
        """The units, in order. Raises PredictionError at the first NaN."""


def run_units(
    engine: Engine,
    store: ScreenStore,
    progress: Progress,
    block: Block | None = None,
    numbers: Iterable[int] | None = None,
    committed: Callable[[int], None] = lambda number: None,
) -> None:
    """Computes and commits units of a library block (the first by default) that it lacks, all or the given ones.

    `committed` is called with the number of each unit when its marker is written. What is committed stays whatever
    happens. Raises PredictionError, WriteError.
    """
    block = store.blocks[0] if block is None else block
    done = set(block.committed())
    wanted = [n for n in (range(block.n_units) if numbers is None else numbers) if n not in done]
    with ExitStack() as stack:
        scratch = stack.enter_context(scratch_folder(scratch_of(store.path)))
        writer = stack.enter_context(_Writer(store, block, scratch, committed))
        # closed here and now if the writer fails, not by whichever thread drops them last
        units = stack.enter_context(closing(engine.units(wanted, progress)))
        if store.layout.keeps_summaries:
            units = stack.enter_context(closing(summarised(units, engine.screen)))
        elif block.keeps_moments:
            # the strata that it was laid out with: those asked for now may be others
            stratum_C = block.read("moments/stratum_of_cell")
            units = stack.enter_context(closing(with_moments(units, engine.screen, stratum_C)))
        for unit in units:
            writer.put(unit)


def make_engine(compute: ComputeConfig, screen: Screen, executor: Executor) -> Engine:
    """The engine that a configuration asks for."""
    return ReferenceEngine(screen, executor) if compute.engine == "reference" else PackedEngine(screen, executor)


class _Writer:
    """Writes units on a thread of its own, in order. The first error stops it and is raised where units come from."""

    def __init__(self, store: ScreenStore, block: Block, scratch: Path, committed: Callable[[int], None]) -> None:
        self._store, self._block, self._scratch, self._committed = store, block, scratch, committed
        self._queue: queue.Queue[Unit | None] = queue.Queue(UNITS_WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="store writer")

    def put(self, unit: Unit) -> None:
        """Hands a unit over; waits while too many are waiting. Raises what went wrong with an earlier one."""
        if self._error is not None:
            raise self._error
        self._queue.put(unit)

    def _work(self) -> None:
        while (unit := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._write(unit)
                except BaseException as error:
                    self._error = error

    def _write(self, unit: Unit) -> None:
        for cell_C, columns in unit.controls:
            self._store.write_controls(self._block, cell_C, columns, self._scratch)
        self._store.write_unit(self._block, unit.number, unit.columns, unit.record, self._scratch)
        self._committed(unit.number)

    def __enter__(self) -> "_Writer":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error
