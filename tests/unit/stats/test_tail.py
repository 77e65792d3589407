"""The tail of a pool: counted inside, generalised Pareto beyond, careful with few values and with heavy tails."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats

from screen.stats.false_discovery import benjamini_hochberg
from screen.stats.tail import FEWEST_FOR_TAIL, exceedance, tail_p

DRAWS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "laplace": lambda rng, n: rng.laplace(size=n),
    "gumbel": lambda rng, n: rng.gumbel(size=n),
    "t with 5 degrees": lambda rng, n: rng.standard_t(5, n),
}


@given(st.integers(1, FEWEST_FOR_TAIL - 1), st.integers(0, 2**32))
def test_small_pools_are_counted(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pool, value = rng.integers(0, 9, n).astype(float), np.append(rng.integers(-1, 11, 20).astype(float), np.nan)
    p = tail_p(value, pool)
    assert_allclose(p[:-1], [(1 + (pool >= v).sum()) / (1 + n) for v in value[:-1]], rtol=1e-15)
    assert np.isnan(p[-1])


@given(st.integers(FEWEST_FOR_TAIL, 400), st.integers(0, 2**32))
def test_large_pools_are_counted_up_to_their_upper_tenth_and_fall_beyond(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pool = rng.standard_normal(n)
    value = np.sort(np.concatenate([pool, rng.normal(0, 3, 50)]))
    p, counted = tail_p(value, pool), np.array([(1 + (pool >= v).sum()) / (1 + n) for v in value])
    below = value <= np.sort(pool)[-min(max(n // 10, 10), 75) - 1]
    assert_allclose(p[below], counted[below], rtol=1e-15)
    assert (np.diff(p) <= 1e-15).all()
    assert (p > 0).all()


def test_a_member_is_not_counted_against_itself() -> None:
    pool = np.arange(40.0)
    p = tail_p(pool, pool, np.ones(40, dtype=bool))
    assert_allclose(p, [(1 + (39 - i)) / 40 for i in range(40)], rtol=1e-15)


@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 2**32))
def test_a_pool_that_says_everything_several_times_says_no_more(tens: int, repeats: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pool, value = rng.standard_normal(10 * tens), rng.normal(0, 3, 20)
    again = tail_p(value, np.repeat(pool, repeats), repeats=float(repeats))
    assert_allclose(again, tail_p(value, pool), rtol=1e-9)


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize(("n_pool", "n_tested"), [(200, 20), (1500, 1500)])
def test_of_nothing_hardly_anything_is_called(name: str, n_pool: int, n_tested: int) -> None:
    rng, called, small = np.random.default_rng(1), 0, []
    for _ in range(60):
        p = tail_p(DRAWS[name](rng, n_tested), DRAWS[name](rng, n_pool))
        called += bool((benjamini_hochberg(p) < 0.1).any())
        small.append((p < 0.01).mean())
    # by chance a tenth; three standard errors of 60 draws are 0.12
    assert called / 60 < 0.22
    assert np.mean(small) < 0.01 + 3 * np.std(small) / np.sqrt(60)


def test_one_strong_value_can_be_called_among_thousands() -> None:
    rng, called = np.random.default_rng(2), 0
    for _ in range(20):
        value = np.append(rng.standard_normal(2999), 7.0)
        called += bool(benjamini_hochberg(tail_p(value, rng.standard_normal(3000)))[-1] < 0.1)
    assert called >= 15


def test_with_many_values_the_tail_is_that_of_the_distribution() -> None:
    seen = stats.genpareto.rvs(0.3, scale=2.0, size=20_000, random_state=np.random.default_rng(3))
    at = np.array([0.5, 2.0, 10.0, 50.0])
    assert_allclose(exceedance(at, seen), stats.genpareto.sf(at, 0.3, scale=2.0), rtol=0.15)


def test_few_values_give_a_heavier_tail_than_many() -> None:
    rng = np.random.default_rng(4)
    few, many = (exceedance(np.array([8.0]), rng.exponential(size=n))[0] for n in (10, 10_000))
    assert many == pytest.approx(np.exp(-8), rel=0.5)
    assert few > 4 * many
