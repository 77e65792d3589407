"""The benchmark of a GPU: the demo stamped, what is projected of its figures, and what it is meant to reach."""

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import changes, checks, demo, projection, targets
from benchmarks.gpu.job import Job, twin
from screen.engine.executor import Executor
from screen.engine.screen import Screen
from tests.support import kernel_cases

REACHED, NOT_REACHED, NOT_MEASURED = "reached", "not reached", "not measured"


def job_on(device: str = "cuda", is_quick: bool = False, **figures: Any) -> Job:
    return Job(torch.device(device), is_quick, 1.0, {}, {"checks": [], "failures": [], **figures})


def measured(**edits_per_s: float) -> dict[str, Any]:
    return {"edits/s": {changes.ALL_GENES: {name: {"edits/s": pace} for name, pace in edits_per_s.items()}}}


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
    assert {t["verdict"] for t in found["targets"]} == {NOT_MEASURED}
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


def check_that_fails(device: str, backend: str) -> None:
    raise AssertionError(f"off by one on {device} by {backend}")


@pytest.mark.parametrize("n_processes", [1, 2])
def test_checks_of_kernels_fail_one_by_one_however_many_run_at_once(n_processes: int) -> None:
    job = job_on("cpu")
    checks.run_checks(job, [check_that_fails, kernel_cases.check_add_norm], "torch", n_processes)
    assert [(c["name"], c["passed"]) for c in job.figures["checks"]] == [
        ("that_fails by torch", False), ("add_norm by torch", True),
    ]  # fmt: skip
    (failure,) = job.figures["failures"]
    assert failure.startswith("that_fails by torch: ")
    assert failure.endswith("AssertionError: off by one on cpu by torch")


def check_that_takes_a_second(device: str, backend: str) -> None:
    time.sleep(1)


def test_seconds_of_a_check_are_its_own_not_those_it_was_waited_for() -> None:
    job = job_on("cpu")
    checks.run_checks(job, [check_that_takes_a_second] * 2 + [kernel_cases.check_add_norm], "torch", 2)
    assert 1 <= job.figures["seconds"]["that_takes_a_second by torch"] < 5
    assert [c["passed"] for c in job.figures["checks"]] == [True] * 3


def check_that_kills_its_process(device: str, backend: str) -> None:
    os._exit(7)


def test_a_check_that_kills_its_process_fails_alone() -> None:
    job, killed = job_on("cpu"), check_that_kills_its_process
    start = time.perf_counter()
    checks.run_checks(job, [killed, kernel_cases.check_add_norm, killed], "torch", 2)
    # nobody waits for what will not be said
    assert time.perf_counter() - start < checks.CHECKS_S / 2
    assert [c["passed"] for c in job.figures["checks"]] == [False, True, False]
    assert "its process ended with exit code 7" in job.figures["failures"][0]


def check_that_never_ends(device: str, backend: str) -> None:
    time.sleep(1000)


def test_checks_that_never_end_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CHECKS_S", 1.0)
    job, start = job_on("cpu"), time.perf_counter()
    checks.run_checks(job, [check_that_never_ends] * 3, "torch", 2)
    assert time.perf_counter() - start < 60
    assert [c["passed"] for c in job.figures["checks"]] == [False] * 3
    assert "not done within the 1 s of all checks" in job.figures["failures"][2]
    assert not multiprocessing.active_children()


def test_a_device_that_cannot_be_had_fails_every_check_at_once() -> None:
    job, start = job_on("cuda:99"), time.perf_counter()
    checks.run_checks(job, [kernel_cases.check_add_norm, kernel_cases.check_split_half], "torch", 2)
    assert [c["passed"] for c in job.figures["checks"]] == [False, False]
    assert time.perf_counter() - start < 60


def test_a_precision_that_fails_keeps_the_errors_of_the_others(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    plain = changes.executor_of

    def broken(screen: Screen, precision: Any, job: Job) -> Executor:
        if precision == "delta32":
            raise RuntimeError("no such kernel")
        return plain(screen, precision, job)

    monkeypatch.setattr(changes, "executor_of", broken)
    job = Job(torch.device("cpu"), True, 1.0, {"change, median": 0.01, "change, 90 %": 0.05})
    screen = twin(checks.TINY, 3, range(0, 300, 5), modes=changes.MODES)
    changes.against_float64(job, "tiny", screen, ("delta32", "delta16"))
    assert job.figures["failures"] == ["delta32 = float64, tiny: RuntimeError: no such kernel"]
    assert [(c["name"], c["passed"]) for c in job.figures["checks"]] == [
        ("delta32 = float64, tiny", False), ("delta16 = float64, tiny", True),
    ]  # fmt: skip
    found = job.figures["changes"]["errors against float64"]["tiny"]
    assert set(found) == {"edits", "delta16"}
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("mask src t1")]
    assert line.split()[-4] == "-"


def test_without_its_packages_the_demo_is_skipped_which_is_no_failure_and_no_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(demo, "NEEDS", ("json", "zarr_of_nowhere"))
    path = tmp_path / "gpu.json"
    assert gpu.main(["--device", "cpu", "--quick", "--only", "demo", "projection", "--out", str(path)]) == 0
    found = json.loads(path.read_text())
    reason = "it needs zarr_of_nowhere, which this node lacks: install perturbscreen"
    assert found["skipped"]["demo"] == reason
    assert found["parts"]["demo"] == f"skipped: {reason}"
    assert found["parts"]["projection"].startswith("skipped: it needs the part `changes`")
    assert found["checks"] == found["failures"] == []
    assert not {"demo", "projection", "seconds of all parts"} & set(found)
    assert f"skipped: {reason}" in capsys.readouterr().out


def test_hours_are_projected_from_the_paces_of_the_run(capsys: Any) -> None:
    of_demo = {"warm": {"written MB/s": 91_200 / 3_600, "rows of tables/s": 12e6 / 7_200}}
    job = job_on(changes=measured(fp16x2=1_000, delta16=10_000), demo=of_demo)
    projection.projection(job)
    found = job.figures["projection"]
    assert (found["edits"], found["bytes"]) == (22_800_000, 91_200_000_000)
    assert found["fp16x2"]["of it"] == pytest.approx({"edits and controls": 22_800 / 3_600, "writing": 1, "tables": 2})
    assert found["delta16"]["hours"] == pytest.approx(2_280 / 3_600 + 3)
    said = capsys.readouterr().out
    assert said.count("projected, not run") == 3
    assert "without writing" not in said


def test_without_the_demo_the_projection_says_what_it_leaves_out(capsys: Any) -> None:
    job = job_on(changes=measured(delta16=10_000))
    projection.projection(job)
    assert job.figures["projection"]["delta16"]["hours"] == pytest.approx(2_280 / 3_600)
    assert "without writing and tables: the demo did not run" in capsys.readouterr().out


def test_targets_are_reached_not_reached_or_not_measured(capsys: Any) -> None:
    of_demo = {"warm": {"plan to tables s": 10.0}}
    job = job_on(
        changes=measured(delta16=7_999) | {"profile": {"delta16": {"busy": 0.9}}},
        **{"upstream-shaped, edits/s": {"float32, 1233": 60.0}, "demo": of_demo, "seconds of all parts": 301.0},
    )
    targets.compared(job)
    targets.targets(job)
    verdict = {t["target"]: t["verdict"] for t in job.figures["targets"]}
    assert len(verdict) == len(targets.TARGETS)
    assert {name for name, v in verdict.items() if v == REACHED} == {
        "kernels busy, delta16", targets.RATIO, "demo, warm, from plan to last table",
    }  # fmt: skip
    assert {name for name, v in verdict.items() if v == NOT_REACHED} == {
        f"delta16, {changes.ALL_GENES}", "every part of this command",
    }  # fmt: skip
    assert job.figures[targets.RATIO] == pytest.approx(7_999 / 60)
    assert job.figures["failures"] == []
    said = capsys.readouterr().out
    assert "delta16, src mask, all genes: 7,999 edits/s against at least 8,000 edits/s: not reached" in said
    assert "kernels busy, fp16x2: - against at least 85%: not measured" in said


@pytest.mark.parametrize(("device", "is_quick"), [("cpu", False), ("cuda", True)])
def test_nothing_is_compared_with_a_target_on_a_cpu_or_at_tiny_sizes(device: str, is_quick: bool) -> None:
    job = job_on(device, is_quick, changes=measured(delta16=9_000))
    targets.targets(job)
    assert {t["verdict"] for t in job.figures["targets"]} == {NOT_MEASURED}


def test_every_target_of_a_case_names_one_that_is_timed() -> None:
    cases = set(changes.cases(job_on("cpu", True))) | set(changes.cases(job_on("cpu")))
    wanted = {t.path[2] for t in targets.TARGETS if t.path[:2] == ("changes", "edits/s")}
    assert len(wanted) == 6
    assert wanted <= cases


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
