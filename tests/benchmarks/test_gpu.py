"""The benchmark of a GPU: how long kernels run."""

import pytest
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

from benchmarks.gpu import changes


def test_kernels_are_counted_once_and_copies_and_calls_of_the_cpu_are_not() -> None:
    def event(name: str, start: float, end: float, device_type: DeviceType = DeviceType.CUDA) -> FunctionEvent:
        return FunctionEvent(0, name, 0, start, end, use_device="cuda", device_type=device_type)

    events = [
        event("attend", 0, 4e6),
        event("norm", 2e6, 5e6),
        event("attend", 6e6, 7e6),
        event("Memcpy DtoH (Device -> Pinned)", 5e6, 9e6),
        event("cudaLaunchKernel", 0, 9e6, DeviceType.CPU),
    ]
    busy_s, time_of = changes.kernel_seconds(events)
    assert busy_s == pytest.approx(6)
    assert time_of == {"attend": pytest.approx(5), "norm": pytest.approx(3)}


def test_kernels_that_run_at_once_keep_a_device_busy_once() -> None:
    assert changes.union([]) == 0
    assert changes.union([(5, 7), (0, 4), (1, 2), (3, 6)]) == 7
    assert changes.union([(0, 1), (2, 3), (2, 3)]) == 2
