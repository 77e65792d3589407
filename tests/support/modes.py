"""Modes to test with: every row of the table, one that has a parameter at several values of it."""

from screen.edits import NO_EDIT, TABLE, Mode, parse


def spelled(mode: Mode) -> tuple[str, ...]:
    """How a user writes a mode: a short way in one direction, the longest in the other."""
    if mode.parameter is None:
        return (mode.name,)
    return tuple(f"{mode.name}{value:+d}" for value in (2, -mode.parameter.most))


EVERY = tuple(text for mode in TABLE for text in spelled(mode))
CODES_OF_MODE = (
    ((NO_EDIT, 0),),
    *(tuple((e.mode.code, e.parameter) for e in map(parse, spelled(mode))) for mode in TABLE),
)
"""Of no edit, then of each mode: (code, parameter) as the kernels read them."""
CODES = tuple(code for codes in CODES_OF_MODE for code in codes)
