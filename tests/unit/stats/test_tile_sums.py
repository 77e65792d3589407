"""Sums on the way equal those of all items, whatever the size of the tiles, and the exotic values of float16 included."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from screen.stats.tile_sums import TileSums

halves = st.floats(-60000, 60000, width=16)


@given(
    arrays(np.float16, st.tuples(st.integers(1, 40), st.integers(1, 5)), elements=halves),
    st.integers(1, 50),
    st.integers(1, 60),
)
def test_sums_on_the_way_are_those_of_all_items_and_a_constant_gene_does_not_spread(
    items_NG: np.ndarray, height: int, in_cache: int
) -> None:
    n, n_genes = items_NG.shape
    items_NG[:, 0] = items_NG[0, 0]
    sums = TileSums(n_genes, height, in_cache)
    assert len(sums.tile) == height
    for _ in range(2):
        # in memory that was used before
        n_items, mean_G, m2_G = sums.of(items_NG[i : i + height] for i in range(0, n, height))
        exact_NG = items_NG.astype(np.float64)
        square_G = np.square(exact_NG).sum(0)
        assert n_items == n
        np.testing.assert_allclose(mean_G, exact_NG.mean(0), rtol=0, atol=(n + 2) * 2.0**-53 * np.abs(exact_NG).max())
        away_G = np.square(exact_NG - exact_NG.mean(0)).sum(0)
        assert (np.abs(m2_G - away_G) <= (n + 4) * 2.0**-52 * square_G).all()
        assert (m2_G[np.ptp(exact_NG, axis=0) == 0] == 0).all()
        assert (m2_G[np.ptp(exact_NG, axis=0) > 0] > 0).all()


def test_every_finite_float16_is_summed_exactly() -> None:
    every_G = np.arange(2**16, dtype=np.uint16).view(np.float16)
    every_G = every_G[np.isfinite(every_G)]
    # one item: its sum is itself
    _, mean_G, m2_G = TileSums(len(every_G), 3).of([every_G[None]])
    np.testing.assert_array_equal(mean_G, every_G.astype(np.float64))
    assert (m2_G == 0).all()


@pytest.mark.parametrize(("n", "n_genes"), [(300, 2001), (70, 5003), (1, 1), (2000, 3)])
def test_sums_do_not_depend_on_how_genes_and_items_are_cut(n: int, n_genes: int) -> None:
    # multiples of 1/8: sums and squares are exact in float64, in whatever order
    items_NG = np.random.default_rng(n).integers(-999, 999, (n, n_genes)).astype(np.float16) / np.float16(8)
    sums, exact_NG = TileSums(n_genes), items_NG.astype(np.float64)
    found = sums.of(items_NG[i : i + len(sums.tile)] for i in range(0, n, len(sums.tile)))
    assert found[0] == n
    np.testing.assert_array_equal(found[1], exact_NG.sum(0) / n)
    np.testing.assert_array_equal(found[2], np.square(exact_NG).sum(0) - np.square(exact_NG.sum(0)) / n)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_an_infinite_item_makes_its_genes_mean_infinite_and_no_other(value: float) -> None:
    items_NG = np.float16([[1, 60000, 3], [2, -60000, 5], [4, 60000, 7]])
    items_NG[1, 2] = value
    _, mean_G, m2_G = TileSums(3, 2).of([items_NG[:2], items_NG[2:]])
    np.testing.assert_array_equal(mean_G, [7 / 3, 20000.0, value])
    np.testing.assert_allclose(m2_G[:2], [14 / 3, 2.4e9 * 4], rtol=1e-12)
    assert np.isnan(m2_G[2])
