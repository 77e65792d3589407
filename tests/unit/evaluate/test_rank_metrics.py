"""Metrics of a ranking: equal to plain definitions, intervals that hold the truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import average_precision_score

from screen.evaluate.rank_metrics import (
    auprc_rows,
    interval,
    partial_spearman,
    precision_at,
    ranks,
    resampled,
    spearman,
    strongest,
)


@given(arrays(float, 30, elements=st.integers(-4, 4)), arrays(float, 30, elements=st.integers(-4, 4)))
def test_it_is_spearmans_and_the_average_precision_of_others_ties_included(x: np.ndarray, y: np.ndarray) -> None:
    if np.ptp(x) and np.ptp(y):
        assert abs(spearman(x, y) - spearmanr(x, y).statistic) < 1e-12
    else:
        assert spearman(x, y) == 0
    both = np.stack([x, y])
    assert (ranks(both) == rankdata(both, axis=-1)).all() and (ranks(x) == rankdata(x)).all()
    top = strongest(y)
    assert top.sum() == 0 or 5 <= top.sum() <= 15
    ours = auprc_rows(x[None], top[None])[0]
    assert abs(ours - average_precision_score(top, x)) < 1e-12 if top.any() else np.isnan(ours)


def test_what_covariates_explain_is_gone() -> None:
    rng = np.random.default_rng(0)
    covariate, own = rng.normal(size=(300, 2)), rng.normal(size=300)
    # what ranks explain, ranks take away
    score, effect = covariate[:, 0] + 0.2 * rng.normal(size=300), covariate[:, 0] + 0.2 * rng.normal(size=300)
    assert spearman(score, effect) > 0.9 and abs(partial_spearman(score, effect, covariate)) < 0.2
    assert partial_spearman(covariate[:, 0] + own, covariate[:, 1] + own, covariate) > 0.8
    assert partial_spearman(covariate[:, 0], effect, covariate) == 0
    gaps = covariate.copy()
    gaps[::3] = np.nan
    assert np.isfinite(partial_spearman(score, effect, gaps)) and np.isnan(
        partial_spearman(score[:6], effect[:6], gaps[:6])
    )


def test_precision_is_of_as_many_as_are_looked_at() -> None:
    effect = np.arange(40.0)
    assert precision_at(effect, effect, 10) == 1 and precision_at(-effect, effect, 10) == 0
    assert precision_at(np.where(effect < 35, effect, -1), effect, 10) == 0.5
    assert np.isnan(precision_at(effect, effect, 21))


def test_effects_that_tie_set_nobody_apart() -> None:
    effect = np.zeros(40)
    assert not strongest(effect).any() and np.isnan(precision_at(np.arange(40.0), effect, 10))
    effect[:7] = 1
    # a tenth would be four or five: all seven tie
    assert strongest(effect).sum() == 7 and precision_at(effect, effect, 5) == 1
    effect[:30] = 1
    assert not strongest(effect).any()


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        x = rng.normal(size=60)
        low, high = interval(x[resampled(60, n_resampled=400)].mean(1))
        held += low <= 0 <= high
    # 95 % of 200, less three standard deviations and what resampling loses with 60
    assert held >= 178
    assert (resampled(7) == resampled(7)).all() and np.isnan(interval(np.array([np.nan]))).all()


@pytest.mark.parametrize("n", [0, 1, 4])
def test_of_too_few_nothing_is_said(n: int) -> None:
    assert np.isnan(spearman(np.arange(n), np.arange(n)))
