"""What `plan` says before anything runs is what running then does."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import pytest
import torch

from screen.cli.main import main
from screen.directory import PREDICTIONS
from screen.engine.batch import BatchComputer
from screen.engine.control import join
from screen.engine.executor import Executor
from screen.engine.packed import PackedEngine
from screen.models.delta.forward import DeltaForward
from screen.models.delta.recording import tensors_of
from screen.running.configuration import load_config
from screen.running.preflight import (
    TABLES_BYTES,
    control_bytes,
    disk_bytes,
    forecast,
    h5ad_bytes,
    n_files,
    recorded_bytes,
    tables_bytes,
)
from screen.running.prepare import prepare
from screen.running.workload import batches_by_block, total_flops
from screen.store.store import ScreenStore
from tests.support.store_fixture import GENES
from tests.support.tiny import tiny, write
from tests.unit.engine.test_engine import screen_of

LIBRARY = {"genes": "all", "modes": ["mask", "overexpress"], "perturbation_sequence": ["src", "tgt"], "pert_tps": [2]}


@pytest.fixture(autouse=True)
def many_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("screen.running.unit_sizes.MAX_ROWS", 128)
    monkeypatch.setattr("screen.running.unit_sizes.MIN_CELLS", 4)
    monkeypatch.setattr("screen.running.unit_sizes.ITEMS_PER_CELL", 32)
    monkeypatch.setattr("screen.planning.segments.MOST_MOMENTS", 4.0)


def test_batches_tokens_and_operations_are_those_of_the_engines_work(tmp_path: Path) -> None:
    screen = prepare(load_config(write(tiny(library=LIBRARY), tmp_path / "s.yaml")))
    executor = Executor(torch.device("cpu"), batch_tokens=300)
    found = forecast(screen, executor)
    batches = [b for _, items in batches_by_block(screen, 300, range(screen.plan.n_units)) for b in items]
    assert found.n_sampled == found.n_units == screen.plan.n_units > 3
    assert (found.n_batches, found.tokens) == (len(batches), sum(b.n_tokens for b in batches))
    assert found.flops == pytest.approx(total_flops(screen, 300), rel=1e-12)
    assert found.seconds == pytest.approx(found.flops / found.flops_per_s, rel=1e-12)
    assert sum(found.coverage.values()) == found.n_perturbations * found.n_cells


@pytest.mark.parametrize(
    "output",
    [
        {"store_dtype": "float16"},
        {"store_dtype": "float32", "keep_embeddings": True, "h5ad": True},
        {"keep": "summaries", "strata": ["cell_type"]},
    ],
    ids=str,
)
def test_a_finished_store_has_the_files_and_about_the_bytes_that_were_forecast(
    tmp_path: Path, output: dict[str, Any]
) -> None:
    config = write(tiny(library=LIBRARY, output=output), tmp_path / "s.yaml")
    screen = prepare(load_config(config))
    assert main(["run", str(config), "--out", str(tmp_path / "out")]) == 0
    (block,) = ScreenStore.open(tmp_path / "out/screen.zarr").blocks
    kept = ("items/effects", "delta", "embedding", "summaries", "moments", "control", "commits")
    of_segments = {"perturbation", "stratum", "n_cells_t1", "n_cells_t2"}
    written_before = {"summaries": of_segments, "moments": of_segments | {"stratum_of_cell"}}
    files = [
        p
        for name in kept
        for p in (block.path / name).rglob("c.*")
        if p.relative_to(block.path / name).parts[0] not in written_before.get(name, set())
    ]
    assert len(files) == n_files(screen)
    # of these four cells a block, float32 has moments and float16 would have more of them than changes
    assert block.keeps_moments == (output.get("store_dtype") == "float32")
    size = sum(p.stat().st_size for p in files if p.parent.name != "commits")
    # a shard ends in its index, and the last rows of an array fill up a chunk
    most = disk_bytes(screen) + len(files) * (128 * 61 * 4 + 1024)
    assert disk_bytes(screen) <= size <= most
    assert h5ad_bytes(screen) == (array_bytes(tmp_path / "out" / PREDICTIONS) if "h5ad" in output else 0)


def array_bytes(path: Path) -> int:
    found = ad.read_h5ad(path)
    arrays = [found.X, *(x for part in (found.layers, found.obsm, found.varm) for x in part.values())]
    return sum(x.nbytes for x in arrays)


def test_what_a_lane_keeps_of_controls_is_forecast(tmp_path: Path) -> None:
    screen = prepare(load_config(write(tiny(library=LIBRARY), tmp_path / "s.yaml")))
    executor = Executor(torch.device("cpu"), "delta32", batch_tokens=300)
    computer, most = BatchComputer(screen, executor), 0
    for controls, items in batches_by_block(screen, 300, range(screen.plan.n_units), by_cell=True):
        with torch.inference_mode():
            control = join([computer.controls(b) for b in controls], screen.bank.cell_id_C)
            for batch in items:
                computer.items(batch, control)
                assert isinstance(computer.model, DeltaForward)
                most = max(most, computer.model.recorded_bytes)
    # what attention keeps grows with the number of tokens, other things do not
    assert 0.5 * recorded_bytes(screen, executor) <= most <= 2 * recorded_bytes(screen, executor)
    one, two = (forecast(screen, replace(executor, n_lanes=n)).host_bytes for n in (1, 2))
    assert two - one == screen.adapter.cost.working_bytes(300) + recorded_bytes(screen, executor)


def test_memory_of_tables_is_that_of_threads_that_have_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = prepare(load_config(write(tiny(output={"report": False}), tmp_path / "s.yaml")))
    found = []
    for n_cores, most_rows in ((2, 10**8), (64, 10**8), (64, 10), (64, 5 * 2**17)):
        monkeypatch.setattr("screen.running.preflight.available_cores", lambda n=n_cores: n)
        monkeypatch.setattr("screen.stats.parts.available_cores", lambda n=n_cores: n)
        monkeypatch.setattr("screen.running.preflight.most_rows", lambda _, n=most_rows: n)
        found.append(tables_bytes(screen) // TABLES_BYTES)
    # as many parts as perturbations at most
    assert len(screen.library) == 60
    assert found == [2, 60, 1, 5]


RUN_AND_SAY_PEAK = """
import re, sys
from screen.cli.main import main
code = main(["run", sys.argv[1], "--out", sys.argv[2]])
# that of rusage holds what the parent had when it started this process
print(*re.findall(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read()))
sys.exit(code)
"""


@pytest.fixture
def two_cores() -> Iterator[None]:
    """As many at most, for this process and its children."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:2])
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("has_report", [True, False])
def test_the_memory_of_a_whole_run_tables_and_page_included_is_forecast(tmp_path: Path, has_report: bool) -> None:
    config = write(tiny(output={"report": has_report}), tmp_path / "s.yaml")
    expected = forecast(prepare(load_config(config)), Executor(torch.device("cpu"))).host_bytes
    ran = subprocess.run(
        [sys.executable, "-c", RUN_AND_SAY_PEAK, str(config), str(tmp_path / "out")], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    peak = 1024 * int(ran.stdout.split()[-1])
    assert 0.5 * expected < peak < expected, (peak, expected)


@pytest.mark.parametrize("precision", ["float32", "delta32"])
@pytest.mark.parametrize("n_parts", [1, 2, 4])
def test_what_controls_take_is_forecast(precision: Any, n_parts: int) -> None:
    screen = screen_of(("mask", "delete"), ("src",), (), False, 40, 4)
    screen = screen.altered(layout=replace(screen.layout, keep_gene_cosine=False))
    executor, held = Executor(torch.device("cpu"), precision, batch_tokens=300, n_parts=n_parts), dict[int, int]()
    engine = PackedEngine(screen, executor)
    compute = engine.computer.items

    def items(batch: Any, control: Any) -> Any:
        parts = control.shared_C, control.embedding_CD, [e.log_BG for e in control.expression.values()]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors_of(parts)}
        held[len(control.cell_C)] = max(held.get(len(control.cell_C), 0), sum(storages.values()))
        return compute(batch, control)

    engine.computer.items = items  # type: ignore[method-assign]
    for _ in engine.units(range(screen.plan.n_units), lambda *_: None):
        pass
    assert max(held) == 4 // n_parts
    assert held[max(held)] / 1.5 <= control_bytes(screen, executor) <= 1.5 * held[max(held)]


def test_the_forecast_is_machine_readable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write(tiny(library=LIBRARY), tmp_path / "s.yaml")
    assert main(["plan", str(config), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {
        "n_perturbations", "n_cells", "n_items", "n_units", "n_sampled", "n_batches", "padded_share", "tokens", "flops",
        "host_bytes", "device_bytes", "disk_bytes", "n_files", "control_flops", "flops_per_s", "seconds", "coverage", "executor",
        "notes", "unscreened",
    }  # fmt: skip
    assert found["unscreened"] == []
    assert any("looks like donors" in note for note in found["notes"])
    screen = prepare(load_config(config))
    assert found["n_items"] == screen.plan.n_items
    assert found["n_files"] == n_files(screen)
    assert 0 < found["control_flops"] < found["flops"]
    assert main(["plan", str(write(tiny(library={"genes": [GENES[4]]}), tmp_path / "one.yaml")), "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    # the same cells: a gene alone does not share their controls
    assert one["control_flops"] == found["control_flops"]
    assert one["control_flops"] / one["flops"] > found["control_flops"] / found["flops"]
    assert found["executor"]["device"] == "cpu"
