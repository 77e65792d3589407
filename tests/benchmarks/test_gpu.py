"""The benchmark of a GPU: the demo stamped, and how long kernels run."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import changes, demo


def test_the_demo_is_stamped_cold_and_warm_and_its_stages_add_up(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "gpu.json"
    assert gpu.main(["--device", "cpu", "--quick", "--only", "demo", "--out", str(path)]) == 0
    found = json.loads(path.read_text())
    assert list(found["demo"]) == ["cold", "warm"]
    for run in found["demo"].values():
        assert list(run["seconds"]) == list(demo.STAGES)
        # two clocks: one since the process began, one since its imports were done
        assert sum(run["seconds"].values()) == pytest.approx(run["whole s"], abs=0.1)
        assert min(run["seconds"].values()) > 0
        assert run["plan to tables s"] == pytest.approx(
            sum(run["seconds"][stage] for stage in ("pilot", "store", "screening", "tables"))
        )
        assert run["edits/s"] == pytest.approx(run["edits"] / run["seconds"]["screening"])
        assert (run["precision"], run["device"]) == ("float32", "cpu")
        assert run["written bytes"] > run["edits"] * 1_000
        assert 0 < run["writing s"] < run["seconds"]["screening"]
        assert run["rows of tables"] % len(demo.QUICK_GENES) == 0
    assert found["parts"] == {"demo": "done"}
    assert found["seconds"]["demo"] >= sum(run["whole s"] for run in found["demo"].values()) - 0.1
    assert "from plan to last table" in capsys.readouterr().out


def test_a_demo_that_breaks_fails_with_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho the disk is full >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    path = tmp_path / "gpu.json"
    assert gpu.main(["--device", "cpu", "--quick", "--only", "demo", "--out", str(path)]) == 1
    found = json.loads(path.read_text())
    assert found["parts"] == {"demo": "failed"}
    assert len(found["failures"]) == len(demo.RUNS)
    assert "exit code 3" in found["failures"][0]
    assert "the disk is full" in found["failures"][0]


def test_without_its_packages_the_demo_is_skipped_which_is_no_failure_and_no_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(demo, "NEEDS", ("json", "zarr_of_nowhere"))
    path = tmp_path / "gpu.json"
    assert gpu.main(["--device", "cpu", "--quick", "--only", "demo", "--out", str(path)]) == 0
    found = json.loads(path.read_text())
    reason = "it needs zarr_of_nowhere, which this node lacks: install perturbscreen"
    assert found["skipped"]["demo"] == reason
    assert found["parts"]["demo"] == f"skipped: {reason}"
    assert found["checks"] == found["failures"] == []
    assert not {"demo", "seconds of all parts"} & set(found)
    assert f"skipped: {reason}" in capsys.readouterr().out


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
