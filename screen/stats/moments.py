"""Moments: what is enough to know of a group of items, per gene, and how groups of one perturbation join."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Genes = NDArray[np.float64]
TILE_BYTES = 2**20
"""Of the float64 values summed at a time: they stay in the cache."""
LEAST_SPREAD = 2.0**-45
"""Of a sum of squares. Different float16 values (11 bits) spread by more, the rounding of equal ones by less."""


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
    mean_G, m2_G = mean_and_squares(torch.from_numpy(delta_NG))
    # counts after = (1 + before) exp(delta) - 1: a small change is not lost in what it is added to
    change_NG = (1 + before_NG) * np.expm1(delta_NG) if is_log1p else delta_NG
    ref_G, change_G = (torch.from_numpy(x).sum(0, dtype=torch.float64).numpy() for x in (before_NG, change_NG))
    n = len(delta_NG)
    return Moments(n, mean_G, m2_G, (ref_G + change_G) / n, ref_G / n)


def counts_of(control_NG: NDArray[np.floating], is_log1p: bool) -> NDArray[np.floating]:
    """Control expression as counts per 10,000; as it is where the model's scale is not log1p of these."""
    return np.expm1(control_NG) if is_log1p else control_NG


def mean_and_squares(delta_NG: torch.Tensor) -> tuple[Genes, Genes]:
    """(mean, sum of squared deviations from it) per gene, in float64. The second pass runs in the cache."""
    exact_NG, ones_1N = delta_NG.double(), torch.ones(1, len(delta_NG), dtype=torch.float64)
    mean_1G = (ones_1N @ exact_NG) / len(delta_NG)
    away_NG = exact_NG - mean_1G if exact_NG is delta_NG else exact_NG.sub_(mean_1G)
    return mean_1G[0].numpy(), (ones_1N @ away_NG.square_())[0].numpy()


class TileSums:
    """Sums over float16 items that come some at a time, in memory of one thread that is used again.

    `tile` is where items are read to, (N, G).
    """

    def __init__(self, n_genes: int, n_bytes: int = TILE_BYTES) -> None:
        height = max(n_bytes // (8 * n_genes), 1)
        self.tile: NDArray[np.float16] = np.empty((height, n_genes), np.float16)
        self._single, self._double = torch.empty(height, n_genes), torch.empty(height, n_genes, dtype=torch.float64)
        self._ones_1N = torch.ones(1, height, dtype=torch.float64)

    def of(self, tiles: Iterable[NDArray[np.float16]]) -> tuple[int, Genes, Genes]:
        """(items, mean, sum of squared deviations from it) per gene.

        One pass, in float64, where values and their squares are exact. At most 2^20 items: a gene that is the same in all
        of them is then told from one that is not, and has exactly 0.
        """
        sum_1G, square_1G = torch.zeros(2, 1, self.tile.shape[1], dtype=torch.float64)
        n_items = 0
        for tile in tiles:
            n = len(tile)
            ones_1N, single, double = self._of_height(n)
            # converted in two steps, both vectorised
            double.copy_(single.copy_(torch.from_numpy(tile)))
            sum_1G.addmm_(ones_1N, double)
            square_1G.addmm_(ones_1N, double.mul_(double))
            n_items += n
        sum_G, square_G = sum_1G[0].numpy(), square_1G[0].numpy()
        m2_G = square_G - np.square(sum_G) / n_items
        m2_G[m2_G <= LEAST_SPREAD * square_G] = 0.0
        return n_items, sum_G / n_items, m2_G

    def _of_height(self, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        whole = self._ones_1N, self._single, self._double
        return whole if n == len(self.tile) else (whole[0][:, :n], whole[1][:n], whole[2][:n])


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
