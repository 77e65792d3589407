"""The paired t-test equals scipy's, and no p-value comes of the rounding of what is stored."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import special, stats

from screen.planning.layout import FLOAT16_SCALE
from screen.stats.moments import Moments, Rounding, least_error, moments_of, standard_error
from screen.stats.tests.moderated_t import moderated_t
from screen.stats.tests.paired_t import MOST_BY_SUM, paired_t, two_sided
from screen.stats.tests.sample import Sample

FLOAT16 = Rounding("float16", FLOAT16_SCALE)
TESTS = {"paired": paired_t, "moderated": moderated_t}


def moments(delta_NG: np.ndarray) -> Moments:
    return moments_of(delta_NG, np.zeros_like(delta_NG), False)


def stored(delta_NG: np.ndarray) -> np.ndarray:
    """What a float16 store gives back."""
    return (delta_NG * FLOAT16_SCALE).astype(np.float16).astype(np.float64) / FLOAT16_SCALE


@pytest.mark.parametrize("n_cells", [3, 4, 40])
def test_paired_t_equals_scipy(n_cells: int) -> None:
    rng = np.random.default_rng(n_cells)
    control, perturbed = rng.normal(size=(2, n_cells, 30))
    found = moments(perturbed - control)
    se, (t, p) = standard_error(found), paired_t(Sample(found))
    reference = stats.ttest_rel(perturbed, control)
    np.testing.assert_allclose(t, reference.statistic, rtol=1e-9)
    np.testing.assert_allclose(p, reference.pvalue, rtol=1e-9)
    np.testing.assert_allclose(found.mean_delta_G, (perturbed - control).mean(0), rtol=1e-12)
    np.testing.assert_allclose(se, stats.sem(perturbed - control), rtol=1e-9)


def test_one_cell_has_a_mean_and_nothing_else() -> None:
    found = moments(np.array([[0.5, 0.0]]))
    assert found.mean_delta_G.tolist() == [0.5, 0.0]
    assert np.isnan([standard_error(found), *paired_t(Sample(found))]).all()


@pytest.mark.parametrize("test", list(TESTS))
def test_two_cells_have_no_p_and_two_replicates_do(test: str) -> None:
    found = moments(np.random.default_rng(0).normal(size=(2, 50)))
    assert np.isnan(TESTS[test](Sample(found))).all()
    assert np.isfinite(TESTS[test](Sample(found, of_replicates=True))).all()


@given(st.floats(0, 15) | st.floats(0, 2**-24), st.sampled_from(["float16", "float32"]))
@example(0.0, "float16")
@example(2.0**-26, "float16")
@example(1.0, "float32")
def test_a_step_is_the_distance_to_the_next_number_that_can_be_stored(value: float, dtype: str) -> None:
    scale = FLOAT16_SCALE if dtype == "float16" else 1.0
    (step,) = Rounding(dtype, scale).step_G(np.array([value]))
    kind = np.dtype(dtype).type
    below = kind(value * scale)
    # of the number rounded to zero: rounding up may enter the next binade
    below = np.nextafter(below, kind(0)) if float(below) > value * scale else below
    assert step == float(np.spacing(below)) / scale


@pytest.mark.parametrize("test", list(TESTS))
def test_a_change_that_is_the_same_in_all_cells_is_as_sure_as_its_rounding(test: str) -> None:
    step = 2.0**-24 / FLOAT16_SCALE
    # one step of the smallest numbers; a step of 2^-10 of its size; none
    delta_NG = np.tile([step, 0.25, 0.0], (3, 1))
    t_G, p_G = TESTS[test](Sample(moments(delta_NG), rounding=FLOAT16))
    if test == "paired":
        np.testing.assert_allclose(t_G, [6.0, 6 * 2**10, 0.0], rtol=1e-12)
    assert (p_G[:2] > 0).all()
    assert p_G[2] == 1
    assert t_G[2] == 0


def test_rounding_adds_to_the_error_as_much_as_it_does_in_a_simulation() -> None:
    rng = np.random.default_rng(3)
    true_NG = rng.uniform(0.01, 0.0155, (8, 20_000))
    off_G = (stored(true_NG) - true_NG).mean(0)
    least_G = least_error(moments(stored(true_NG)), FLOAT16)
    # 20,000 draws: the spread is known to 0.5 %
    assert 0.98 < off_G.std() / least_G.mean() < 1.02


@pytest.mark.parametrize("test", list(TESTS))
@pytest.mark.parametrize("steps", [0.3, 0.6, 1.0, 2.0, 1e4])
@pytest.mark.parametrize("n", [2, 3, 5])
def test_no_more_null_genes_are_called_than_the_level_says_whatever_rounding_does(
    test: str, n: int, steps: float
) -> None:
    """Changes of mean 0, of a spread of some steps between the smallest numbers that float16 has."""
    n_genes, rng = 100_000, np.random.default_rng(n)
    delta_NG = stored(rng.normal(0, steps * 2**-24 / FLOAT16_SCALE, (n, n_genes)))
    for of_replicates in (False, True):
        _, p_G = TESTS[test](Sample(moments(delta_NG), rounding=FLOAT16, of_replicates=of_replicates))
        if n == 2 and not of_replicates:
            assert np.isnan(p_G).all()
            continue
        for level in (0.05, 0.01):
            # beyond chance: 4 standard deviations
            assert (p_G < level).mean() <= level + 4 * np.sqrt(level / n_genes)


@pytest.mark.parametrize("df", [*range(1, 13), 14, 49, MOST_BY_SUM, MOST_BY_SUM + 1, 500])
def test_the_sum_is_the_incomplete_beta_function(df: int) -> None:
    rng = np.random.default_rng(df)
    # not 1e-9: there scipy's rounds to 1, with one degree of freedom
    extremes = [0, -0.0, np.inf, -np.inf, np.nan, 1e-300, 1e-2, 1e200, -5.0]
    t = np.concatenate([3 * rng.standard_t(df, 2000), rng.standard_t(df, 2000), extremes])
    np.testing.assert_allclose(two_sided(t, df), 2 * special.stdtr(df, -np.abs(t)), rtol=1e-11, atol=0)
