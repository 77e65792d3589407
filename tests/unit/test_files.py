"""Writing whole and renaming: attempts never mix, what fails leaves what was there, and what is durable was synced."""

import errno
import os
import resource
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from screen.files import (
    checksum,
    checksum_of,
    crc32c,
    holds,
    scratch_folder,
    sweep,
    sync,
    whole,
    whole_folder,
    write_file,
)
from tests.support.disk import Disk, watched

contents = st.lists(st.binary(max_size=200), max_size=4)


def names_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@given(contents, st.booleans(), st.booleans(), st.none() | st.binary(max_size=50))
def test_a_file_is_its_pieces_in_order_and_nothing_lies_beside_it(
    pieces: list[bytes], is_scratch: bool, durable: bool, before: bytes | None
) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "file.json"
        if before is not None:
            path.write_bytes(before)
        with scratch_folder(Path(name) / "scratch") as scratch:
            write_file(path, *pieces, scratch=scratch if is_scratch else None, durable=durable)
        assert path.read_bytes() == b"".join(pieces)
        assert names_below(Path(name)) == ["file.json"]


@given(contents, contents, st.lists(st.booleans(), max_size=8), st.booleans(), st.booleans())
def test_two_attempts_at_one_file_at_the_same_time_never_mix(
    ours: list[bytes], theirs: list[bytes], turns: list[bool], is_ours_last: bool, is_scratch: bool
) -> None:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        path = Path(name) / "file"
        scratch = stack.enter_context(scratch_folder(Path(name) / "scratch")) if is_scratch else None
        attempts = {one: whole(path, scratch) for one in (True, False)}
        partials = {one: attempt.__enter__() for one, attempt in attempts.items()}
        left = {True: iter(ours), False: iter(theirs)}
        assert partials[True] != partials[False]
        with partials[True].open("wb") as a, partials[False].open("wb") as b:
            files = {True: a, False: b}
            for one in [*turns, *[True] * len(ours), *[False] * len(theirs)]:
                files[one].write(next(left[one], b""))
        written = {True: b"".join(ours), False: b"".join(theirs)}
        for one in (not is_ours_last, is_ours_last):
            assert not path.exists() or path.read_bytes() in written.values()
            attempts[one].__exit__(None, None, None)
            assert path.read_bytes() == written[one]


def test_who_reads_while_others_write_sees_one_of_their_files_as_a_whole(tmp_path: Path) -> None:
    path, all_written = tmp_path / "file", [bytes([n]) * 300_000 for n in range(4)]
    path.write_bytes(all_written[0])

    def write(content: bytes) -> None:
        for _ in range(30):
            write_file(path, content[:100], content[100:])

    writers = [threading.Thread(target=write, args=(content,)) for content in all_written]
    for writer in writers:
        writer.start()
    while any(w.is_alive() for w in writers):
        assert path.read_bytes() in all_written
    assert names_below(tmp_path) == ["file"]


def in_the_block(path: Path) -> None:
    with whole(path) as partial:
        partial.write_bytes(b"half")
        raise KeyboardInterrupt


def too_large(path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        write_file(path, bytes(10), bytes(20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextmanager
def failing_sync(code: int, of: Callable[[os.stat_result], bool]) -> Iterator[None]:
    """What the system says when a file or a folder is synced."""

    def refuse(fd: int) -> None:
        if of(os.fstat(fd)):
            raise OSError(code, os.strerror(code))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        yield


def is_folder(status: os.stat_result) -> bool:
    return stat.S_ISDIR(status.st_mode)


def is_file(status: os.stat_result) -> bool:
    return not is_folder(status)


def lost_by_the_disk(path: Path) -> None:
    with failing_sync(errno.EIO, is_file):
        write_file(path, b"half", durable=True)


@pytest.mark.parametrize("fail", [in_the_block, too_large, lost_by_the_disk])
@pytest.mark.parametrize("before", [None, b"of an earlier run"], ids=["new", "there"])
def test_a_write_that_fails_leaves_what_was_there_and_no_litter(
    tmp_path: Path, fail: Callable[[Path], None], before: bytes | None
) -> None:
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises((OSError, KeyboardInterrupt)):
        fail(path)
    assert names_below(tmp_path) == ([] if before is None else ["file"])
    assert before is None or path.read_bytes() == before


def test_a_file_that_cannot_get_its_name_leaves_no_litter(tmp_path: Path) -> None:
    (tmp_path / "there" / "not empty").mkdir(parents=True)
    with pytest.raises(OSError):
        write_file(tmp_path / "there", b"x")
    with pytest.raises(FileNotFoundError):
        write_file(tmp_path / "nowhere" / "file", b"x")
    with pytest.raises(OSError), whole_folder(tmp_path / "there", tmp_path / "scratch") as partial:
        partial.mkdir()
    assert names_below(tmp_path) == ["there", "there/not empty"]


def test_who_was_given_up_for_dead_cannot_finish_a_file_when_the_scratch_folder_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError), ExitStack() as stack:
        with scratch_folder(tmp_path / "scratch") as scratch:
            partial = stack.enter_context(whole(path, scratch))
            file = stack.enter_context(partial.open("wb"))
            file.write(b"early")
        write_file(path, b"of the successor")
        file.write(b"late")
    assert path.read_bytes() == b"of the successor"
    assert names_below(tmp_path) == ["file"]


@pytest.mark.parametrize("is_scratch", [True, False])
def test_a_durable_file_is_on_the_disk_before_its_name_and_its_name_before_it_returns(
    tmp_path: Path, is_scratch: bool
) -> None:
    with scratch_folder(tmp_path / "scratch") as scratch, watched() as disk:
        write_file(tmp_path / "file", b"x", scratch=scratch if is_scratch else None, durable=True)
    (partial, what), (old, new), (folder, also) = disk.events
    assert (what, old, new, folder, also) == ("synced", partial, str(tmp_path / "file"), str(tmp_path), "synced")


def test_nothing_is_synced_that_need_not_be_durable(tmp_path: Path) -> None:
    with watched() as disk:
        write_file(tmp_path / "file", b"x")
    assert [what for _, what in disk.events] == [str(tmp_path / "file")]


def test_a_folder_is_on_the_disk_with_all_in_it_before_its_name(tmp_path: Path) -> None:
    with watched() as disk, whole_folder(tmp_path / "made", tmp_path / "scratch") as partial:
        (partial / "a" / "b").mkdir(parents=True)
        for name in ("x", "a/y", "a/b/z"):
            (partial / name).write_text(name)
    assert names_below(tmp_path) == ["made", "made/a", "made/a/b", "made/a/b/z", "made/a/y", "made/x"]
    assert disk.events[-2:] == [(str(partial), str(tmp_path / "made")), (str(tmp_path), "synced")]
    synced = {Path(name) for name, what in disk.events[:-2] if what == "synced"}
    assert synced == {partial / n for n in ("", "a", "a/b", "x", "a/y", "a/b/z")}


def test_an_error_leaves_nothing_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "made", tmp_path / "scratch") as partial:
        partial.mkdir()
        (partial / "x").write_text("half")
        raise KeyboardInterrupt
    assert names_below(tmp_path) == []


def test_a_file_system_that_cannot_sync_folders_is_written_to_all_the_same(tmp_path: Path) -> None:
    with failing_sync(errno.EINVAL, is_folder):
        write_file(tmp_path / "file", b"x", durable=True)
    with failing_sync(errno.EIO, is_folder), pytest.raises(OSError):
        sync(tmp_path)
    with failing_sync(errno.EINVAL, is_file), pytest.raises(OSError):
        sync(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "nothing")


def test_names_of_any_length_can_be_written(tmp_path: Path) -> None:
    for name in ("x" * 255, "ä" * 127, "🧬" * 63):
        with scratch_folder(tmp_path / "scratch") as scratch:
            write_file(tmp_path / name, b"beside")
            write_file(tmp_path / name, b"in scratch", scratch=scratch)
        assert (tmp_path / name).read_bytes() == b"in scratch"


def test_sweeping_takes_only_what_killed_attempts_left(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        # a killed process removes nothing
        patch.setattr(Path, "unlink", lambda path, missing_ok=False: None)
        for place in (tmp_path, tmp_path / "below"):
            with pytest.raises(KeyboardInterrupt):
                in_the_block(place / "table.parquet")
    for name in ("table.parquet", ".hidden", "mine.partial", "below/table.parquet"):
        (tmp_path / name).write_bytes(b"whole")
    assert len(names_below(tmp_path)) == 7
    sweep(tmp_path)
    assert len(names_below(tmp_path)) == 6
    sweep(tmp_path, "**/.*.partial")
    assert names_below(tmp_path) == [".hidden", "below", "below/table.parquet", "mine.partial", "table.parquet"]


def test_a_scratch_folder_is_its_attempts_own_and_leaves_that_of_others(tmp_path: Path) -> None:
    parent = tmp_path / "scratch"
    with scratch_folder(parent) as ours:
        with scratch_folder(parent) as theirs:
            (theirs / "x").write_text("half")
            assert ours != theirs
        assert [*parent.iterdir()] == [ours]
    assert not parent.exists()


@given(st.binary(max_size=300))
def test_a_checksum_is_the_crc_of_all_bytes(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "file"
        path.write_bytes(content)
        assert checksum(path) == checksum_of(content) == f"{google_crc32c.value(content):08x}"
        assert crc32c(content) == google_crc32c.value(content)
        assert holds(path, content)
        assert not holds(path, content + b"x")


def test_a_checksum_is_crc_32c_of_files_of_any_size(tmp_path: Path) -> None:
    # the check value of the polynomial's definition
    assert checksum_of(b"123456789") == "e3069283"
    for size in (0, (1 << 22) - 1, 1 << 22, (1 << 22) + 1):
        (tmp_path / "file").write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
        assert checksum(tmp_path / "file") == checksum_of((tmp_path / "file").read_bytes())


@pytest.mark.parametrize(
    "change", [lambda x: x[:-1], lambda x: x[:-1] + b"?", lambda x: b""], ids=["cut", "other", "empty"]
)
def test_a_file_holds_just_its_content(tmp_path: Path, change: Any) -> None:
    (tmp_path / "file").write_bytes(change(b"content"))
    assert not holds(tmp_path / "file", b"content")
    assert not holds(tmp_path / "nothing", b"")
    assert not holds(tmp_path, b"content")


def test_a_watched_disk_tells_what_would_be_left_after_a_power_cut(tmp_path: Path) -> None:
    with watched() as disk:
        write_file(tmp_path / "kept", b"x", durable=True)
        write_file(tmp_path / "lost", b"x")
    assert isinstance(disk, Disk)
    assert disk.is_durable(tmp_path / "kept")
    assert not disk.is_durable(tmp_path / "lost")
