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


@dataclass(frozen=True)
class Rounding:
    """How changes were rounded when they were stored: as which type, and multiplied by what before."""

    dtype: str = "float32"
    scale: float = 1.0

    def of_group(self, number: int) -> "Rounding":
        """That of one of many groups at once: it is the same for all."""
        return self

    def step_G(self, magnitude_G: Genes) -> Genes:
        """The distance between neighbours of this magnitude: of one binade, and of all that are below the least normal."""
        kind = np.finfo(self.dtype)
        # a number is below 2^exponent and not below half of that; 0 is as far from its neighbours as all subnormals
        _, exponent_G = np.frexp(np.asarray(magnitude_G, dtype=np.float64) * self.scale)
        lowest = kind.minexp
        binade_G = np.where(magnitude_G == 0, lowest, np.maximum(exponent_G - 1, lowest))
        step_G: Genes = np.ldexp(1.0, binade_G - kind.nmant) / self.scale
        return step_G


FLOAT32 = Rounding()
"""As they are computed."""


def moments_of(delta_NG: NDArray[np.floating], before_NG: NDArray[np.floating], is_log1p: bool) -> Moments:
    """Of N items, (N, G) each; accumulated in float64. `before_NG` is what `counts_of` makes of their controls."""
    change_NG = count_change(delta_NG, before_NG, is_log1p)
    return moments_with(delta_NG, before_NG, change_NG)


def count_change(
    delta_NG: NDArray[np.floating], before_NG: NDArray[np.floating], is_log1p: bool
) -> NDArray[np.floating]:
    """Counts after minus counts before; as it is where the model's scale is not log1p of counts."""
    # counts after = (1 + before) exp(delta) - 1: a small change is not lost in what it is added to
    return (1 + before_NG) * np.expm1(delta_NG) if is_log1p else delta_NG


def moments_with(
    delta_NG: NDArray[np.floating], before_NG: NDArray[np.floating], change_NG: NDArray[np.floating]
) -> Moments:
    """Of N items or replicates, (N, G) each: changes, counts before, and by how much these change.

    Of M groups of as many at once: (M, N, G) each, and moments of (M, G).
    """
    mean_G, m2_G = mean_and_squares(delta_NG)
    ref_G, change_G = (np.add.reduce(x, axis=-2, dtype=np.float64) for x in (before_NG, change_NG))
    n = delta_NG.shape[-2]
    return Moments(n, mean_G, m2_G, (ref_G + change_G) / n, ref_G / n)


def counts_of(control_NG: NDArray[np.floating], is_log1p: bool) -> NDArray[np.floating]:
    """Control expression as counts per 10,000; as it is where the model's scale is not log1p of these."""
    return np.expm1(control_NG) if is_log1p else control_NG


def mean_and_squares(delta_NG: NDArray[np.floating]) -> tuple[Genes, Genes]:
    """(mean, sum of squared deviations from it) per gene, in two passes, in float64.

    A gene's cells are added one after another, whatever the number of threads, and of groups, (..., N, G).
    """
    away_NG = delta_NG.astype(np.float64)
    mean_G = np.add.reduce(away_NG, axis=-2) / away_NG.shape[-2]
    away_NG -= mean_G[..., None, :]
    return mean_G, np.einsum("...ng,...ng->...g", away_NG, away_NG)


def standard_error(moments: Moments) -> Genes:
    """Of the mean change, per gene; one cell has none: NaN."""
    n = moments.n_cells
    if n < 2:
        return np.full_like(moments.mean_delta_G, np.nan)
    return np.sqrt(moments.m2_delta_G / (n - 1) / n)


def least_error(moments: Moments, rounding: Rounding) -> Genes:
    """The standard error that rounding alone gives the mean change: none that is computed can be known to be smaller.

    Rounding is off by up to half a step, all alike likely: a standard deviation of step / sqrt(12). The step is that of the
    root mean square change.
    """
    n = moments.n_cells
    size_G = np.sqrt(np.square(moments.mean_delta_G) + moments.m2_delta_G / n)
    error_G: Genes = rounding.step_G(size_G) / np.sqrt(12 * n)
    return error_G


def of_group(moments: Moments, number: int) -> Moments:
    """Those of one of many groups at once, (N, G) each."""
    return Moments(
        moments.n_cells, moments.mean_delta_G[number], moments.m2_delta_G[number], moments.target_mean_G[number],
        moments.ref_mean_G[number],
    )  # fmt: skip


def stacked(moments_N: Sequence[Moments]) -> Moments:
    """Those of N groups of as many cells, (N, G) each."""
    first, names = moments_N[0], ("mean_delta_G", "m2_delta_G", "target_mean_G", "ref_mean_G")
    assert all(m.n_cells == first.n_cells for m in moments_N)
    return Moments(first.n_cells, *(np.stack([getattr(m, name) for m in moments_N]) for name in names))


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
