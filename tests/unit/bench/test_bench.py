"""`perturbscreen bench` and benchmarks/gpu run anywhere with few libraries, count what they ran, and fail where they must."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import changes, checks, job, precisions
from screen.bench import measure as bench
from screen.bench.bare import control_call, item_call, taken_over
from screen.bench.measure import SMALL, Wanted
from screen.cli.main import main
from screen.engine.executor import Executor
from screen.engine.packed import PackedEngine
from screen.errors import ConfigError
from screen.models.perturbgen.chains import REUSE
from screen.models.perturbgen.cost import Cost
from screen.models.perturbgen.random import random_model, sizes_of
from screen.running.workload import batches_by_block, total_flops
from tests.support.places import ROOT

TINY = replace(SMALL, width=32, n_heads=2, n_genes=200, max_len=160, n_times=2)
BARE_NODE = """
import importlib.metadata, runpy, sys
REFUSED = {"zarr", "anndata", "polars", "pandas", "scipy", "h5py", "pyarrow", "dask"}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in REFUSED:
            raise ImportError(f"{name} is not on a bare node")

def version(name, known=importlib.metadata.version):
    if name == "perturbscreen":
        raise importlib.metadata.PackageNotFoundError(name)
    return known(name)

sys.meta_path.insert(0, Refuse())
importlib.metadata.version = version
module, *arguments = sys.argv[1:]
sys.argv = [module, *arguments]
runpy.run_module(module, run_name="__main__")
"""


def on_a_bare_node(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A module run where nothing is installed but torch, triton, numpy, pydantic, yaml and rich."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"}
    command = [sys.executable, "-c", BARE_NODE, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_bench_prints_and_writes_figures_that_fit_each_other(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "bench.json"
    assert main(["bench", "--device", "cpu", "--size", "small", "--seconds", "1", "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert set(found) == {
        "wanted", "executor", "n_lanes", "n_edits", "n_cells", "n_perturbations", "n_units", "gflop_per_edit", "edits_per_s",
        "tokens_per_s", "padding_share", "tflops", "ceiling_tflops", "ceiling_by_shape", "share_of_ceiling",
        "outside_model_share", "busy_share", "peak_memory_bytes", "units_s", "bare_s", "projection", "circumstances",
    }  # fmt: skip
    assert set(found["wanted"]) == {
        "sizes", "device", "precision", "modes", "site", "edited_tps", "n_cells", "n_genes", "batch_tokens", "seconds",
    }  # fmt: skip
    assert set(found["wanted"]["sizes"]) == {
        "width", "n_heads", "encoder_head_width", "head_width", "n_encoder_blocks", "n_blocks", "n_genes",
        "n_source_tokens", "max_len", "n_times",
    }  # fmt: skip
    assert set(found["projection"]) == {
        "n_edits", "n_cells", "n_genes", "mean_gflop_per_edit", "gflop_per_control", "device_hours",
    }  # fmt: skip
    assert {"commit", "machine", "versions", "date"} <= set(found["circumstances"])
    assert found["wanted"]["sizes"]["width"] == SMALL.width
    assert found["tflops"] == pytest.approx(found["edits_per_s"] * found["gflop_per_edit"] / 1e3)
    assert found["share_of_ceiling"] == pytest.approx(found["tflops"] / found["ceiling_tflops"])
    assert found["ceiling_tflops"] == max(found["ceiling_by_shape"].values())
    assert found["edits_per_s"] == pytest.approx(found["n_edits"] / np.median(found["units_s"]))
    assert len(found["units_s"]) == len(found["bare_s"])
    assert 0 <= found["padding_share"] < 0.05
    assert found["outside_model_share"] < 1
    assert found["tokens_per_s"] > 100 * found["edits_per_s"]
    assert 10**8 < found["peak_memory_bytes"] < 10**11
    p = found["projection"]
    work = p["n_edits"] * p["mean_gflop_per_edit"] + p["n_cells"] * p["gflop_per_control"]
    assert p["device_hours"] == pytest.approx(work / (found["tflops"] * 1e3) / 3600)
    printed = capsys.readouterr().out
    assert f"{found['edits_per_s']:,.2f}" in printed
    assert "not run" in printed


@pytest.mark.parametrize("precision", ["fp16x2", "tf32", "bf16"])
def test_every_precision_can_be_measured_at_any_site(precision: Any) -> None:
    wanted = Wanted(TINY, "cpu", precision, ("delete", "overexpress"), "tgt", (2,), batch_tokens=500, seconds=0.1)
    measured = bench.measure(wanted, random_model(sizes_of(TINY)))
    assert measured.executor["precision"] == precision
    assert measured.executor["batch_tokens"] == 500
    assert measured.n_perturbations % 2 == 0
    assert measured.edits_per_s > 0


@pytest.mark.parametrize("site", ["src", "tgt"])
def test_operations_are_those_of_the_batches_that_run(site: Any) -> None:
    model = random_model(sizes_of(TINY))
    screen = bench.synthetic(Wanted(TINY, modes=("mask", "delete"), site=site, edited_tps=()), 7, 5, model)
    engine = PackedEngine(screen, Executor(torch.device("cpu"), batch_tokens=700))
    # the plan counts every row, whatever the first attention saves where few tokens change
    whole: Any = engine.computer.model
    engine.computer.model = replace(whole, reuse=REUSE - {"few"})
    counted, n_mixed = 0.0, 0
    for controls, items in batches_by_block(screen, 700, range(screen.plan.n_units)):
        # torch counts the attention it is built of, not its fused kernel for the CPU
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
            taken = taken_over(controls, [control_call(engine.computer, batch)() for batch in controls])
            for batch in items:
                item_call(engine.computer, batch, taken)()
        counted += counter.get_total_flops()
        n_mixed += sum(len(np.unique(b.cell_B)) > 1 for b in items)
    assert n_mixed
    assert counted == total_flops(screen, 700)


def test_the_projection_is_the_arithmetic_of_its_parts() -> None:
    once = Cost(sizes_of(bench.PUBLISHED), {1: (1,)})
    found = bench.project(Wanted(), once, 1e12)
    assert found.n_edits == round(6_000 * 20_000 * 0.19)
    assert 15 < found.mean_gflop_per_edit < 25
    both = bench.project(Wanted(modes=("mask", "overexpress")), once, 1e12)
    assert both.n_edits == found.n_edits + 6_000 * 20_000
    assert both.mean_gflop_per_edit < found.mean_gflop_per_edit
    assert bench.project(Wanted(), once, 2e12).device_hours == pytest.approx(found.device_hours / 2)


def test_cells_and_genes_that_are_given_are_kept_and_others_are_chosen() -> None:
    assert bench._size(Wanted(n_cells=3, n_genes=5), 1000) == (3, 5)
    n_cells, n_genes = bench._size(Wanted(), 4800)
    assert n_cells == 100
    assert n_cells * n_genes * Wanted().share_screened == pytest.approx(4800, rel=0.01)
    n_cells, n_genes = bench._size(Wanted(n_genes=10), 4800)
    assert n_genes == 10
    assert n_cells * n_genes * Wanted().share_screened == pytest.approx(4800, rel=0.01)


def test_time_points_that_cannot_be_edited_are_refused() -> None:
    for wrong in ({"site": "src", "edited_tps": (1,)}, {"site": "tgt", "edited_tps": (3,)}):
        with pytest.raises(ConfigError, match="cannot be edited"):
            Wanted(TINY, **wrong)  # type: ignore[arg-type]


def test_bench_runs_on_a_bare_node(tmp_path: Path) -> None:
    sizes = ["--width", "32", "--heads", "2", "--model-genes", "200", "--max-len", "160"]
    found = on_a_bare_node("screen.cli", "bench", "--size", "small", *sizes, "--seconds", "1", "--device", "cpu")
    assert found.returncode == 0, found.stderr
    assert "edits/s" in found.stdout


@pytest.mark.long
def test_the_gpu_script_runs_all_its_parts_on_a_bare_node_without_a_gpu(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    run = on_a_bare_node("benchmarks.gpu", "--device", "cpu", "--quick", "--seconds", "0.1", "--out", str(path))
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(path.read_text())
    assert {"device", "driver", "commit", "machine", "versions", "date", "total seconds", "copy GB/s"} <= set(found)
    assert found["failures"] == []
    assert all(check["passed"] for check in found["checks"])
    assert sum(check["name"].startswith("engine = reference") for check in found["checks"]) == len(checks.EDITS)
    assert {name.split(",")[0] for name in found["kernels"]} == {"add_norm", "split_half", "pool_shift", "edit_tokens"}
    assert set(found["precisions"]) == set(precisions.PRECISIONS)
    error = {name: p["delta error"]["250-420 tokens"]["median"] for name, p in found["precisions"].items()}
    assert error["float32"] == 0 < error["fp16x2"] < error["tf32"] < error["bf16"]
    assert all(p["projection"]["device_hours"] > 0 for p in found["precisions"].values())
    assert "projected, not run" in run.stdout
    of_changes = found["changes"]["edits/s"]
    assert set(of_changes["src mask, all genes"]) == {"float32", "fp16x2", "delta16"}
    assert set(of_changes) == set(changes.QUICK_CASES)
    assert all(case["delta16"]["computed otherwise"] == 0 < case["delta16"]["edits/s"] for case in of_changes.values())
    assert set(found["upstream-shaped, edits/s"]) == {"float32, 64", "tf32, 64", "autocast, 64"}
    errors = found["changes"]["errors against float64"]
    assert set(errors["real size, src"]["edits"]) == {f"{mode} src t1" for mode in changes.MODES}
    for of_case in errors.values():
        n_edits = of_case.pop("edits")
        assert set(n_edits.values()) == {3 * changes.QUICK_EXACT}
        for of_group in of_case.values():
            assert set(of_group) == set(n_edits)
            assert all(0 < e["median"] <= e["90 %"] < 0.01 for e in of_group.values())
    of_real = errors.pop("real size, src")
    assert list(of_real) == list(changes.PRECISIONS)
    for group, e in of_real["float32"].items():
        assert e["median"] < of_real["fp16x2"][group]["median"]
    assert errors
    for tiny in errors.values():
        assert all(tiny["delta32"][g]["median"] < tiny["delta16"][g]["median"] / 100 for g in tiny["delta16"])
    assert set(found["projection"]) == {"edits", "bytes", "float32", "fp16x2", "delta16"}
    assert set(found["skipped"]) == {"demo"}
    assert "zarr" in found["skipped"]["demo"]
    assert f"skipped: {found['skipped']['demo']}" in run.stdout
    assert list(found["parts"]) == [part.__name__ for part in gpu.PARTS]
    assert {name for name, became in found["parts"].items() if became != "done"} == {"demo"}


@pytest.mark.parametrize("limit", ["--readout", "--delta-rms", "--delta-worst", "--delta-relative"])
def test_a_limit_that_nothing_meets_makes_the_gpu_script_fail(limit: str, tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    arguments = ["--device", "cpu", "--quick", "--only", "real_items", "--out", str(path)]
    assert gpu.main([*arguments, limit, "-1"]) == 1
    found = json.loads(path.read_text())
    assert len(found["failures"]) == 2
    assert not any(check["passed"] for check in found["checks"])


def test_a_part_that_breaks_is_reported_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from tests.support import kernel_cases

    def broken(device: str, backend: str) -> None:
        raise AssertionError("off by one")

    monkeypatch.setattr(kernel_cases, "CHECKS", (broken, kernel_cases.check_add_norm))
    path = tmp_path / "gpu.json"
    assert gpu.main(["--device", "cpu", "--quick", "--only", "kernels", "--out", str(path)]) == 1
    found = json.loads(path.read_text())
    assert found["failures"] == ["broken by torch: AssertionError: off by one"]
    passed = {check["name"]: check["passed"] for check in found["checks"]}
    assert [name for name, has_passed in passed.items() if not has_passed] == ["broken by torch"]
    assert len(passed) > 5
    assert "FAILED: broken by torch: AssertionError: off by one" in capsys.readouterr().out


def test_an_engine_that_ignores_the_edit_is_caught() -> None:
    screens = [job.twin(checks.TINY, 3, (0, 50)) for _ in range(2)]
    found = job.results(PackedEngine(screens[0], Executor(checks.CPU)))
    ignored = {name: np.zeros_like(x) if name.startswith(("delta", "items/rms")) else x for name, x in found.items()}
    assert job.errors_of(found, found)["delta relative"] == 0
    assert job.errors_of(ignored, found)["delta relative"] == pytest.approx(1)
    assert job.errors_of({**found, "delta/t1": found["delta/t1"] * np.nan}, found)["readout"] == np.inf
    assert job.errors_of({}, found)["columns missing"] == len(found)


def test_the_gpu_script_without_its_device_says_so(capsys: Any) -> None:
    assert gpu.main(["--device", "cuda:99"]) == 2
    assert "cuda:99" in capsys.readouterr().err
