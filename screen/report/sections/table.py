"""Table: a small table of the page that stands still, as texts."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

EDIT = ("site", "mode", "n_joint")
"""What perturbations of one edit have in common in the tables of relations."""


@dataclass(frozen=True)
class Column:
    """A heading; is_number: to the right; is_wide: not on a phone; is_short: as narrow as its words, on one line."""

    title: str
    is_number: bool = False
    is_wide: bool = False
    is_short: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of texts below columns; `links`: the perturbation that a row's first text leads to, if there are any."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    links: Sequence[str] = ()


class Wording:
    """What edits and places of a screen are called in a sentence: no more than tells them apart."""

    def __init__(self, hits: pl.DataFrame, strata: Sequence[str], times: Sequence[int]) -> None:
        self._is_one_site = hits["site"].n_unique() < 2
        self._strata, self._times = strata, times
        self.n_places = len(strata) * len(times)

    def edit(self, site: str, mode: str, n_joint: int = 1) -> str:
        """mask; src:mask where sites differ; mask of 2 genes."""
        name = mode if self._is_one_site else f"{site}:{mode}"
        return name if n_joint == 1 else f"{name} of {n_joint} genes"

    def place(self, stratum: str, time: int) -> str:
        """B cells, t1: as far as there are others."""
        at = "source" if time == 0 else f"t{time}"
        parts = [stratum] * (len(self._strata) > 1) + [at] * (len(self._times) > 1)
        return ", ".join(parts) or stratum

    def places(self, found: Sequence[tuple[str, int]]) -> str:
        """The place, if it is one; or how many of all."""
        return self.place(*found[0]) if len(found) == 1 else f"{len(found)} of {self.n_places}"
