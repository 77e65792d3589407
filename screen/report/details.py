"""Details: what the page shows of single perturbations and of single genes, from one walk over the table of genes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screen.report.gene_table import GeneRows, gene_rows
from screen.report.numbers import rounded

if TYPE_CHECKING:
    from screen.report.names import ScreenNames
    from screen.results.results import Results

POINTS, FEWEST_POINTS = 1_000_000, 60
"""Genes of all groups that a page holds, about; of one group at least."""
SMALLEST_FDR = 1e-300
"""A smaller one, 0 above all, is drawn as this one."""
MOVERS, MOST_MOVERS, FEWEST_MOVERS = 250_000, 20, 3
"""Perturbations that move a gene, of all genes and edits; of one gene by one edit at most, and at least."""


@dataclass(frozen=True)
class Changes:
    """N groups of shown perturbations: their numbers (`ScreenNames.group`), every gene's change and -log10 fdr, NaN if unknown."""

    group_N: NDArray[np.int64]
    change_NG: NDArray[np.float32]
    log_fdr_NG: NDArray[np.float32]


@dataclass(frozen=True)
class Movers:
    """M rows: what changes a gene most, the strongest first of each gene and edit."""

    gene_M: NDArray[np.int64]
    group_M: NDArray[np.int64]
    change_M: NDArray[np.float64]
    n_each: int


def changes_and_movers(
    results: "Results", names: "ScreenNames", shown: Sequence[int], is_ranked: NDArray[np.bool_]
) -> tuple[Changes, Movers]:
    """Every gene's change by the `shown` perturbations (numbers), and the ranked groups that change each gene most.

    is_ranked  by group number: whether it has a place in the ranking, of nulls none.
    """
    at_place = _Dense(names, shown)
    strongest = _Strongest(names, is_ranked)
    for rows in gene_rows(results, names):
        at_place.take(rows)
        strongest.take(rows)
    return at_place.found(), strongest.found()


class _Dense:
    """The shown groups, gene by gene."""

    def __init__(self, names: "ScreenNames", shown: Sequence[int]) -> None:
        n_each = len(names.strata) * len(names.times)
        self._group_N = (np.asarray(shown, dtype=np.int64)[:, None] * n_each + np.arange(n_each)).ravel()
        self._place = np.full(names.n_groups, -1, dtype=np.int32)
        self._place[self._group_N] = np.arange(len(self._group_N))
        shape = len(self._group_N), len(names.features)
        self._change_NG, self._log_fdr_NG = (np.full(shape, np.nan, dtype=np.float32) for _ in range(2))

    def take(self, rows: GeneRows) -> None:
        place_N = self._place[rows.group_N]
        at = np.flatnonzero(place_N >= 0)
        self._change_NG[place_N[at], rows.gene_N[at]] = rows.change_N[at]
        self._log_fdr_NG[place_N[at], rows.gene_N[at]] = -np.log10(np.maximum(rows.fdr_N[at], SMALLEST_FDR))

    def found(self) -> Changes:
        has_genes = np.isfinite(self._change_NG).any(1)
        return Changes(self._group_N[has_genes], self._change_NG[has_genes], self._log_fdr_NG[has_genes])


class _Strongest:
    """Of each gene and edit the groups that change it most, so far."""

    def __init__(self, names: "ScreenNames", is_ranked: NDArray[np.bool_]) -> None:
        self._names, self._is_ranked = names, is_ranked
        n_keys = len(names.features) * len(names.edits)
        self._n_each = int(np.clip(MOVERS // max(n_keys, 1), FEWEST_MOVERS, MOST_MOVERS))
        self._least = np.zeros(n_keys)
        self._kept: pl.DataFrame | None = None

    def take(self, rows: GeneRows) -> None:
        n_each = len(self._names.strata) * len(self._names.times)
        key_N = rows.gene_N * len(self._names.edits) + self._names.edit_P[rows.group_N // n_each]
        size_N = np.abs(np.nan_to_num(rows.change_N))
        at = np.flatnonzero(self._is_ranked[rows.group_N] & (size_N > self._least[key_N]))
        new = pl.DataFrame(
            {"key": key_N[at], "group": rows.group_N[at], "change": rows.change_N[at], "size": size_N[at]}
        )
        both = new if self._kept is None else pl.concat([self._kept, new])
        self._kept = _head(both, self._n_each)
        full = self._kept.group_by("key").agg(pl.col("size").min(), n=pl.len()).filter(pl.col("n") == self._n_each)
        self._least[full["key"].to_numpy()] = full["size"].to_numpy()

    def found(self) -> Movers:
        if self._kept is None:
            nothing = np.zeros(0, dtype=np.int64)
            return Movers(nothing, nothing, np.zeros(0), self._n_each)
        gene_M = self._kept["key"].to_numpy() // len(self._names.edits)
        return Movers(gene_M, self._kept["group"].to_numpy(), self._kept["change"].to_numpy(), self._n_each)


def _head(rows: pl.DataFrame, n: int) -> pl.DataFrame:
    ordered = rows.sort("key", "size", "group", descending=[False, True, False])
    return ordered.filter(pl.int_range(pl.len()).over("key") < n)


def chosen_genes(change_G: NDArray[np.floating], n: int) -> NDArray[np.int64]:
    """Numbers of at most n genes, those that change most first: two thirds of them, then every so many of the others."""
    known = np.flatnonzero(np.isfinite(change_G))
    ordered = known[np.argsort(-np.abs(change_G[known]), kind="stable")]
    if len(ordered) <= n:
        return ordered
    n_top = -(-2 * n // 3)
    rest = ordered[n_top:]
    sampled = rest[np.linspace(0, len(rest) - 1, n - n_top).astype(np.int64)]
    return np.concatenate([ordered[:n_top], sampled])


def details(changes: Changes, names: "ScreenNames") -> dict[str, Any]:
    """The shown groups as the page's scripts read them.

    group        their numbers; n_genes: genes that the table has of each
    gene         numbers of the genes that the page holds, most changed first; n_top of them are those that change most
    change, fdr  of these genes; fdr as -log10
    on_target    change of the edited gene itself, null of joint edits
    """
    n = max(FEWEST_POINTS, POINTS // max(len(changes.group_N), 1))
    found: dict[str, Any] = {"group": changes.group_N.tolist(), "n_genes": [], "n_top": -(-2 * n // 3), "gene": []}
    found |= {"change": [], "fdr": [], "on_target": []}
    n_each = len(names.strata) * len(names.times)
    for group, change_G, log_fdr_G in zip(changes.group_N.tolist(), changes.change_NG, changes.log_fdr_NG, strict=True):
        gene_K = chosen_genes(change_G, n)
        found["n_genes"].append(int(np.isfinite(change_G).sum()))
        found["gene"].append(gene_K.tolist())
        found["change"].append(rounded(change_G[gene_K], 3))
        found["fdr"].append(rounded(log_fdr_G[gene_K], 3))
        target = names.feature_number.get(names.targets[group // n_each])
        found["on_target"].append(None if target is None else rounded(change_G[target], 3))
    return found


def movers_json(movers: Movers, names: "ScreenNames") -> dict[str, Any]:
    """Gene by gene: the groups that change it most and their changes; n_each of every edit at most."""
    start_G = np.searchsorted(movers.gene_M, np.arange(len(names.features) + 1))
    pieces = [slice(a, b) for a, b in zip(start_G[:-1].tolist(), start_G[1:].tolist(), strict=True)]
    return {
        "n_each": movers.n_each,
        "group": [movers.group_M[s].tolist() for s in pieces],
        "change": [rounded(movers.change_M[s], 3) for s in pieces],
    }
