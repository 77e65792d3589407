"""Analysis: tables of a finished screen under a name of their own: other strata, fewer cells, other tests. No model is run.

They lie in `analyses/NAME/` and are the tables of any screen; `tables.json` there says what was asked. The first tables are left
alone.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from screen.directory import analyses_in, analysis
from screen.errors import ConfigError, StoreError, nearest, some
from screen.planning.selection import Coverage
from screen.stats.again.coverage import coverage_of
from screen.stats.groups import Strata
from screen.stats.parts import Compute, on_threads
from screen.stats.tables import (
    changed_view,
    libraries,
    read_coverage,
    strata_of,
    write_coverage,
    write_tables,
)
from screen.stats.tests.table import named
from screen.store.checks import check_view
from screen.store.reader import StoreReader
from screen.store.stamp import read_stamp
from screen.store.store import ScreenStore

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""What an analysis may be called: its name is that of a folder."""
OF_CELLS = ("strata", "where")
"""What an analysis may ask beside the settings that all tables have, and may reset."""


def place(directory: Path, name: str) -> Path:
    """The folder of an analysis."""
    return analysis(directory, name)


def names(directory: Path) -> list[str]:
    """The analyses whose tables are whole."""
    return analyses_in(directory)


def asked(
    store: StoreReader,
    directory: Path,
    name: str,
    cells: Mapping[str, Any],
    changes: Mapping[str, object],
    gene_sets: Sequence[Path] = (),
    reset: Sequence[str] = (),
) -> dict[str, Any]:
    """How the tables of an analysis present the results, checked; nothing is written.

    cells  `strata` and `where`, as far as they are given
    What is not given or reset stays as recorded for this name; of a new name, as the first tables have it.
    Raises ConfigError or StoreError.
    """
    check_name(name)
    first, is_there = store.provenance["view"], name in names(directory)
    if not (is_there or cells or changes or gene_sets or reset):
        near = nearest(name, names(directory))
        raise ConfigError(
            f'there is no analysis "{name}" in {directory}: it has {some(names(directory), 9) or "none"}{near}; for a new '
            "one say what it asks: --strata, --where, --test, ..."
        )
    plain = {
        "name": name, "where": None, "strata": first["strata"], "min_cells": first["min_cells"], "deg": first["deg"],
        "enrich": first.get("enrich"),
    }  # fmt: skip
    before = plain | (recorded(directory, name) if is_there else {})
    both = [setting for setting in OF_CELLS if setting in cells and setting in reset]
    if both:
        raise ConfigError(f"{some(both)}: both given and reset; say one of the two")
    before |= {setting: plain[setting] for setting in OF_CELLS if setting in reset} | dict(cells)
    before |= {"named": first.get("named", []), "min_cells": first["min_cells"]}
    view = changed_view(store, before, changes, gene_sets, [r for r in reset if r not in OF_CELLS])
    test = view["deg"].get("test")
    if test is not None and store.layout.keeps_summaries and named(test).needs != "moments":
        raise ConfigError(f"the test {test} needs the change of every cell, but this screen keeps summaries")
    return view


def write_analysis(
    store: ScreenStore,
    directory: Path,
    view: Mapping[str, Any],
    compute: Compute = on_threads,
    show: Callable[[int], Callable[[], None]] = lambda n_parts: lambda: None,
) -> tuple[pl.DataFrame, bool]:
    """(hits.parquet, whether any table was made) of what `asked` gave; `compute` and `show` are those of `gene_tables`."""
    folder = place(directory, view["name"])
    folder.mkdir(parents=True, exist_ok=True)

    def coverage(strata: Strata) -> Coverage:
        first = strata_of(store, store.provenance["view"]["strata"], None)
        found = coverage_of(store, strata, read_coverage(directory, store), first)
        write_coverage(found, store, folder)
        return found

    return write_tables(store, folder, view, coverage, compute, show)


def check_name(name: str) -> None:
    """Raises ConfigError for what cannot be the name of an analysis."""
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r:.80} cannot be the name of an analysis: letters, digits, '_', '-' and '.' can, 64 at most, and the first is a "
            "letter or a digit"
        )


def recorded(directory: Path, name: str) -> dict[str, Any]:
    """What the tables of an analysis were asked for. Raises StoreError where they are not whole, or do not say it."""
    found = read_stamp(place(directory, name)) if NAME.fullmatch(name) else None
    if found is None:
        there = names(directory)
        raise StoreError(
            f'{directory} has no analysis "{name}" whose tables are whole; it has {some(there, 9) or "none"}'
            f"{nearest(name, there)}; `perturbscreen deg {directory} --name NAME --strata COLUMN --where ...` makes one"
        )
    try:
        view: Any = found["asked"] if isinstance(found, dict) else None
        check_view(view, {"name": str, "strata": list, "deg": dict, "min_cells": int})
        if view["name"] != name or not isinstance(view["where"], str | None):
            raise ValueError("it is of another analysis")
    except (KeyError, TypeError, ValueError) as error:
        folder = place(directory, name)
        raise StoreError(
            f"{folder} does not say what its tables were asked for ({error}); remove {folder}, then ask again"
        ) from error
    return dict(view)


def check_results(store: StoreReader, directory: Path, name: str) -> None:
    """Raises StoreError where perturbations were added since the tables of an analysis were made."""
    found = read_stamp(place(directory, name))
    if not isinstance(found, dict) or found.get("library") != libraries(store):
        raise StoreError(
            f'the tables of the analysis "{name}" are of other results than {directory} has now; `perturbscreen deg {directory} '
            f"--name {name}` makes them again"
        )
