"""The parts of a check, each against a direct computation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from scipy.stats import nbinom, pearsonr, ttest_1samp

from screen.checking.exchange import NOBODY, partners
from screen.checking.intervals import rank_correlation, with_interval
from screen.checking.observed import Observed, pearson
from screen.checking.scatter import LOG_DISPERSIONS, log_likelihood_of_means

KIND_C = np.array([0, 1, 0, 0, 1, 2, 0])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 2))
def test_everyone_has_another_of_their_stratum_and_no_source_serves_twice(strata: list[int], steps: int) -> None:
    stratum_C = np.array(strata)
    partner_C = partners(stratum_C, np.arange(len(strata)), steps)
    for cell, partner in enumerate(partner_C.tolist()):
        if strata.count(strata[cell]) > steps:
            assert partner != cell and strata[partner] == strata[cell]
        if partner == NOBODY:
            assert strata.count(strata[cell]) <= steps
    taken = partner_C[partner_C != NOBODY].tolist()
    assert len(set(taken)) == len(taken)


def test_one_cell_in_two_pairs_is_no_other() -> None:
    partner_C = partners(np.zeros(4, dtype=np.int64), np.array([7, 7, 7, 7]), 1)
    assert partner_C.tolist() == [NOBODY] * 4


def counts() -> np.ndarray:
    return np.random.default_rng(3).poisson(1.5, (7, 12)).astype(np.float32)


def test_means_of_others_leave_the_cell_itself_out() -> None:
    count_CG = counts()
    observed = Observed(sparse.csr_matrix(count_CG), KIND_C)
    per_10k_CG = count_CG / count_CG.sum(1, keepdims=True) * 1e4
    for of_log, value_CG in ((True, np.log1p(per_10k_CG)), (False, per_10k_CG)):
        found = observed.mean_of_others(slice(0, 7), of_log)
        for cell, kind in enumerate(KIND_C):
            others = [c for c in range(7) if KIND_C[c] == kind and c != cell]
            expected = value_CG[others].mean(0) if others else np.full(12, np.nan)
            np.testing.assert_allclose(found[cell], expected, rtol=1e-6)


def test_a_cell_without_counts_is_nobodys_other() -> None:
    count_CG = counts()
    count_CG[2] = 0
    found = Observed(sparse.csr_matrix(count_CG), KIND_C).mean_of_others(slice(0, 7), of_log=False)
    whole = Observed(sparse.csr_matrix(count_CG[[0, 3, 6]]), np.zeros(3, dtype=np.int64))
    np.testing.assert_allclose(found[0], whole.mean_of_others(slice(0, 1), of_log=False)[0], rtol=1e-6)


def test_log_expression_is_recognised_and_left_as_it_is() -> None:
    value_CG = counts() / 7
    observed = Observed(sparse.csr_matrix(value_CG), KIND_C)
    assert not observed.is_counts
    np.testing.assert_allclose(observed.log(slice(1, 3)), value_CG[1:3])


def test_the_likelihood_of_means_is_the_best_of_all_dispersions() -> None:
    count_CG = counts()
    found_C = log_likelihood_of_means(Observed(sparse.csr_matrix(count_CG), KIND_C))
    share_CG = count_CG / count_CG.sum(1, keepdims=True)
    log_KCG = np.full((len(LOG_DISPERSIONS), 7, 12), np.nan)
    for cell, kind in enumerate(KIND_C):
        others = [c for c in range(7) if KIND_C[c] == kind and c != cell]
        if not others:
            continue
        mu_G = (share_CG[others].sum(0) + 1 / 12) / (len(others) + 1) * count_CG[cell].sum()
        for k, theta in enumerate(np.exp(LOG_DISPERSIONS)):
            log_KCG[k, cell] = nbinom.logpmf(count_CG[cell], theta, theta / (theta + mu_G))
    best_G = np.nansum(log_KCG, axis=1).argmax(0)
    expected_C = np.stack([log_KCG[best_G[g], :, g] for g in range(12)], axis=1).mean(1)
    np.testing.assert_allclose(found_C, expected_C, rtol=1e-6)
    assert np.isnan(found_C[5])


def test_intervals_are_students() -> None:
    value_C = np.random.default_rng(0).normal(0.2, 1, 30)
    found = with_interval(np.append(value_C, np.nan))
    low, high = ttest_1samp(value_C, 0).confidence_interval(0.95)
    assert found is not None and found["n"] == 30
    assert found["ci95"] == pytest.approx([low, high], rel=1e-5)
    assert with_interval(np.array([np.nan])) is None
    assert with_interval(np.array([2.0])) == {"mean": 2.0, "ci95": None, "n": 1}


def test_correlations_row_by_row_and_by_rank() -> None:
    one, other = np.random.default_rng(1).normal(size=(2, 4, 9))
    expected = [pearsonr(a, b).statistic for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(pearson(one, other), expected, rtol=1e-12)
    assert rank_correlation(np.arange(5.0), np.exp(np.arange(5.0))) == 1
    assert rank_correlation(np.zeros(5), np.arange(5.0)) is None
    assert rank_correlation(np.arange(2.0), np.arange(2.0)) is None
    assert rank_correlation(np.array([1, 2, np.nan, 3, 0]), np.array([1, 2, 9, 3, np.nan])) == 1
