"""The benchmarks run at tiny sizes and record every figure they promise; a figure that falls short fails the run."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import cases, record, run_all, table
from benchmarks.engine import bare, delta, plans, precision, real_size, reference, scale_out
from benchmarks.stats import differential, power, questions
from benchmarks.store import store
from screen.config.sections import ComputeConfig
from screen.engine.choose import choose_executor
from screen.engine.packed import PackedEngine
from screen.models.ops import LaidOutOps
from screen.models.perturbgen.random import random_model, sizes_of
from screen.running.workload import total_flops
from tests.support.places import ROOT

AGAINST_UPSTREAM = {
    "src_mask_vs_upstream_shaped",
    "src_mask_vs_upstream_shaped_797",
    "tgt_mask_vs_upstream_shaped",
    "tgt_mask_both_vs_upstream_shaped",
    "tgt_mask_context_vs_upstream_shaped",
    "tgt_delete_vs_upstream_shaped",
    "tgt_overexpress_vs_upstream_shaped",
}


def figures(script: Any, folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / "results.jsonl"
    assert script.main(["--quick", "--results", str(path)]) == 0
    return record.latest(path)


def test_the_speed_figures_are_recorded_with_what_they_are_compared_with(tmp_path: Path) -> None:
    found = figures(real_size, tmp_path)
    assert set(found) == AGAINST_UPSTREAM | {"engine_vs_bare_forward", "packed_forward_vs_matmul"}
    for name in AGAINST_UPSTREAM:
        line = found[name]
        assert line["worst_error"] <= 1e-4
        assert line["ratio"] == pytest.approx(line["value"] / line["baseline"], rel=1e-3, abs=0.005)
        assert line["flops_ratio"] > 1
        assert line["n_baseline_edits"] >= 1
    shared = {found[name]["baseline"] for name in ("tgt_mask_vs_upstream_shaped", "tgt_delete_vs_upstream_shaped")}
    assert len(shared) == 1
    assert found["src_mask_vs_upstream_shaped_797"]["padded_to"] < found["src_mask_vs_upstream_shaped"]["padded_to"]
    assert found["engine_vs_bare_forward"]["tflops"] > 0


def in_this_process(kind: str, *values: Any, is_quick: bool) -> dict[str, Any]:
    found = plans.plan_child(*values) if kind == "plan" else plans.run_child(values[0], plans.TINY)
    return {**found, "peak_gb": plans.peak_gb()}


def test_the_plan_figures_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "child", in_this_process)
    found = figures(plans, tmp_path)
    assert set(found) == {"padding_demo", "padding_genome_wide", "plan_genome_wide_items_per_s", "peak_memory_10x"}
    assert found["padding_demo"]["value"] <= 0.05
    planned, memory = found["plan_genome_wide_items_per_s"], found["peak_memory_10x"]
    assert (planned["smaller"]["modes"], planned["modes"]) == ("mask", "mask,overexpress")
    assert memory["tenfold"]["n_items"] == 10 * memory["once"]["n_items"]


def test_a_process_of_its_own_reports_its_own_memory_not_that_of_its_parent() -> None:
    before = plans.peak_gb()
    held = np.ones(150_000_000, dtype=np.float64)
    found = plans.child("plan", 100, "mask", 50, is_quick=True)
    assert found["n_items"] == 100 * 50
    assert plans.peak_gb() > before + 0.5
    assert 0.05 < found["peak_gb"] < plans.peak_gb() - held.nbytes / 2e9


def test_each_precision_is_recorded_for_short_and_for_long_cells(tmp_path: Path) -> None:
    found = figures(precision, tmp_path)
    names = [f"precision_error_{p}_{c}" for c in ("250_420", "over_700") for p in ("float32", "fp16x2", "tf32", "bf16")]
    assert list(found) == names
    for n in (0, 4):
        errors = [found[name]["value"] for name in names[n : n + 4]]
        assert errors == sorted(errors)


def test_changes_that_are_carried_are_recorded_beside_cells(tmp_path: Path) -> None:
    found = figures(delta, tmp_path)
    assert set(found) == {f"delta_error_{p}_published" for p in ("float32", "delta32", "delta16")}
    float32, delta32, delta16 = (line["value"] for line in found.values())
    assert delta32 < float32 < delta16 < 0.01
    # one of the 64 moves a gene to where it is
    assert {line["n_edits"] for line in found.values()} == {63}


def test_the_engines_are_compared_on_the_demo(tmp_path: Path) -> None:
    assert set(figures(reference, tmp_path)) == {"reference_demo_all_cores_vs_one", "packed_demo_vs_reference"}


def test_lengths_have_the_mean_of_the_distribution_they_stand_for() -> None:
    sigma = np.log(700 / 150) / (2 * 1.6449)
    assert np.mean(cases.lengths(5, by_edit=False)) == pytest.approx(350 * np.exp(sigma**2 / 2), abs=1)
    assert np.mean(cases.lengths(5, by_edit=True)) == pytest.approx(350 * np.exp(1.5 * sigma**2), abs=1)
    drawn = np.random.default_rng(0).lognormal(np.log(350), sigma, 200_000)
    assert np.mean(cases.lengths(7, by_edit=True)) == pytest.approx((drawn**2).sum() / drawn.sum(), rel=0.01)
    assert cases.lengths(5, by_edit=True) == sorted(cases.lengths(5, by_edit=True))


@pytest.mark.parametrize("products", ["torch", "onednn"])
def test_every_product_of_a_forward_is_heard_and_the_model_is_left_as_it_was(products: Any) -> None:
    scale = cases.QUICK
    case = cases.make_case("any", random_model(sizes_of(scale.sizes)), scale, n_edits=3)
    engine = PackedEngine(case.screen, choose_executor(ComputeConfig(cpu_products=products), case.screen))
    forward = bare.forward_of(engine)
    model: Any = engine.computer.model
    assert isinstance(model.ops, LaidOutOps) == (products == "onednn")
    again, flops = bare.products_of(engine, forward)
    assert flops == total_flops(case.screen, engine.executor.batch_tokens)
    assert engine.computer.model is model
    assert [len(x) for x in again] == [len(x) for x in forward]
    assert bare.seconds_in_lanes(again, engine.executor) > 0


def test_a_call_is_made_again_with_the_same_shapes_and_strides() -> None:
    seen: list[torch.Tensor] = []

    def product(x: torch.Tensor, y: torch.Tensor, note: str) -> torch.Tensor:
        seen.extend((x, y))
        return x

    transposed, shared = torch.zeros(2, 3, 4).transpose(1, 2), torch.zeros(1, 5).expand(6, 5)
    views = [(tuple(x.shape), tuple(x.stride())) for x in (transposed, shared)]
    call = bare.Heard(product, views, ("rest",), 0)
    call.again(torch.arange(call.extent, dtype=torch.float32))
    assert call.extent == 24
    assert [x.shape for x in seen] == [transposed.shape, shared.shape]
    assert [x.stride() for x in seen] == [transposed.stride(), shared.stride()]


def test_a_result_that_differs_from_upstreams_is_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_size, "worst_error", lambda *_: 2e-4)
    with pytest.raises(AssertionError, match="nothing is recorded"):
        figures(real_size, tmp_path)
    assert not (tmp_path / "results.jsonl").exists()


def test_engines_that_differ_are_refused() -> None:
    reference.same(np.full((2, 3), 1e-6), np.zeros((2, 3)))
    for apart in (np.full((2, 3), 5e-6), np.array([[np.nan, 0.0]]), np.array([[2e-5] + [0.0] * 999])):
        with pytest.raises(AssertionError):
            reference.same(apart, np.zeros_like(apart))


def test_a_figure_below_its_threshold_is_named() -> None:
    line = {"name": "fast", "value": 5.0, "ratio": 23.9}
    assert run_all.verdict(line, at_least=24) == "fast is 23.9; it must be at least 24"
    assert run_all.verdict({**line, "ratio": None}, at_most=4) == "fast is 5; it must be at most 4"
    assert run_all.verdict(line, at_least=23, at_most=24) == ""
    assert run_all.exit_code(["", "fast is slow"], is_quick=False) == 1
    assert run_all.exit_code(["fast is slow"], is_quick=True) == 0
    assert run_all.exit_code([""], is_quick=False) == 0


def test_a_figure_that_falls_short_is_recorded_and_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "REAL", plans.TINY)
    monkeypatch.setattr(plans, "MOST_PADDED", -1.0)
    monkeypatch.setattr(plans, "load_config", lambda _: None)
    monkeypatch.setattr(plans, "prepare", lambda _: plans.wide_screen(plans.TINY))
    monkeypatch.setattr(plans, "planning", lambda *_: [])
    monkeypatch.setattr(plans, "growth", lambda *_: "")
    path = tmp_path / "results.jsonl"
    assert plans.main(["--results", str(path)]) == 1
    assert set(record.latest(path)) == {"padding_demo", "padding_genome_wide"}


def test_scripts_run_in_order_and_one_that_fails_does_not_stop_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in (("a", "import sys; sys.exit(3)"), ("b", "import time; time.sleep(9)"), ("c", "")):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'order')!r}, 'a').write('{name}'); {text}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(run_all, "SCRIPTS", {"a": ("a", 5), "b": ("b", 0.5), "c": ("c", 5)})
    results = str(tmp_path / "results.jsonl")
    assert run_all.main(["--no-table", "--results", results]) == 1
    assert (tmp_path / "order").read_text() == "abc"
    said = capsys.readouterr().err
    assert "a failed with exit code 3" in said
    assert "b was stopped after 0 s" in said or "b was stopped after 1 s" in said
    assert run_all.main(["--no-table", "--only", "c", "--results", results]) == 0
    assert (tmp_path / "order").read_text() == "abcc"


def test_the_table_is_made_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(run_all, "SCRIPTS", {"c": ("c", 5)})
    asked: list[list[str]] = []
    monkeypatch.setattr(table, "main", lambda given: asked.append(given) or 2)
    results = str(tmp_path / "results.jsonl")
    assert run_all.main(["--results", results]) == 1
    assert asked == [["--results", results]]


@pytest.mark.long
def test_what_a_store_costs_is_recorded_beside_plain_files(tmp_path: Path) -> None:
    found = figures(store, tmp_path)
    compared = {"store_write_vs_synced_tofile", "store_scan_vs_raw", "store_bytes_per_1000_items"}
    alone = {"store_read_perturbation", "store_files_24m_items", "store_resume_start", "store_write_share_demo"}
    assert set(found) == compared | alone
    assert all(found[name]["baseline"] is None for name in alone)
    # 4 MB of changes, and partial moments, which may take up to 1.5 times as much (here a third)
    assert found["store_bytes_per_1000_items"]["value"] <= 5.5e6
    assert 0 < found["store_write_share_demo"]["value"] < 1


@pytest.mark.long
def test_workers_and_kills_leave_every_array_as_it_is(tmp_path: Path) -> None:
    line = figures(scale_out, tmp_path)["workers_same_arrays"]
    assert line["value"] == line["baseline"] > 20
    assert 2 <= line["n_units_kept_by_the_killed"] <= line["n_units"]
    assert set(line["elapsed_s"]) == {"none", "1", "3"}


@pytest.mark.long
def test_statistics_are_recorded_beside_other_tools(tmp_path: Path) -> None:
    found = figures(differential, tmp_path)
    compared = {f"deg_paired_vs_{tool}{on}" for tool in ("illico", "pdex", "scanpy") for on in ("", "_same_cells")}
    compared |= {"deg_ranksum_vs_illico", "deg_moments_vs_scan", "deg_moments_vs_scan_cached"}
    compared |= {"deg_tables_from_moments", "deg_tables_two_threads"}
    assert set(found) == compared | {"deg_extra_memory", "deg_tables_demo", "deg_read_one"}
    for name in compared:
        assert found[name]["ratio"] == pytest.approx(found[name]["value"] / found[name]["baseline"], rel=0.02), name
    assert found["deg_paired_vs_scanpy"]["n_controls"] > found["deg_paired_vs_scanpy"]["n_cells"]
    assert found["deg_paired_vs_scanpy_same_cells"]["n_controls"] == found["deg_paired_vs_scanpy"]["n_cells"]


def test_power_and_false_discoveries_of_planted_effects_are_recorded(tmp_path: Path) -> None:
    found = figures(power, tmp_path)
    kinds = {"list_20_1", "all_400_20", "genes_t", "genes_signed_rank", "genes_rank_sum"}
    assert set(found) == {f"{what}_{kind}" for what in ("power", "fdr") for kind in kinds}
    assert all(0 <= line["value"] <= 1 for line in found.values())
    # the same cells, paired: what differs between cells does not hide what changes within them
    assert found["power_genes_t"]["value"] > found["power_genes_rank_sum"]["value"]


@pytest.mark.long
def test_every_question_to_a_finished_screen_is_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = figures(questions, tmp_path)
    of_cells = {"deg_name", "deg_name_top_50", "deg_name_top_0", "deg_where", "deg_compare"}
    relations = {"genes", "targets", "halves", "similarity", "modules", "factors", "epistasis"}
    reads = {"read_wide", "read_null_z", "read_relations"}
    names = of_cells | {f"relations_{name}" for name in relations} | reads
    assert set(found) == {f"question_{name}" for name in names}
    assert all(line["value"] > 0 and line["unit"] == "s" for line in found.values())
    said = capsys.readouterr().out
    assert all(f"\n{name} " in said for name in names)


def test_make_bench_calls_the_runner_and_every_script_is_there() -> None:
    assert "benchmarks.run_all" in (ROOT / "Makefile").read_text()
    for module, _ in run_all.SCRIPTS.values():
        assert importlib.util.find_spec(module) is not None
