"""Slurm: workers as jobs; what would be refused is refused before anything is queued, and jobs that end are noticed."""

import logging
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from distributed.core import Status

from screen.config.sections import SlurmConfig
from screen.errors import ConfigError

COMMANDS = ("sbatch", "squeue", "scancel")
ANSWER_S = 30
"""Longest that Slurm may take to answer: a controller under load takes seconds."""
CLOSE_S = 30
"""Longest that cancelling the jobs may take."""
ASK_S = 15
"""How often Slurm is asked about jobs that wait, perhaps for a day: all users share the one that answers."""


class SlurmJobs:
    """The jobs of a screen, one worker each, queued or running; `cluster` is what a client connects to."""

    def __init__(self, cluster: Any, log_directory: Path | None) -> None:
        self.cluster, self._log_directory = cluster, log_directory
        self._since, self._asked, self._was_gone = monotonic(), monotonic(), False

    def fault(self) -> str | None:
        """Why no worker will come; None while one still may."""
        ids = self._ids()
        if not ids:
            late = monotonic() - self._since > ANSWER_S
            return (
                f"Slurm took no job within {ANSWER_S} s although it accepts its script; see `sbatch`" if late else None
            )
        if monotonic() - self._asked < ASK_S:
            return None
        is_gone, self._asked = _states(ids) == {}, monotonic()
        # asked twice: a job that was just taken may not be listed yet
        if is_gone and self._was_gone:
            logs = "slurm-JOBID.out" if self._log_directory is None else str(self._log_directory)
            return f"job(s) {', '.join(ids)} ended before a worker came; what they wrote ({logs}) says why"
        self._was_gone = is_gone
        return None

    def told(self) -> str:
        """What Slurm says of the jobs: "4711 PENDING (Resources)"."""
        ids = self._ids()
        states = _states(ids)
        if states is None:
            return f"squeue does not answer about job(s) {', '.join(ids)}"
        return "; ".join(f"job {i} {states.get(i, 'has ended')}" for i in ids)

    def _ids(self) -> list[str]:
        found = (getattr(job, "job_id", None) for job in list(self.cluster.workers.values()))
        return [str(i) for i in found if i is not None]


@contextmanager
def slurm_jobs(config: SlurmConfig, n_workers: int) -> Iterator[SlurmJobs]:
    """The jobs, queued; they are cancelled at the end. Raises ConfigError where Slurm is not here, or refuses them."""
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        raise ConfigError(
            f"cluster.kind is slurm, but this machine has no `{'`, `'.join(missing)}` on its PATH; run the command where "
            "jobs are submitted (a login node), or use kind: local or kind: gpus"
        )
    with _silent():
        cluster = slurm_cluster(config, 0)
        try:
            _require_acceptance(cluster.job_script())
            cluster.scale(n_workers)
            yield SlurmJobs(cluster, config.log_directory)
        finally:
            _close(cluster)


def slurm_cluster(config: SlurmConfig, n_workers: int) -> Any:
    """Slurm jobs of one worker each. Raises ConfigError where dask-jobqueue is not installed."""
    try:
        with _handlers_kept():
            from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise ConfigError(
            "cluster.kind is slurm, which needs dask-jobqueue: pip install 'perturbscreen[cluster]'"
        ) from error
    directives = [*config.directives, *([f"--gres=gpu:{config.gpus}"] if config.gpus else [])]
    return SLURMCluster(
        n_workers=n_workers,
        queue=config.queue,
        account=config.account,
        walltime=config.walltime,
        cores=1,
        job_cpu=config.cores,
        processes=1,
        memory=config.memory,
        interface=config.interface,
        job_extra_directives=directives,
        job_script_prologue=list(config.prologue),
        # several people start drivers on one login node: no fixed port
        scheduler_options={"dashboard_address": ":0"},
        log_directory=None if config.log_directory is None else str(config.log_directory),
        worker_extra_args=["--resources", "GPU=1"] if config.gpus else [],
    )


def _close(cluster: Any) -> None:
    """Cancels the jobs. Where Slurm hangs this is given up after CLOSE_S, and the cluster no longer asks to be closed."""
    try:
        cluster.close(timeout=CLOSE_S)
    except Exception:
        cluster.status = Status.closed


def _require_acceptance(script: str) -> None:
    """Asks Slurm whether it would take the job. Raises ConfigError with its words."""
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(script)
        file.flush()
        try:
            asked = subprocess.run(
                ["sbatch", "--test-only", file.name], capture_output=True, text=True, timeout=ANSWER_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ConfigError(
                f"cluster.kind is slurm, but `sbatch` has not answered for {ANSWER_S} s; see `sinfo`, and try again"
            ) from error
        except OSError as error:
            raise ConfigError(f"cluster.kind is slurm, but `sbatch` cannot be started ({error.strerror})") from error
    if asked.returncode != 0:
        words = [
            re.sub(r"^(sbatch|allocation failure):( error:)?\s*", "", x) for x in asked.stderr.splitlines() if x.strip()
        ]
        raise ConfigError(
            f"Slurm refuses the job that `cluster.slurm` describes: {'; '.join(words) or f'exit code {asked.returncode}'}; "
            "correct queue, account, walltime, cores, memory, gpus or directives"
        )


def _states(ids: list[str]) -> dict[str, str] | None:
    """Job -> its state and reason, of those that are queued or run; None where Slurm does not say."""
    try:
        asked = subprocess.run(
            ["squeue", "--noheader", "--format=%i %T (%r)", f"--jobs={','.join(ids)}"],
            capture_output=True, text=True, timeout=ANSWER_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    if asked.returncode != 0 and "invalid job id" not in asked.stderr.lower():
        return None
    listed = (line.strip().partition(" ") for line in asked.stdout.splitlines() if line.strip())
    return {job: state for job, _, state in listed}


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """dask-jobqueue ends a process silently at Ctrl-C from the moment that it is imported."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is not before:
            signal.signal(signal.SIGINT, before)


@contextmanager
def _silent() -> Iterator[None]:
    """What libraries log of jobs that cannot be started is told by us, in a sentence."""
    loggers = [logging.getLogger(name) for name in ("tornado.application", "asyncio", "distributed", "dask_jobqueue")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
