"""Recording: what the control's pass of one cell leaves, so that its items need not compute it again."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass
class Recording:
    """What the control's pass leaves, by place in the network, operation, and how manieth it is there."""

    kept: dict[tuple[object, ...], Any] = field(default_factory=dict)

    def once(self, key: tuple[object, ...], make: Callable[[], T]) -> T:
        """What was made the first time."""
        if key not in self.kept:
            self.kept[key] = make()
        found: T = self.kept[key]
        return found


class LatestRecordings(threading.local):
    """For each thread, what it recorded of the cell that it met last: items of one cell come one behind the other."""

    def __init__(self) -> None:
        self._cell: object = None
        self._found: dict[object, Recording] = {}

    def of(self, cell: object, part: object = None) -> Recording:
        """Of a cell, the very object, and a part of the network."""
        if self._cell is not cell:
            self._cell, self._found = cell, {}
        return self._found.setdefault(part, Recording())
