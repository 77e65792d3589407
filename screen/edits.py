"""The table of modes: one row per way to edit a row of tokens, and everything else that depends on the mode.

What a mode does to ids is said by `screen_kernels.edit_row_reference`; a new mode is a row here and its kernels' code there.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from screen.errors import ConfigError, nearest

Site = Literal["src", "tgt"]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
NO_EDIT = 0
"""The kernels' code of a row that stays as it is."""


class UnknownModeError(ConfigError, ValueError):
    """A mode that the table lacks; a ValueError too, which is what pydantic turns into a message with its place."""


@dataclass(frozen=True)
class Counts:
    """B rows of one state before an edit, as far as the model sees them: `max_len` positions.

    length_B      1 + the last position that is no pad; is_full_B: there is at least one id, and no pad before the last
    n_stay_B      ids that are neither pads nor genes of the edit; n_hit_B: ids that are
    n_inserted_B  tokens that the edit inserts
    """

    length_B: Ints
    is_full_B: Bools
    n_stay_B: Ints
    n_hit_B: Ints
    n_inserted_B: Ints
    max_len: int
    site: Site


Lengths: TypeAlias = Callable[[Counts], tuple[Ints, Bools]]
"""(length of the edited row, whether it is that many ids and no pad; where it is not, the length may be too high)."""


@dataclass(frozen=True)
class Parameter:
    """A whole number from 1 to `most` with a sign, written behind the mode's name; + and - are opposite directions."""

    most: int


@dataclass(frozen=True)
class Mode:
    """One row of the table.

    name          as configurations, perturbation ids and stores write it, without its parameter
    code          what the kernels read
    lengths       of edited rows; None: as long and as full as before
    needs_gene    an item exists only where a gene of the edit is in an edited row; otherwise for every cell
    leaves_token  something stands for an edited gene afterwards, so that the edit cannot empty a row
    keeps_places  every other token stays at its position
    n_inserted    tokens inserted per gene: at the front of a target row, behind column 0 of a source row
    is_ordered    the order of joint genes matters, and none may be listed twice
    parameter     None: the mode has none
    raises        whether it is thought to raise its gene's expression; one with a parameter: with a positive one
    """

    name: str
    code: int
    lengths: Lengths | None
    needs_gene: bool
    leaves_token: bool
    keeps_places: bool
    n_inserted: int = 0
    is_ordered: bool = False
    parameter: Parameter | None = None
    raises: bool = False


@dataclass(frozen=True)
class Edit:
    """A mode and the value of its parameter, 0 if it has none."""

    mode: Mode
    parameter: int = 0

    @property
    def direction(self) -> int:
        """Where the edited gene's own expression should go: 1 up, -1 down."""
        return (1 if self.mode.raises else -1) * (-1 if self.parameter < 0 else 1)

    def __str__(self) -> str:
        return self.mode.name if self.mode.parameter is None else f"{self.mode.name}{self.parameter:+d}"


def _with_holes(rows: Counts) -> tuple[Ints, Bools]:
    return rows.length_B, rows.is_full_B & (rows.n_hit_B == 0)


def _closed_up(rows: Counts) -> tuple[Ints, Bools]:
    return rows.n_stay_B, rows.n_stay_B > 0


def _inserted(rows: Counts) -> tuple[Ints, Bools]:
    """Genes go behind column 0 of a source row, where a pad stands if nothing stays."""
    n_kept_B = np.maximum(rows.max_len - rows.n_inserted_B, 0)
    is_led_by_pad_B = (rows.n_stay_B == 0) & (n_kept_B > 0) & (rows.site == "src")
    length_B = np.minimum(rows.n_stay_B, n_kept_B) + rows.n_inserted_B + is_led_by_pad_B
    return np.minimum(length_B, rows.max_len), ~is_led_by_pad_B


MASK = Mode("mask", 1, None, needs_gene=True, leaves_token=True, keeps_places=True)
PAD = Mode("pad", 2, _with_holes, needs_gene=True, leaves_token=False, keeps_places=True)
DELETE = Mode("delete", 3, _closed_up, needs_gene=True, leaves_token=False, keeps_places=False)
OVEREXPRESS = Mode(
    "overexpress", 4, _inserted, needs_gene=False, leaves_token=True, keeps_places=False, n_inserted=1, is_ordered=True,
    raises=True,
)  # fmt: skip
# + is towards the front, where the genes with the highest expression are
SHIFT = Mode(
    "shift", 5, None, needs_gene=True, leaves_token=True, keeps_places=False, parameter=Parameter(most=9999), raises=True
)  # fmt: skip
TABLE = (MASK, PAD, DELETE, OVEREXPRESS, SHIFT)


@cache
def parse(text: str) -> Edit:
    """The edit that a configuration, a perturbation's id or a store names. Raises UnknownModeError."""
    found = re.fullmatch(r"(.+?)([+-]\d{1,9})?", text, re.DOTALL)
    for mode in TABLE:
        if found is not None and mode.name == found[1] and (mode.parameter is None) == (found[2] is None):
            edit = Edit(mode, int(found[2] or 0))
            if str(edit) == text and _is_in_range(edit):
                return edit
    raise UnknownModeError(f'mode is "{text}"; allowed: {allowed()}{nearest(text, (m.name for m in TABLE))}')


def numbered(code: int, parameter: int = 0) -> Edit:
    """The edit of a kernel's code and parameter. Raises UnknownModeError, for NO_EDIT too."""
    for mode in TABLE:
        if mode.code == code:
            edit = Edit(mode, 0 if mode.parameter is None else parameter)
            if _is_in_range(edit):
                return edit
    raise UnknownModeError(f"mode {code} with parameter {parameter} is not in the table; allowed: {allowed()}")


def canonical(text: str) -> str:
    """The text, which names a mode. Raises UnknownModeError."""
    return str(parse(text))


def allowed() -> str:
    """Every mode as a user may write it."""
    return ", ".join(m.name if m.parameter is None else _spelled(m, m.parameter) for m in TABLE)


def _spelled(mode: Mode, parameter: Parameter) -> str:
    return f"{mode.name}+K, {mode.name}-K (K from 1 to {parameter.most})"


def _is_in_range(edit: Edit) -> bool:
    return edit.mode.parameter is None or 1 <= abs(edit.parameter) <= edit.mode.parameter.most
