"""TileSums: mean and spread per gene of float16 items that are read some at a time, in one pass."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Genes = NDArray[np.float64]
READ_BYTES, IN_CACHE, LEAST_ROWS = 2**20, 2**16, 32
"""Bytes of items read at a time; most values that are worked on at a time, which stay in the cache; least rows of either."""
ONE_THREAD = 2**13
"""Most values of a product that BLAS computes in one thread: parts of the tables are made side by side."""
LEAST_SPREAD = 2.0**-45
"""Of a sum of squares. Different float16 values (11 bits) spread by more, the rounding of equal ones by less."""
UNSCALED = 2.0**112
"""Bits of a float16 that lie where float32 has its own are the value divided by this: exponents count from -15 and from -127."""
LARGEST = 65504.0
"""Of the finite float16 values."""
# arrays: numpy converts a Python number at every call
SHIFT, NOT_COPIED_SIGNS = np.array(2**13, np.int32), np.array(~0x70000000, np.int32)


class _Work(NamedTuple):
    """Memory for N rows of G genes, which are W columns in P pieces, as each step sees it."""

    bits_NG: NDArray[np.int32]
    bits_NW: NDArray[np.int32]
    single_NW: NDArray[np.float32]
    double_NW: NDArray[np.float64]
    double_PNw: NDArray[np.float64]
    ones_1N: NDArray[np.float64]
    sum_P1w: NDArray[np.float64]
    square_P1w: NDArray[np.float64]
    both_2G: NDArray[np.float64]


class TileSums:
    """Sums over float16 items that come some at a time, in memory of one thread that is used again.

    `tile` is where items are read to, (N, G).
    """

    def __init__(self, n_genes: int, n_rows: int | None = None, in_cache: int = IN_CACHE) -> None:
        n_rows = n_rows or max(READ_BYTES // (2 * n_genes), LEAST_ROWS)
        self.tile: NDArray[np.float16] = np.empty((n_rows, n_genes), np.float16)
        self._height = min(max(in_cache // n_genes, LEAST_ROWS), n_rows)
        n_blocks = -(-n_genes // max(in_cache // self._height, 1))
        self._width = -(-n_genes // n_blocks)
        self._n_pieces = -(-self._width // max(ONE_THREAD // self._height, 1))
        n_columns = self._n_pieces * -(-self._width // self._n_pieces)
        # zeros: columns beyond the last gene are summed too
        self._bits, self._double = np.zeros((self._height, n_columns), np.int32), np.zeros((self._height, n_columns))
        self._both, self._works = np.empty((2, n_columns)), dict[tuple[int, int], _Work]()

    def of(self, tiles: Iterable[NDArray[np.float16]]) -> tuple[int, Genes, Genes]:
        """(items, mean, sum of squared deviations from it) per gene.

        One pass, in float64, where values and their squares are exact. At most 2^20 items: a gene that is the same in all
        of them is then told from one that is not, and has exactly 0.
        """
        both_2G, n_items = np.zeros((2, self.tile.shape[1])), 0
        for tile in tiles:
            both_2G += self._sums(tile)
            n_items += len(tile)
        sum_G, square_G = both_2G
        m2_G = square_G - np.square(sum_G) / n_items
        m2_G[m2_G <= LEAST_SPREAD * square_G] = 0.0
        return n_items, sum_G / n_items, m2_G

    def _sums(self, tile: NDArray[np.float16]) -> NDArray[np.float64]:
        """(2, G): sums and sums of squares of a tile."""
        (n_rows, n_genes), half_NG = tile.shape, tile.view(np.int16)
        both_2G = np.zeros((2, n_genes))
        for first in range(0, n_genes, self._width):
            some_2G = both_2G[:, first : first + self._width]
            for row in range(0, n_rows, self._height):
                self._add(half_NG[row : row + self._height, first : first + self._width], some_2G)
        both_2G *= [[UNSCALED], [UNSCALED**2]]
        if both_2G[1].max() > LARGEST**2 and not np.isfinite(tile).all():
            # infinity and NaN have no bits of their own among the scaled values
            exact_NG = tile.astype(np.float64)
            return np.stack([exact_NG.sum(0), np.square(exact_NG).sum(0)])
        return both_2G

    def _add(self, half_NG: NDArray[np.int16], both_2G: NDArray[np.float64]) -> None:
        """Adds the scaled values of these bits and their squares; numpy's own conversion of float16 takes longer."""
        work = self._works.get(half_NG.shape) or self._work(*half_NG.shape)
        np.copyto(work.bits_NG, half_NG)
        np.multiply(work.bits_NW, SHIFT, out=work.bits_NW)
        # wider integers have copies of the sign below the sign
        np.bitwise_and(work.bits_NW, NOT_COPIED_SIGNS, out=work.bits_NW)
        np.copyto(work.double_NW, work.single_NW)
        np.matmul(work.ones_1N, work.double_PNw, out=work.sum_P1w)
        np.square(work.double_NW, out=work.double_NW)
        np.matmul(work.ones_1N, work.double_PNw, out=work.square_P1w)
        np.add(both_2G, work.both_2G, out=both_2G)

    def _work(self, n: int, n_genes: int) -> _Work:
        """The memory for blocks of this shape."""
        bits_NW, double_NW, ones_1N = self._bits[:n], self._double[:n], np.ones((1, n))
        double_PNw = double_NW.reshape(n, self._n_pieces, -1).swapaxes(0, 1)
        sum_P1w, square_P1w = self._both.reshape(2, self._n_pieces, 1, -1)
        seen = bits_NW[:, :n_genes], bits_NW, bits_NW.view(np.float32), double_NW, double_PNw
        work = self._works[n, n_genes] = _Work(*seen, ones_1N, sum_P1w, square_P1w, self._both[:, :n_genes])
        return work
