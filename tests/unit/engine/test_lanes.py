"""Lanes: what others need goes before what waits, and whatever a task raises reaches who asked."""

import gc
import subprocess
import sys
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

    def fail() -> None:
        x = torch.zeros(3)
        held.append(weakref.ref(x))
        try:
            raise torch.OutOfMemoryError(f"no room beside {len(x)}")
        except RuntimeError as error:
            raise MemoryError("told otherwise") from error

    gc.disable()
    try:
        with Lanes(CPU, 1) as lanes:
            for submit in (lanes.submit, lanes.submit_first):
                errors.append(submit(fail).exception(10))
        assert [type(e) for e in errors] == [MemoryError, MemoryError]
        assert [x() for x in held] == [None, None]
    finally:
        gc.enable()


NO_ROOM_FOR_A_KERNEL = """
import resource, sys
import torch
from screen.engine.lanes import Lanes

def gelu(n_rows):
    torch.nn.functional.gelu(torch.zeros(n_rows, 50, 256))

def gelu_without_room(n_rows):
    x, out = torch.zeros(n_rows, 50, 256), torch.zeros(n_rows, 50, 256)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use, hard))
    try:
        torch._C._nn.gelu(x, out=out)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))

with Lanes(torch.device("cpu"), 1, has_first_lane=True) as lanes:
    for submit in (lanes.submit, lanes.submit_first):
        submit(gelu, 3).result(60)
        print(submit(gelu_without_room, 4).exception(60))
    waits = lanes.submit(lambda: 1)
    lanes.renew()
    assert waits.result(60) == 1
    for submit in (lanes.submit, lanes.submit_first):
        # other rows: a kernel that does not exist yet
        submit(gelu, 5).result(60)
        submit(gelu, 6).result(60)
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="limits its own address space through Linux's interfaces"
)
def test_a_kernel_can_be_made_after_there_was_no_room_for_one() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_ROOM_FOR_A_KERNEL], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    if "primitive" not in done.stdout:
        pytest.skip(f"this machine makes no kernel for it: {done.stdout}")
