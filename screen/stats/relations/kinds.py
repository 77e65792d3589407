"""Kinds: the perturbations of one edit, stratum and time point, which are compared with each other, and their mean changes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screen.stats.parts import Means
from screen.stats.sets.groups import Groups, pieces

Values = NDArray[np.float64]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]
MOST = 2000
"""Perturbations of a kind that are compared each with each: the strongest without everybody's response."""
KIND: dict[str, Any] = {
    "mode": pl.String, "site": pl.String, "stratum": pl.String, "time": pl.Int8, "n_joint": pl.Int32,
}  # fmt: skip
"""What perturbations that are compared have in common; n_joint: genes of one edit, 1 for single ones."""
WHICH: dict[str, Any] = {
    "perturbation": pl.String, "target": pl.String, "target_symbol": pl.String, **KIND, "is_null": pl.Boolean,
}  # fmt: skip
"""Which perturbation, where."""


@dataclass(frozen=True)
class Kind:
    """N perturbations of one kind with the cells that a rank needs.

    table    their rows of the ranking, with n_joint; place_N: of their mean changes; own_NK: columns of edited genes, -1 for none
    is_null_N  random genes
    """

    table: pl.DataFrame
    place_N: Integers
    own_NK: Integers
    is_null_N: Bools

    def __len__(self) -> int:
        return len(self.place_N)

    @property
    def key(self) -> Mapping[str, Any]:
        """Column of KIND -> its value."""
        return dict(zip(KIND, self.table.select(*KIND).row(0), strict=True))

    def take(self, at_M: Integers) -> "Kind":
        """Some of them."""
        return Kind(self.table[at_M], self.place_N[at_M], self.own_NK[at_M], self.is_null_N[at_M])

    def strongest(self, n: int = MOST) -> "Kind":
        """At most `n`, by the strength that is left without everybody's response, in the order of the table."""
        if len(self) <= n:
            return self
        strength_N = self.table["specific_strength"].fill_null(0.0).to_numpy()
        return self.take(np.sort(np.argsort(-strength_N, kind="stable")[:n]))

    def mean_changes(self, means: Means) -> Iterator[tuple[Integers, Values]]:
        """(rows, (M, G) mean changes) of a few at a time."""
        n_genes = means.n_genes
        for some in pieces(len(self), n_genes):
            yield np.arange(len(self))[some], means.rows(self.place_N[some])


def kinds(groups: Groups) -> Iterator[Kind]:
    """Every kind that has a perturbation with enough cells."""
    table = groups.table.with_columns(n_joint=pl.col("n_joint").cast(pl.Int32) + 1)
    for number_N in groups.kinds():
        at_N = number_N[groups.is_enough_N[number_N]]
        if len(at_N):
            yield Kind(table[at_N], groups.place_N[at_N], groups.own_NK[at_N], groups.is_null_N[at_N])


def without_own(change_NG: Values, own_NK: Integers) -> Values:
    """The changes, 0 for each perturbation's edited genes. Shapes: (N, G), (N, K) with -1 for none -> (N, G)."""
    found_NG = change_NG.copy()
    row_M, slot_M = np.nonzero(own_NK >= 0)
    found_NG[row_M, own_NK[row_M, slot_M]] = 0
    return found_NG


def typed(columns: Mapping[str, Any], schema: Mapping[str, Any]) -> pl.DataFrame:
    """A table of this schema, NaN as null."""
    table = pl.DataFrame({name: columns[name] for name in schema})
    table = table.with_columns(pl.selectors.float().fill_nan(None))
    return table.select(pl.col(name).cast(dtype) for name, dtype in schema.items())


def joined(parts: list[pl.DataFrame], schema: Mapping[str, Any]) -> pl.DataFrame:
    """All parts, one below another."""
    return pl.concat([pl.DataFrame(schema=dict(schema)), *parts])
