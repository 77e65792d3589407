"""status and verify: how far a screen is, and whether its files are what was written."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from screen.reading import Block, StoreReader, damage
from screen.store import ScreenStore

NOT_COUNTED = ("finished",)
"""What of an executor's record is different for every unit."""


@dataclass(frozen=True)
class BlockStatus:
    """One library block: units and items done and in all, and how many units each executor computed."""

    number: int
    n_perturbations: int
    n_units: int
    n_done: int
    n_items: int
    n_items_done: int
    executors: Mapping[str, int]


def status(store: StoreReader) -> list[BlockStatus]:
    """How far every library block is. Reads the commit markers only."""
    return [_status(b) for b in store.blocks]


def _status(block: Block) -> BlockStatus:
    done = block.committed()
    records = Counter(_executor(block.marker(n)["executor"]) for n in done)
    rows = [block.rows(n) for n in done]
    n_items_done = sum(r.stop - r.start for r in rows)
    return BlockStatus(
        block.number, block.n_perturbations, block.n_units, len(done), block.n_items, n_items_done, dict(records)
    )


def _executor(record: Mapping[str, Any]) -> str:
    """'cpu, float32, torch 2.13.0, ...' of an executor's record."""
    known = {k: v for k, v in record.items() if k not in NOT_COUNTED and v is not None}
    lead = [str(known.pop(k)) for k in ("device", "precision") if k in known]
    return ", ".join([*lead, *(f"{k} {v}" for k, v in known.items())])


@dataclass(frozen=True)
class Fault:
    """What is wrong: files of a finished unit (or of a block of cells' controls), or an unreadable marker."""

    block: int
    what: str
    number: int
    files: Mapping[str, str]

    def __str__(self) -> str:
        place = f"library block {self.block}, {self.what} {self.number}"
        return f"{place}: " + "; ".join(f"{name} {wrong}" for name, wrong in self.files.items())


def verify(store: StoreReader, progress: Callable[[int], None] = lambda n: None) -> list[Fault]:
    """Every finished unit and block of controls whose files differ from their checksums; reads all of them.

    `progress` is called with the number of files as they are read.
    """
    faults = []
    for block in store.blocks:
        for commits, what in (("control/commits", "controls of cells"), ("commits", "unit")):
            for number in block.committed(commits):
                wrong = _wrong(block, number, commits, progress)
                if wrong:
                    faults.append(Fault(block.number, what, number, wrong))
    return faults


def _wrong(block: Block, number: int, commits: str, progress: Callable[[int], None]) -> dict[str, str]:
    try:
        files = json.loads(str(block.array(commits)[number]))["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return {f"{commits}/c.{number}": f"is damaged ({error})"}
    wrong = damage(block.path, files)
    progress(len(files))
    return wrong


def discard(store: ScreenStore, faults: list[Fault]) -> int:
    """Takes the markers of what is damaged away, so that the next run computes it again; returns how many units."""
    before = store.n_committed
    for fault in faults:
        block = store.blocks[fault.block]
        if fault.what == "unit":
            store.discard_unit(block, fault.number)
        else:
            store.discard_controls(block, fault.number)
    return before - store.n_committed
