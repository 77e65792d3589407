"""Parts of the gene tables: two attempts at one, and one that comes too late, leave the tables of an undisturbed run."""

import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest

from screen.cli.main import main
from screen.config.sections import DegConfig
from screen.stats import parts
from screen.stats.parts import gene_tables, on_threads
from screen.stats.tables import strata_of
from screen.store.store import ScreenStore
from tests.support.disk import watched
from tests.support.tiny import tiny, write


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten genes in every cell, by cell type."""
    folder = tmp_path_factory.mktemp("parts")
    library = {"genes": [f"ENSG{100_000 + 7 * i:011d}" for i in range(10)], "modes": ["overexpress"]}
    config = tiny(library=library, output={"strata": ["cell_type"]})
    assert main(["run", str(write(config, folder / "s.yaml")), "--out", str(folder / "out")]) == 0
    return folder / "out"


def made(out: Path, directory: Path, compute: parts.Compute = on_threads) -> tuple[dict[str, bytes], np.ndarray]:
    """(bytes of every file of the tables, mean changes of every group) of a screen, written into a directory."""
    store = ScreenStore.open(out / "screen.zarr")
    strata, config = strata_of(store, ["cell_type"], None), DegConfig()
    with gene_tables(store, directory, strata, config, compute=compute) as (summaries, means):
        assert means is not None
        place_N = [means.place(s.perturbation, s.stratum, s.time) for s in summaries]
        found = means.rows(np.array(place_N))
    return files_of(directory), found


def files_of(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


@pytest.fixture
def many_pieces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files of parts are written in many small pieces, and threads take turns often."""
    monkeypatch.setattr(parts, "ROWS_PER_GROUP", 1)
    monkeypatch.setattr(parts, "ROWS_PER_PART", 2000)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("many_pieces")
def test_two_workers_at_every_part_at_the_same_time_never_mix(finished: Path, tmp_path: Path) -> None:
    def twice(tasks: Sequence[Any], done: Callable[[], None]) -> list[Any]:
        found: list[list[Any]] = [[], [], []]

        def all_of(place: int) -> None:
            # each of its own: dask computes a task once
            found[place] = [dask.compute(task, scheduler="synchronous")[0] for task in tasks]

        workers = [threading.Thread(target=all_of, args=(place,)) for place in range(len(found))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert len(found[0]) == len(found[1]) == len(found[2]) == len(tasks) > 1
        return found[1]

    expected, once = made(finished, tmp_path / "once")
    several, again = made(finished, tmp_path / "several", twice)
    assert several == expected
    assert len(expected) > 1
    np.testing.assert_array_equal(again, once)


def test_a_worker_given_up_for_dead_that_goes_on_later_touches_no_table(finished: Path, tmp_path: Path) -> None:
    late: list[Any] = []

    def keep(tasks: Sequence[Any], done: Callable[[], None]) -> list[Any]:
        late.extend(tasks)
        return on_threads(tasks, done)

    out = Path(shutil.copytree(finished, tmp_path / "out"))
    before = files_of(out)
    made(out, out, keep)
    after = files_of(out)
    assert {n: x for n, x in before.items() if not n.startswith("deg/")} == {
        n: x for n, x in after.items() if not n.startswith("deg/")
    }
    for task in late:
        with pytest.raises(FileNotFoundError):
            dask.compute(task, scheduler="synchronous")
    assert files_of(out) == after
    assert not (out / ".screen.zarr.writing").exists()


def test_a_part_that_fails_leaves_no_file(finished: Path, tmp_path: Path) -> None:
    def fail(tasks: Sequence[Any], done: Callable[[], None]) -> list[Any]:
        on_threads(tasks[:1], done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(finished, tmp_path, fail)
    assert set(files_of(tmp_path)) == {"deg/part-0000.parquet"}


def test_parts_are_on_the_disk_before_they_have_their_names_and_mean_changes_need_not_be(
    finished: Path, tmp_path: Path
) -> None:
    with watched() as disk:
        files, _ = made(finished, tmp_path)
    assert [n for n in files if not disk.is_durable(tmp_path / n)] == []
    means = [path for _, path in disk.names() if path.suffix == ".means"]
    assert len(means) == len(files)
    assert not any(disk.is_durable(path) for path in means)
