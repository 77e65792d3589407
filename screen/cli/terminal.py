"""Console: the terminal, or a log where there is none."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import rich.console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from screen.cli.describe import describe_plan

if TYPE_CHECKING:
    from screen.engine.screen import Screen

LINE_EVERY_S = 15.0
LOG_WIDTH = 100
"""Of tables where there is no terminal, unless the environment says COLUMNS."""


class Console:
    """Results on standard output; progress and errors on standard error."""

    def __init__(self) -> None:
        self._out = rich.console.Console(highlight=False, soft_wrap=True, emoji=False)
        if not self._out.is_terminal:
            self._out = rich.console.Console(highlight=False, soft_wrap=True, emoji=False, width=_log_width())
        self._err = rich.console.Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

    @property
    def width(self) -> int:
        """Characters of a line of a table."""
        return self._out.width

    def say(self, text: str) -> None:
        """One line of result."""
        self._out.print(text, markup=False, emoji=False)

    def show(self, table: Table) -> None:
        """A table."""
        self._out.print(table)

    def note(self, text: str) -> None:
        """Something the user should know."""
        self._err.print(f"note: {text}", markup=False, emoji=False)

    def planned(self, screen: Screen) -> None:
        """What is about to run."""
        describe_plan(screen, self)

    def error(self, text: str) -> None:
        """Why it stopped."""
        self._err.print(f"error: {text}", markup=False, emoji=False)

    def status(self, text: str) -> AbstractContextManager[object]:
        """A spinner in a terminal, one line elsewhere."""
        if not self._err.is_terminal:
            self._err.print(f"{text} ...", markup=False)
        return self._err.status(text)

    @contextmanager
    def progress(self, n_items: int) -> Iterator[Callable[[int, int, int], None]]:
        """A bar in a terminal, a line now and then elsewhere; yields the function to call as items are done."""
        if self._err.is_terminal:
            with _bar(self._err) as bar:
                task, rates = bar.add_task("screening", total=n_items, rate=""), _Rates()

                def advance(n: int, tokens: int, padding: int) -> None:
                    bar.update(task, advance=n, rate=rates.text(n, tokens, padding))

                yield advance
            return
        rates, lines = _Rates(), _Lines(self._err, n_items)

        def count(n: int, tokens: int, padding: int) -> None:
            lines.maybe(rates.text(n, tokens, padding), rates)

        yield count
        lines.say(rates.text(0, 0, 0), rates)

    def parts(self, text: str) -> Callable[[int], Callable[[], None]]:
        """For work in parts: told how many there are, returns what to call as each is done; a line now and then."""

        def begin(n_parts: int) -> Callable[[], None]:
            n_done, last, lock = 0, time.monotonic(), threading.Lock()

            def done() -> None:
                nonlocal n_done, last
                with lock:
                    n_done += 1
                    if time.monotonic() - last >= LINE_EVERY_S and n_done < n_parts:
                        last = time.monotonic()
                        self._err.print(f"{text}: {n_done} of {n_parts} parts", markup=False)

            return done

        return begin


def _log_width() -> int:
    text = os.environ.get("COLUMNS", "")
    return int(text) if text.isdecimal() and int(text) > 0 else LOG_WIDTH


def _bar(console: rich.console.Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console)


class _Rates:
    """Edits and tokens per second since the start, and how many of the tokens only fill rows up."""

    def __init__(self) -> None:
        self.start, self.items, self.tokens, self.padding = time.monotonic(), 0, 0, 0

    def text(self, n: int, tokens: int, padding: int) -> str:
        """Counts items and returns 'x edits/s, y tokens/s, z padding'."""
        self.items += n
        self.tokens += tokens
        self.padding += padding
        elapsed_s, share = max(time.monotonic() - self.start, 1e-9), self.padding / max(self.tokens, 1)
        return f"{self.items / elapsed_s:,.1f} edits/s, {self.tokens / elapsed_s:,.0f} tokens/s, {share:.1%} padding"


class _Lines:
    """Progress as plain lines, for logs."""

    def __init__(self, console: rich.console.Console, n_items: int) -> None:
        self.console, self.n_items, self.last = console, n_items, time.monotonic()

    def maybe(self, text: str, rates: _Rates) -> None:
        """A line if the last one is a while ago."""
        if time.monotonic() - self.last >= LINE_EVERY_S:
            self.say(text, rates)

    def say(self, text: str, rates: _Rates) -> None:
        """'1,000 of 24,000 edits, 250 edits/s, ..., 92 s left'."""
        self.last = time.monotonic()
        left_s = (self.n_items - rates.items) * (self.last - rates.start) / max(rates.items, 1)
        self.console.print(f"{rates.items:,} of {self.n_items:,} edits, {text}, {left_s:,.0f} s left", markup=False)
