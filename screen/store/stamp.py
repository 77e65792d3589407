"""Stamp: what the tables of a directory were made of, and their checksums; there as long as all of them are whole."""

import json
from collections.abc import Mapping
from pathlib import Path

from screen.directory import STAMP, analyses_in, analysis, tables_in
from screen.files import checksum, write_file
from screen.store.folder import damage

CHECKSUMS = "checksums"


def read_stamp(directory: Path) -> object:
    """What the tables that are there were made of, or None."""
    try:
        return json.loads((directory / STAMP).read_text())
    except (OSError, ValueError):
        return None


def is_stamped(directory: Path, made_of: Mapping[str, object]) -> bool:
    """Whether the tables are there in their sizes, and were made of this."""
    found = read_stamp(directory)
    if not isinstance(found, dict):
        return False
    return {k: v for k, v in found.items() if k != CHECKSUMS} == {**made_of, "files": _sizes(directory)}


def write_stamp(directory: Path, made_of: Mapping[str, object]) -> None:
    """Seals the tables, all of which are on the disk: their sizes and their CRC-32C. Raises OSError."""
    whole = {**made_of, "files": _sizes(directory), CHECKSUMS: {n: checksum(directory / n) for n in _sizes(directory)}}
    write_file(directory / STAMP, json.dumps(whole, indent=2).encode(), durable=True)


def damaged_tables(directory: Path) -> dict[Path, dict[str, str]]:
    """Folder -> table -> what is wrong with it: of the first tables and of every analysis. Reads every file.

    Tables of a version that kept no checksums are compared in size.
    """
    folders = [directory, *(analysis(directory, name) for name in analyses_in(directory))]
    return {folder: wrong for folder in folders if (wrong := _wrong(folder))}


def forget_tables(folder: Path) -> None:
    """Takes the seal away: tables without one are made again."""
    (folder / STAMP).unlink(missing_ok=True)


def discard_tables(damaged: Mapping[Path, Mapping[str, str]]) -> None:
    """Removes damaged tables, and no other file, whatever a stamp names.

    What was asked for stays recorded, and is made again by whoever finds that a table is missing.
    """
    for folder, wrong in damaged.items():
        for name in wrong.keys() & {*_sizes(folder), STAMP}:
            (folder / name).unlink()


def _wrong(folder: Path) -> dict[str, str]:
    if not (folder / STAMP).is_file():
        return {}
    found = read_stamp(folder)
    try:
        sizes, checksums = dict(found["files"]), dict(found.get(CHECKSUMS, {}))  # type: ignore[index, attr-defined]
        there = _sizes(folder)
        # what is no table here is not looked at
        wrong = {name: "missing" for name in {**sizes, **checksums} if name not in there}
        wrong |= damage(folder, {name: checksum for name, checksum in checksums.items() if name in there})
        differs = {name: n for name, n in sizes.items() if name not in {**checksums, **wrong} and there[name] != n}
        return wrong | {name: f"{there[name]:,} bytes instead of {n:,}" for name, n in differs.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        return {STAMP: "does not say what the tables were made of"}


def _sizes(directory: Path) -> dict[str, int]:
    """Name -> bytes of every table."""
    return {str(p.relative_to(directory)): p.stat().st_size for p in tables_in(directory)}
