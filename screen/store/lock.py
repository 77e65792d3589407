"""only_writer: one run at a time writes into an output directory."""

import errno
import fcntl
import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from screen.errors import StoreError, WriteError
from screen.files import sweep

REFUSALS = {
    getattr(errno, n) for n in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO", "ENOENT", "ENOTDIR")
}
"""What the system says where it refuses to write."""
LOCK = ".perturbscreen.lock"


@contextmanager
def only_writer(directory: Path, scratch: Path) -> Iterator[None]:
    """Makes the directory and holds its lock; the system lets go of it however the process ends.

    What earlier runs left half-written, in `scratch` and beside the directory's own files, is removed first. Raises
    StoreError naming the run that holds it.
    """
    path = directory / LOCK
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = _locked(path)
    except OSError as error:
        raise StoreError(
            f"cannot write to the directory {directory}: {error.strerror}; make room or give access, then run again, or "
            "choose another --out"
        ) from error
    with file:
        try:
            shutil.rmtree(scratch, ignore_errors=True)
            with writing(directory):
                sweep(directory)
                yield
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            with suppress(OSError):
                path.unlink()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says what to do where the system refuses to write."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        raise WriteError(
            f"cannot write {path}: {error.strerror or error}. What was committed is kept; make room or give access, "
            "then run the same command again"
        ) from error


def _locked(path: Path) -> TextIO:
    """The lock file, locked, saying who holds it."""
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            who = file.read().strip() or "it does not say which"
            file.close()
            raise StoreError(f"another run is writing to {path.parent} ({who}); wait for it, or stop it") from error
        except OSError:
            # a file system without locks: the user has to see to it
            pass
        # a run that ends removes its file: what was locked may no longer be the file that others see
        with suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                break
        file.close()
    holder = {"pid": os.getpid(), "host": platform.node(), "since": datetime.now(UTC).isoformat(timespec="seconds")}
    file.truncate(0)
    file.write(json.dumps(holder))
    file.flush()
    return file
