"""Damaged files of every format: refused in our words or read right, never a crash, a hang, a traceback or much memory.

FUZZ_SECONDS is the time of all formats together, starts included, FUZZ_SEED the first seed; `make fuzz` asks for long. Without it
each format meets N_LEAST inputs, always the same, however busy the machine is. One is played again by
`python -m tests.support.fuzz FORMAT SEED`.
"""

import os
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.support.fuzz.drive import MOST_PEAK_BYTES, Report, fuzz
from tests.support.fuzz.formats import FORMATS

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))

FOUND = {"store": [5028]}
"""Seeds that found something once. 5028: metadata of a column that names no chunk, met while the columns were listed for an export."""


@pytest.fixture(scope="module")
def report_of() -> Callable[[str], Report]:
    """format -> what came of its damaged files."""
    return cache(lambda name: fuzz(name, SECONDS * FORMATS[name].share, SEED, known=FOUND.get(name, ())))


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_refused_or_read_right(name: str, report_of: Callable[[str], Report]) -> None:
    report = report_of(name)
    # for those who ask pytest for -s, as `make fuzz` does
    print(f"\n{report}")  # noqa: T201
    told = [f"{name} {f['seed']}: {f['outcome']} after {f['damage']}\n{f['said']}" for f in report.failures]
    assert not told, "\n\n".join(told[:5])
    assert report.outcomes["refused"] + report.outcomes["answered"] > 0
    assert report.peak_bytes < report.base_bytes + MOST_PEAK_BYTES


@pytest.mark.parametrize(
    ("name", "outcome"), [("crash", "crash"), ("hang", "hang"), ("traceback", "wrong"), ("memory", "wrong")]
)
def test_what_must_not_happen_is_noticed(name: str, outcome: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.fuzz.drive.HANG_S", 1.5)
    report = fuzz(f"shows {name}", 0, n_least=2)
    assert report.outcomes == {outcome: 2}
    assert {"damage", "seed"} <= set(report.failures[0])


def test_the_same_seed_does_the_same_damage(tmp_path: Path, report_of: Callable[[str], Report]) -> None:
    """In two processes, so that no order depends on how one of them hashes text."""
    there, here = report_of("text").damages, {}
    for seed in list(there)[:6]:
        folder = tmp_path / str(seed)
        folder.mkdir()
        FORMATS["text"].make(folder)
        here[seed] = FORMATS["text"].damage(folder, random.Random(seed))
    assert len(here) == 6
    assert here == {seed: there[seed] for seed in here}
