"""Similarity: which perturbations change the same genes, once everybody's response is projected out; and how few directions there are.

The edited genes themselves are left out of a perturbation's change: they are no response.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from screen.stats.deg import Names
from screen.stats.parts import Means
from screen.stats.relations.kinds import KIND, WHICH, Bools, Integers, Kind, Values, typed, without_own

N_NEIGHBOURS, N_FACTORS, N_NAMED = 10, 10, 10
SIMILARITY_SCHEMA: dict[str, Any] = {k: v for k, v in WHICH.items() if k != "is_null"} | {
    "neighbour_rank": pl.Int32, "neighbour": pl.String, "neighbour_symbol": pl.String, "cosine": pl.Float32,
    "whole_cosine": pl.Float32,
}  # fmt: skip
"""Of `relations/similarity.parquet`: of every perturbation that was asked for its 10 nearest, by |cosine|, nearest first.

cosine        of the mean changes without everybody's response; below 0: they do the opposite
whole_cosine  of the mean changes as they are
"""
FACTORS_SCHEMA: dict[str, Any] = KIND | {
    "factor": pl.Int32, "share": pl.Float32, "cumulative_share": pl.Float32, "top_up": pl.List(pl.String),
    "top_down": pl.List(pl.String), "strongest": pl.List(pl.String), "opposite": pl.List(pl.String),
}  # fmt: skip
"""Of `relations/factors.parquet`: the ten directions in which the mean changes of a kind differ most from 0, largest first.

share             of the sum of squares of all mean changes of the kind, edited genes left out; cumulative_share: up to this one
top_up, top_down  the genes that move most along it, at most 10 of each
strongest, opposite  symbols of the perturbations that move most along it, and of those against it
"""


@dataclass(frozen=True)
class Changes:
    """Mean changes of N perturbations of a kind, their edited genes left out; null ones are among them."""

    kind: Kind
    change_NG: Values

    @staticmethod
    def of(kind: Kind, means: Means) -> "Changes":
        """Of the strongest of a kind."""
        kind = kind.strongest()
        return Changes(kind, without_own(means.rows(kind.place_N), kind.own_NK))

    @cached_property
    def specific_NG(self) -> Values:
        """What is left without the direction of the mean of all."""
        mean_G = self.change_NG.sum(0)
        size = float(np.sqrt(mean_G @ mean_G))
        if size == 0 or len(self.kind) < 2:
            return self.change_NG
        along_G = mean_G / size
        return np.asarray(self.change_NG - np.outer(self.change_NG @ along_G, along_G))

    @cached_property
    def cosine_NN(self) -> Values:
        """Without everybody's response; 0 where nothing is left."""
        return _cosines(self.specific_NG)

    @property
    def is_asked_N(self) -> Bools:
        """Which are no null ones."""
        return ~self.kind.is_null_N


def _cosines(change_NG: Values) -> Values:
    size_N1 = np.sqrt(np.square(change_NG).sum(1, keepdims=True))
    unit_NG = change_NG / np.where(size_N1 > 0, size_N1, 1)
    return np.asarray(unit_NG @ unit_NG.T)


def similarity(changes: Changes) -> pl.DataFrame:
    """SIMILARITY_SCHEMA of one kind."""
    at_M = np.flatnonzero(changes.is_asked_N)
    cosine_MM = changes.cosine_NN[np.ix_(at_M, at_M)]
    whole_MM = _cosines(changes.change_NG[at_M])
    near_MK = nearest(cosine_MM, N_NEIGHBOURS)
    n = near_MK.shape[1]
    row, other = np.repeat(np.arange(len(at_M)), n), near_MK.reshape(-1)
    table = changes.kind.table[at_M]
    columns: dict[str, Any] = table[row].select(*(c for c in SIMILARITY_SCHEMA if c in WHICH)).to_dict()
    columns |= {
        "neighbour_rank": np.tile(np.arange(1, n + 1), len(at_M)), "neighbour": table["perturbation"].gather(other),
        "neighbour_symbol": table["target_symbol"].gather(other), "cosine": cosine_MM[row, other],
        "whole_cosine": whole_MM[row, other],
    }  # fmt: skip
    return typed(columns, SIMILARITY_SCHEMA)


def nearest(cosine_MM: Values, n: int) -> Integers:
    """(M, n) the others that are nearest to each by |cosine|, nearest first, of ties the first; fewer columns where fewer are there."""
    n = min(n, max(len(cosine_MM) - 1, 0))
    if n == 0:
        return np.zeros((len(cosine_MM), 0), dtype=np.int64)
    away_MM = -np.abs(cosine_MM)
    np.fill_diagonal(away_MM, 1.0)
    is_near_MM = away_MM <= np.partition(away_MM, n - 1, axis=1)[:, n - 1, None]
    found_MK = np.empty((len(away_MM), n), dtype=np.int64)
    # where more are as near as the last, all of them are put in order
    has_ties_M = is_near_MM.sum(1) != n
    found_MK[has_ties_M] = np.argsort(away_MM[has_ties_M], axis=1, kind="stable")[:, :n]
    at_SK = np.nonzero(is_near_MM[~has_ties_M])[1].reshape(-1, n)
    order_SK = np.argsort(np.take_along_axis(away_MM[~has_ties_M], at_SK, 1), axis=1, kind="stable")
    found_MK[~has_ties_M] = np.take_along_axis(at_SK, order_SK, 1)
    return found_MK


def factors(changes: Changes, names: Names) -> pl.DataFrame:
    """FACTORS_SCHEMA of one kind; no row where nothing changes."""
    share_F, of_perturbation_FN, of_gene_FG = low_rank(changes.change_NG, N_FACTORS)
    symbol_G, symbol_N = names.feature_symbol, changes.kind.table["target_symbol"].to_numpy()
    columns = {
        **{name: [value] * len(share_F) for name, value in changes.kind.key.items()},
        "factor": np.arange(1, len(share_F) + 1), "share": share_F, "cumulative_share": np.cumsum(share_F),
        "top_up": [_most(x_G, symbol_G) for x_G in of_gene_FG], "top_down": [_most(-x_G, symbol_G) for x_G in of_gene_FG],
        "strongest": [_most(x_N, symbol_N) for x_N in of_perturbation_FN],
        "opposite": [_most(-x_N, symbol_N) for x_N in of_perturbation_FN],
    }  # fmt: skip
    return typed(columns, FACTORS_SCHEMA)


def _most(value_N: Values, name_N: Any) -> list[str]:
    """Names of the largest values above 0, largest first."""
    at = np.argsort(-value_N, kind="stable")[:N_NAMED]
    return [str(name_N[i]) for i in at if value_N[i] > 0]


def low_rank(change_NG: Values, n: int) -> tuple[Values, Values, Values]:
    """(shares of the sum of squares, (F, N) and (F, G) unit vectors) of the largest singular values, largest first.

    Of each pair of signs the one that makes the sum of the perturbations' values positive.
    """
    total = float(np.square(change_NG).sum())
    n = min(n, *change_NG.shape)
    if total == 0 or n == 0:
        return np.zeros(0), np.zeros((0, change_NG.shape[0])), np.zeros((0, change_NG.shape[1]))
    is_wide = change_NG.shape[0] <= change_NG.shape[1]
    gram = change_NG @ change_NG.T if is_wide else change_NG.T @ change_NG
    square_F, vector_XF = _largest(gram / total, n)
    kept_F = square_F > 1e-12
    square_F, vector_FX = square_F[kept_F], vector_XF[:, kept_F].T
    other_FY = vector_FX @ (change_NG if is_wide else change_NG.T) / np.sqrt(square_F * total)[:, None]
    of_perturbation_FN, of_gene_FG = (vector_FX, other_FY) if is_wide else (other_FY, vector_FX)
    sign_F1 = np.where(of_perturbation_FN.sum(1, keepdims=True) < 0, -1.0, 1.0)
    return square_F, of_perturbation_FN * sign_F1, of_gene_FG * sign_F1


def _largest(gram_XX: Values, n: int) -> tuple[Values, Values]:
    """(eigenvalues, eigenvectors in columns), the n largest, largest first."""
    if len(gram_XX) > 8 * n:
        from scipy.sparse.linalg import ArpackNoConvergence, eigsh

        try:
            # a start that is always the same, and has a part along everything
            start_X = np.random.default_rng(0).standard_normal(len(gram_XX))
            value_F, vector_XF = eigsh(gram_XX, k=n, v0=start_X)
            order = np.argsort(-value_F, kind="stable")
            return np.asarray(value_F[order]), np.asarray(vector_XF[:, order])
        except ArpackNoConvergence:
            pass
    value_X, vector_XX = np.linalg.eigh(gram_XX)
    return value_X[::-1][:n], vector_XX[:, ::-1][:, :n]
