"""Slurm that is absent, refuses, hangs or loses jobs: the documented exit code and one sentence, within seconds.

No Slurm cluster was at hand: the commands are scripts (`tests.support.slurm`); the worker of the last test is a real one.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

from screen.cli.main import main
from screen.config.sections import SlurmConfig
from screen.errors import ScreenError
from screen.running.cluster.slurm import slurm_jobs
from screen.running.cluster.waiting import Watch
from tests.support.slurm import (
    HANGS,
    LISTS_NONE,
    LISTS_PENDING,
    LISTS_STARTED,
    REFUSES,
    REFUSES_LATER,
    STARTS,
    TAKES,
    slurm_in,
)
from tests.support.stores import assert_same_arrays
from tests.support.tiny import tiny, write

WAIT_S = 4


def config_in(folder: Path, wait_s: int = WAIT_S, gpus: int = 0, **compute: object) -> Path:
    slurm = {"gpus": gpus, "interface": "lo", "memory": "2GB", "cores": 1}
    fixed = {"cpu_products": "torch", "lanes": 1, "precision": "float32"}
    cluster = {"kind": "slurm", "workers": 1, "wait_s": wait_s, "slurm": slurm}
    return write(tiny() | {"compute": fixed | compute, "cluster": cluster}, folder / "s.yaml")


@pytest.mark.parametrize(
    ("sbatch", "squeue", "exit_code", "words"),
    [
        (None, LISTS_PENDING, 2, "no `sbatch` on its PATH"),
        (
            REFUSES,
            LISTS_PENDING,
            2,
            "Slurm refuses the job that `cluster.slurm` describes: invalid partition specified: gpu",
        ),
        (HANGS, LISTS_PENDING, 2, "`sbatch` has not answered for 2 s"),
        (REFUSES_LATER, LISTS_PENDING, 1, "Slurm took no job within 2 s although it accepts its script"),
        (TAKES, LISTS_NONE, 1, "job(s) 4711 ended before a worker came"),
        (TAKES, LISTS_PENDING, 1, f"no worker came within {WAIT_S} s (cluster.wait_s): job 4711 PENDING (Resources)"),
        (TAKES, HANGS, 1, "squeue does not answer about job(s) 4711"),
    ],
    ids=["absent", "refuses", "hangs", "refuses later", "loses jobs", "queues", "squeue hangs"],
)
def test_what_slurm_does_not_do_is_one_sentence_within_seconds(
    tmp_path: Path, monkeypatch: Any, capsys: Any, sbatch: str | None, squeue: str, exit_code: int, words: str
) -> None:
    monkeypatch.setattr("screen.running.cluster.slurm.ANSWER_S", 2)
    monkeypatch.setattr("screen.running.cluster.slurm.ASK_S", 0.5)
    monkeypatch.setenv("PATH", slurm_in(tmp_path / "bin", sbatch, squeue)["PATH"])
    started = time.monotonic()
    assert main(["run", str(config_in(tmp_path)), "--out", str(tmp_path / "out")]) == exit_code
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert len([line for line in said.splitlines() if line.startswith("error:")]) == 1
    # preparing and closing included
    assert time.monotonic() - started < 60


def test_slurm_is_not_asked_every_second(tmp_path: Path, monkeypatch: Any) -> None:
    asked = tmp_path / "bin" / "times"
    squeue = f'echo x >> {asked}; echo "4711 PENDING (Resources)"'
    monkeypatch.setenv("PATH", slurm_in(tmp_path / "bin", TAKES, squeue)["PATH"])
    monkeypatch.setattr("screen.running.cluster.slurm.ASK_S", 2)
    assert main(["run", str(config_in(tmp_path)), "--out", str(tmp_path / "out")]) == 1
    # once or twice while it waits for 4 s, ten times otherwise, and once for the message
    assert 2 <= len(asked.read_text().split()) <= 3


def test_a_second_driver_on_a_login_node_takes_another_port(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PATH", slurm_in(tmp_path / "bin", TAKES)["PATH"])
    config = SlurmConfig(interface="lo", memory="2GB", cores=1)
    # a port that is taken is a warning, and so a fault, here
    with slurm_jobs(config, 1) as one, slurm_jobs(config, 1) as other:
        assert one.cluster.dashboard_link != other.cluster.dashboard_link


def test_ctrl_c_while_jobs_are_queued_says_so_and_exits_130(tmp_path: Path) -> None:
    environment = slurm_in(tmp_path / "bin", TAKES)
    command = [sys.executable, "-m", "screen.cli", "run", str(config_in(tmp_path, 600)), "--out", str(tmp_path / "out")]
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + 120
        while not (tmp_path / "bin" / "asked").exists() and time.monotonic() < until:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "interrupted" in said
        assert time.monotonic() - started < 30


def test_a_driver_whose_last_worker_goes_away_ends_itself_and_says_for_whom_it_waited() -> None:
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        watch = Watch(client, 2, told=lambda: "job 4711 PENDING (Resources)")
        watch.wait_for_first()
        assert [task.result() for task in watch.each_done([client.submit(abs, -3)])] == [3]
        cluster.scale(0)
        started = time.monotonic()
        words = r"the last worker went away, and none came within 2 s \(cluster.wait_s\): job 4711 PENDING"
        with pytest.raises(ScreenError, match=words):
            list(watch.each_done([client.submit(abs, -4)]))
        assert 2 <= time.monotonic() - started < 30


@pytest.mark.parametrize("gpus", [2, 8])
def test_several_gpus_of_one_job_are_answered_with_what_to_write(tmp_path: Path, capsys: Any, gpus: int) -> None:
    assert main(["run", str(config_in(tmp_path, gpus=gpus)), "--out", str(tmp_path / "out")]) == 2
    assert f"for {gpus} GPUs write `workers: {gpus}`" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="the worker listens at the interface lo")
def test_a_job_that_starts_computes_what_this_process_would(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("PATH", slurm_in(tmp_path / "bin", STARTS, LISTS_STARTED)["PATH"])
    assert main(["run", str(config_in(tmp_path, 120)), "--out", str(tmp_path / "jobs")]) == 0
    alone = write(
        tiny() | {"compute": {"cpu_products": "torch", "lanes": 1, "precision": "float32"}}, tmp_path / "a.yaml"
    )
    assert main(["run", str(alone), "--out", str(tmp_path / "alone")]) == 0
    assert_same_arrays(tmp_path / "alone", tmp_path / "jobs")


def test_a_job_that_was_given_a_gpu_and_sees_none_does_not_use_the_cpu(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PATH", slurm_in(tmp_path / "bin", STARTS, LISTS_STARTED)["PATH"])
    assert main(["run", str(config_in(tmp_path, 120, gpus=1)), "--out", str(tmp_path / "out")]) == 2
    assert 'on a worker: device is "cuda", but torch' in capsys.readouterr().err
