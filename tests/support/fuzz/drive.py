"""Drives the process that reads damaged files: notices crashes and hangs, and says which input did it."""

import json
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any

from tests.support.places import ROOT

HANG_S, START_S, N_LEAST = 60.0, 120.0, 12
MOST_PEAK_BYTES = 2 * 2**30


@dataclass
class Report:
    """Outcomes by kind, the inputs that failed, what each seed did, and the most memory that a process had (and had with valid files)."""

    format: str
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)
    damages: dict[int, str] = field(default_factory=dict)
    peak_bytes: int = 0
    base_bytes: int = 0

    def __str__(self) -> str:
        tally = ", ".join(f"{n} {kind}" for kind, n in sorted(self.outcomes.items()))
        return f"{self.format}: {tally}; peak {self.peak_bytes / 2**20:.0f} MiB ({self.base_bytes / 2**20:.0f} with valid files)"


class Child:
    """One process that reads inputs of a format."""

    def __init__(self, format_: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fuzz", format_], cwd=ROOT, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)

    def line(self, seconds: float) -> dict[str, Any] | None:
        """What it says next; None where it is gone or says nothing for so long."""
        if not self.selector.select(seconds):
            return None
        text = self.process.stdout.readline()  # type: ignore[union-attr]
        return json.loads(text) if text.endswith(b"\n") else None

    def ask(self, seed: int) -> dict[str, Any]:
        """What came of one input."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seed}\n".encode())
        self.process.stdin.flush()
        damage = ""
        while (said := self.line(HANG_S)) is not None:
            if "outcome" in said:
                return said
            damage = said.get("damage", damage)
        self.process.poll()
        gone = self.process.poll() if self.process.poll() is not None else _waited(self.process)
        return {"seed": seed, "outcome": "hang" if gone is None else "crash", "damage": damage, "said": f"exit {gone}"}

    def end(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.communicate()
        self.selector.close()


def _waited(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(2)
    except subprocess.TimeoutExpired:
        return None


def fuzz(
    format_: str, seconds: float, first_seed: int = 0, n_least: int = N_LEAST, known: Sequence[int] = ()
) -> Report:
    """Reads damaged files of a format for so long, the start of the process counted, and at least so many; known seeds first."""
    report, child, deadline = Report(format_), None, time.monotonic() + seconds
    try:
        for number, seed in enumerate(chain(known, count(first_seed))):
            if child is None:
                child = Child(format_)
                ready = child.line(START_S)
                if ready is None:
                    raise RuntimeError(f"the process that reads {format_} does not start")
                report.base_bytes = ready["rss"]
            found = child.ask(seed)
            report.outcomes[found["outcome"]] += 1
            report.damages[seed] = found["damage"]
            report.peak_bytes = max(report.peak_bytes, found.get("rss", 0))
            if found["outcome"] in ("wrong", "crash", "hang"):
                report.failures.append(found)
            if found["outcome"] in ("crash", "hang"):
                child.end()
                child = None
            if time.monotonic() > deadline and number + 1 >= n_least:
                return report
    finally:
        if child is not None:
            child.end()
    raise AssertionError("seeds do not end")
