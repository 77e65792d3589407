"""Progress in lines: the pace is that of edits, whatever the controls before them took."""

import re

import pytest

from screen.running import listener
from screen.running.listener import Lines, Rates


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        patch.setattr(listener.time, "monotonic", lambda: self.now)


def test_controls_before_the_first_edits_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, lines = Clock(monkeypatch), list[str]()
    with Lines(lines.append).progress(773) as count:
        clock.now += 30  # controls of the first cells
        count(1, 100, 0)
        clock.now += 1
        count(9, 900, 0)
        clock.now += 29
        count(90, 9000, 0)
    first, second, last = lines
    assert first.startswith("1 of 773 edits") and first.endswith("controls came first, no estimate yet")
    assert second.startswith("100 of 773 edits")
    # 99 edits took 30 s
    assert int(re.findall(r"(\d+) s left", second)[0]) == round(673 * 30 / 99)
    assert last == second


def test_nothing_is_left_when_all_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, rates = Clock(monkeypatch), Rates()
    assert rates.left_s(5) is None and rates.left_s(0) == 0
    clock.now += 10
    rates.text(5, 1, 0)
    assert rates.left_s(5) == 0 and rates.left_s(6) is None
