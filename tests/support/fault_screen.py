"""The tiny screen cut into many small units, run by the command line, and what must be true of it after any fault."""

import json
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from screen.stats import deg
from screen.store.reader import Block, StoreReader
from tests.support.faults import Ended, Launcher, Moment, Running, launcher
from tests.support.stores import assert_same_arrays
from tests.support.tiny import tiny, write

KEPT = {"keep_embeddings": True, "strata": ["cell_type"]}
SITES = {"perturbation_sequence": ["src", "tgt"], "pert_tps": [2]}


class Screen:
    """A screen that runs into `directory`; `expected` is what an undisturbed run of it left."""

    def __init__(self, commands: Launcher, config: Path, directory: Path, expected: Path) -> None:
        self.commands, self.config, self.directory, self.expected = commands, config, directory, expected

    def start(self, *pauses: Moment) -> Running:
        return self.commands.start("run", self.config, "--out", self.directory, pauses=pauses)

    def paused(self, *pauses: Moment) -> Running:
        return self.start(*pauses).until_paused()

    def verify(self, *options: str) -> Ended:
        return self.commands.run("verify", self.directory, *options)

    @property
    def n_done(self) -> int:
        """Units with a marker; asks the file system alone."""
        return sum(p.suffix != ".partial" for p in self.directory.glob("screen.zarr/library/0/commits/c.*"))

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Nothing that is committed before is written again, or lost."""
        before = committed(self.directory)
        yield
        after = committed(self.directory)
        assert {name: after.get(name) for name in before} == before

    def kill(self, rng: random.Random, most_units: int) -> bool:
        """Starts a run and kills it at a random moment: early, or up to `most_units` units later. False if it was over."""
        with self.kept():
            n_before, running = self.n_done, self.start()
            n_more = rng.randrange(most_units + 1)
            while self.n_done < n_before + n_more and not running.has_ended():
                time.sleep(0.0005)
            time.sleep(rng.uniform(0, 0.02 if n_more else 0.5))
            ended = running.killed()
            assert ended.code in (0, -signal.SIGKILL), ended.said
            return ended.code != 0

    def finish(self) -> None:
        """Runs to the end: what was committed is not touched, and everything is as expected."""
        with self.kept():
            ended = self.start().end()
            assert ended.code == 0, ended.said
        require_same(self.expected, self.directory)


@contextmanager
def undisturbed(folder: Path, modes: list[str]) -> Iterator[tuple[Launcher, Path]]:
    """(what starts commands, a folder with a configuration in `s.yaml` and what an uninterrupted run of it left in `out`)."""
    library = {"genes": "all", "modes": modes, **SITES}
    write({**tiny(library=library, output=KEPT), "compute": {"cpu_products": "torch"}}, folder / "s.yaml")
    with launcher() as commands:
        ended = commands.run("run", folder / "s.yaml", "--out", folder / "out")
        assert ended.code == 0, ended.said
        yield commands, folder


def blocks_of(directory: Path) -> list[Block]:
    """Library blocks of the store in an output directory, none where no store is."""
    path = directory / "screen.zarr"
    return StoreReader.open(path).blocks if StoreReader.exists(path) else []


def committed(directory: Path) -> dict[str, tuple[int, int]]:
    """Every file of finished units and controls, and every marker -> (inode, time of the last change)."""
    found = {}
    for marker in directory.glob("screen.zarr/library/*/**/commits/c.*"):
        if marker.suffix != ".partial":
            block = directory / Path(*marker.relative_to(directory).parts[:3])
            # a text of Zarr's: how many there are, how long it is, the text
            names = json.loads(marker.read_bytes()[8:])["files"]
            for path in (marker, *(block / name for name in names)):
                at = path.stat()
                found[str(path.relative_to(directory))] = (at.st_ino, at.st_mtime_ns)
    return found


def leftovers(directory: Path) -> list[str]:
    """Every file and folder of an output directory that has the name of something unfinished."""
    paths = [p.relative_to(directory) for p in directory.rglob("*")]
    return sorted(str(p) for p in paths if p.name.startswith(".") or p.suffix == ".partial" or "ballast" in p.name)


def records(directory: Path) -> list[dict[str, object]]:
    """Who computed each unit, without when."""
    found = [b.marker(n)["executor"] for b in blocks_of(directory) for n in b.committed()]
    return [{k: v for k, v in record.items() if k != "finished"} for record in found]


def require_same(expected: Path, directory: Path) -> None:
    """Arrays, records and tables of two output directories are the same, bit for bit; the metadata are gathered."""
    metadata = json.loads((directory / "screen.zarr/zarr.json").read_text())
    assert metadata["consolidated_metadata"] is not None
    assert_same_arrays(expected, directory)
    assert records(expected) == records(directory)
    assert pl.read_parquet(expected / "hits.parquet").equals(pl.read_parquet(directory / "hits.parquet"))
    assert deg.scan(expected).collect().equals(deg.scan(directory).collect())
    identities = [json.loads((d / "provenance.json").read_text())["identity"] for d in (expected, directory)]
    assert identities[0] == identities[1]
