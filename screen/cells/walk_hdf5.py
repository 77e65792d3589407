"""walk: goes through an HDF5 file's structure in a process of its own, as a script: the HDF5 library may crash, or never
come back, where the bytes that hold the structure are damaged, and no check of ours comes before it.

What is read: names, attributes, where chunks lie, and every array of at most SMALL_BYTES.
"""

import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

SMALL_BYTES = 16 * 2**20
PATIENCE_S, BYTES_PER_S = 30.0, 10 * 2**20
"""How long to wait for the end: a start, and the time that the file's bytes may take."""


def walked(path: Path) -> str | None:
    """Why the file's structure cannot be gone through; None where it can, or where reading it will say why not."""
    status = path.stat()
    return _walked(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _walked(path: Path, size: int, changed_ns: int) -> str | None:
    patience_s = PATIENCE_S + size / BYTES_PER_S
    command = [sys.executable, str(Path(__file__).resolve()), str(path)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=patience_s, check=False)
    except subprocess.TimeoutExpired:
        return f"the HDF5 library does not come to an end within {patience_s:.0f} s"
    return f"the HDF5 library crashes (signal {-done.returncode})" if done.returncode < 0 else None


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
    _try(lambda: walk(sys.argv[1]))
