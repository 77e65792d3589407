"""The signed-rank test equals scipy's, ties and zeros included."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from screen.stats.tests.signed_rank import MOST_EXACT, signed_rank

# few different values, so that ties and zeros are many; or floats of any size
few = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.0, 0.5, 1.0, 2.0])
floats = st.floats(-1e3, 1e3, width=32)


@given(st.sampled_from([few, floats]).flatmap(lambda e: arrays(np.float32, st.integers(1, 70), elements=e)))
def test_signed_rank_equals_scipy(delta_N: np.ndarray) -> None:
    ((w,), (p,)) = signed_rank(delta_N[None])
    changed_N = delta_N[delta_N != 0].astype(np.float64)
    if len(changed_N) == 0:
        assert (w, p) == (0.0, 1.0)
        return
    has_ties = len(np.unique(np.abs(changed_N))) < len(changed_N)
    method = "asymptotic" if has_ties or len(changed_N) > MOST_EXACT else "exact"
    reference = stats.wilcoxon(changed_N, correction=True, method=method)
    assert w == reference.statistic
    # one pair of ties: scipy's own normal approximation may exceed 1
    np.testing.assert_allclose(p, min(reference.pvalue, 1.0), rtol=1e-9)
