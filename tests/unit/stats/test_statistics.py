"""Tests per gene equal scipy's, statsmodels' and scanpy's definitions, ties, zeros and few cells included."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from screen.stats.moments import Moments, moments_of
from screen.stats.statistics import MOST_EXACT, benjamini_hochberg, paired_t, rank_sum, signed_rank


def moments(delta_NG: np.ndarray) -> Moments:
    return moments_of(delta_NG, np.zeros_like(delta_NG), False)


@pytest.mark.parametrize("n_cells", [2, 3, 40])
def test_paired_t_equals_scipy(n_cells: int) -> None:
    rng = np.random.default_rng(n_cells)
    control, perturbed = rng.normal(size=(2, n_cells, 30))
    found = moments(perturbed - control)
    se, t, p = paired_t(found)
    reference = stats.ttest_rel(perturbed, control)
    np.testing.assert_allclose(t, reference.statistic, rtol=1e-9)
    np.testing.assert_allclose(p, reference.pvalue, rtol=1e-9)
    np.testing.assert_allclose(found.mean_delta_G, (perturbed - control).mean(0), rtol=1e-12)
    np.testing.assert_allclose(se, stats.sem(perturbed - control), rtol=1e-9)


def test_one_cell_has_a_mean_and_nothing_else() -> None:
    found = moments(np.array([[0.5, 0.0]]))
    assert found.mean_delta_G.tolist() == [0.5, 0.0]
    assert np.isnan(paired_t(found)).all()


def test_constant_changes_are_certain_and_no_change_is_none() -> None:
    _, t, p = paired_t(moments(np.array([[0.25, 0.0], [0.25, 0.0], [0.25, 0.0]])))
    assert t[0] == np.inf
    assert p.tolist() == [0.0, 1.0]


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


@given(
    st.sampled_from([few, floats]).flatmap(
        lambda e: st.tuples(*[arrays(np.float32, st.integers(1, 30), elements=e) for _ in range(2)])
    )
)
def test_rank_sum_equals_scipy(pair: tuple[np.ndarray, np.ndarray]) -> None:
    x_N, y_M = pair
    ((z,), (p,)) = rank_sum(x_N[None], y_M[None], tie_correct=True)
    if len(np.unique(np.concatenate(pair))) == 1:
        assert (z, p) == (0.0, 1.0)
        return
    reference = stats.mannwhitneyu(x_N.astype(float), y_M.astype(float), method="asymptotic", use_continuity=False)
    np.testing.assert_allclose(p, reference.pvalue, rtol=1e-9)
    plain = stats.ranksums(x_N.astype(float), y_M.astype(float))
    uncorrected = rank_sum(x_N[None], y_M[None])
    # scipy's ranksums ranks ties by their place, so only their order of size is compared where there are any
    if len(np.unique(np.concatenate(pair))) == len(x_N) + len(y_M):
        np.testing.assert_allclose(uncorrected, np.array([[plain.statistic], [plain.pvalue]]), rtol=1e-9)
    assert np.sign(z) == np.sign(uncorrected[0][0])


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("tie_correct", [False, True])
def test_rank_sum_equals_scanpy(tie_correct: bool) -> None:
    sc = pytest.importorskip("scanpy")
    import anndata as ad
    import pandas as pd

    rng = np.random.default_rng(0)
    x_NG = rng.poisson(1.0, (23, 40)).astype(np.float32) / 4
    y_MG = rng.poisson(1.5, (31, 40)).astype(np.float32) / 4
    x_NG[:, 0] = y_MG[:, 0] = 1.0
    groups = pd.Categorical(["x"] * 23 + ["y"] * 31)
    data = ad.AnnData(
        np.concatenate([x_NG, y_MG]),
        obs=pd.DataFrame({"g": groups}, index=[f"cell{i}" for i in range(54)]),
        var=pd.DataFrame(index=[f"gene{i}" for i in range(40)]),
    )
    sc.tl.rank_genes_groups(data, "g", groups=["x"], reference="y", method="wilcoxon", tie_correct=tie_correct)
    reference = sc.get.rank_genes_groups_df(data, "x").set_index("names").loc[data.var_names]
    z, p = rank_sum(np.ascontiguousarray(x_NG.T), np.ascontiguousarray(y_MG.T), tie_correct)
    # scanpy keeps scores in float32
    np.testing.assert_allclose(z, reference["scores"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(p, reference["pvals"], rtol=1e-6)


@given(arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1)))
def test_fdr_equals_scipy(p: np.ndarray) -> None:
    np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p), rtol=1e-12, atol=1e-300)


def test_missing_p_values_stay_missing_and_do_not_count() -> None:
    with_gaps = benjamini_hochberg(np.array([0.01, np.nan, 0.04]))
    np.testing.assert_allclose(with_gaps[[0, 2]], [0.02, 0.04])
    assert np.isnan(with_gaps[1])
