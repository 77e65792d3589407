"""The rank-sum test equals scipy's and scanpy's, ties included."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from screen.stats.tests.rank_sum import rank_sum

# few different values, so that ties and zeros are many; or floats of any size
few = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.0, 0.5, 1.0, 2.0])
floats = st.floats(-1e3, 1e3, width=32)


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
