"""Dense Zarr arrays: whole files of rows, written and read as they lie in memory, without a codec.

A dense array is cut along its first axis only and is not compressed: a chunk file is the plain bytes of its rows, and a
shard file the same followed by the index that the Zarr v3 sharding codec puts at its end. Plain zarr reads and writes
the same bytes; this does it at the speed of the file system. What lies otherwise is left to zarr.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, Crc32cCodec, Endian, ShardingCodec
from zarr.core.metadata.v3 import ArrayV3Metadata

from screen.files import crc32c, write_file

INDEX_CODECS = (BytesCodec(), Crc32cCodec())
ABSENT = np.uint64(2**64 - 1)
"""What a shard's index says of an inner chunk that is not there."""


def is_dense(array: zarr.Array[Any]) -> bool:
    """Whether the files of an array are rows as they lie in memory, named and indexed as here."""
    metadata = array.metadata
    if not isinstance(metadata, ArrayV3Metadata) or array.dtype.kind not in "biuf" or not np.little_endian:
        return False
    codecs, names = metadata.codecs, metadata.chunk_key_encoding.to_dict()
    if len(codecs) == 1 and isinstance(codecs[0], ShardingCodec):
        is_known = codecs[0].index_location.value == "end" and tuple(codecs[0].index_codecs) == INDEX_CODECS
        codecs = codecs[0].codecs if is_known else ()
    is_plain = len(codecs) == 1 and isinstance(codecs[0], BytesCodec) and codecs[0].endian in (None, Endian.little)
    is_whole = array.chunks[1:] == array.shape[1:] and (array.shards or array.chunks)[1:] == array.shape[1:]
    is_flat = names == {"name": "default", "configuration": {"separator": "."}}
    return bool(is_plain and is_whole and is_flat and array.fill_value == 0)


class _Index(NamedTuple):
    """Where in a file each inner chunk begins (-1: it is left out); so many of them, from the first on, lie in order."""

    place_N: NDArray[np.int64]
    n_straight: int


@dataclass(frozen=True)
class DenseArray:
    """Where the files of a dense array are and how many rows each has; `inner_rows` is None without shards."""

    folder: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    file_rows: int
    inner_rows: int | None
    indexes: dict[int, tuple[tuple[int, int, int], _Index]] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def of(array: zarr.Array[Any], folder: Path) -> "DenseArray":
        """Of a zarr array that is dense, in the folder that holds its metadata."""
        sharded = array.shards is not None
        return DenseArray(
            folder, array.shape, array.dtype, (array.shards or array.chunks)[0], array.chunks[0] if sharded else None
        )

    @cached_property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def name(self, number: int) -> str:
        """The file of rows number * file_rows onwards."""
        return ".".join(["c", str(number), *("0" for _ in self.shape[1:])])

    def write(self, number: int, values: NDArray[Any], scratch: Path) -> None:
        """Writes one file, in one step: at most `file_rows` rows, fewer where the array ends or rows stay empty."""
        rows = np.ascontiguousarray(values, dtype=self.dtype)
        # ndarray.tofile does not say so when its last bytes cannot be written
        content = memoryview(rows.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        write_file(self.folder / self.name(number), content, self._end(len(rows)), scratch=scratch, durable=True)

    def _end(self, n_rows: int) -> bytes:
        """What follows the rows: zeros up to a whole chunk, and of a shard its index."""
        if self.inner_rows is None:
            return bytes((self.file_rows - n_rows) * self.row_bytes)
        n_chunks, n_inner = -(-n_rows // self.inner_rows), self.file_rows // self.inner_rows
        size = self.inner_rows * self.row_bytes
        index = np.full((n_inner, 2), ABSENT, dtype="<u8")
        index[:n_chunks, 0], index[:n_chunks, 1] = np.arange(n_chunks) * size, size
        padding = bytes(n_chunks * size - n_rows * self.row_bytes)
        return padding + index.tobytes() + crc32c(index.tobytes()).to_bytes(4, "little")

    def read(self, rows: NDArray[np.integer] | slice) -> NDArray[Any]:
        """Some rows, in the given order; zeros where nothing is stored. Fast where rows are ascending.

        Raises IndexError for rows that the array does not have, OSError for a damaged file.
        """
        runs, n_rows = self._runs(rows)
        if n_rows == 0:
            return np.empty((0, *self.shape[1:]), self.dtype)
        # not zeros: memory that is used again would be written twice
        (whole,) = self._tiles(runs, np.empty((n_rows, *self.shape[1:]), self.dtype))
        return whole

    def tiles(self, rows: NDArray[np.integer] | slice, tile: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """The same rows, as many at a time as `tile` has, in its memory. Raises what `read` raises."""
        return self._tiles(self._runs(rows)[0], tile)

    def _tiles(self, runs: list[tuple[int, int]], tile: NDArray[Any]) -> Iterator[NDArray[Any]]:
        height, filled = len(tile), 0
        target = memoryview(tile.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        with _Files(self) as files:
            for start, stop in runs:
                while start < stop:
                    number, first = divmod(start, self.file_rows)
                    n = min(stop - start, self.file_rows - first, height - filled)
                    files.read_into(number, first, target[filled * self.row_bytes : (filled + n) * self.row_bytes])
                    start, filled = start + n, filled + n
                    if filled == height:
                        yield tile
                        filled = 0
        if filled:
            yield tile[:filled]

    def _runs(self, rows: NDArray[np.integer] | slice) -> tuple[list[tuple[int, int]], int]:
        """(stretches of consecutive rows, number of rows)."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(self.shape[0])
            if step != 1:
                raise IndexError(f"rows are read one after another, not in steps of {step}")
            return ([(start, stop)] if start < stop else []), max(stop - start, 0)
        row_N = np.asarray(rows, dtype=np.int64)
        if len(row_N) and not 0 <= row_N.min() <= row_N.max() < self.shape[0]:
            raise IndexError(f"rows {row_N.min()} to {row_N.max()} are asked for of an array of {self.shape[0]}")
        return list(_runs(row_N)), len(row_N)


class _Files:
    """The file that was read last, kept open, and where in it each inner chunk begins."""

    def __init__(self, array: DenseArray) -> None:
        self._array = array
        self._number: int | None = None
        self._fd: int | None = None
        self._index = _Index(np.zeros(1, dtype=np.int64), 1)

    def read_into(self, number: int, first: int, target: memoryview) -> None:
        """Reads rows of one file from `first` on; zeros where they are left out."""
        if number != self._number:
            self._open(number)
        if self._fd is None:
            _zero(target)
            return
        array, done = self._array, 0
        inner = array.inner_rows or array.file_rows
        while done < len(target):
            chunk, within = divmod(first, inner)
            is_straight = chunk < self._index.n_straight
            n = (self._index.n_straight if is_straight else chunk + 1) * inner - first
            part = target[done : done + n * array.row_bytes]
            if is_straight:
                self._fill(part, first * array.row_bytes)
            elif self._index.place_N[chunk] >= 0:
                self._fill(part, int(self._index.place_N[chunk]) + within * array.row_bytes)
            else:
                _zero(part)
            first, done = first + n, done + len(part)

    def _open(self, number: int) -> None:
        self._close()
        array, self._number = self._array, number
        try:
            self._fd = os.open(f"{array.folder}/{array.name(number)}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        if array.inner_rows is None:
            return
        status = os.fstat(self._fd)
        # a file is replaced as a whole: what was read of this very one still holds
        key = (status.st_ino, status.st_mtime_ns, status.st_size)
        known = array.indexes.get(number)
        if known is None or known[0] != key:
            known = array.indexes[number] = key, self._read_index(array.inner_rows, status.st_size)
        self._index = known[1]

    def _read_index(self, inner_rows: int, size: int) -> "_Index":
        n_bytes = self._array.file_rows // inner_rows * 16 + 4
        if size < n_bytes:
            raise OSError(f"{self._path} is cut off: run `perturbscreen verify`")
        index = bytearray(n_bytes)
        self._fill(memoryview(index), size - n_bytes)
        if crc32c(bytes(index[:-4])) != int.from_bytes(index[-4:], "little"):
            raise OSError(f"the index of {self._path} is damaged: run `perturbscreen verify`")
        entry_N2 = np.frombuffer(index[:-4], "<u8").reshape(-1, 2)
        chunk_bytes, there_N = inner_rows * self._array.row_bytes, (entry_N2 != ABSENT).any(1)
        is_whole_N = (entry_N2[:, 1] == chunk_bytes) & (entry_N2[:, 0] <= max(size - n_bytes - chunk_bytes, 0))
        if size < n_bytes + chunk_bytes * bool(there_N.any()) or not is_whole_N[there_N].all():
            raise OSError(f"the index of {self._path} points beyond its rows: run `perturbscreen verify`")
        place_N = entry_N2[:, 0].astype(np.int64)
        in_order_N = place_N == np.arange(len(place_N)) * inner_rows * self._array.row_bytes
        return _Index(place_N, len(in_order_N) if in_order_N.all() else int(np.argmin(in_order_N)))

    @property
    def _path(self) -> Path:
        assert self._number is not None
        return self._array.folder / self._array.name(self._number)

    def _fill(self, target: memoryview, place: int) -> None:
        assert self._fd is not None
        done = 0
        while done < len(target):
            n = os.preadv(self._fd, [target[done:]], place + done)
            if not n:
                raise OSError(f"{self._path} ends before its rows do: run `perturbscreen verify`")
            done += n

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> "_Files":
        return self

    def __exit__(self, *error: object) -> None:
        self._close()


def _zero(target: memoryview) -> None:
    np.frombuffer(target, np.uint8)[:] = 0


def _runs(row_N: NDArray[np.integer]) -> Iterator[tuple[int, int]]:
    """(first row, row after the last) of each stretch of consecutive rows."""
    if len(row_N) == 0:
        return
    cuts = np.flatnonzero(np.diff(row_N) != 1) + 1
    starts = np.concatenate([[0], cuts])
    stops = np.concatenate([cuts, [len(row_N)]])
    for a, b in zip(starts.tolist(), stops.tolist(), strict=True):
        yield int(row_N[a]), int(row_N[a]) + b - a
