"""Listener: who is told how a run goes; a terminal, or whatever else shows it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from screen.engine.screen import Screen


class Listener(Protocol):
    """Hears of a run; everything is for people, nothing is answered."""

    def planned(self, screen: "Screen") -> None:
        """What is about to run."""

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
