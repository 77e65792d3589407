"""Set null: leave-one-out is that, p is uniform under the null, a shifted set is called, and hits do not hide each other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from statsmodels.stats.multitest import multipletests

from screen.config.sections import FEWEST_NULLS
from screen.stats.sets.moved import judged, told
from screen.stats.sets.set_null import OF_ALL, OF_NULLS, Judge, Rates, farthest, standardised

N_SETS = 60


def scores(n: int, seed: int) -> np.ndarray:
    """Scores of sets that hang together: five directions, each set with a location and a scale of its own."""
    rng = np.random.default_rng(seed)
    mixed_PS = rng.standard_normal((n, 5)) @ rng.standard_normal((5, N_SETS)) + 0.3 * rng.standard_normal((n, N_SETS))
    return (mixed_PS * rng.uniform(0.5, 5, N_SETS) + rng.normal(0, 3, N_SETS)).astype(np.float32)


def flags(n: int, n_first: int) -> np.ndarray:
    return np.arange(n) < n_first


def test_a_null_perturbation_is_judged_by_the_others() -> None:
    score_PS = scores(40, 0).astype(np.float64)
    z_PS = standardised(score_PS, np.ones(40, dtype=bool))
    # nothing is so far out that it is drawn in
    for p in range(40):
        others = np.delete(score_PS, p, axis=0)
        expected_S = (score_PS[p] - others.mean(0)) / (others.std(0, ddof=1) * np.sqrt(1 + 1 / 39))
        assert_allclose(z_PS[p], expected_S, rtol=0.15, atol=0.15)
    is_pool_P = ~flags(40, 1)
    alone_S = standardised(score_PS, is_pool_P)[0]
    assert_allclose(alone_S, z_PS[0], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("n_nulls", [60, 200])
def test_p_of_the_farthest_set_is_uniform_under_the_null(n_nulls: int) -> None:
    p = []
    for seed in range(100):
        is_null_P = ~flags(20 + n_nulls, 20)
        found = judged(scores(20 + n_nulls, seed), np.ones(20 + n_nulls, dtype=bool), is_null_P, ~is_null_P)
        assert found.judge.n == n_nulls
        p.append(found.judge.p(farthest(found.z_PS), found.is_pool_P)[:20])
    # 100 draws of 20 that share their nulls
    for level, most in ((0.05, 0.065), (0.01, 0.018), (0.001, 0.004)):
        assert (np.array(p) < level).mean() < most
    assert (np.array(p) < 0.05).mean() > 0.035


@pytest.mark.parametrize("n_hits", [1, 30])
@pytest.mark.parametrize("designated", [True, False])
def test_shifted_sets_are_called_and_hits_do_not_hide_each_other(n_hits: int, designated: bool) -> None:
    score_PS = scores(600, 1)
    score_PS[:n_hits, 7] += 10 * score_PS[:, 7].std()
    is_null_P = flags(600, 600) & ~flags(600, 300) if designated else np.zeros(600, dtype=bool)
    found = judged(score_PS, np.ones(600, dtype=bool), is_null_P, flags(600, 300) & designated)
    row, member, columns = told(found, np.flatnonzero(~is_null_P), 1, 0.05)
    is_called = columns["q_value"] < 0.05
    assert set(row[is_called & (member == 7)]) == set(range(n_hits))
    assert np.count_nonzero(is_called & (member != 7)) <= 0.1 * n_hits
    assert (columns["null_z"][is_called & (member == 7)] > 5).all()


def test_few_nulls_few_cells_and_no_change_give_no_p() -> None:
    score_PS = scores(60, 2)
    score_PS[3] = np.nan
    is_enough_P = np.arange(60) != 4
    is_null_P = np.arange(60) >= 60 - FEWEST_NULLS
    found = judged(score_PS, is_enough_P, is_null_P, ~is_null_P)
    row, _, columns = told(found, np.arange(60), 2, 0.01)
    assert set(row) == set(range(60)) - {3}
    assert np.isnan(columns["p_value"][row == 4]).all()
    assert np.isfinite(columns["score"][row == 4]).all()
    assert np.isfinite(columns["p_value"][row != 4]).all()
    assert np.isnan(columns["q_value"][row == 4]).all()
    is_null_P[-1] = False
    found = judged(score_PS, is_enough_P, is_null_P, np.ones(60, dtype=bool))
    assert np.isnan(told(found, np.arange(60), 2, 0.01)[2]["p_value"]).all()


@given(
    st.lists(st.integers(0, 30), min_size=FEWEST_NULLS, max_size=60),
    st.lists(st.integers(0, 40), min_size=2, max_size=9),
)
def test_p_never_rises_with_size_and_is_never_zero(pool: list[int], sizes: list[int]) -> None:
    for tail in (OF_NULLS, OF_ALL):
        judge = Judge(np.array(pool, dtype=float), tail)
        p = judge.p(np.sort(np.array(sizes, dtype=float)), np.zeros(len(sizes), dtype=bool))
        assert (np.diff(p) <= 1e-12).all()
        assert ((p > 0) & (p <= 1)).all()


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=20), st.lists(st.floats(1e-6, 1), min_size=1, max_size=9))
def test_the_rate_of_the_farthest_sets_is_benjamini_and_hochbergs(p: list[float], others: list[float]) -> None:
    p_P, rates = np.array(p), Rates(np.array(p))
    assert_allclose(rates.q(p_P), multipletests(p_P, method="fdr_bh")[1], rtol=1e-12)
    # of any other set: the least rate at which it passes what is allowed to the perturbations that pass
    for x, q in zip(others, rates.q(np.array(others)), strict=True):
        levels = np.append(p_P[p_P >= x], x)
        allowed = [t * len(p_P) / n for t in levels if (n := np.count_nonzero(p_P <= t))]
        assert_allclose(q, min([1.0, *allowed]), rtol=1e-12)
