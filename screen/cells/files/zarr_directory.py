"""ZarrDirectory: an AnnData Zarr directory (format 2 or 3) opened to be read, and its arrays checked before they are.

Consolidated metadata are not looked at: each array's own say the same, and are what is read.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from screen.cells.files.damage import UnreadableError, file_errors
from screen.cells.files.hdf5 import ROOM_BYTES, check_size
from screen.cells.files.other_formats import what_folder_is
from screen.errors import CellError, some

MOST_PER_BYTE = 33_000
"""Bytes of an array for every byte of its folder, at most: Zstandard packs 128 KiB of one value into 4 bytes."""
CODECS = {
    "adler32", "bitround", "blosc", "bytes", "bz2", "crc32", "crc32c", "delta", "gzip", "lz4", "lzma", "packbits",
    "sharding_indexed", "shuffle", "transpose", "vlen-bytes", "vlen-utf8", "zlib", "zstd",
}  # fmt: skip
"""What only unpacks numbers and texts; `pickle`, for one, runs whatever the file says."""


@contextmanager
def opened_zarr(path: Path) -> Iterator[Any]:
    """The root (zarr.Group). Raises CellError saying what the folder is instead."""
    import zarr
    import zarr.errors

    if not any((path / name).is_file() for name in ("zarr.json", ".zgroup")):
        raise CellError(f"cannot read {path}: {what_folder_is(path)}")
    with warnings.catch_warnings():
        # text has no final specification in format 3, and is read all the same
        warnings.simplefilter("ignore", zarr.errors.UnstableSpecificationWarning)
        with file_errors(f"cannot read {path}"):
            root = zarr.open_group(path, mode="r", use_consolidated=False)
        yield root


def check_zarr(found: Any, path: Path) -> None:
    """Refuses arrays of a node that say they are larger than their folders can hold, or that may do more than unpack.

    Raises ValueError.
    """
    import zarr

    arrays = (
        [found] if isinstance(found, zarr.Array) else [x for _, x in found.members(None) if isinstance(x, zarr.Array)]
    )
    for array in arrays:
        if odd := sorted(_codecs(array.metadata) - CODECS):
            raise UnreadableError(
                f"{array.name} is packed with {some(odd)}, which is not unpacked here (it may run code); write the "
                "directory again with anndata"
            )
        n_stored = sum(p.stat().st_size for p in (path / array.path).rglob("*") if p.is_file())
        check_size(array, ROOM_BYTES + MOST_PER_BYTE * n_stored, f"its folder of {n_stored:,} cannot")


def _codecs(metadata: Any) -> set[str]:
    """Names of everything that an array's bytes go through."""
    if metadata.zarr_format == 2:
        return {c.codec_id for c in (metadata.compressor, *(metadata.filters or ())) if c is not None}
    return _names([c.to_dict() for c in metadata.codecs])


def _names(codecs: list[Any]) -> set[str]:
    names = set()
    for codec in codecs:
        names.add(str(codec["name"]).removeprefix("numcodecs."))
        inner = codec.get("configuration", {})
        names |= _names([*inner.get("codecs", ()), *inner.get("index_codecs", ())])
    return names
