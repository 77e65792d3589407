"""open_store: the store of a screen, created, continued or extended; and what of it is left to compute."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from screen.directory import PROVENANCE, STORE
from screen.engine.executor import Executor, own_version
from screen.engine.screen import Screen
from screen.errors import StoreError, some
from screen.files import holds, write_file
from screen.planning.perturbations import Library, parse_perturbation
from screen.planning.plan import order
from screen.planning.selection import Coverage, Selection, select_items
from screen.stats.sets.gene_sets import view_of_gene_sets
from screen.store.reader import FORMAT_VERSION, Block
from screen.store.store import ScreenStore, jsonable

MEANING = {
    "model": "another checkpoint",
    "vocabulary": "other genes or tokens",
    "cells": "other cells, tokens, pairing or metadata",
    "conditions": "other condition tokens",
    "strata": "other groups of cells, which summaries are kept by",
    "numerics_version": "a version of perturbscreen that computes other numbers",
}
RECORDED = ("device", "precision", "torch", "perturbscreen", "machine", "cpu_products", "engine")
"""What of an executor's record is said when it differs from an earlier one; it is allowed to."""


def open_store(
    screen: Screen,
    directory: Path,
    config_text: str,
    executor: Executor,
    pilot: Mapping[str, object] | None = None,
    add: bool = False,
) -> ScreenStore:
    """The store of this screen in `directory`: created if there is none, continued if it is the same screen.

    Perturbations that it lacks are appended as a library block of their own if `add` says so.
    Raises StoreError saying what differs if another screen is there.
    """
    path, view = directory / STORE, _view(screen)
    if ScreenStore.exists(path):
        store = ScreenStore.open(path, "r+")
        _require_same(store, screen, executor)
        store.sweep()
        new = _new(screen.library, store, screen)
        if len(new):
            _require_add(store, screen, new, add)
        view |= {"named": _named_since(screen, store)}
        if store.provenance["view"] != jsonable(view):
            store.set_view(view)
        if len(new):
            smaller = _screen_of(screen, new, cells_per_block=store.blocks[0].cells_per_block)
            store.add_block(smaller.plan, new, screen.vocabulary, _block_attributes(smaller, config_text))
    else:
        provenance = {
            "format_version": FORMAT_VERSION,
            "identity": screen.identity(executor.precision),
            "decided": executor.decided(),
            "pilot": pilot,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "perturbscreen": own_version(),
            "notes": list(screen.notes),
            "view": view | {"named": []},
        }
        store = ScreenStore.create(
            path, screen.vocabulary, screen.bank, screen.layout, provenance,
            lambda new: new.add_block(
                screen.plan, screen.library, screen.vocabulary, _block_attributes(screen, config_text)
            ),
        )  # fmt: skip
    _write_provenance(store, directory)
    return store


def _view(screen: Screen) -> dict[str, Any]:
    """How tables and exports present the results."""
    output = screen.output
    return {
        "var_list": output.var_list,
        "export_batch_size": output.export_batch_size,
        "strata": output.strata,
        "min_cells": output.min_cells,
        "deg": screen.deg.recorded(),
        "enrich": view_of_gene_sets(screen.enrich),
    }


def left(screen: Screen, store: ScreenStore) -> list[tuple[Block, Screen]]:
    """Unfinished library blocks, each with the screen of its own perturbations."""
    return [(b, screen_of_block(screen, b)) for b in store.blocks if not b.is_complete]


def screen_of_block(screen: Screen, block: Block) -> Screen:
    """The screen of one library block, cut into units as the block is. Raises StoreError if its items are others."""
    library = library_of([block], screen)
    same_sizes = (block.unit_rows, block.cells_per_block) == (screen.plan.unit_rows, screen.plan.cells_per_block)
    if library.perturbations != screen.library.perturbations or not same_sizes:
        screen = _screen_of(screen, library, block.cells_per_block, block.unit_rows)
    if screen.plan.fingerprint() != block.attributes["plan"]:
        raise StoreError(
            f"{block.path} holds other items than these cells and perturbations give; run it with the configuration it "
            "was made with, or choose another --out"
        )
    return screen


def library_of(blocks: list[Block], screen: Screen) -> Library:
    """The perturbations of library blocks, in their order."""
    ids = [i for b in blocks for i in b.strings("perturbations/id")]
    named, is_null = (
        [bool(x) for b in blocks for x in b.read(f"perturbations/{n}")] for n in ("must_screen", "is_null")
    )
    return Library(tuple(parse_perturbation(i, screen.vocabulary) for i in ids), tuple(named), tuple(is_null))


def has_work(screen: Screen, directory: Path) -> bool:
    """Whether anything of a screen is left to compute: without a store, everything."""
    if not ScreenStore.exists(directory / STORE):
        return True
    store = ScreenStore.open(directory / STORE)
    return not store.is_complete or len(_new(screen.library, store, screen)) > 0


def coverage_of(screen: Screen, store: ScreenStore) -> Coverage:
    """What became of every cell, for all perturbations of the store in its order."""
    library = library_of(store.blocks, screen)
    if library.perturbations == screen.library.perturbations:
        return screen.plan.coverage
    return _select(screen, library).coverage


def other_executors(store: ScreenStore, ours: Mapping[str, Any]) -> list[str]:
    """What differs between the records of who computed the last finished unit and of who computes now; a sentence each."""
    done = [(b, n) for b in store.blocks for n in b.committed()[-1:]]
    if not done:
        return []
    block, number = done[-1]
    theirs = block.marker(number)["executor"]
    changed = [n for n in RECORDED if n in theirs and n in ours and theirs[n] != ours[n]]
    return [f"{n}: {theirs[n]} before, {ours[n]} now" for n in changed]


def _select(screen: Screen, library: Library) -> Selection:
    plan = screen.plan
    return select_items(library, screen.index, screen.window, plan.stratum_C, plan.coverage.stratum)


def _screen_of(screen: Screen, library: Library, cells_per_block: int, unit_rows: int | None = None) -> Screen:
    """The same screen with other perturbations."""
    selection = _select(screen, library)
    rows = unit_rows or screen.plan.unit_rows
    return replace(screen, library=library, plan=order(selection, unit_rows=rows, cells_per_block=cells_per_block))


def _new(library: Library, store: ScreenStore, screen: Screen) -> Library:
    """The perturbations that the store lacks."""
    known = set(store.perturbations("id"))
    return library.take([i for i, name in enumerate(library.ids(screen.vocabulary)) if name not in known])


def _named_since(screen: Screen, store: ScreenStore) -> list[str]:
    """What the store has as random perturbations and the user asks for now."""
    is_null = np.concatenate([b.read("perturbations/is_null") for b in store.blocks])
    random = set(store.perturbations("id")[is_null])
    library = screen.library
    ids = library.ids(screen.vocabulary)
    return [name for name, is_random in zip(ids, library.is_null, strict=True) if name in random and not is_random]


def _require_add(store: ScreenStore, screen: Screen, new: Library, add: bool) -> None:
    if not add and all(new.is_null):
        raise StoreError(
            f"{store.path} lacks {len(new)} of the null perturbations that `null: {{n: ...}}` asks for: remove `n`, and it "
            "keeps its own, or add them with --add"
        )
    if not add:
        raise StoreError(
            f"{store.path} holds another library: {len(new)} of the {len(screen.library)} perturbations asked for are not "
            f"in it ({some(new.ids(screen.vocabulary), 3)}). Add them with --add, which computes nothing again, or choose "
            "another --out"
        )
    if not store.is_complete:
        raise StoreError(
            f"{store.path} is unfinished ({store.n_committed} of {store.n_units} units): run it to the end as it is, "
            "then add perturbations"
        )


def _require_same(store: ScreenStore, screen: Screen, executor: Executor) -> None:
    theirs = store.provenance["identity"]
    ours = json.loads(json.dumps(screen.identity(executor.precision)))
    found = differences(theirs, ours)
    if found:
        raise StoreError(
            f"{store.path} holds another screen:\n  " + "\n  ".join(found) + "\nUse the configuration it was made with "
            f"({PROVENANCE}), or choose another --out"
        )


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], place: str = "") -> list[str]:
    """'name: value in the store, value now' of everything that differs."""
    found: list[str] = []
    for name in sorted({*theirs, *ours}):
        a, b = theirs.get(name), ours.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{place}{name}.")
        elif a != b:
            meaning = f" ({MEANING[name]})" if name in MEANING else ""
            found.append(f"{place}{name}: {_shown(a)} in the store, {_shown(b)} now{meaning}")
    return found


def _shown(value: object) -> str:
    """Fingerprints by their first digits."""
    text = str(value)
    is_fingerprint = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return f"fingerprint {text[:12]}" if is_fingerprint else text


def _block_attributes(screen: Screen, config_text: str) -> dict[str, Any]:
    return {
        "library": screen.library.fingerprint(screen.vocabulary),
        "plan": screen.plan.fingerprint(),
        "config": config_text,
        "perturbscreen": own_version(),
    }


def _write_provenance(store: ScreenStore, directory: Path) -> None:
    """A copy for people, rewritten where it is missing or differs."""
    path, content = directory / PROVENANCE, json.dumps(store.history, indent=2).encode()
    if not holds(path, content):
        write_file(path, content, durable=True)
