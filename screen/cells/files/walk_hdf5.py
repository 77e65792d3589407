"""walk: goes through the structure of HDF5 files in a process of its own, as a script: the HDF5 library may crash, or never
come back, where the bytes that hold the structure are damaged, and no check of ours comes before it.

What is read: names, attributes, where chunks lie, and every array of at most SMALL_BYTES.
"""

import atexit
import json
import os
import selectors
import subprocess
import sys
import threading
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

SMALL_BYTES = 16 * 2**20
PATIENCE_S, BYTES_PER_S = 15.0, 10 * 2**20
"""How long to wait for the end, twice where a walker was used before: a start, and the time that the file's bytes may take."""


def walked(path: Path) -> str | None:
    """Why the file's structure cannot be gone through; None where it can, or where reading it will say why not."""
    status = path.stat()
    return _walked(path.absolute(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _walked(path: Path, size: int, changed_ns: int) -> str | None:
    patience_s = PATIENCE_S + size / BYTES_PER_S
    with _one_at_a_time():
        while True:
            walker, is_sound = _walker(os.getpid()), False
            is_fresh = walker.n_walked == 0
            try:
                reason = walker.why_not(path, patience_s)
                is_sound = reason is None and walker.is_alive
            finally:
                if not is_sound:
                    walker.end()
                    _walker.cache_clear()
            # of another, a file before this one may have harmed it
            if is_sound or is_fresh:
                return reason


@cache
def _one_at_a_time() -> threading.Lock:
    return threading.Lock()


@cache
def _walker(of_process: int) -> "_Walker":
    """The walker of this process: its start takes longer than most files."""
    return _Walker()


class _Walker:
    """A process that goes through one file after another until its input ends."""

    def __init__(self) -> None:
        self.n_walked = 0
        pipe, command = subprocess.PIPE, [sys.executable, str(Path(__file__).resolve())]
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, bufsize=0, cwd="/"
        )
        self._started_by = os.getpid()
        atexit.register(self.end)

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def why_not(self, path: Path, patience_s: float) -> str | None:
        """Why one file cannot be gone through."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        self.n_walked += 1
        try:
            process.stdin.write(json.dumps(str(path)).encode() + b"\n")
        except BrokenPipeError:
            return "the process that tries is gone"
        with selectors.DefaultSelector() as answer:
            answer.register(process.stdout, selectors.EVENT_READ)
            has_ended = answer.select(patience_s)
        if not has_ended:
            return f"the HDF5 library does not come to an end within {patience_s:.0f} s"
        if process.stdout.read(1):
            return None
        code = process.wait()
        return f"the HDF5 library crashes (signal {-code})" if code < 0 else None

    def end(self) -> None:
        """Ends the process, if it is this one's."""
        atexit.unregister(self.end)
        if os.getpid() == self._started_by:
            self._process.kill()
            self._process.communicate()


def walk(path: str) -> None:
    """Reads the structure. Raises whatever h5py raises."""
    import h5py

    def visit(name: str, found: Any) -> None:
        for key in found.attrs:
            _try(lambda key=key: found.attrs[key])
        if not isinstance(found, h5py.Dataset):
            return
        if found.chunks is not None:
            _try(lambda: found.id.get_num_chunks())
        if found.size * found.dtype.itemsize <= SMALL_BYTES:
            _try(lambda: found[()])

    with h5py.File(path, "r") as file:
        visit("/", file)
        file.visititems(visit)


def _try(read: Any) -> None:
    """What only fails is told by the one who reads in earnest."""
    try:
        read()
    except Exception:
        return


if __name__ == "__main__":
    for line in sys.stdin:
        _try(lambda line=line: walk(json.loads(line)))
        os.write(sys.stdout.fileno(), b".")
