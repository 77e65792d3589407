"""Lanes: what others need goes before what waits, and whatever a task raises reaches who asked."""

import threading

import pytest
import torch

from screen.engine.lanes import Lanes

CPU = torch.device("cpu")


def test_what_others_need_runs_before_what_waits() -> None:
    begun, order, may_go = threading.Event(), list[str](), threading.Event()

    def busy() -> None:
        begun.set()
        may_go.wait(10)

    with Lanes(CPU, 1) as lanes:
        lanes.submit(busy)
        begun.wait(10)
        waiting = [lanes.submit(order.append, f"item {i}") for i in range(3)]
        first = [lanes.submit_first(order.append, f"control {i}") for i in range(2)]
        may_go.set()
        for done in [*first, *waiting]:
            done.result(10)
    assert order == ["control 0", "control 1", "item 0", "item 1", "item 2"]


def test_a_lane_without_work_takes_it_at_once() -> None:
    with Lanes(CPU, 2) as lanes:
        assert lanes.submit_first(lambda: 3).result(10) == 3


@pytest.mark.parametrize("error", [MemoryError("no room"), ValueError("wrong")])
def test_errors_reach_who_asked_and_leave_the_lane(error: Exception) -> None:
    def fail() -> None:
        raise error

    with Lanes(CPU, 1) as lanes:
        for submit in (lanes.submit, lanes.submit_first):
            with pytest.raises(type(error), match=str(error)):
                submit(fail).result(10)
        assert lanes.submit(lambda: 1).result(10) == 1


def test_what_was_given_up_does_not_run() -> None:
    begun, may_go, ran = threading.Event(), threading.Event(), list[int]()

    def busy() -> None:
        begun.set()
        may_go.wait(10)

    with Lanes(CPU, 1) as lanes:
        lanes.submit(busy)
        begun.wait(10)
        given_up, kept = (lanes.submit_first(ran.append, i) for i in range(2))
        assert given_up.cancel()
        may_go.set()
        kept.result(10)
    assert ran == [1]
