"""Lanes: what others need goes before what waits, and whatever a task raises reaches who asked."""

import gc
import threading
import weakref

import pytest
import torch

from screen.engine.lanes import Lanes

CPU = torch.device("cpu")


def kept_busy(lanes: Lanes) -> threading.Event:
    """Holds a lane until the event is set."""
    begun, may_go = threading.Event(), threading.Event()

    def busy() -> None:
        begun.set()
        may_go.wait(10)

    lanes.submit(busy)
    begun.wait(10)
    return may_go


def test_what_others_need_runs_before_what_waits() -> None:
    order = list[str]()
    with Lanes(CPU, 1) as lanes:
        may_go = kept_busy(lanes)
        waiting = [lanes.submit(order.append, f"item {i}") for i in range(3)]
        first = [lanes.submit_first(order.append, f"control {i}") for i in range(2)]
        may_go.set()
        for done in [*first, *waiting]:
            done.result(10)
    assert order == ["control 0", "control 1", "item 0", "item 1", "item 2"]


def test_a_lane_without_work_takes_it_at_once() -> None:
    with Lanes(CPU, 2) as lanes:
        assert lanes.submit_first(lambda: 3).result(10) == 3


def test_a_lane_of_its_own_does_not_wait_for_the_others() -> None:
    order = list[str]()
    with Lanes(CPU, 1, has_first_lane=True) as lanes:
        may_go = kept_busy(lanes)
        item = lanes.submit(order.append, "item")
        lanes.submit_first(order.append, "control").result(10)
        may_go.set()
        item.result(10)
    assert order == ["control", "item"]


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
    ran = list[int]()
    with Lanes(CPU, 1) as lanes:
        may_go = kept_busy(lanes)
        given_up, kept = (lanes.submit_first(ran.append, i) for i in range(2))
        assert given_up.cancel()
        may_go.set()
        kept.result(10)
    assert ran == [1]


def test_a_failed_task_keeps_nothing_alive() -> None:
    """Whoever ran out of memory needs the room at once, not when cycles are looked for, and not when the error is dropped."""
    held, errors = list[weakref.ref[torch.Tensor]](), list[BaseException | None]()

    def without_room() -> None:
        x = torch.zeros(3)
        held.append(weakref.ref(x))
        raise torch.OutOfMemoryError(f"no room beside {len(x)}")

    def fail(given: torch.Tensor) -> None:
        x = given + 1
        held.extend((weakref.ref(x), weakref.ref(given)))
        try:
            without_room()
        except RuntimeError as error:
            raise MemoryError("told otherwise") from error

    gc.disable()
    try:
        with Lanes(CPU, 1) as lanes:
            for submit in (lanes.submit, lanes.submit_first):
                errors.append(submit(fail, torch.zeros(3)).exception(10))
        assert [type(e) for e in errors] == [MemoryError, MemoryError]
        assert [x() for x in held] == [None] * 6
    finally:
        gc.enable()
