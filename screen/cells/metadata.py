"""Metadata: every cell of a file, with its obs table, and which state each is in."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.cells.bank import MISSING, SOURCE
from screen.cells.values import meant_by, suggested
from screen.errors import CellError, nearest, some

Ints = NDArray[np.int64]
Strings = NDArray[np.str_]
ALL_CELLS = "all cells"
"""What stands for the state of cells that have no state column."""


@dataclass(frozen=True)
class Cells:
    """Every cell of a file, with its metadata (a data frame), and which state each is in.

    state_column     None: every cell is in the source state
    value_of_state   {0: the source's value of `state_column`, time point: its value}
    Raises CellError for a column or value that is not there, naming those that are.
    """

    file: str
    obs: Any
    state_column: str | None
    value_of_state: Mapping[int, str]

    def __post_init__(self) -> None:
        if not set(self.value_of_state) <= set(range(10)):
            times = some(t for t in self.value_of_state if t != SOURCE)
            raise CellError(f"targets: time points are numbered 1 to 9; seen: {times}")
        if self.state_column is None:
            return
        values = list(self.value_there.values())
        if len(set(values)) < len(values):
            raise CellError(f'source and targets must differ in "{self.state_column}"; they are {some(values)}')

    @cached_property
    def name_C(self) -> Strings:
        """Obs names."""
        return strings(self.obs.index)

    @cached_property
    def value_there(self) -> dict[int, str]:
        """State -> its value as the file writes it."""
        if self.state_column is None:
            return dict(self.value_of_state)
        used_as = {s: "source" if s == SOURCE else f"targets, time point {s}" for s in self.value_of_state}
        given = self.value_of_state.items()
        return {s: self._value(value, self.value_C, self.state_column, used_as[s]) for s, value in given}

    @cached_property
    def value_C(self) -> Strings:
        """What the state column holds."""
        if self.state_column is None:
            return np.full(len(self.obs), ALL_CELLS)
        return self.column(self.state_column, "state_column")

    def column(self, column: str, used_as: str) -> Strings:
        """A column of the metadata as text, MISSING where there is no value."""
        if column not in self.obs:
            has = f"columns: {some(self.obs, 20) or 'none'}{nearest(column, map(str, self.obs))}"
            raise CellError(f'{self.file} has no obs column "{column}" ({used_as}); {has}')
        return texts(self.obs[column])

    def has_values(self, columns: Iterable[str]) -> NDArray[np.bool_]:
        """Cells that have a value in each of these columns."""
        has_C = np.ones(len(self.obs), dtype=np.bool_)
        for column in columns:
            has_C &= self.column(column, "strata") != MISSING
        return has_C

    def rows(self, state: int) -> Ints:
        """Rows of the file in one state, ascending."""
        return np.flatnonzero(self.value_C == self.value_there[state])

    def label(self, state: int) -> str:
        """'the source (condition "control")' or 'time point 1 (condition "stimulated")'."""
        name = "the source" if state == SOURCE else f"time point {state}"
        if self.state_column is None:
            return name
        return f'{name} ({self.state_column} "{self.value_there[state]}")'

    def pass_filters(self, filters: Mapping[str, Sequence[str]]) -> NDArray[np.bool_]:
        """Cells whose metadata hold an allowed value in every filtered column."""
        passes_C = np.ones(len(self.obs), dtype=bool)
        for column, allowed in filters.items():
            if column == self.state_column:
                raise CellError(f'filters: "{column}" is the state column; choose its values by `source` and `targets`')
            value_C = self.column(column, "filters")
            passes_C &= np.isin(value_C, [self._value(str(v), value_C, column, "filters") for v in allowed])
        return passes_C

    def stratum_names(self, strata: Iterable[str]) -> Strings:
        """Per cell its combination of values, as 'cell_type "B", donor "1"', whatever the order of `strata`."""
        name_C = np.full(len(self.obs), "", dtype=np.str_)
        for column in sorted(set(strata)):
            if column == self.state_column:
                raise CellError(
                    f'strata: "{column}" is the state column: no stratum would hold source and target cells'
                )
            values, inverse_C = np.unique(self.column(column, "strata"), return_inverse=True)
            quoted = [f"{column} {json.dumps(str(v), ensure_ascii=False)}" for v in values]
            part_C = np.array(quoted, dtype=np.str_)[inverse_C]
            name_C = np.char.add(np.char.add(name_C, ", "), part_C) if name_C[0] else part_C
        return name_C

    @cached_property
    def row_of_name(self) -> dict[str, int]:
        """Obs name -> row; the last row where a name recurs."""
        return {str(name): row for row, name in enumerate(self.name_C)}

    @cached_property
    def repeated_names(self) -> frozenset[str]:
        """Obs names that more than one cell has."""
        names, counts = np.unique(self.name_C, return_counts=True)
        return frozenset(map(str, names[counts > 1]))

    def _value(self, value: str, value_C: Strings, column: str, used_as: str) -> str:
        """A value as the file writes it. Raises CellError where it has none, or several that could be meant."""
        there, n_cells = np.unique(value_C[value_C != MISSING], return_counts=True)
        n_of = dict(zip(map(str, there), map(int, n_cells), strict=True))
        meant = meant_by(value, n_of)
        if len(meant) == 1:
            return meant[0]
        if meant:
            either = " or ".join(f'"{m}"' for m in meant)
            raise CellError(
                f'obs column "{column}" of {self.file}: "{value}" ({used_as}) may be {either}; write it as the file does, in quotes'
            )
        shown = [v if v == v.strip() else f'"{v}"' for v in n_of]
        has = f"values: {some(shown, 20)}{suggested(value, n_of)}"
        if not n_of:
            has = f"it is missing in all {len(value_C):,} cells"
        raise CellError(f'obs column "{column}" of {self.file} has no value "{value}" ({used_as}); {has}')


def strings(values: Any) -> Strings:
    """An index or column of a data frame as an array of str."""
    return np.asarray(values.astype(str).to_numpy(dtype=np.str_))


def texts(values: Any) -> Strings:
    """A column of a data frame as text, MISSING where there is no value."""
    return np.where(values.isna().to_numpy(), MISSING, strings(values))
