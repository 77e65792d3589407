"""Donors: the levels of a metadata column that says which cells belong together, and which columns look like one."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.cells.bank import MISSING
from screen.errors import ConfigError, some

WORDS = ("donor", "patient", "individual", "subject", "participant", "sample", "batch", "replicate", "mouse", "animal")
"""What names of such columns hold, in order of preference, whatever the case: donor, donor_id, Sample.ID, ..."""


def levels_of(value_C: NDArray[Any]) -> tuple[NDArray[np.int64], list[str]]:
    """(level of each cell, -1 where its value is missing; the levels' names)."""
    text_C = np.array([str(v) for v in value_C], dtype=np.str_)
    has_C = text_C != MISSING
    names, code_N = np.unique(text_C[has_C], return_inverse=True)
    code_C = np.full(len(text_C), -1, dtype=np.int64)
    code_C[has_C] = code_N
    return code_C, [str(n) for n in names]


def check_replicates(column: str, value_C: NDArray[Any]) -> None:
    """Raises ConfigError for fewer than 2 levels."""
    _, names = levels_of(value_C)
    if len(names) < 2:
        has = f'one level, "{names[0]}"' if names else f"no value in any of the {len(value_C):,} cells"
        raise ConfigError(
            f'deg.replicate: "{column}" has {has}; a test over replicates needs 2 for a p-value, and 3 or more to find '
            "anything; name another column, or remove `replicate` to take cells as independent"
        )


def without_replicate(column: str, value_C: NDArray[Any]) -> list[str]:
    """A note where cells have no replicate."""
    code_C, _ = levels_of(value_C)
    n_missing, n_cells = int((code_C < 0).sum()), len(code_C)
    if not n_missing:
        return []
    return [
        f'{n_missing:,} of {n_cells:,} cells have no "{column}": they are screened and are in no test over replicates'
    ]


def unused_donors(columns: Mapping[str, NDArray[Any]]) -> list[str]:
    """One note where a column looks like donors and tests take cells as independent: for when there is no `replicate`.

    Of metadata columns, (C,) each: a donor has more than 2 cells on average, and there are 2 donors or more.
    """
    for column in _by_preference(columns):
        _, names = levels_of(columns[column])
        if 2 <= len(names) < len(columns[column]) / 2:
            return [
                f'"{column}" ({len(names)} levels: {some(names, 3)}) looks like donors, but tests take cells as independent; '
                f"p-values are then too small. `perturbscreen deg DIR --replicate {column}` tests over its means"
            ]
    return []


def is_donor_like(column: str) -> bool:
    """Whether the name of a column holds one of WORDS."""
    return any(word in column.lower() for word in WORDS)


def _by_preference(columns: Iterable[str]) -> list[str]:
    """Those of the columns that are donor-like."""

    def place(column: str) -> tuple[int, str]:
        return next(i for i, word in enumerate(WORDS) if word in column.lower()), column

    return sorted(filter(is_donor_like, columns), key=place)
