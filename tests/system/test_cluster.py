"""Units on Dask workers: the same bytes as without, whoever dies."""

import mmap
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from screen.cli.main import main
from screen.config.sections import SlurmConfig
from screen.engine.executor import Executor
from screen.engine.packed import PackedEngine
from screen.errors import ConfigError
from screen.running.cluster.cluster import cut, gpu_environments
from screen.running.cluster.handoff import ARRAYS, OBJECTS, read_handoff, write_handoff
from screen.running.cluster.slurm import slurm_cluster
from screen.running.configuration import load_config
from screen.running.prepare import prepare
from screen.running.resume import open_store
from screen.running.runner import run_units
from screen.stats import deg
from screen.store.store import ScreenStore
from tests.support.stores import assert_same_arrays
from tests.support.tiny import E2E, tiny, write

LIBRARY = {"genes": "all", "modes": ["mask", "pad", "delete"], "perturbation_sequence": ["src", "tgt"], "pert_tps": [2]}
ROWS, CELLS = 64, 4
"""Rows of a unit and cells of a block: many of both."""


def cut_small(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("screen.running.unit_sizes.MAX_ROWS", ROWS)
    patch.setattr("screen.running.unit_sizes.MIN_CELLS", CELLS)
    patch.setattr("screen.running.unit_sizes.ITEMS_PER_CELL", ROWS / CELLS)


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_small(monkeypatch)


def config_in(
    folder: Path, cluster: dict[str, Any] | None = None, precision: str = "float32", **changes: dict[str, Any]
) -> Path:
    """A tiny screen with fixed CPU products, so that equal bytes may be expected."""
    compute = {"cpu_products": "torch", "lanes": 1, "precision": precision}
    config = tiny(library=LIBRARY, **changes) | {"compute": compute}
    return write(config | ({} if cluster is None else {"cluster": cluster}), folder / "s.yaml")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of an uninterrupted run without workers."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        cut_small(patch)
        assert main(["run", str(config_in(folder)), "--out", str(folder / "whole")]) == 0
    assert ScreenStore.open(folder / "whole/screen.zarr").n_units > 10
    return folder / "whole"


@pytest.fixture
def whole(undisturbed: Path, small_units: None) -> Path:
    """What an uninterrupted run without workers left, to be read only; units are small."""
    return undisturbed


@pytest.mark.parametrize("n_workers", [1, 3])
def test_the_bytes_do_not_depend_on_how_many_workers_there_are(
    whole: Path, tmp_path: Path, n_workers: int, capsys: Any
) -> None:
    out = tmp_path / "out"
    assert main(["run", str(config_in(tmp_path)), "--out", str(out), "--workers", str(n_workers)]) == 0
    assert_same_arrays(whole, out)
    said = capsys.readouterr()
    assert f"{n_workers} worker(s)" in said.out
    assert "dashboard http" in said.out
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in whole.iterdir())
    assert deg.scan(out).collect().equals(deg.scan(whole).collect())
    assert pl.read_parquet(out / "hits.parquet").equals(pl.read_parquet(whole / "hits.parquet"))
    # a finished screen needs nobody, however it is asked for
    assert main(["run", str(config_in(tmp_path)), "--out", str(out), "--workers", str(n_workers)]) == 0
    said_again = capsys.readouterr().out
    assert "is complete" in said_again
    assert "worker(s)" not in said_again


def test_workers_make_the_same_tables(undisturbed: Path, tmp_path: Path, capsys: Any) -> None:
    whole = Path(shutil.copytree(undisturbed, tmp_path / "whole"))
    before = deg.scan(whole).collect()
    assert main(["deg", str(whole), "--test", "signed_rank"]) == 0
    by_rank = deg.scan(whole).collect()
    assert not by_rank.equals(before)
    assert main(["deg", str(whole), "--test", "paired_t", "--workers", "2"]) == 0
    assert "2 worker(s)" in capsys.readouterr().out
    assert deg.scan(whole).collect().equals(before)


def workers_of_this_process() -> list[psutil.Process]:
    """Worker processes, the youngest last."""
    children = psutil.Process().children(recursive=True)
    found = [p for p in children if "spawn_main" in " ".join(p.cmdline())]
    return sorted(found, key=lambda p: p.create_time())


def kill_when(out: Path, n_committed: int) -> threading.Thread:
    """Kills one worker as soon as so many units are there."""

    def wait_and_kill() -> None:
        commits = out / "screen.zarr/library/0/commits"
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if commits.is_dir() and sum(p.name.startswith("c.") for p in commits.iterdir()) >= n_committed:
                workers_of_this_process()[0].send_signal(signal.SIGKILL)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=wait_and_kill)
    thread.start()
    return thread


def test_a_worker_killed_in_the_middle_changes_nothing(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    killer = kill_when(out, 2)
    assert main(["run", str(config_in(tmp_path)), "--out", str(out), "--workers", "2"]) == 0
    killer.join()
    assert_same_arrays(whole, out)


def test_carried_changes_are_the_same_bytes_with_workers_of_whom_one_is_killed(
    tmp_path: Path, small_units: None
) -> None:
    config = str(config_in(tmp_path, precision="delta16"))
    assert main(["run", config, "--out", str(tmp_path / "whole")]) == 0
    killer = kill_when(tmp_path / "out", 2)
    assert main(["run", config, "--out", str(tmp_path / "out"), "--workers", "2"]) == 0
    killer.join()
    assert_same_arrays(tmp_path / "whole", tmp_path / "out")


def test_without_retries_a_lost_worker_names_its_units_and_the_run_continues(
    whole: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    config = config_in(tmp_path, {"workers": 1, "retries": 0})
    killer = kill_when(out, 2)
    assert main(["run", str(config), "--out", str(out)]) == 1
    killer.join()
    message = capsys.readouterr().err
    assert "of library block 0: 1 workers died while they had it" in message
    done = ScreenStore.open(out / "screen.zarr").n_committed
    assert 2 <= done < ScreenStore.open(whole / "screen.zarr").n_units
    assert main(["run", str(config_in(tmp_path)), "--out", str(out)]) == 0
    assert "continuing" in capsys.readouterr().out
    assert_same_arrays(whole, out)


def test_nan_is_not_tried_again_and_names_unit_and_cell(tmp_path: Path, small_units: None, capsys: Any) -> None:
    content = torch.load(E2E / "ckpt" / "count_zinb.ckpt", weights_only=True)
    content["state_dict"]["decoder.count_decoder.mlp.fc1.weight"] *= 1e38
    torch.save(content, tmp_path / "wild.ckpt")
    config = config_in(tmp_path, {"workers": 2}, model={"checkpoint": str(tmp_path / "wild.ckpt")})
    assert main(["run", str(config), "--out", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert "of library block 0: the model gave NaN or infinity" in message
    assert "for cell " in message
    assert not ScreenStore.open(tmp_path / "out/screen.zarr").n_committed


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture
def scheduler() -> Iterator[str]:
    """The address of a scheduler with a worker that somebody else started."""
    address = f"tcp://127.0.0.1:{free_port()}"
    scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", address, "--no-dashboard"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny", "--nthreads", "2"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [subprocess.Popen(c, **quiet) for c in (scheduler, [*worker, "--no-dashboard"])]
    yield address
    for process in started:
        process.terminate()
        process.wait()


def test_the_workers_of_a_running_scheduler_compute_the_same(whole: Path, tmp_path: Path, scheduler: str) -> None:
    out = tmp_path / "out"
    assert main(["run", str(config_in(tmp_path)), "--out", str(out), "--scheduler", scheduler]) == 0
    assert_same_arrays(whole, out)


def test_a_scheduler_that_does_not_answer_is_named(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("screen.running.cluster.cluster.CONNECT_S", 1)
    address = f"tcp://127.0.0.1:{free_port()}"
    assert main(["run", str(config_in(tmp_path)), "--out", str(tmp_path / "out"), "--scheduler", address]) == 2
    assert f"no Dask scheduler answers at {address}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        ({"kind": "slurm"}, "belong together"),
        ({"slurm": {"queue": "gpu"}}, "belong together"),
        ({"scheduler": "tcp://x:1", "workers": 2}, "runs already"),
        ({"worker": 2}, 'did you mean "workers"'),
        ({"workers": 0}, "must be 1 or more"),
        ({"kind": "gpus", "workers": 99}, "GPU"),
    ],
)
def test_a_wrong_cluster_section_is_answered(tmp_path: Path, capsys: Any, cluster: dict[str, Any], words: str) -> None:
    assert main(["run", str(config_in(tmp_path, cluster)), "--out", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err


def test_each_gpu_worker_sees_one_gpu() -> None:
    def seen(visible: str | None, n_gpus: int, n_workers: int | None = None) -> list[str]:
        return [e["CUDA_VISIBLE_DEVICES"] for e in gpu_environments(visible, n_gpus, n_workers)]

    assert seen(None, 3) == ["0", "1", "2"]
    assert seen("5,7", 2) == ["5", "7"]
    assert seen("GPU-8f2a, MIG-11,2", 3, 2) == ["GPU-8f2a", "MIG-11"]
    for visible, n_gpus, n_workers in ((None, 0, None), ("", 0, None), ("3", 1, 2)):
        with pytest.raises(ConfigError, match=f"shows {n_gpus} GPU"):
            gpu_environments(visible, n_gpus, n_workers)


def test_a_slurm_job_asks_for_what_the_configuration_says() -> None:
    config = SlurmConfig(queue="gpu", account="lab", cores=12, memory="90GB", gpus=1, directives=["--constraint=a100"])
    with slurm_cluster(config, 0) as cluster:
        script = cluster.job_script()
    lines = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]
    assert {"-p gpu", "-A lab", "--cpus-per-task=12", "--gres=gpu:1", "--constraint=a100", "-t 24:00:00"} <= set(lines)
    assert "--resources GPU=1" in script
    assert "--nthreads 1" in script


units = st.lists(st.integers(0, 60), unique=True, max_size=40).map(sorted)


@given(units, st.integers(1, 9), st.integers(1, 30))
def test_shares_hold_every_unit_once_in_order_and_keep_blocks_of_cells_together(
    numbers: list[int], per_block: int, n_wanted: int
) -> None:
    shares = cut(numbers, [n // per_block for n in numbers], n_wanted)
    assert [n for share in shares for n in share] == numbers
    assert all(share[-1] - share[0] == len(share) - 1 for share in shares)
    assert all(len({n // per_block for n in share}) == 1 for share in shares)
    # too few only where every unit is a share of its own
    assert len(shares) >= n_wanted or all(len(share) == 1 for share in shares)


def test_a_screen_handed_over_computes_the_same_and_shares_its_arrays(tmp_path: Path) -> None:
    screen = prepare(load_config(config_in(tmp_path)))
    other = read_handoff(write_handoff(screen, tmp_path / "handoff"))
    assert other.identity("float32") == screen.identity("float32")
    assert other.plan.fingerprint() == screen.plan.fingerprint()
    one, two = (
        next(PackedEngine(s, Executor(torch.device("cpu"))).units([0], lambda *_: None)) for s in (screen, other)
    )
    assert one.columns.keys() == two.columns.keys()
    for name, values in one.columns.items():
        np.testing.assert_array_equal(values, two.columns[name], err_msg=name)
    base: Any = other.bank.states[0].tokens.token_T
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(memoryview(base).obj, mmap.mmap)
    weights = sum(p.numel() * p.element_size() for p in screen.adapter.model.parameters())
    assert (tmp_path / "handoff" / OBJECTS).stat().st_size < weights < (tmp_path / "handoff" / ARRAYS).stat().st_size


def test_two_who_compute_the_same_units_at_the_same_time_harm_nobody(whole: Path, tmp_path: Path) -> None:
    screen, executor = prepare(load_config(config_in(tmp_path))), Executor(torch.device("cpu"), n_lanes=1)
    (tmp_path / "out").mkdir()
    store = open_store(screen, tmp_path / "out", "", executor)

    def all_units() -> None:
        engine = PackedEngine(screen, executor)
        run_units(engine, ScreenStore.open(store.path, "r+"), lambda *_: None, numbers=range(store.n_units))

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(all_units) for _ in range(2)]:
            done.result()
    assert_same_arrays(whole, tmp_path / "out")
