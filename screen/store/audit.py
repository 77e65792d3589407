"""status and verify: how far a screen is, and whether its files are what was written."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from screen.errors import ScreenError, StoreError
from screen.store.folder import DAMAGES, damage
from screen.store.marker import unsealed
from screen.store.reader import Block, StoreReader
from screen.store.store import ScreenStore

UNIT, CONTROLS, FIXED = "unit", "controls of cells", "what cannot be computed again (genes, cells, items)"
RECOMPUTED = "recomputed"
NOT_COUNTED = ("finished", RECOMPUTED)
"""What of an executor's record is different for every unit."""


@dataclass(frozen=True)
class BlockStatus:
    """One library block: units and items done and in all, and how many units each executor computed.

    recomputed  reason -> items that could not be computed as the others
    """

    number: int
    n_perturbations: int
    n_units: int
    n_done: int
    n_items: int
    n_items_done: int
    executors: Mapping[str, int]
    recomputed: Mapping[str, int]


def status(store: StoreReader) -> list[BlockStatus]:
    """How far every library block is. Reads the commit markers only."""
    return [_status(b) for b in store.blocks]


def kept(path: Path) -> str | None:
    """'3 of 12 units (5,120 of 17,000 edits)' of a store that may be unfinished, or damaged; None where there is none yet."""
    try:
        blocks = status(ScreenStore.open(path))
    except (OSError, ScreenError, ValueError):
        return None
    n_done, n_units = sum(b.n_done for b in blocks), sum(b.n_units for b in blocks)
    n_edits, n_all = sum(b.n_items_done for b in blocks), sum(b.n_items for b in blocks)
    return f"{n_done:,} of {n_units:,} units ({n_edits:,} of {n_all:,} edits)"


def _status(block: Block) -> BlockStatus:
    done = block.committed()
    markers = [block.marker(n)["executor"] for n in done]
    records, recomputed = Counter(map(_executor, markers)), Counter[str]()
    for marker in markers:
        recomputed.update(marker.get(RECOMPUTED, {}))
    rows = [block.rows(n) for n in done]
    n_items_done = sum(r.stop - r.start for r in rows)
    return BlockStatus(
        block.number, block.n_perturbations, block.n_units, len(done), block.n_items, n_items_done, dict(records),
        dict(recomputed),
    )  # fmt: skip


def _executor(record: Mapping[str, Any]) -> str:
    """'cpu, float32, torch 2.13.0, ...' of an executor's record."""
    known = {k: v for k, v in record.items() if k not in NOT_COUNTED and v is not None}
    lead = [str(known.pop(k)) for k in ("device", "precision") if k in known]
    return ", ".join([*lead, *(f"{k} {v}" for k, v in known.items())])


@dataclass(frozen=True)
class Fault:
    """What is wrong: files of a finished unit, of a block of cells' controls, or of what was written once."""

    block: int
    what: str
    number: int
    files: Mapping[str, str]

    def __str__(self) -> str:
        place = self.what if self.what == FIXED else f"library block {self.block}, {self.what} {self.number}"
        return f"{place}: " + "; ".join(f"{name} {wrong}" for name, wrong in self.files.items())


def verify(store: StoreReader, progress: Callable[[int], None] = lambda n: None) -> list[Fault]:
    """Everything that differs from its checksum: what was written once (genes, cells, items), finished units, controls.

    Reads every file. `progress` is called with the number of files as they are read.
    """
    faults = [Fault(0, FIXED, 0, wrong)] if (wrong := damage(store.path, store.fixed_files)) else []
    for block in store.blocks:
        wrong = damage(block.path, block.files)
        if wrong:
            # nothing below can be understood without it
            faults.append(Fault(block.number, FIXED, 0, wrong))
            continue
        try:
            controls = sorted(_needed_controls(block) | set(block.committed("control/commits")))
        except StoreError:
            # without the cells nothing is known of their blocks
            if not faults:
                raise
            continue
        for what, commits, numbers in ((CONTROLS, "control/commits", controls), (UNIT, "commits", block.committed())):
            found = {n: _wrong(block, n, commits, progress) for n in numbers}
            faults += [Fault(block.number, what, n, wrong) for n, wrong in found.items() if wrong]
    return faults


def _needed_controls(block: Block) -> set[int]:
    """Blocks of cells that have an item in a finished unit."""
    cell_I, found = block.read("items/cell"), set[int]()
    for number in block.committed():
        found |= set(np.unique(cell_I[block.rows(number)] // block.cells_per_block).tolist())
    return found


def _wrong(block: Block, number: int, commits: str, progress: Callable[[int], None]) -> dict[str, str]:
    name = f"{commits}/c.{number}"
    if not (block.path / name).is_file():
        return {name: "missing"}
    try:
        files = unsealed(str(block.array(commits)[number]))["files"]
    except DAMAGES as error:
        return {name: f"is damaged ({error})"}
    wrong = damage(block.path, files)
    progress(len(files))
    return wrong


def discard(store: ScreenStore, faults: list[Fault]) -> int:
    """Takes the markers of what is damaged away, so that the next run computes it again; returns how many units."""
    before = store.n_committed
    for fault in faults:
        block = store.blocks[fault.block]
        if fault.what == UNIT:
            store.discard_unit(block, fault.number)
        elif fault.what == CONTROLS:
            store.discard_controls(block, fault.number)
    return before - store.n_committed
