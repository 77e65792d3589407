"""Groups: the perturbations of every stratum and time point that have mean changes, as whole arrays, in the order of the tables."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screen.stats.deg import Names
from screen.stats.groups import Strata
from screen.stats.parts import Means

Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]
PIECE_BYTES = 32 * 2**20
KIND = ("mode", "site", "stratum", "time", "n_joint")
"""What perturbations have in common that are compared with each other; joint edits with those of as many genes."""


@dataclass(frozen=True)
class Groups:
    """N groups with their rows of the ranking.

    place_N                 of their mean changes in `Means`
    kind_N                  number of their kind
    own_NK                  columns of the edited genes, -1 for none
    is_enough_N             whether they have the cells that a rank needs
    is_null_N, is_named_N   random genes, and those that were asked for by name
    """

    table: pl.DataFrame
    place_N: Integers
    kind_N: Integers
    own_NK: Integers
    is_enough_N: Bools
    is_null_N: Bools
    is_named_N: Bools

    @staticmethod
    def of(hits: pl.DataFrame, names: Names, strata: Strata, means: Means, min_cells: int) -> "Groups":
        """The rows of a ranking that have a cell, by target, perturbation, time and stratum."""
        table = hits.filter(pl.col("n_cells") > 0).sort("target", "perturbation", "time", "stratum")
        table = table.with_columns(n_joint=pl.col("target").str.count_matches("+", literal=True))
        number = {p: i for i, p in enumerate(names.id.tolist())}
        stratum = {s: i for i, s in enumerate(strata.name_S)}
        which = table.select("perturbation", "stratum", "time").rows()
        place = [means.place(number[p], stratum[s], t) for p, s, t in which]
        column = {e: i for i, e in enumerate(names.feature.tolist())}
        own = [[column.get(g, -1) for g in genes.split("+")] for genes in table["target"]]
        most = max((len(x) for x in own), default=1)
        n_cells_N = table["n_cells"].to_numpy()
        return Groups(
            table=table,
            place_N=np.array(place, dtype=np.int64),
            kind_N=table.select(pl.struct(KIND).rank("dense")).to_series().to_numpy().astype(np.int64) - 1,
            own_NK=np.array([x + [-1] * (most - len(x)) for x in own], dtype=np.int64).reshape(len(own), most),
            is_enough_N=n_cells_N >= (min_cells if (n_cells_N >= min_cells).any() else 1),
            is_null_N=table["is_null"].to_numpy(),
            is_named_N=names.must_screen[[number[p] for p, _, _ in which]],
        )

    def __len__(self) -> int:
        return len(self.place_N)

    @property
    def n_kinds(self) -> int:
        return int(self.kind_N.max(initial=-1)) + 1

    def kinds(self) -> Iterator[Integers]:
        """The groups of each kind."""
        for kind in range(self.n_kinds):
            yield np.flatnonzero(self.kind_N == kind)


def pieces(n: int, width: int) -> Iterator[slice]:
    """Slices of rows of so many float64 numbers that fit PIECE_BYTES, at least one row each."""
    step = max(PIECE_BYTES // (8 * max(width, 1)), 1)
    for first in range(0, n, step):
        yield slice(first, min(first + step, n))
