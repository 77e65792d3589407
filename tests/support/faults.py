"""Runs of the command line that can be stopped, killed and starved: real processes with many small units.

As a module: `python -m tests.support.faults run CONFIG --out DIR` is the command line with small units; without arguments it reads requests
and forks a process for each from one that has imported what takes long.
"""

import atexit
import gc
import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from screen.cells.files.walk_hdf5 import walked
from tests.support.tiny import E2E

UNIT_ROWS, CELLS_PER_BLOCK = 16, 4
SLOW_IMPORTS = (
    "torch", "zarr", "dask.threaded", "anndata", "pyarrow.parquet", "scipy.special", "h5py", "rich.progress",
    "screen.cli.main", "screen.cells.h5ad", "screen.engine.choose", "screen.engine.precision",
    "screen.models.perturbgen.adapter", "screen.models.perturbgen.family", "screen.models.perturbgen.files.cells",
    "screen.models.perturbgen.packed", "screen.running.cluster.handoff", "screen.running.configuration",
    "screen.running.preflight", "screen.running.prepare", "screen.running.resume", "screen.running.runner",
    "screen.stats.null", "screen.stats.sets.gene_sets",
)  # fmt: skip
"""What every run imports. Not polars: it starts threads, which a fork would lose."""
TIMEOUT_S = 30


@dataclass(frozen=True)
class Moment:
    """Right before the nth time that Python opens, renames, makes or removes a file whose event matches, in one run.

    Events read "open PATH MODE", "os.rename PATH NEW_PATH", "os.mkdir PATH" and so on. A thread that goes on from here
    first opens `pipe`, if there is one, to write: it hangs, as on a disk, until somebody opens it to read.
    """

    pattern: str
    nth: int = 1
    pipe: str | None = None


@dataclass(frozen=True)
class Ended:
    """A process that is gone, and all that it printed. `code` is negative for a signal that it did not handle."""

    code: int
    said: str

    @property
    def shell_code(self) -> int:
        """What a shell shows."""
        return self.code if self.code >= 0 else 128 - self.code


class Running:
    """A process of the command line."""

    def __init__(self, pid: int, ends: Any, pauses: Sequence[Moment]) -> None:
        self.pid, self._ends, self._pauses = pid, ends, pauses

    def has_ended(self, timeout_s: float = 0) -> bool:
        return bool(select.select([self._ends], [], [], timeout_s)[0])

    @property
    def is_paused(self) -> bool:
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        except (FileNotFoundError, ProcessLookupError):
            return False

    def signal(self, number: int) -> bool:
        """Whether there was still a process to send it to."""
        if self.has_ended():
            return False
        os.kill(self.pid, number)
        return True

    def until_paused(self) -> "Running":
        """Waits for the process to stop at its next Moment."""
        deadline = time.monotonic() + TIMEOUT_S
        while not self.has_ended():
            if self.is_paused:
                return self
            assert time.monotonic() < deadline, f"{self._pauses} did not come"
            time.sleep(0.001)
        raise AssertionError(f"ended before {self._pauses} came: {self.end()}")

    def goes_on(self) -> "Running":
        self.signal(signal.SIGCONT)
        return self

    def end(self) -> Ended:
        """Waits for the process to end; kills it where it hangs."""
        hangs = not self.has_ended(TIMEOUT_S)
        if hangs:
            os.kill(self.pid, signal.SIGKILL)
        ended = Ended(*json.loads(self._ends.readline()))
        assert not hangs, f"did not end in {TIMEOUT_S} s: {ended}"
        return ended

    def killed(self) -> Ended:
        """kill -9, wherever it is."""
        self.signal(signal.SIGKILL)
        return self.end()

    def limited(self, n_bytes: int) -> "Running":
        """No file may become longer from now on."""
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (n_bytes, resource.RLIM_INFINITY))
        return self


class Launcher:
    """Starts processes of the command line, one at a time."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        # unbuffered: has_ended asks the pipe itself
        self._server = subprocess.Popen(
            [sys.executable, "-m", __spec__.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment,
        )

    def start(self, *argv: object, pauses: Sequence[Moment] = ()) -> Running:
        assert self._server.stdin is not None and self._server.stdout is not None
        request = {"argv": [str(a) for a in argv], "pauses": [(m.pattern, m.nth, m.pipe) for m in pauses]}
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        return Running(int(self._server.stdout.readline()), self._server.stdout, pauses)

    def run(self, *argv: object) -> Ended:
        return self.start(*argv).end()

    def close(self) -> None:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(TIMEOUT_S)
        self._server.stdout.close()


@contextmanager
def launcher() -> Iterator[Launcher]:
    """A Launcher that is gone afterwards."""
    made = Launcher()
    try:
        yield made
    finally:
        made.close()


class NotPermittedError(Exception):
    """This user may not mount here; the message is what the system says."""


def _mount(*arguments: object) -> None:
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise NotPermittedError(done.stderr.strip())


@contextmanager
def small_disk(folder: Path, n_bytes: int) -> Iterator[Path]:
    """A file system of its own at a folder. Raises NotPermittedError."""
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing can be written in a folder, even by root. Raises NotPermittedError."""
    if os.geteuid() != 0:
        modes = {p: p.stat().st_mode for p in [folder, *folder.rglob("*")] if p.is_dir()}
        for p in modes:
            p.chmod(0o555)
        try:
            yield
        finally:
            for p, mode in modes.items():
                p.chmod(mode)
        return
    _mount("--bind", folder, folder)
    try:
        _mount("-o", "remount,ro,bind", folder)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """A file system without a free byte."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    try:
        yield
    finally:
        ballast.unlink()


def _small_units() -> None:
    decompose = import_module("screen.running.unit_sizes")
    decompose.MAX_ROWS = decompose.MIN_ROWS = UNIT_ROWS
    decompose.MIN_CELLS = CELLS_PER_BLOCK


def _pause_at(moments: list[tuple[str, int, str | None]]) -> None:
    """Stops this process at each of the moments in turn, until somebody lets it go on."""
    seen = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        if not moments or not (event == "open" or event.startswith(("os.", "shutil."))):
            return
        if re.search(moments[0][0], " ".join([event, *(str(a) for a in args[:2])])):
            seen += 1
            if seen == moments[0][1]:
                pipe = moments.pop(0)[2]
                seen = 0
                # of this thread: it stops here and now, the others with it
                signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
                if pipe is not None:
                    os.close(os.open(pipe, os.O_WRONLY))

    sys.addaudithook(hook)


def _command(request: dict[str, Any], output: int) -> NoReturn:
    """What a forked process does."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # a pipe: a limit on the length of files must not cut off what is said
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _pause_at([(pattern, nth, pipe) for pattern, nth, pipe in request["pauses"]])
    leave(import_module("screen.cli.main").main(request["argv"]))


def leave(code: int) -> NoReturn:
    """The end of an interpreter, but for freeing all that is imported, which takes longer than a run."""
    # an import of seconds in every run, which none needs
    assert "torch._dynamo" not in sys.modules
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _serve() -> None:
    """A line of JSON in, the process's number out; when it ends, [exit code, what it printed]."""
    for name in SLOW_IMPORTS:
        import_module(name)
    # each run would start a process to go through them
    for path in E2E.rglob("*.h5ad"):
        walked(path)
    assert threading.active_count() == 1
    assert "polars" not in sys.modules
    # what is imported is not looked through again when a forked process ends
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        output, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(output)
            _command(json.loads(line), theirs)
        os.close(theirs)
        print(pid, flush=True)  # noqa: T201
        with os.fdopen(output, errors="replace") as file:
            said = file.read()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps([code, said]), flush=True)  # noqa: T201


if __name__ == "__main__":
    _small_units()
    if sys.argv[1:]:
        sys.exit(import_module("screen.cli.main").main(sys.argv[1:]))
    _serve()
