"""Paired statistics equal scipy's, false discovery rates equal statsmodels' definition, corner cases are named."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from screen.deg import benjamini_hochberg, paired_t


@pytest.mark.parametrize("n_cells", [2, 3, 40])
def test_paired_t_equals_scipy(n_cells: int) -> None:
    rng = np.random.default_rng(n_cells)
    control, perturbed = rng.normal(size=(2, n_cells, 30))
    mean, se, t, p = paired_t(perturbed - control)
    reference = stats.ttest_rel(perturbed, control)
    np.testing.assert_allclose(t, reference.statistic, rtol=1e-9)
    np.testing.assert_allclose(p, reference.pvalue, rtol=1e-9)
    np.testing.assert_allclose(mean, (perturbed - control).mean(0), rtol=1e-12)
    np.testing.assert_allclose(se, stats.sem(perturbed - control), rtol=1e-9)


def test_one_cell_has_a_mean_and_nothing_else() -> None:
    mean, se, t, p = paired_t(np.array([[0.5, 0.0]]))
    assert mean.tolist() == [0.5, 0.0]
    assert np.isnan([se, t, p]).all()


def test_constant_changes_are_certain_and_no_change_is_none() -> None:
    _, _, t, p = paired_t(np.array([[0.25, 0.0], [0.25, 0.0], [0.25, 0.0]]))
    assert t[0] == np.inf
    assert p.tolist() == [0.0, 1.0]


@given(arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1)))
def test_fdr_equals_scipy(p: np.ndarray) -> None:
    np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p), rtol=1e-12, atol=1e-300)


def test_missing_p_values_stay_missing_and_do_not_count() -> None:
    with_gaps = benjamini_hochberg(np.array([0.01, np.nan, 0.04]))
    np.testing.assert_allclose(with_gaps[[0, 2]], [0.02, 0.04])
    assert np.isnan(with_gaps[1])
