"""Sessions: what each `run` of a directory computed, and how fast, a line each in sessions.jsonl."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from screen.directory import SESSIONS
from screen.engine.unit import Progress
from screen.files import write_file

N_KEPT = 100
"""Lines that the file has at most, the newest ones."""


@contextmanager
def recorded(directory: Path, executor: Mapping[str, Any]) -> Iterator[Callable[[Progress], Progress]]:
    """Gives what counts the edits that a progress hears of; writes the line when the context ends, however it ends."""
    counted = {"edits": 0, "tokens": 0, "padding": 0}
    started, begin = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()

    def counting(progress: Progress) -> Progress:
        def count(edits: int, tokens: int, padding: int) -> None:
            for name, n in (("edits", edits), ("tokens", tokens), ("padding", padding)):
                counted[name] += n
            progress(edits, tokens, padding)

        return count

    try:
        yield counting
    finally:
        line = {"started": started, "elapsed_s": round(time.monotonic() - begin, 3), **counted, **executor}
        if counted["edits"]:
            _append(directory / SESSIONS, json.dumps(line))


def _append(path: Path, line: str) -> None:
    before = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    write_file(path, ("\n".join([*before[-N_KEPT + 1 :], line]) + "\n").encode())
