"""False discovery rates equal scipy's definition, missing p-values included."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from screen.stats.false_discovery import benjamini_hochberg, benjamini_hochberg_rows


@given(arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1)))
def test_fdr_equals_scipy(p: np.ndarray) -> None:
    np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p), rtol=1e-12, atol=1e-300)


def test_missing_p_values_stay_missing_and_do_not_count() -> None:
    with_gaps = benjamini_hochberg(np.array([0.01, np.nan, 0.04]))
    np.testing.assert_allclose(with_gaps[[0, 2]], [0.02, 0.04])
    assert np.isnan(with_gaps[1])


shapes = st.tuples(st.integers(1, 5), st.integers(1, 40))
with_ties = st.sampled_from([0.0, 1e-300, 0.01, 0.02, 0.5, 1.0, np.nan]) | st.floats(0, 1)


@given(shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=with_ties)))
def test_rows_at_once_are_each_row_of_its_own_bit_for_bit(p_NG: np.ndarray) -> None:
    before_NG = p_NG.copy()
    found_NG = benjamini_hochberg_rows(p_NG)
    np.testing.assert_array_equal(found_NG, np.stack([benjamini_hochberg(p_G) for p_G in p_NG]), strict=True)
    np.testing.assert_array_equal(p_NG, before_NG)
