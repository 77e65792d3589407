"""Runs that are killed, stopped, starved and damaged: what comes out in the end is what an undisturbed run gives."""

import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from screen.store.audit import verify
from screen.store.reader import StoreReader
from tests.support.fault_screen import Screen, blocks_of, committed, leftovers, undisturbed
from tests.support.faults import Launcher, Moment, NotPermittedError, filled, read_only, small_disk
from tests.support.tiny import E2E, write

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are watched through /proc and prlimit")

STORE_IS_LAID_OUT = Moment(r"^os.mkdir .*/0/control/expression_t1")
STORE_IS_NAMED = Moment(r"^os.rename \S+/screen\.zarr \S+/out/screen\.zarr$")
PROVENANCE_BEGINS = Moment(r"^open .*/out/\.provenance\S* w")
PROVENANCE_IS_NAMED = Moment(r"^os.rename .*/provenance.json$")
CONTROL_BEGINS = Moment(r"^open .*\.writing/\S+\.control\.expression_t1\.c\.\d+\.0\S* w")
CONTROL_IS_THERE = Moment(r"^open .*/out/screen\.zarr/\S+/control/expression_t2/c\.\d+\.0 r")
CONTROL_MARKER_IS_NAMED = Moment(r"^os.rename .*/control/commits/c\.\d+$")
SHARD_BEGINS = Moment(r"^open .*\.writing/\S+\.(delta|embedding)\.t1\.c\.\d+\.0\S* w", 3)
SHARD_IS_NAMED = Moment(r"^os.rename .*/delta/t2/c\.\d+\.0$", 2)
SHARD_IS_THERE = Moment(r"^open .*/out/screen\.zarr/\S+/delta/t1/c\.\d+\.0 r", 2)
COLUMN_BEGINS = Moment(r"^open .*\.writing/\S+\.items\.effects\.c\.\S+ w", 2)
MARKER_BEGINS = Moment(r"^open (?!\S*/out/\S*control)\S*/out/\S*commits(?!/zarr)\S* w$", 4)
MARKER_IS_NAMED = Moment(r"^os.rename .*/library/0/commits/c\.\d+$", 4)
METADATA_BEGIN = Moment(r"^open .*/out/screen\.zarr/\.zarr\.json\S+ w")
METADATA_ARE_NAMED = Moment(r"^os.rename .*/out/screen\.zarr/zarr\.json$")
TABLES_BEGIN = Moment(r"^os.mkdir .*/out/deg")
TABLE_IS_NAMED = Moment(r"^os.rename \S+ .*/deg/part-\d+\.parquet$")
HITS_ARE_NAMED = Moment(r"^os.rename .*/out/hits\.parquet$")
STAMP_IS_NAMED = Moment(r"^os.rename .*/out/tables\.json$")

WORST_TO_BE_KILLED = (
    STORE_IS_LAID_OUT, STORE_IS_NAMED, PROVENANCE_IS_NAMED, CONTROL_IS_THERE, CONTROL_MARKER_IS_NAMED, SHARD_BEGINS,
    SHARD_IS_NAMED, SHARD_IS_THERE, COLUMN_BEGINS, MARKER_BEGINS, MARKER_IS_NAMED, METADATA_ARE_NAMED, TABLE_IS_NAMED,
    HITS_ARE_NAMED, STAMP_IS_NAMED,
)  # fmt: skip
"""In the order in which a run meets them; each is met by a run that continues one killed at those before."""
WORST_TO_BE_FULL = (
    STORE_IS_LAID_OUT, PROVENANCE_BEGINS, CONTROL_BEGINS, SHARD_BEGINS, COLUMN_BEGINS, MARKER_BEGINS, METADATA_BEGIN,
    TABLES_BEGIN, HITS_ARE_NAMED,
)  # fmt: skip
WORST_TO_BE_LIMITED = (STORE_IS_LAID_OUT, SHARD_BEGINS, MARKER_BEGINS, TABLES_BEGIN)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Launcher, Path]]:
    with undisturbed(tmp_path_factory.mktemp("undisturbed"), ["mask"]) as made:
        yield made


@pytest.fixture
def screen(whole: tuple[Launcher, Path], tmp_path: Path) -> Screen:
    """Nothing of it has run yet."""
    commands, folder = whole
    return Screen(commands, folder / "s.yaml", tmp_path / "out", folder / "out")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system, where this user may make one."""
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(small_disk(tmp_path / "disk", 16 * 2**20))
        except NotPermittedError as error:
            pytest.skip(f"no file system of its own can be mounted: {error}")
        yield folder


def test_an_undisturbed_run_has_many_units_and_leaves_nothing_unfinished(screen: Screen) -> None:
    assert sum("/commits/" in name and "control" not in name for name in committed(screen.expected)) > 20
    assert leftovers(screen.expected) == []


def test_kill_9_at_random_moments_changes_nothing_in_the_end(screen: Screen) -> None:
    rng = random.Random(9)
    for _ in range(4):
        assert screen.kill(rng, most_units=3)
    screen.finish()
    assert leftovers(screen.directory) == []


def test_kill_9_at_the_worst_moments_changes_nothing_in_the_end(screen: Screen) -> None:
    for moment in WORST_TO_BE_KILLED:
        with screen.kept():
            assert screen.paused(moment).killed().code == -signal.SIGKILL
    screen.finish()
    assert leftovers(screen.directory) == []


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_drops_units_in_work_and_keeps_those_that_are_finished(
    screen: Screen, number: int, code: int, word: str
) -> None:
    running = screen.paused(MARKER_BEGINS)
    running.signal(number)
    ended = running.goes_on().end()
    assert ended.code == code
    n_units = sum("/commits/" in name and "control" not in name for name in committed(screen.expected))
    said = rf"error: {word}; (\d+) of {n_units} units \(\d+ of \d+ edits\) are kept in .*, what was in work is dropped; run the"
    kept = re.search(said, ended.said)
    assert kept is not None, ended.said
    assert int(kept[1]) == screen.n_done
    assert "Traceback" not in ended.said
    assert screen.n_done >= MARKER_BEGINS.nth
    assert leftovers(screen.directory) == []
    screen.finish()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_right_after_ends_the_same_and_harms_nothing(screen: Screen, number: int, code: int) -> None:
    for delay_s in (0, 0.02):
        with screen.kept():
            running = screen.paused(MARKER_IS_NAMED)
            running.signal(number)
            running.goes_on()
            time.sleep(delay_s)
            running.signal(number)
            ended = running.end()
            assert (ended.shell_code, "Traceback" in ended.said) == (code, False), ended.said
    screen.finish()
    assert leftovers(screen.directory) == []


@pytest.mark.long
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_while_the_disk_hangs_ends_the_run(
    screen: Screen, tmp_path: Path, number: int, code: int
) -> None:
    hang = tmp_path / "hang"
    os.mkfifo(hang)
    running = screen.paused(replace(SHARD_BEGINS, pipe=str(hang))).goes_on()
    for _ in range(2):
        # until the computation waits for the writer
        assert not running.has_ended(0.4)
        running.signal(number)
    running.has_ended(0.4)
    reader = os.open(hang, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert running.end().shell_code == code
    finally:
        os.close(reader)
    screen.finish()


def unclear(said: dict[Moment, str], reason: str, remedy: str = "make room") -> dict[str, str]:
    """Moment -> what a run said last that was stopped there and does not say that it cannot write, why, and what to do."""
    words = ("cannot write", reason, remedy, "again")
    last = {m.pattern: "error: " + text.rpartition("error: ")[2] for m, text in said.items()}
    return {moment: text for moment, text in last.items() if not all(word in text for word in words)}


def test_a_full_disk_stops_a_run_anywhere_and_it_continues_when_there_is_room(screen: Screen, disk: Path) -> None:
    screen.directory, said = disk / "out", {}
    for moment in WORST_TO_BE_FULL:
        with screen.kept():
            running = screen.paused(moment)
            with filled(disk):
                ended = running.goes_on().end()
            assert ended.code == 1
            said[moment] = ended.said
    with filled(disk):
        at_start = screen.start().end()
    screen.finish()
    assert unclear(said, "No space left on device") == {}
    assert unclear({STORE_IS_LAID_OUT: at_start.said}, "No space left on device") == {}
    assert leftovers(screen.directory) == []


@pytest.mark.long
def test_a_file_that_may_not_grow_stops_a_run_anywhere_and_it_continues_when_it_may(screen: Screen) -> None:
    said = {}
    for moment in WORST_TO_BE_LIMITED:
        with screen.kept():
            ended = screen.paused(moment).limited(20).goes_on().end()
            assert ended.code == 1
            said[moment] = ended.said
    screen.finish()
    assert unclear(said, "File too large") == {}


def test_a_disk_that_is_full_for_one_file_only_loses_nothing(screen: Screen) -> None:
    next_file = Moment(r"^open .* w$")
    for moment in (CONTROL_BEGINS, SHARD_BEGINS, COLUMN_BEGINS):
        running = screen.paused(moment, next_file).limited(20).goes_on()
        while not running.has_ended(0.001):
            if running.is_paused:
                running.limited(2**62).goes_on()
        assert running.end().code == 1, moment
    screen.finish()
    assert screen.verify().code == 0


def test_a_directory_that_turns_read_only_stops_a_run_and_it_continues_when_it_is_writable(screen: Screen) -> None:
    reason, said = "Read-only file system" if os.geteuid() == 0 else "Permission denied", {}
    for moment in (SHARD_BEGINS, MARKER_BEGINS, TABLES_BEGIN):
        running = screen.paused(moment)
        with screen.kept(), ExitStack() as stack:
            try:
                stack.enter_context(read_only(screen.directory))
            except NotPermittedError as error:
                running.killed()
                pytest.skip(f"root cannot take away its own access here: {error}")
            ended = running.goes_on().end()
            assert ended.code == 1
            said[moment] = ended.said
            if moment == MARKER_BEGINS:
                again = screen.start().end()
                # a lock file that the first run could not remove can still be opened by who is not root
                assert again.code == (2 if os.geteuid() == 0 else 1)
                said[STORE_IS_LAID_OUT] = again.said
    screen.finish()
    assert leftovers(screen.directory) == []
    assert unclear(said, reason, "access") == {}


def flip(path: Path) -> None:
    """One bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def cut(path: Path) -> None:
    """The first half of a file."""
    os.truncate(path, path.stat().st_size // 2)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "delta/t1/c.0.0": flip,
    "embedding/t2/c.1.0": cut,
    "delta/t2/c.2.0": Path.unlink,
    "commits/c.3": flip,
    "commits/c.4": cut,
    "commits/c.5": lambda path: path.write_bytes(b""),
    "control/expression_t2/c.1.0": flip,
}
"""Files of a library block -> what is done to them; the units of the second block of cells come after these."""


@pytest.mark.parametrize("is_finished", [True, False], ids=["finished", "unfinished"])
def test_damage_is_named_discarded_and_computed_again(screen: Screen, is_finished: bool) -> None:
    if is_finished:
        shutil.copytree(screen.expected, screen.directory)
    else:
        screen.paused(Moment(MARKER_IS_NAMED.pattern, 14)).killed()
    for name, damage in DAMAGES.items():
        damage(screen.directory / "screen.zarr/library/0" / name)
    for options in ((), ("--discard",)):
        ended = screen.verify(*options)
        assert ended.code == 1
        assert [name for name in DAMAGES if name not in ended.said] == []
        assert f"{len(DAMAGES)} damaged" in ended.said
    screen.finish()
    assert screen.verify().code == 0


def test_a_control_marker_that_is_damaged_or_gone_is_named(screen: Screen) -> None:
    shutil.copytree(screen.expected, screen.directory)
    for damage in (cut, Path.unlink):
        damage(screen.directory / "screen.zarr/library/0/control/commits/c.2")
        ended = screen.verify("--discard")
        assert (ended.code, "controls of cells 2" in ended.said) == (1, True), ended.said
        screen.finish()


def test_every_changed_byte_of_a_marker_is_found(screen: Screen) -> None:
    shutil.copytree(screen.expected, screen.directory)
    store = StoreReader.open(screen.directory / "screen.zarr")
    path = store.blocks[0].path / "commits/c.3"
    content = path.read_bytes()
    missed = []
    for at in range(0, len(content), 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        if not verify(store):
            missed.append(content[:at].decode(errors="replace")[-20:] + "|" + chr(content[at]))
    assert missed == []


def test_discarding_that_is_killed_loses_no_damage(screen: Screen) -> None:
    shutil.copytree(screen.expected, screen.directory)
    flip(screen.directory / "screen.zarr/library/0/control/expression_t1/c.2.0")
    pauses = [Moment(r"^os.remove .*/library/0/commits/c")]
    screen.commands.start("verify", screen.directory, "--discard", pauses=pauses).until_paused().killed()
    assert screen.verify("--discard").code == 1
    screen.finish()
    assert screen.verify().code == 0


def test_half_written_files_of_units_without_a_marker_and_garbage_are_written_over(screen: Screen) -> None:
    screen.paused(MARKER_IS_NAMED).killed()
    block, n_done = screen.directory / "screen.zarr/library/0", screen.n_done
    halves = [*block.glob(f"*/*/c.{n_done}.0"), *block.glob(f"items/*/c.{n_done}")]
    assert len(halves) > 4
    for path in halves:
        cut(path)
    (block / "control/expression_t1/c.2.0").write_bytes(b"\xff" * 100)
    garbage = screen.directory / f".screen.zarr.writing/1-garbage/t1.c.{n_done + 1}.0"
    garbage.parent.mkdir(parents=True, exist_ok=True)
    garbage.write_bytes(b"\xff" * 100)
    screen.finish()
    assert leftovers(screen.directory) == []


def test_nan_in_a_late_unit_keeps_every_unit_before_it(screen: Screen, tmp_path: Path) -> None:
    content = torch.load(E2E / "ckpt" / "count_zinb.ckpt", weights_only=True)
    for name, weight in content["state_dict"].items():
        if name.endswith("token_embedding.weight"):
            # a gene that only the ninth of the eleven cells holds; its square overflows
            weight[96] = 1e30
    torch.save(content, tmp_path / "nan.ckpt")
    config = yaml.safe_load(screen.config.read_text())
    config["model"]["checkpoint"] = str(tmp_path / "nan.ckpt")
    screen.config = write(config, tmp_path / "nan.yaml")
    for _ in range(2):
        with screen.kept():
            ended = screen.start().end()
        assert ended.code == 1
        assert "the model gave NaN or infinity" in ended.said
        assert 10 < screen.n_done < 20
    ours, theirs = (blocks_of(d)[0] for d in (screen.directory, screen.expected))
    for number in range(screen.n_done):
        assert ours.marker(number)["files"] == theirs.marker(number)["files"]
