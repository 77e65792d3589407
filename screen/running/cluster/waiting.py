"""Waiting for workers, and for what they compute, never without end."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from distributed import Client, as_completed

from screen.errors import ScreenError

POLL_S, LOOK_S = 0.1, 5.0
"""How often results are looked for, and how often somebody asks whether there is a worker."""


class Watch:
    """Whether there are workers, and for how long there were none.

    `fault` says why none will come, if that is known; `told` what is known of those that were asked for.
    """

    def __init__(
        self,
        client: Client,
        wait_s: float,
        fault: Callable[[], str | None] = lambda: None,
        told: Callable[[], str] = lambda: "",
    ) -> None:
        self._client, self._wait_s, self._fault, self._told = client, wait_s, fault, told

    def wait_for_first(self) -> None:
        """Returns as soon as there is a worker. Raises ScreenError where none comes within `wait_s` seconds, or will."""
        until = time.monotonic() + self._wait_s
        while self._n_workers() == 0:
            if fault := self._fault():
                raise ScreenError(f"no worker came: {fault}. What was committed is kept")
            if time.monotonic() > until:
                raise ScreenError(self._none(f"no worker came within {self._wait_s:g} s"))
            time.sleep(min(self._wait_s / 10, 1.0))

    def each_done(self, tasks: Sequence[Any]) -> Iterator[Any]:
        """Tasks as they are done. Raises ScreenError where for `wait_s` seconds there was no worker."""
        waiting = as_completed(tasks, loop=self._client.loop)
        looked = seen = time.monotonic()
        while not waiting.is_empty():
            if waiting.has_ready():
                yield next(waiting)
                continue
            time.sleep(POLL_S)
            now = time.monotonic()
            if now - looked > min(LOOK_S, self._wait_s / 2):
                looked = now
                seen = now if self._n_workers() else seen
                if now - seen > self._wait_s:
                    raise ScreenError(self._none(f"the last worker went away, and none came within {self._wait_s:g} s"))

    def _n_workers(self) -> int:
        return len(self._client.scheduler_info(n_workers=-1)["workers"])

    def _none(self, what: str) -> str:
        told = self._told()
        return (
            f"{what} (cluster.wait_s){f': {told}' if told else ''}. What was committed is kept; run the same command when "
            "there are workers"
        )


@contextmanager
def signals_kept_back() -> Iterator[None]:
    """Ctrl-C and SIGTERM act when the block is left: for the moments in which half of something cannot be closed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda n, frame: came.append(n)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
