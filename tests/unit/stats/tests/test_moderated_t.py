"""The moderated t-test is limma's: its prior is found again, it borrows, and it keeps its level."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import exp as mp_exp
from mpmath import findroot, log, mp, mpf, psi
from scipy import stats

from screen.stats.moments import Moments, moments_of
from screen.stats.tests.moderated_t import moderated_t, prior_of, priors_of, trigamma_inverse
from screen.stats.tests.paired_t import paired_t
from screen.stats.tests.sample import Sample

# (genes, d, d0, s0^2) of the variances below -> (d0, s0^2) that inmoose 0.9.1 finds, a port of limma to Python
INMOOSE = {
    (200, 7, 4.0, 0.5): (1.6595689190707, 0.3079686258411),
    (50, 3, 20.0, 2.0): (25.383186268054533, 2.0285150924185302),
    (300, 1, 1.0, 0.01): (1.016361798184232, 0.010251579764567474),
    (100, 7, np.inf, 1.0): (np.inf, 0.998872071198558),
    (2, 4, 3.0, 1.0): (4.153950453519941, 1.0922945742155505),
}


def variances(n_genes: int, df: int, d0: float, s0_squared: float) -> np.ndarray:
    """Evenly spaced quantiles of what variances are like under the prior; of 200 genes three are outliers."""
    share_G = (np.arange(n_genes) + 0.5) / n_genes
    found = s0_squared * (stats.f.ppf(share_G, df, d0) if np.isfinite(d0) else stats.chi2.ppf(share_G, df) / df)
    if n_genes == 200:
        found[:3] = 1e-12, 1e-9, 1e3
    return found


def sample(delta_NG: np.ndarray) -> Sample:
    return Sample(moments_of(delta_NG, np.zeros_like(delta_NG), False), of_replicates=True)


def published(variance_G: np.ndarray, df: int) -> tuple[float, float]:
    """(d0, s0^2) by the formulas of Smyth 2004, section 6.2, in 60 digits."""
    with mp.workdps(60):
        d, n = mpf(df), len(variance_G)
        e_G = [log(mpf(float(v))) - psi(0, d / 2) + log(d / 2) for v in variance_G]
        mean = sum(e_G) / n
        spread = sum((e - mean) ** 2 for e in e_G) / (n - 1) - psi(1, d / 2)
        d0 = 2 * findroot(lambda y: psi(1, y) - spread, 0.5 + 1 / spread)
        return float(d0), float(mp_exp(mean + psi(0, d0 / 2) - log(d0 / 2)))


@pytest.mark.parametrize("case", list(INMOOSE))
def test_the_prior_is_that_of_inmoose(case: tuple[int, int, float, float]) -> None:
    np.testing.assert_allclose(prior_of(variances(*case), case[1]), INMOOSE[case], rtol=1e-9)


@pytest.mark.parametrize("case", [(50, 3, 20.0, 2.0), (90, 2, 1.0, 0.01), (2, 4, 3.0, 1.0)])
def test_the_prior_is_that_of_the_published_formulas(case: tuple[int, int, float, float]) -> None:
    variance_G = variances(*case)
    assert variance_G.min() > 1e-5 * np.median(variance_G)
    np.testing.assert_allclose(prior_of(variance_G, case[1]), published(variance_G, case[1]), rtol=1e-9)


@pytest.mark.parametrize(("df", "d0", "s0_squared"), [(7, 4.0, 0.5), (2, 10.0, 3e-6), (14, 1.5, 40.0)])
def test_what_variances_were_drawn_from_is_found_again(df: int, d0: float, s0_squared: float) -> None:
    rng, n_genes = np.random.default_rng(df), 500_000
    variance_G = s0_squared * d0 / rng.chisquare(d0, n_genes) * rng.chisquare(df, n_genes) / df
    np.testing.assert_allclose(prior_of(variance_G, df), (d0, s0_squared), rtol=0.05)


@pytest.mark.parametrize("y", [1e-9, 1e-4, 0.1, 1.0, 3.7, 50.0, 1e5, 1e9])
def test_the_inverse_of_trigamma_is_its_inverse(y: float) -> None:
    with mp.workdps(60):
        x = float(psi(1, mpf(y)))
    np.testing.assert_allclose(trigamma_inverse(np.array([x, 1.0]))[0], y, rtol=1e-6)


@given(st.integers(1, 6), st.integers(1, 40), st.integers(1, 30), st.integers(0, 2**16))
def test_priors_of_many_groups_are_those_of_each(n_groups: int, n_genes: int, df: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # some groups differ by chance alone, some have unusable variances, some none that is usable
    spread_N1 = rng.choice([0.0, 1.0, 5.0, 40.0], (n_groups, 1))
    variance_NG = rng.chisquare(df, (n_groups, n_genes)) * np.exp(spread_N1 * rng.normal(size=(n_groups, n_genes)))
    is_odd_NG = rng.random(variance_NG.shape) < rng.choice([0.0, 0.2, 1.0], (n_groups, 1))
    variance_NG[is_odd_NG] = rng.choice([0.0, np.nan, np.inf, 1.0], int(is_odd_NG.sum()))
    is_used_NG = rng.random(variance_NG.shape) < rng.choice([0.5, 1.0], (n_groups, 1))
    found = np.transpose(priors_of(variance_NG, is_used_NG, df))
    expected = [prior_of(variance_G[used_G], df) for variance_G, used_G in zip(variance_NG, is_used_NG, strict=True)]
    np.testing.assert_array_equal(found, expected)


def test_t_and_p_are_those_of_the_shrunk_variance() -> None:
    rng = np.random.default_rng(4)
    delta_NG = rng.normal(0.3, 1, (5, 40)) * rng.lognormal(0, 0.7, 40)
    d0, s0_squared = prior_of(delta_NG.var(0, ddof=1), 4)
    assert 0 < d0 < np.inf
    expected_G = delta_NG.mean(0) / np.sqrt((d0 * s0_squared + 4 * delta_NG.var(0, ddof=1)) / (d0 + 4) / 5)
    t_G, p_G = moderated_t(sample(delta_NG))
    # less half a step of float32, 3e-8 of the change
    np.testing.assert_allclose(t_G, expected_G, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(p_G, 2 * stats.t.sf(np.abs(expected_G), d0 + 4), rtol=1e-5)


def test_variances_that_differ_by_chance_alone_are_pooled() -> None:
    delta_NG = np.tile(np.array([[1.0], [-1.0], [0.5], [0.1]]), (1, 9)) + np.arange(9)
    t_G, p_G = moderated_t(sample(delta_NG))
    expected_G = delta_NG.mean(0) / stats.sem(delta_NG)
    np.testing.assert_allclose(t_G, expected_G, rtol=1e-6)
    # at most as many degrees of freedom as all genes have
    np.testing.assert_allclose(p_G, 2 * stats.t.sf(expected_G, 3 * 9), rtol=1e-5)


def test_one_gene_has_nothing_to_borrow_from() -> None:
    delta_NG = np.random.default_rng(0).normal(0.5, 1, (6, 1))
    for ours, plain in zip(moderated_t(sample(delta_NG)), paired_t(sample(delta_NG)), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-6)


def test_genes_that_never_change_or_are_nan_do_not_touch_the_others() -> None:
    delta_NG = np.random.default_rng(1).normal(0.2, 1, (6, 30)) * np.linspace(0.1, 3, 30)
    alone_t, alone_p = moderated_t(sample(delta_NG))
    more = np.concatenate([delta_NG, np.zeros((6, 50)), np.full((6, 1), np.nan)], axis=1)
    t_G, p_G = moderated_t(sample(more))
    np.testing.assert_allclose(t_G[:30], alone_t, rtol=1e-12)
    np.testing.assert_allclose(p_G[:30], alone_p, rtol=1e-12)
    assert (t_G[30:80] == 0).all()
    assert (p_G[30:80] == 1).all()
    assert np.isnan([t_G[80], p_G[80]]).all()
    nothing = moderated_t(sample(np.zeros((6, 5))))
    assert [x.tolist() for x in nothing] == [[0.0] * 5, [1.0] * 5]


def test_a_constant_change_is_finite() -> None:
    delta_NG = np.random.default_rng(2).normal(0, 1, (4, 20))
    delta_NG[:, 3] = 0.25
    t_G, p_G = moderated_t(sample(delta_NG))
    assert np.isfinite(t_G).all()
    assert 0 < p_G[3] < 1


@pytest.mark.parametrize("n_donors", [2, 3, 8])
def test_the_level_is_kept_and_few_donors_find_more_than_by_the_paired_t(n_donors: int) -> None:
    """500 worlds of 200 genes, of which 20 change by 1.2 of their own standard deviations."""
    rng, found, false = np.random.default_rng(n_donors), {}, {}
    spread_WG = np.sqrt(4 / rng.chisquare(4, (500, 200)))
    effect_G = np.where(np.arange(200) < 20, 1.2, 0.0)
    for name, test in (("paired", paired_t), ("moderated", moderated_t)):
        draws = np.random.default_rng(9)
        p_WG = np.stack([test(sample(draws.normal(effect_G, 1, (n_donors, 200)) * s))[1] for s in spread_WG])
        q_WG = stats.false_discovery_control(p_WG, axis=1)
        false[name], found[name] = (p_WG[:, 20:] < 0.05).mean(), (q_WG[:, :20] < 0.05).mean()
    # 90,000 null genes: 0.05 is known to 0.0007; the prior is estimated anew in each world
    assert max(false.values()) < 0.05 + 0.004
    assert found["moderated"] > found["paired"]


def test_moments_alone_are_enough() -> None:
    m = Moments(3, np.array([0.5, 0.1]), np.array([0.02, 0.3]), np.zeros(2), np.zeros(2))
    assert np.isfinite(moderated_t(Sample(m))).all()
