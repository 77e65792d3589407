"""Moments: what is enough to know of a group of items, per gene, and how groups of one perturbation join."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
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


def moments_of(delta_NG: NDArray[np.floating], control_NG: NDArray[np.floating], is_log1p: bool) -> Moments:
    """Of N items, (N, G) each; accumulated in float64."""
    delta, control = torch.from_numpy(delta_NG), torch.from_numpy(control_NG)
    mean_G, m2_G = mean_and_squares(delta)
    after, before = control + delta, control
    if is_log1p:
        after, before = torch.expm1(after), torch.expm1(before)
    n = len(delta_NG)
    target_G, ref_G = (x.sum(0, dtype=torch.float64).numpy() / n for x in (after, before))
    return Moments(n, mean_G, m2_G, target_G, ref_G)


def mean_and_squares(delta_NG: torch.Tensor) -> tuple[Genes, Genes]:
    """(mean, sum of squared deviations from it) per gene, in float64. The second pass runs in the cache."""
    exact_NG, ones_1N = delta_NG.double(), torch.ones(1, len(delta_NG), dtype=torch.float64)
    mean_1G = (ones_1N @ exact_NG) / len(delta_NG)
    away_NG = exact_NG - mean_1G if exact_NG is delta_NG else exact_NG.sub_(mean_1G)
    return mean_1G[0].numpy(), (ones_1N @ away_NG.square_())[0].numpy()


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
