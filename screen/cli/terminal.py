"""Console: the terminal, or a log where there is none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import rich.console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from screen.running.listener import Lines, Rates

LOG_WIDTH = 100
"""Of tables where there is no terminal, unless the environment says COLUMNS."""


class Console:
    """Results on standard output; progress and errors on standard error."""

    def __init__(self) -> None:
        self._out = rich.console.Console(highlight=False, soft_wrap=True, emoji=False)
        if not self._out.is_terminal:
            self._out = rich.console.Console(highlight=False, soft_wrap=True, emoji=False, width=_log_width())
        self._err = rich.console.Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
        self._lines = Lines(lambda text: self._err.print(text, markup=False))

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

    def error(self, text: str) -> None:
        """Why it stopped."""
        self._err.print(f"error: {text}", markup=False, emoji=False)

    def status(self, text: str) -> AbstractContextManager[object]:
        """A spinner in a terminal, one line elsewhere."""
        if not self._err.is_terminal:
            self._err.print(f"{text} ...", markup=False)
        return self._err.status(text)

    def progress(self, n_items: int) -> AbstractContextManager[Callable[[int, int, int], None]]:
        """A bar in a terminal, a line now and then elsewhere; gives the function to call as items are done."""
        return self._bar(n_items) if self._err.is_terminal else self._lines.progress(n_items)

    def parts(self, text: str) -> Callable[[int], Callable[[], None]]:
        """For work in parts: told how many there are, returns what to call as each is done; a line now and then."""
        return self._lines.parts(text)

    @contextmanager
    def _bar(self, n_items: int) -> Iterator[Callable[[int, int, int], None]]:
        with _bar(self._err) as bar:
            task, rates = bar.add_task("screening", total=n_items, rate=""), Rates()

            def advance(n: int, tokens: int, padding: int) -> None:
                bar.update(task, advance=n, rate=rates.text(n, tokens, padding))

            yield advance


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
