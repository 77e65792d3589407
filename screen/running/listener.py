"""Listener: who is told how a run goes: a terminal, a notebook, or whatever else shows it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, runtime_checkable

LINE_EVERY_S = 15.0


@runtime_checkable
class Listener(Protocol):
    """Hears of a run; everything is for people, nothing is answered.

    It is called on the thread that called `run`, and on others about items and parts that are done.
    """

    def say(self, text: str) -> None:
        """One line of result."""

    def note(self, text: str) -> None:
        """Something the user should know."""

    def status(self, text: str) -> AbstractContextManager[object]:
        """What takes a while, as long as the context lasts."""

    def progress(self, n_items: int) -> AbstractContextManager[Callable[[int, int, int], None]]:
        """So many items are to be screened; gives what to call as some are done: (items, tokens read, of these padding)."""

    def parts(self, text: str) -> Callable[[int], Callable[[], None]]:
        """For work in parts: told how many there are, returns what to call as each is done."""


class Lines:
    """A listener that hands every line to a function, `print` for one; of progress one now and then."""

    def __init__(self, show: Callable[[str], object]) -> None:
        self._show = show

    def say(self, text: str) -> None:
        """One line of result."""
        self._show(text)

    def note(self, text: str) -> None:
        """Something the user should know."""
        self._show(f"note: {text}")

    def status(self, text: str) -> AbstractContextManager[object]:
        """A line when it begins."""
        self._show(f"{text} ...")
        return nullcontext()

    @contextmanager
    def progress(self, n_items: int) -> Iterator[Callable[[int, int, int], None]]:
        """'1,000 of 24,000 edits, 250 edits/s, ..., 92 s left' now and then, and at the end."""
        rates, last = Rates(), time.monotonic()

        def show(text: str) -> None:
            left_s = rates.left_s(n_items)
            left = "controls came first, no estimate yet" if left_s is None else f"{left_s:,.0f} s left"
            self._show(f"{rates.items:,} of {n_items:,} edits, {text}, {left}")

        def count(n: int, tokens: int, padding: int) -> None:
            nonlocal last
            text = rates.text(n, tokens, padding)
            if time.monotonic() - last >= LINE_EVERY_S:
                last = time.monotonic()
                show(text)

        yield count
        show(rates.text(0, 0, 0))

    def parts(self, text: str) -> Callable[[int], Callable[[], None]]:
        """A line now and then."""

        def begin(n_parts: int) -> Callable[[], None]:
            n_done, last, lock = 0, time.monotonic(), threading.Lock()

            def done() -> None:
                nonlocal n_done, last
                with lock:
                    n_done += 1
                    if time.monotonic() - last >= LINE_EVERY_S and n_done < n_parts:
                        last = time.monotonic()
                        self._show(f"{text}: {n_done} of {n_parts} parts")

            return done

        return begin


class Rates:
    """Edits and tokens per second since the start, and how many of the tokens only fill rows up."""

    def __init__(self) -> None:
        self._start, self.items, self._tokens, self._padding = time.monotonic(), 0, 0, 0
        self._first: tuple[float, int] | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return max(time.monotonic() - self._start, 1e-9)

    def left_s(self, n_items: int) -> float | None:
        """Seconds until so many items are done, at the pace since the first were: controls come before these. None: unknown."""
        if self.items >= n_items:
            return 0.0
        if self._first is None or self.items == self._first[1]:
            return None
        since, n_first = self._first
        return (n_items - self.items) * (time.monotonic() - since) / (self.items - n_first)

    def text(self, n: int, tokens: int, padding: int) -> str:
        """Counts items and returns 'x edits/s, y tokens/s, z padding'."""
        self.items += n
        if self._first is None and n:
            self._first = time.monotonic(), self.items
        self._tokens += tokens
        self._padding += padding
        elapsed_s, share = self.elapsed_s, self._padding / max(self._tokens, 1)
        return f"{self.items / elapsed_s:,.1f} edits/s, {self._tokens / elapsed_s:,.0f} tokens/s, {share:.1%} padding"
