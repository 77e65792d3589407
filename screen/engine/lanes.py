"""Lanes: threads that run batches side by side, one core of a CPU or one stream of a GPU each."""

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from traceback import clear_frames
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from screen.machine import available_cores

P = ParamSpec("P")
R = TypeVar("R")
GPU_LANES = 2
"""Streams per GPU: while one lane waits for its results the other computes."""


def default_lanes(device: torch.device) -> int:
    """One lane per available core, or GPU_LANES streams."""
    return available_cores() if device.type == "cpu" else GPU_LANES


class Lanes:
    """A pool of lanes on one device. Each has one torch thread, so that bytes do not depend on how many there are.

    has_first_lane  a lane more, for what comes first and others wait for; None: on a GPU, whose streams share it, not on a CPU,
                    whose cores are all taken
    """

    def __init__(self, device: torch.device, n_lanes: int | None = None, has_first_lane: bool | None = None) -> None:
        self.device, self.n_lanes = device, n_lanes or default_lanes(device)
        has_one = device.type == "cuda" if has_first_lane is None else has_first_lane
        self._first_lane = ThreadPoolExecutor(1, initializer=self._enter) if has_one else None
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(self.n_lanes, initializer=self._enter)
        self._first = deque[tuple[Future[Any], Callable[[], object]]]()

    def _enter(self) -> None:
        torch.set_num_threads(1)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            torch.cuda.set_stream(torch.cuda.Stream(self.device))  # type: ignore[no-untyped-call]

    def submit(self, task: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Runs a task in the first free lane, without autograd; its device work is finished when its result is there."""
        return self._pool.submit(self._next, partial(task, *args, **kwargs))

    def submit_first(self, task: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """As `submit`, before everything that waits: what others need to go on."""
        first = partial(task, *args, **kwargs)
        if self._first_lane is not None:
            return self._first_lane.submit(self._run, first)
        found = Future[R]()
        self._first.append((found, first))
        # for a lane that has nothing else to do
        self._pool.submit(self._first_ones)
        return found

    def _next(self, task: Callable[[], R]) -> R:
        self._first_ones()
        try:
            return self._run(task)
        finally:
            del task

    def _first_ones(self) -> None:
        while self._first:
            # another lane may have taken the last
            with suppress(IndexError):
                self._fulfil(*self._first.popleft())

    def _fulfil(self, found: Future[Any], task: Callable[[], object]) -> None:
        if not found.set_running_or_notify_cancel():
            return
        try:
            result = self._run(task)
        except BaseException as error:
            found.set_exception(error)
            # the error's traceback holds this frame: together they would keep the tensors of a failed task alive
            del found, task
        else:
            found.set_result(result)

    def _run(self, task: Callable[[], R]) -> R:
        try:
            with torch.inference_mode():
                result = task()
        except Exception as error:
            if is_out_of_memory(error):
                let_go(error)
                # what it was given: this call has not ended yet, and who is to hear of the error may hold it for long
                del task
            raise
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        return result

    def __enter__(self) -> "Lanes":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for pool in (self._first_lane, self._pool):
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(self._threads_before)


def to_device(x: NDArray[Any], device: torch.device) -> Tensor:
    """A copy on the device, through pinned memory to a GPU, which nobody waits for; on a CPU the array itself."""
    found = torch.from_numpy(x)
    return found.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else found


def to_host(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Copies to the host, all at once: through pinned memory from a GPU, waiting once; as they are on a CPU."""
    on_gpu = any(x.is_cuda for x in tensors.values())
    if not on_gpu:
        return {name: x.numpy() for name, x in tensors.items()}
    copies = {
        n: torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True) for n, x in tensors.items()
    }
    torch.cuda.current_stream().synchronize()
    return {name: np.asarray(x) for name, x in copies.items()}


def let_go(error: BaseException | None) -> None:
    """Drops the tensors that an error's traceback holds: the local variables of the calls that it has ended by now."""
    while error is not None:
        clear_frames(error.__traceback__)
        error = error.__context__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a computation failed for want of memory, on a GPU or a CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # the last is what oneDNN says when it gets no memory for a kernel
    words = ("can't allocate memory", "bad_alloc", "out of memory", "alloc_failed", "could not create a")
    return isinstance(error, RuntimeError) and any(w in str(error).lower() for w in words)
