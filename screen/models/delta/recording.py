"""Recording: what the control's pass leaves of cells, so that their items need not compute it again."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

from torch import Tensor

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


def tensors_of(x: object) -> Iterator[Tensor]:
    """All tensors of what holds them."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, Mapping):
        yield from tensors_of(x.values())
    elif is_dataclass(x):
        for part in fields(x):
            yield from tensors_of(getattr(x, part.name))
    elif isinstance(x, Iterable) and not isinstance(x, str):
        for one in x:
            yield from tensors_of(one)


class Places:
    """Names the operations of one forward pass: place in the network, kind, how manieth of its kind it is there."""

    def __init__(self) -> None:
        self._place: tuple[object, ...] = ()
        self._n_done: Counter[tuple[object, ...]] = Counter()

    def within(self, *place: object) -> "Places":
        """A part's; what was counted there before counts."""
        inner = Places()
        inner._place, inner._n_done = (*self._place, *place), self._n_done
        return inner

    def next(self, operation: str) -> tuple[object, ...]:
        """The name of the next operation of a kind."""
        kind = (*self._place, operation)
        self._n_done[kind] += 1
        return (*kind, self._n_done[kind])


class LatestRecordings:
    """For each thread, what it recorded of the cells that it met last: items of one cell come one behind the other."""

    def __init__(self) -> None:
        self._own = _OfThread()

    def of(self, cells: Sequence[object], part: object = None) -> Recording:
        """Of cells, the very objects, and a part of the network."""
        own = self._own
        if len(cells) != len(own.cells) or any(a is not b for a, b in zip(cells, own.cells, strict=True)):
            own.cells, own.found = tuple(cells), {}
        return own.found.setdefault(part, Recording())

    def forget(self) -> None:
        """Lets go of what every thread recorded."""
        self._own = _OfThread()

    @property
    def n_bytes(self) -> int:
        """Of this thread's, memory that several tensors are views of counted once."""
        kept = [t.untyped_storage() for t in tensors_of(self._own.found)]
        return sum({storage.data_ptr(): storage.nbytes() for storage in kept}.values())


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.cells: Sequence[object] = ()
        self.found: dict[object, Recording] = {}
