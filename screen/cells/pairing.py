"""Pairs: which target cell, at each time point, every source cell is said to become."""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from screen.cells.bank import MISSING, SOURCE
from screen.cells.metadata import Cells, Ints, Strings
from screen.errors import CellError, nearest, some

Pairs = dict[int, Ints]
"""State (0 the source, else a time point) -> rows of the file; entry i of every state is pairing i."""

DRAWN = ("stratified", "random")
NAMES_SEARCHED = 10_000  # difflib takes about 10 microseconds a name


def unique_names(name_P: Strings) -> tuple[str, ...]:
    """The names as text; where one recurs 'name', 'name#2', 'name#3', ..., skipping what is a name already."""
    taken, n_seen, unique = set(map(str, name_P)), Counter[str](), []
    for name in map(str, name_P):
        n_seen[name] += 1
        label = name
        while n_seen[name] > 1 and (label := f"{name}#{n_seen[name]}") in taken:
            n_seen[name] += 1
        taken.add(label)
        unique.append(label)
    return tuple(unique)


@dataclass(frozen=True)
class Pairing:
    """How source cells meet target cells: as a file lists them, or by a draw within strata.

    candidates   rows that may be paired, per state, ascending and distinct
    listed       the pairings of a mapping file, or None
    stratum_C    each cell's stratum, where pairs are drawn
    notes        which cells were left out for what they lack
    """

    cells: Cells
    candidates: Pairs
    listed: Pairs | None
    stratum_C: Strings
    seed: int
    notes: tuple[str, ...] = ()

    def pairs(self, usable_C: NDArray[np.bool_], max_cells: int | None) -> tuple[Pairs, list[str]]:
        """The pairings of usable cells, at most `max_cells` of them, and notes. Raises CellError if none is left."""
        if max_cells is not None and max_cells < 1:
            raise CellError(f"max_cells is {max_cells}; it must be at least 1")
        notes = list(self.notes)
        for state, row_R in self.candidates.items():
            if n_empty := int((~usable_C[row_R]).sum()):
                seen = f"{n_empty:,} of {len(row_R):,} cells of {self.cells.label(state)}"
                notes.append(f"No gene that has a token is expressed in {seen}; they were left out.")
        unusable = [self.cells.label(state) for state, row_R in self.candidates.items() if not usable_C[row_R].any()]
        if unusable:
            raise CellError(f"no cell of {some(unusable)} in {self.cells.file} expresses a gene that has a token")
        pairs = self._drawn(usable_C, notes) if self.listed is None else self._listed(self.listed, usable_C, notes)
        n_pairs = len(pairs[SOURCE])
        if max_cells is not None and max_cells < n_pairs:
            pairs = subset_pairs(pairs, max_cells, self.seed)
            notes.append(f"{max_cells:,} of {n_pairs:,} pairings were taken at random (`max_cells`, seed {self.seed}).")
        return pairs, notes

    def _drawn(self, usable_C: NDArray[np.bool_], notes: list[str]) -> Pairs:
        usable = {state: row_R[usable_C[row_R]] for state, row_R in self.candidates.items()}
        pairs = draw_pairs(usable, self.stratum_C, self.seed)
        if set(pairs) == {SOURCE}:
            return pairs
        n_strata = len(np.unique(self.stratum_C[pairs[SOURCE]]))
        within = f"{n_strata} strata" if n_strata > 1 else "one stratum"
        notes.append(f"Pairs were drawn at random within {within} (seed {self.seed}); no cell was seen in both states.")
        for state, row_P in pairs.items():
            n_most = int(np.unique(row_P, return_counts=True)[1].max())
            notes += [f"A cell of {self.cells.label(state)} stands in up to {n_most} pairings."] if n_most > 1 else []
        return pairs

    def _listed(self, listed: Pairs, usable_C: NDArray[np.bool_], notes: list[str]) -> Pairs:
        keep_P = np.logical_and.reduce([usable_C[row_P] for row_P in listed.values()])
        if not keep_P.any():
            raise CellError(f"each pairing of the mapping names a cell that cannot be used: {' '.join(notes)}")
        if not keep_P.all():
            n_lost = int((~keep_P).sum())
            notes.append(
                f"{n_lost:,} of the {len(keep_P):,} pairings of the mapping name such a cell and were left out."
            )
        return take_pairs(listed, keep_P)


def make_pairing(
    cells: Cells, pairing: str | Path, strata: Iterable[str], filters: Mapping[str, Sequence[str]], seed: int
) -> Pairing:
    """The Pairing asked for: 'stratified', 'random' (`strata` are not used) or a mapping file.

    Filters hold for source and target cells; where a mapping names the cells, for source cells.
    Raises CellError if they leave a state without cells.
    """
    passes_C = cells.pass_filters(filters)
    listed = None
    strata = list(strata) if pairing == "stratified" else []
    stratum_C, notes = cells.stratum_names(strata), _without_state(cells)
    if pairing in DRAWN:
        candidates = {state: row_R[passes_C[row_R]] for state in cells.value_of_state for row_R in [cells.rows(state)]}
        candidates, said = _with_strata(candidates, cells, strata)
        notes += said
    else:
        listed, said = read_mapping(Path(pairing), cells)
        notes += said
        listed = take_pairs(listed, passes_C[listed[SOURCE]])
        candidates = {state: np.unique(row_P) for state, row_P in listed.items()}
    emptied = [cells.label(state) for state, row_R in candidates.items() if len(row_R) == 0]
    if emptied:
        raise CellError(f"the filters {dict(filters)} leave no cell of {some(emptied)} in {cells.file}")
    return Pairing(cells, candidates, listed, stratum_C, seed, tuple(notes))


def _without_state(cells: Cells) -> list[str]:
    """How many cells are in no state for want of a value."""
    n_missing = int((cells.value_C == MISSING).sum())
    if not n_missing:
        return []
    return [
        f'{n_missing:,} of {len(cells.obs):,} cells have no "{cells.state_column}" (state_column); they were left out.'
    ]


def _with_strata(candidates: Pairs, cells: Cells, strata: Sequence[str]) -> tuple[Pairs, list[str]]:
    """The candidates that have a value in each column of `strata`, and notes. Raises CellError where a state has none."""
    has_C, found, notes = cells.has_values(strata), dict[int, Ints](), list[str]()
    for state, row_R in candidates.items():
        found[state] = row_R[has_C[row_R]]
        columns = some(f'"{c}"' for c in strata)
        if len(row_R) and not len(found[state]):
            raise CellError(
                f"strata: no cell of {cells.label(state)} in {cells.file} has a value of {columns}; pairs are drawn among "
                "cells of the same values: name other columns"
            )
        if n_missing := len(row_R) - len(found[state]):
            notes.append(
                f"{n_missing:,} of {len(row_R):,} cells of {cells.label(state)} lack a value of {columns} (strata); they "
                "were left out."
            )
    return found, notes


def take_pairs(pairs: Pairs, keep: NDArray[np.bool_] | Ints) -> Pairs:
    """The chosen pairings, in the order of `keep`."""
    return {state: row_P[keep] for state, row_P in pairs.items()}


def shuffled(row_R: Ints, *key: object) -> Ints:
    """The rows in a random order that depends on the key alone, whatever the version of numpy."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    bits_R = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(len(row_R))
    return row_R[np.argsort(bits_R, kind="stable")]


def draw_pairs(candidates: Pairs, stratum_C: Strings, seed: int) -> Pairs:
    """Every source candidate with one target candidate of its own stratum per time point, in file order.

    Candidates are distinct rows in ascending order; `stratum_C` covers every cell of the file.
    Targets are drawn without replacement while they last, then again in a new shuffle: uses differ by one at most.
    The draw for a stratum depends on (seed, time point, its name, its own candidates) and nothing else.
    Raises CellError naming the strata that have source candidates but no target candidates.
    """
    source_P = candidates[SOURCE]
    sources = _by_stratum(source_P, stratum_C)
    pairs, lonely = {SOURCE: source_P}, []
    for time, row_R in candidates.items():
        if time == SOURCE:
            continue
        targets = _by_stratum(row_R, stratum_C)
        pairs[time] = np.zeros(len(source_P), dtype=np.int64)
        for name, source_S in sources.items():
            if name not in targets:
                lonely.append(f"{name or 'the file'} has {len(source_S)} source cells and 0 cells of time point {time}")
                continue
            target_R, n_pairs = targets[name], len(source_S)
            n_rounds = -(-n_pairs // len(target_R))
            drawn_R = np.concatenate([shuffled(target_R, seed, time, name, k) for k in range(n_rounds)])
            pairs[time][np.searchsorted(source_P, source_S)] = drawn_R[:n_pairs]
    if lonely:
        advice = "leave these cells out with `filters`, or pair within coarser `strata`"
        raise CellError(f"no target cell to pair with: {'; '.join(lonely[:5])}{_more(lonely, 5)}; {advice}")
    return pairs


def subset_pairs(pairs: Pairs, n_pairs: int, seed: int) -> Pairs:
    """A random subset of the pairings without replacement, in their own order."""
    n_all = len(pairs[SOURCE])
    return take_pairs(pairs, np.sort(shuffled(np.arange(n_all), seed, "max_cells")[:n_pairs]))


def read_mapping(path: Path, cells: Cells) -> tuple[Pairs, list[str]]:
    """Pairings of a TSV or CSV file: `source` with `target_1`, `target_2`, ..., or `target` for a single time point.

    Rows in which one is empty are left out, with a note.
    Raises CellError for a file that cannot be read, a missing column, or an unknown, ambiguous or misplaced cell.
    """
    rows = _table(path)
    times = [state for state in cells.value_of_state if state != SOURCE]
    column_of_state = {SOURCE: "source"} | {t: f"target_{t}" for t in times}
    if len(times) == 1 and "target" in rows[0]:
        column_of_state[times[0]] = "target"
    missing = [column for column in column_of_state.values() if column not in rows[0]]
    if missing:
        has = some((c for c in rows[0] if c), 20)
        raise CellError(f"the mapping {path} lacks the column(s) {some(missing)}; it has {has}")
    whole = [row for row in rows if all(row[column] for column in column_of_state.values())]
    if not whole:
        raise CellError(f"the mapping {path} has no row with a cell in each of {some(column_of_state.values())}")
    lost = len(rows) - len(whole)
    notes = [f"{lost:,} of {len(rows):,} rows of the mapping lack a cell and were left out."] if lost else []
    named = {state: [row[column] or "" for row in whole] for state, column in column_of_state.items()}
    return {s: _rows_named(named[s], column_of_state[s], s, cells, path) for s in named}, notes


def _table(path: Path) -> list[dict[str, str | None]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        hint = nearest(path.name, DRAWN)
        allowed = "`pairing` is stratified, random or a mapping file"
        raise CellError(f"cannot read the mapping {path}: {error.strerror}; {allowed}{hint}") from error
    except UnicodeDecodeError as error:
        raise CellError(f"the mapping {path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    delimiter = "\t" if lines and "\t" in lines[0] else ","
    rows: list[dict[str, str | None]] = list(csv.DictReader(lines, delimiter=delimiter))
    if not rows:
        raise CellError(f"the mapping {path} holds no pair; it needs a header and one row for each source cell")
    return rows


def _rows_named(names: Sequence[str], column: str, state: int, cells: Cells, path: Path) -> Ints:
    where = f'the mapping {path}, column "{column}"'
    unknown = [n for n in names if n not in cells.row_of_name]
    if unknown:
        known = map(str, islice(cells.name_C[cells.rows(state)], NAMES_SEARCHED))
        raise CellError(f"{where}: {cells.file} has no cell {_quoted(unknown)}{nearest(unknown[0], known)}")
    ambiguous = [n for n in names if n in cells.repeated_names]
    if ambiguous:
        raise CellError(f"{where}: {cells.file} has several cells {_quoted(ambiguous)}; make its obs names unique")
    row_P = np.array([cells.row_of_name[n] for n in names], dtype=np.int64)
    strayed_P = np.flatnonzero(cells.value_C[row_P] != cells.value_there[state])
    if len(strayed_P):
        listed = [f'"{names[p]}" is "{cells.value_C[row_P[p]]}"' for p in strayed_P.tolist()]
        raise CellError(f"{where}: not every cell is of {cells.label(state)}: {some(listed)}")
    return row_P


def _by_stratum(row_R: Ints, stratum_C: Strings) -> dict[str, Ints]:
    names, group_R = np.unique(stratum_C[row_R], return_inverse=True)
    order = np.argsort(group_R, kind="stable")
    parts = np.split(row_R[order], np.cumsum(np.bincount(group_R, minlength=len(names)))[:-1])
    return dict(zip(map(str, names), parts, strict=False))  # no candidates: no names, one empty part


def _quoted(names: Iterable[str]) -> str:
    return some(f'"{n}"' for n in dict.fromkeys(names))


def _more(listed: Sequence[object], n: int) -> str:
    return f" (and {len(listed) - n} more)" if len(listed) > n else ""
