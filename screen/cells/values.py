"""Values: what is written in a YAML file, and what a table of cells holds, as the same value."""

import re
from collections.abc import Iterable, Mapping

from screen.errors import closest

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
TRUTH = {
    word: word in ("true", "yes", "on", "t", "y")
    for word in ["true", "yes", "on", "t", "y", "false", "no", "off", "f", "n"]
}
"""Words for true and false, some of which YAML reads as such."""


def meant_by(value: str, there: Iterable[str]) -> list[str]:
    """The values of a table that a value stands for: itself, else the same number, else the same of true and false.

    More than one where it is not written as any of them.
    """
    held = list(there)
    if value in held:
        return [value]
    for same in (_number, _truth):
        if (wanted := same(value)) is not None and (found := [h for h in held if same(h) == wanted]):
            return found
    return []


def suggested(value: str, n_of: Mapping[str, int]) -> str:
    """'; did you mean "CD14+ Monocytes" (123 cells)?', or ''.

    Those that differ by blanks, underscores and letter case alone come before those that are spelt alike.
    """
    alike = [t for t in n_of if _spelling(t) == _spelling(value)] or closest(value, n_of)
    if not alike:
        return ""
    return "; did you mean " + " or ".join(f'"{t}" ({n_of[t]:,} cells)' for t in alike) + "?"


def _number(value: str) -> float | None:
    return float(value) if NUMBER.fullmatch(value.strip()) else None


def _truth(value: str) -> bool | None:
    number = _number(value)
    if number is not None:
        return bool(number) if number in (0, 1) else None
    return TRUTH.get(value.strip().lower())


def _spelling(value: str) -> str:
    return re.sub(r"[\s_.]+", "", value).casefold()
