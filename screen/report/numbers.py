"""Numbers as the page holds them: so many significant digits, and what is not known as null."""

import base64
import gzip
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

UNKNOWN, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
"""What is not known, and what is below 0, as the page's scripts write them."""


def rounded(values: NDArray[np.floating], digits: int) -> list[Any]:
    """Numbers of any shape as (nested) lists, to `digits` significant digits, or whole for 0; NaN and infinity are None."""
    wide = np.asarray(values, dtype=np.float64)
    is_known = np.isfinite(wide)
    filled = np.where(is_known, wide, 0.0)
    if digits == 0:
        numbers = np.rint(filled).astype(np.int64).astype(object)
    else:
        with np.errstate(divide="ignore"):
            size = np.floor(np.log10(np.abs(filled)))
        # a power of ten that can be written down: below 1e-300 nothing is told apart
        places = np.clip(np.where(np.isfinite(size), digits - 1 - size, 0), -300, 300).astype(int)
        numbers = np.array([round(x, n) for x, n in zip(filled.ravel().tolist(), places.ravel().tolist(), strict=True)])
        numbers = numbers.reshape(wide.shape).astype(object)
    numbers[~is_known] = None
    found: list[Any] = numbers.tolist()
    return found


def floats(column: pl.Series) -> NDArray[np.float64]:
    """A column as numbers, null as NaN."""
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def packed(data: Any) -> str:
    """Data as base64 text of compressed JSON, which no name in it can leave."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return packed_text(text)


def packed_text(text: str) -> str:
    """A text, compressed, as base64; the same text gives the same."""
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def as_text(x: float | None, digits: int = 3) -> str:
    """A number for a reader, as the scripts write it: 0.0123, 4.2e-7."""
    if x is None:
        return UNKNOWN
    text = f"{x:.{digits}g}"
    number, is_power, power = text.partition("e")
    return number.replace("-", MINUS) + (f"e{int(power)}" if is_power else "")


def signed(x: float | None, digits: int = 3) -> str:
    """The same with + before what is above 0."""
    return ("+" if x is not None and x > 0 else "") + as_text(x, digits)


def percent(share: float | None) -> str:
    """40 %, 99.5 %; 100 % for all alone. What stands before the sign does not part from it."""
    if share is None:
        return UNKNOWN
    text = (
        f"{100 * share:.0f}"
        if 0.01 <= share < 0.985
        else f"{100 * share:.2g}"
        if share < 0.01
        else f"{100 * share:.1f}"
    )
    return f"{'99.9' if text == '100.0' and share < 1 else text.removesuffix('.0')}\N{NARROW NO-BREAK SPACE}%"


def span(values: Sequence[float], digits: int = 2) -> str:
    """0.93, or 0.93 to 0.96."""
    low, high = as_text(min(values), digits), as_text(max(values), digits)
    return low if low == high else f"{low} to {high}"
