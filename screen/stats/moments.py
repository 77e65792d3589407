"""Moments: what is enough to know of a group of items, per gene, and how groups of one perturbation join."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Genes = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """n_cells; mean and sum of squared deviations of the changes; means of perturbed and control expression, per gene.

    Changes are on the log1p CP10K scale (natural logarithm), means in counts per 10,000; under an `mse` head all are on
    the model's own log scale.
    """

    n_cells: int
    mean_delta_G: Genes
    m2_delta_G: Genes
    target_mean_G: Genes
    ref_mean_G: Genes


def moments_of(delta_NG: NDArray[np.floating], before_NG: NDArray[np.floating], is_log1p: bool) -> Moments:
    """Of N items, (N, G) each; accumulated in float64. `before_NG` is what `counts_of` makes of their controls."""
    mean_G, m2_G = mean_and_squares(delta_NG)
    # counts after = (1 + before) exp(delta) - 1: a small change is not lost in what it is added to
    change_NG = (1 + before_NG) * np.expm1(delta_NG) if is_log1p else delta_NG
    ref_G, change_G = (np.add.reduce(x, axis=0, dtype=np.float64) for x in (before_NG, change_NG))
    n = len(delta_NG)
    return Moments(n, mean_G, m2_G, (ref_G + change_G) / n, ref_G / n)


def counts_of(control_NG: NDArray[np.floating], is_log1p: bool) -> NDArray[np.floating]:
    """Control expression as counts per 10,000; as it is where the model's scale is not log1p of these."""
    return np.expm1(control_NG) if is_log1p else control_NG


def mean_and_squares(delta_NG: NDArray[np.floating]) -> tuple[Genes, Genes]:
    """(mean, sum of squared deviations from it) per gene, in two passes, in float64.

    A gene's cells are added one after another, whatever the number of threads.
    """
    away_NG = delta_NG.astype(np.float64)
    mean_G = np.add.reduce(away_NG, axis=0) / len(away_NG)
    away_NG -= mean_G
    return mean_G, np.einsum("ng,ng->g", away_NG, away_NG)


def standard_error(moments: Moments) -> Genes:
    """Of the mean change, per gene; one cell has none: NaN."""
    n = moments.n_cells
    if n < 2:
        return np.full(len(moments.mean_delta_G), np.nan)
    return np.sqrt(moments.m2_delta_G / (n - 1) / n)


def joined(parts: Sequence[Moments]) -> Moments:
    """The moments of all the items of disjoint groups, at least one.

    Source: Chan, Golub, LeVeque 1983, pairwise updating of sums of squares.
    """
    n = sum(p.n_cells for p in parts)
    means = (
        np.sum([p.n_cells * np.asarray(getattr(p, name), dtype=np.float64) for p in parts], axis=0) / n
        for name in ("mean_delta_G", "target_mean_G", "ref_mean_G")
    )
    mean_G, target_G, ref_G = means
    m2_G = np.sum([p.m2_delta_G + p.n_cells * np.square(p.mean_delta_G - mean_G) for p in parts], axis=0)
    return Moments(n, mean_G, np.asarray(m2_G, dtype=np.float64), target_G, ref_G)
