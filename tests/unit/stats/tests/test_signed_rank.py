"""The signed-rank test equals scipy's as scipy chooses to compute it, and enumeration where scipy approximates."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from screen.stats.tests.signed_rank import MOST_EXACT, signed_rank

# few different values, so that ties and zeros are many; or floats of any size
few = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.0, 0.5, 1.0, 2.0])
floats = st.floats(-1e3, 1e3, width=32)
MOST_ENUMERATED = 13
"""Up to so many cells scipy enumerates all signs where there are ties or zeros."""


def by_counting(delta_N: np.ndarray) -> float:
    """Two-sided p over all signs, by whole numbers: how many sign patterns have each doubled rank sum."""
    changed_N = delta_N[delta_N != 0]
    rank_N = np.round(2 * stats.rankdata(np.abs(changed_N))).astype(int).tolist()
    ways: dict[int, int] = {0: 1}
    for rank in rank_N:
        more = dict(ways)
        for total, n in ways.items():
            more[total + rank] = more.get(total + rank, 0) + n
        ways = more
    up = sum(r for r, d in zip(rank_N, changed_N, strict=True) if d > 0)
    smaller = min(up, sum(rank_N) - up)
    return float(min(Fraction(2 * sum(n for t, n in ways.items() if t <= smaller), 2 ** len(rank_N)), 1))


@given(st.sampled_from([few, floats]).flatmap(lambda e: arrays(np.float32, st.integers(1, 60), elements=e)))
@example(np.float32([1, 1]))
@example(np.float32([0, 3, 3, -3, 0]))
@example(np.full(60, -2, np.float32))
@settings(deadline=None, max_examples=60)
def test_signed_rank_is_scipys_default_or_the_exact_p_where_scipy_approximates(delta_N: np.ndarray) -> None:
    ((w,), (p,)) = signed_rank(delta_N[None])
    changed_N = delta_N[delta_N != 0].astype(np.float64)
    if len(changed_N) == 0:
        assert (w, p) == (0.0, 1.0)
        return
    reference = stats.wilcoxon(delta_N.astype(np.float64))
    assert w == reference.statistic
    plain = len(np.unique(np.abs(delta_N))) == len(delta_N) and len(changed_N) == len(delta_N)
    if len(changed_N) > MOST_EXACT or len(delta_N) <= (MOST_EXACT if plain else MOST_ENUMERATED):
        np.testing.assert_allclose(p, reference.pvalue, rtol=1e-9)
    if len(changed_N) <= MOST_EXACT:
        np.testing.assert_allclose(p, by_counting(delta_N), rtol=1e-12)


def test_counting_is_enumerating() -> None:
    delta_N = np.array([1.0, -1, 2, 2, 0, -3, 4])
    magnitude_N = stats.rankdata(np.abs(delta_N[delta_N != 0]))
    sums = [float(np.dot(s, magnitude_N)) for s in product((0, 1), repeat=len(magnitude_N))]
    up = float(magnitude_N[delta_N[delta_N != 0] > 0].sum())
    smaller = min(up, magnitude_N.sum() - up)
    assert by_counting(delta_N) == 2 * np.mean(np.array(sums) <= smaller)


@pytest.mark.parametrize(("delta", "p"), [([5, 5], 0.5), ([5, -5], 1.0), ([2, 2, 2, 2], 0.125), ([0, 0, 7], 1.0)])
def test_the_least_p_of_few_cells_is_what_their_signs_allow(delta: list[float], p: float) -> None:
    assert signed_rank(np.float32([delta]))[1].tolist() == [p]


def test_genes_with_and_without_ties_keep_their_places() -> None:
    rng = np.random.default_rng(0)
    delta_GN = np.where(rng.random((40, 1)) < 0.5, np.round(rng.normal(0, 2, (40, 9))), rng.normal(0, 2, (40, 9)))
    delta_GN = delta_GN.astype(np.float32)
    _, p_G = signed_rank(delta_GN)
    np.testing.assert_allclose(p_G, [by_counting(d) for d in delta_GN], rtol=1e-12)
