"""TileSums: mean and spread per gene of float16 items that are read some at a time, in one pass."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Genes = NDArray[np.float64]
READ_BYTES, IN_CACHE, LEAST_ROWS = 2**20, 2**16, 32
"""Bytes of items read at a time; most values that are summed at a time, which stay in the cache; least rows of either."""
LEAST_SPREAD = 2.0**-45
"""Of a sum of squares. Different float16 values (11 bits) spread by more, the rounding of equal ones by less."""
UNSCALED = 2.0**112
"""Bits of a float16 that lie where float32 has its own are the value divided by this: exponents count from -15 and from -127."""
LARGEST = 65504.0
"""Of the finite float16 values."""


class TileSums:
    """Sums over float16 items that come some at a time, in memory of one thread that is used again.

    `tile` is where items are read to, (N, G).
    """

    def __init__(self, n_genes: int, n_rows: int | None = None, in_cache: int = IN_CACHE) -> None:
        n_rows = n_rows or max(READ_BYTES // (2 * n_genes), LEAST_ROWS)
        self.tile: NDArray[np.float16] = np.empty((n_rows, n_genes), np.float16)
        height = min(max(in_cache // n_genes, LEAST_ROWS), n_rows)
        shape = height, min(max(in_cache // height, 1), n_genes)
        self._bits, self._scaled = np.empty(shape, np.int32), np.empty(shape, np.float64)

    def of(self, tiles: Iterable[NDArray[np.float16]]) -> tuple[int, Genes, Genes]:
        """(items, mean, sum of squared deviations from it) per gene.

        One pass, in float64, where values and their squares are exact. At most 2^20 items: a gene that is the same in all
        of them is then told from one that is not, and has exactly 0.
        """
        sum_G, square_G = np.zeros((2, self.tile.shape[1]))
        n_items = 0
        for tile in tiles:
            tile_sum_G, tile_square_G = self._sums(tile)
            sum_G += tile_sum_G
            square_G += tile_square_G
            n_items += len(tile)
        m2_G = square_G - np.square(sum_G) / n_items
        m2_G[m2_G <= LEAST_SPREAD * square_G] = 0.0
        return n_items, sum_G / n_items, m2_G

    def _sums(self, tile: NDArray[np.float16]) -> tuple[Genes, Genes]:
        """(sums, sums of squares) of a tile."""
        n_genes, width = tile.shape[1], self._bits.shape[1]
        sum_G, square_G = np.zeros((2, n_genes))
        for start in range(0, n_genes, width):
            genes = slice(start, min(start + width, n_genes))
            self._add(tile[:, genes].view(np.int16), sum_G[genes], square_G[genes])
        sum_G *= UNSCALED
        square_G *= UNSCALED**2
        if square_G.max() > LARGEST**2 and not np.isfinite(tile).all():
            # infinity and NaN have no bits of their own among the scaled values
            exact_NG = tile.astype(np.float64)
            return exact_NG.sum(0), np.square(exact_NG).sum(0)
        return sum_G, square_G

    def _add(self, half_NG: NDArray[np.int16], sum_G: Genes, square_G: Genes) -> None:
        """Adds the values of these bits, and their squares, both scaled; numpy's own conversion takes longer."""
        height, n_genes = len(self._bits), half_NG.shape[1]
        for start in range(0, len(half_NG), height):
            some_NG = half_NG[start : start + height]
            bits_NG, scaled_NG = self._bits[: len(some_NG), :n_genes], self._scaled[: len(some_NG), :n_genes]
            np.copyto(bits_NG, some_NG)
            np.multiply(bits_NG, 2**13, out=bits_NG)
            # wider integers have copies of the sign below the sign
            np.bitwise_and(bits_NG, ~0x70000000, out=bits_NG)
            np.copyto(scaled_NG, bits_NG.view(np.float32))
            sum_G += np.add.reduce(scaled_NG, axis=0)
            np.square(scaled_NG, out=scaled_NG)
            square_G += np.add.reduce(scaled_NG, axis=0)
