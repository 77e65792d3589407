"""Hdf5: an HDF5 file opened to be read, and its arrays checked before they are asked for."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from screen.cells.files.damage import UnreadableError
from screen.cells.files.other_formats import what_file_is
from screen.cells.files.walk_hdf5 import walked
from screen.errors import CellError

ROOM_BYTES, MOST_PER_BYTE = 64 * 2**20, 1_100
"""What an array may take in memory: so many bytes, and so many for every byte of the file (gzip gives 1,032 at most)."""
PLUGINS = {
    305: "LZO", 307: "bzip2", 32001: "Blosc", 32004: "LZ4", 32008: "bitshuffle", 32013: "ZFP", 32015: "Zstandard",
    32017: "SZ", 32018: "FCIDECOMP", 32019: "JPEG", 32022: "Granular BitRound", 32024: "SZ3", 32026: "Blosc2",
}  # fmt: skip
"""Registered filters that come with plugins."""


@contextmanager
def opened_hdf5(path: Path) -> Iterator[Any]:
    """The root (h5py.File). Raises CellError saying why it cannot be, and what the file is instead."""
    import h5py

    if path.is_file() and (reason := walked(path)) is not None:
        raise CellError(f"cannot read {path}: {reason}; the file is damaged: copy it again")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise CellError(f"cannot read {path}: {what_file_is(path, str(error))}") from error
    with file:
        yield file


def check_hdf5(found: Any, path: Path) -> None:
    """Refuses arrays of a node that say they are larger than the file can hold, or are packed by an unknown filter.

    Raises ValueError.
    """
    import h5py

    n_file = path.stat().st_size
    most = ROOM_BYTES + MOST_PER_BYTE * n_file
    arrays: list[Any] = [found] if isinstance(found, h5py.Dataset) else []
    if not arrays:
        found.visititems(lambda _, x: arrays.append(x) if isinstance(x, h5py.Dataset) else None)
    for array in arrays:
        check_size(array, most, f"the file cannot: it has {n_file:,}")
        _check_filters(array)


def check_size(array: Any, most_bytes: int, why: str) -> None:
    """An array (h5py or zarr) of more bytes than it may have, or with a chunk of so many, is refused: ValueError."""
    n_bytes = max(_n_bytes(array.shape, array.dtype.itemsize), _n_bytes(array.chunks, array.dtype.itemsize))
    if n_bytes > most_bytes:
        raise ValueError(f"{array.name} says that it holds {n_bytes:,} bytes, which {why}")


def _n_bytes(shape: tuple[int, ...] | None, itemsize: int) -> int:
    # Python's numbers do not overflow
    n = itemsize
    for length in shape or ():
        n *= int(length)
    return n


def _check_filters(array: Any) -> None:
    import h5py

    properties = array.id.get_create_plist()
    for i in range(properties.get_nfilters()):
        code = properties.get_filter(i)[0]
        if not h5py.h5z.filter_avail(code):
            # installed, it is found once it is imported
            with suppress(ImportError):
                import hdf5plugin  # noqa: F401
        if not h5py.h5z.filter_avail(code):
            name = PLUGINS.get(code, "a filter of its own")
            raise UnreadableError(
                f"{array.name} is compressed with {name} (HDF5 filter {code}), which needs a plugin: "
                + ("`pip install hdf5plugin`" if code in PLUGINS else "see who wrote the file")
                + ', or write the file again with `compression="gzip"`'
            )
