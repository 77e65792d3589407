"""Unit: what an engine gives for one unit of a plan, and a unit on its way."""

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.engine.executor import Executor

Progress = Callable[[int, int, int], None]
"""Called as items are done, with (items, tokens read, of these padding)."""
Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Unit:
    """A finished unit: rows of the plan, item columns by name, controls that are new (cells, columns), who computed it."""

    number: int
    rows: slice
    columns: Columns
    controls: list[tuple[NDArray[np.int64], Columns]]
    record: Mapping[str, Any]


@dataclass
class BegunUnit:
    """A unit whose batches are on their way, as the executor of then has it; they write into its columns."""

    number: int
    rows: slice
    executor: Executor
    columns: Columns = field(default_factory=dict)
    controls: list[tuple[NDArray[np.int64], Columns]] = field(default_factory=list)
    tasks: list[Future[Any]] = field(default_factory=list)
    recomputed: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def wait(self) -> None:
        """Returns when every batch is done. Raises what went wrong with the first that failed."""
        for done in self.tasks:
            done.result()

    def drop(self) -> None:
        """Waits for what still runs, and forgets it: an error would keep the tensors of its batch alive."""
        for done in self.tasks:
            if not done.cancel():
                done.exception()
        for kept in (self.tasks, self.columns, self.controls, self.recomputed):
            kept.clear()

    def write(self, item_B: NDArray[np.int64], values: Columns) -> None:
        """The rows of some items; batches of one unit write different rows."""
        n_rows = self.rows.stop - self.rows.start
        with self.lock:
            for name, x in values.items():
                if name not in self.columns:
                    self.columns[name] = np.zeros((n_rows, *x.shape[1:]), x.dtype)
        for name, x in values.items():
            self.columns[name][item_B - self.rows.start] = x
