"""Everything perturbscreen can say no to.

ScreenError                  base: the message says what is wrong, what was seen, what is allowed, what to do
|- RequestError              the user asked for something that cannot be done       (exit code 2)
|  |- ConfigError            a YAML key or value
|  |- GeneError              a gene name, or a vocabulary that does not fit
|  |- CellError              cells, counts, pairing
|  |- CheckpointError        model weights: missing, truncated, mismatched, unsafe
|  |- StoreError             an output directory that is something else or is damaged
|  `- NothingToDrawError     a figure for which the screen has nothing to show
|- WriteError               results cannot be written: disk full, read-only              (exit code 1)
|- PredictionError           the model gave NaN or infinity                          (exit code 1)
`- ShapeError                arrays that do not fit each other: a mistake in calling code
"""

import difflib
from collections.abc import Iterable


class ScreenError(Exception):
    """Base of every error that perturbscreen raises on purpose.

    >>> import screen
    >>> try:
    ...     screen.open_results("runs/nothing")
    ... except screen.ScreenError as error:
    ...     print(error)
    runs/nothing/screen.zarr is no perturbscreen store; run `perturbscreen run CONFIG --out runs/nothing` first
    """

    exit_code = 1


class RequestError(ScreenError):
    """The request cannot be met as written; nothing was computed."""

    exit_code = 2


class ConfigError(RequestError):
    """A key or value of a configuration file."""


class GeneError(RequestError):
    """A gene name that is not in the vocabulary, or a vocabulary that does not fit."""


class CellError(RequestError):
    """Cells, their counts, their tokens or their pairing."""


class CheckpointError(RequestError):
    """Model weights that are missing, truncated, mismatched or unsafe."""


class StoreError(RequestError):
    """An output directory that holds something else, or is damaged."""


class NothingToDrawError(RequestError):
    """A figure for which the screen has nothing to show: no perturbation with a rank, one time point only, no p."""


class WriteError(ScreenError):
    """Results cannot be written: a full disk, a directory that turned read-only. What was committed stays."""


class PredictionError(ScreenError):
    """The model returned NaN or infinity for a named cell and perturbation."""


def nearest(name: str, allowed: Iterable[str], n: int = 3) -> str:
    """'; did you mean "a", "b"?' for the closest allowed names, or an empty string."""
    close = closest(name, allowed, n)
    return "; did you mean " + " or ".join(f'"{c}"' for c in close) + "?" if close else ""


def closest(name: str, allowed: Iterable[str], n: int = 3) -> list[str]:
    """The allowed names that are spelt most alike, the nearest first; letter case does not count."""
    by_lower, low = {a.lower(): a for a in allowed}, name.lower()
    # two letters the wrong way round are one slip, which matching blocks take for two
    swapped = (low[:i] + low[i + 1] + low[i] + low[i + 2 :] for i in range(len(low) - 1))
    slips = [s for s in swapped if s in by_lower and s != low]
    itself = [low] if low in by_lower else []
    near = difflib.get_close_matches(low, list(by_lower), n=n, cutoff=0.6)
    return [by_lower[c] for c in dict.fromkeys([*itself, *slips, *near])][:n]


def some(names: Iterable[object], n: int = 5) -> str:
    """The first few of a list for an error message: 'a, b, c (and 7 more)'."""
    listed = [str(x) for x in names]
    more = f" (and {len(listed) - n} more)" if len(listed) > n else ""
    return ", ".join(listed[:n]) + more
