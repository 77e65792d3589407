"""Files: written whole under a name of the attempt's own, then renamed; kept through a power cut where it is asked for.

Nobody ever sees half a file under its own name. Two attempts at one file, a Dask worker given up for dead and its
successor, never write into each other's: each has a name with its process and a random number, and the last to
finish wins as a whole. What a killed attempt left is removed by `sweep`, or with the scratch folder that it lies in.
"""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL = ".partial"
NAME_LENGTH = 48
"""Characters of a file's name that the name of an attempt repeats: a name has at most 255 bytes."""
CANNOT_SYNC = {getattr(errno, name) for name in ("EINVAL", "EBADF", "ENOTSUP", "EACCES", "EPERM")}
"""What a file system says that cannot sync a folder; then it has to see to it itself."""


def write_file(path: Path, *pieces: bytes | memoryview, scratch: Path | None = None, durable: bool = False) -> None:
    """Writes a file in one step: bytes that follow one another. Arguments and errors as of `whole`."""
    with whole(path, scratch, durable) as partial, partial.open("wb") as file:
        for piece in pieces:
            file.write(piece)


@contextmanager
def whole(path: Path, scratch: Path | None = None, durable: bool = False) -> Iterator[Path]:
    """A name to write a file under, which becomes `path` at the end; after an error what was there stays, and no litter.

    The name lies in `scratch`, a folder on the same file system, or beside the file. A `durable` file is on the disk
    before it has its name, and its name before this returns: what is written afterwards may rely on it.
    Raises OSError where the system refuses.
    """
    names = (path,) if scratch is None else (path.parent.parent, path.parent, path)
    shown = ".".join(p.name for p in names)[-NAME_LENGTH:]
    partial = (scratch or path.parent) / f".{shown}.{_own()}{PARTIAL}"
    try:
        yield partial
        if durable:
            sync(partial)
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    if durable:
        sync(path.parent)


@contextmanager
def whole_folder(path: Path, scratch: Path) -> Iterator[Path]:
    """A name to make a folder under, which becomes `path` when all in it is on the disk; after an error nothing is left.

    Raises OSError where the system refuses, or where `path` is there and not empty.
    """
    with scratch_folder(scratch) as folder:
        partial = folder / path.name
        yield partial
        for place, _, names in os.walk(partial, topdown=False):
            for name in names:
                sync(Path(place, name))
            sync(Path(place))
        partial.replace(path)
        sync(path.parent)


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A folder of this attempt's own for files that are not whole yet; gone afterwards, and `parent` if it is empty."""
    folder = parent / _own()
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            # unless another process writes there too
            parent.rmdir()


def _own() -> str:
    """What no other attempt has, of this process or another, here or on another machine."""
    return f"{os.getpid()}-{uuid.uuid4().hex[:12]}"


def sweep(folder: Path, pattern: str = f".*{PARTIAL}") -> None:
    """Removes the files that killed attempts left in a folder. Only for who knows that nobody else writes there."""
    for partial in folder.glob(pattern):
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Returns when a file, or the names in a folder, are on the disk."""
    is_folder = path.is_dir()
    try:
        # some systems sync only files that are open to be written
        fd = os.open(path, (os.O_RDONLY if is_folder else os.O_RDWR) | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        if not is_folder or error.errno not in CANNOT_SYNC:
            raise


def holds(path: Path, content: bytes) -> bool:
    """Whether a file is there and says just this."""
    try:
        return path.stat().st_size == len(content) and path.read_bytes() == content
    except OSError:
        return False


def crc32c(content: bytes) -> int:
    """CRC-32C of bytes."""
    # a bare GPU node lacks it, and writes nothing
    import google_crc32c

    found: int = google_crc32c.value(content)
    return found


def checksum(path: Path) -> str:
    """CRC-32C of a file, eight hexadecimal digits. Raises OSError."""
    import google_crc32c

    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            crc = google_crc32c.extend(crc, chunk)
    return f"{crc:08x}"


def checksum_of(content: bytes) -> str:
    """CRC-32C of bytes, eight hexadecimal digits."""
    return f"{crc32c(content):08x}"
