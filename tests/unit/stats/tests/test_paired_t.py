"""The paired t-test equals scipy's, few cells and constant changes included."""

import numpy as np
import pytest
from scipy import special, stats

from screen.stats.moments import Moments, moments_of, standard_error
from screen.stats.tests.paired_t import MOST_BY_SUM, paired_t, two_sided


def moments(delta_NG: np.ndarray) -> Moments:
    return moments_of(delta_NG, np.zeros_like(delta_NG), False)


@pytest.mark.parametrize("n_cells", [2, 3, 40])
def test_paired_t_equals_scipy(n_cells: int) -> None:
    rng = np.random.default_rng(n_cells)
    control, perturbed = rng.normal(size=(2, n_cells, 30))
    found = moments(perturbed - control)
    se, (t, p) = standard_error(found), paired_t(found)
    reference = stats.ttest_rel(perturbed, control)
    np.testing.assert_allclose(t, reference.statistic, rtol=1e-9)
    np.testing.assert_allclose(p, reference.pvalue, rtol=1e-9)
    np.testing.assert_allclose(found.mean_delta_G, (perturbed - control).mean(0), rtol=1e-12)
    np.testing.assert_allclose(se, stats.sem(perturbed - control), rtol=1e-9)


def test_one_cell_has_a_mean_and_nothing_else() -> None:
    found = moments(np.array([[0.5, 0.0]]))
    assert found.mean_delta_G.tolist() == [0.5, 0.0]
    assert np.isnan([standard_error(found), *paired_t(found)]).all()


def test_constant_changes_are_certain_and_no_change_is_none() -> None:
    t, p = paired_t(moments(np.array([[0.25, 0.0], [0.25, 0.0], [0.25, 0.0]])))
    assert t[0] == np.inf
    assert p.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("df", [*range(1, 13), 14, 49, MOST_BY_SUM, MOST_BY_SUM + 1, 500])
def test_the_sum_is_the_incomplete_beta_function(df: int) -> None:
    rng = np.random.default_rng(df)
    # not 1e-9: there scipy's rounds to 1, with one degree of freedom
    extremes = [0, -0.0, np.inf, -np.inf, np.nan, 1e-300, 1e-2, 1e200, -5.0]
    t = np.concatenate([3 * rng.standard_t(df, 2000), rng.standard_t(df, 2000), extremes])
    np.testing.assert_allclose(two_sided(t, df), 2 * special.stdtr(df, -np.abs(t)), rtol=1e-11, atol=0)
