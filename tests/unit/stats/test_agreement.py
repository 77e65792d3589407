"""Statistics agree with other people's packages where they compute the same thing; where they do not, the reason is here.

Relative to 1e-6, or to what the other package's own precision allows. scipy: tests/.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from illico import asymptotic_wilcoxon
from pdex import pdex
from scipy.special import ndtr
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from screen.stats.false_discovery import benjamini_hochberg
from screen.stats.moments import counts_of, moments_of, standard_error
from screen.stats.tests.paired_t import paired_t
from screen.stats.tests.rank_sum import rank_sum
from screen.stats.tests.sample import Sample
from screen.stats.tests.signed_rank import signed_rank

N_GENES = 40
SIZES = [(1, 1), (1, 5), (2, 2), (2, 7), (3, 3), (3, 40), (30, 25)]
"""Perturbed and control cells."""


@dataclass(frozen=True)
class Case:
    """Log expression of perturbed (N, G) and control cells (M, G): counts with ties and zeros, smooth and constant genes."""

    after_NG: np.ndarray
    before_MG: np.ndarray

    @staticmethod
    def random(n: int, m: int) -> "Case":
        rng = np.random.default_rng(100 * n + m)
        few = rng.poisson(np.geomspace(0.05, 20, N_GENES), (n + m, N_GENES))
        values_TG = np.log1p(few).astype(np.float32)
        values_TG[:, 10:20] = rng.gamma(2, 1, (n + m, 10))
        values_TG[:, 20:22] = np.float32([0, 1.25])
        values_TG[:n, 22:26] += np.float32(0.75)
        # an average is of one kind of row only
        values_TG[:n, 26], values_TG[n:, 26] = 0, 2
        return Case(values_TG[:n], values_TG[n:])

    def anndata(self) -> Any:
        n, m = len(self.after_NG), len(self.before_MG)
        index = [f"c{i}" for i in range(n + m)]
        obs = pd.DataFrame({"target": pd.Categorical(["p"] * n + ["control"] * m)}, index=index)
        var = pd.DataFrame(index=[f"g{i:02d}" for i in range(N_GENES)])
        return ad.AnnData(np.concatenate([self.after_NG, self.before_MG]), obs=obs, var=var)

    def rank_sum(self, tie_correct: bool) -> tuple[np.ndarray, np.ndarray]:
        return rank_sum(np.ascontiguousarray(self.after_NG.T), np.ascontiguousarray(self.before_MG.T), tie_correct)

    def statistic_of(self, z_G: np.ndarray, spread_G: np.ndarray) -> np.ndarray:
        """Mann and Whitney's U of a z without correction for continuity."""
        return z_G * spread_G + len(self.after_NG) * len(self.before_MG) / 2

    def spread(self) -> np.ndarray:
        """Standard deviation of U, corrected for ties, by counting each value."""
        n, m = len(self.after_NG), len(self.before_MG)
        t = n + m
        pooled_TG = np.concatenate([self.after_NG, self.before_MG])
        ties_G = np.array(
            [(c.astype(float) ** 3 - c).sum() for c in (np.unique(x, return_counts=True)[1] for x in pooled_TG.T)]
        )
        return np.sqrt(n * m / 12 * (t + 1 - ties_G / (t * (t - 1))))


@pytest.fixture(params=SIZES, ids=lambda s: f"{s[0]} and {s[1]} cells")
def case(request: pytest.FixtureRequest) -> Case:
    return Case.random(*request.param)


@pytest.mark.parametrize("tie_correct", [False, True])
def test_the_rank_sum_is_illicos_without_its_correction_for_continuity(case: Case, tie_correct: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = asymptotic_wilcoxon(
            case.anndata(), is_log1p=True, group_keys="target", reference="control", use_continuity=False,
            tie_correct=tie_correct,
        ).loc["p"]  # fmt: skip
    z_G, p_G = case.rank_sum(tie_correct)
    np.testing.assert_allclose(z_G, found["z_score"], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(p_G, found["p_value"], rtol=1e-6)


def test_the_rank_sum_is_pdexs_but_for_its_correction_for_continuity(case: Case) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pdex(
            case.anndata(), groupby="target", mode="ref", is_log1p=True, reference="control", geometric_mean=False
        ).sort("feature")
    z_G, _ = case.rank_sum(tie_correct=True)
    spread_G, half = case.spread(), len(case.after_NG) * len(case.before_MG) / 2
    u_G = case.statistic_of(z_G, spread_G)
    np.testing.assert_allclose(u_G, found["statistic"], rtol=1e-6, atol=1e-9)
    with np.errstate(divide="ignore", invalid="ignore"):
        p_G = 2 * ndtr(-np.maximum(np.abs(u_G - half) - 0.5, 0) / spread_G)
    np.testing.assert_allclose(np.where(spread_G > 0, p_G, 1), found["p_value"], rtol=1e-6)
    np.testing.assert_allclose(benjamini_hochberg(found["p_value"].to_numpy()), found["fdr"], rtol=1e-6)


def test_means_of_counts_are_pdexs(case: Case) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pdex(
            case.anndata(), groupby="target", mode="ref", is_log1p=True, reference="control", geometric_mean=False
        ).sort("feature")
    n = min(len(case.after_NG), len(case.before_MG))
    # pairs here, all cells there: the means are compared where these are the same
    for name, values_NG in (("target_mean", case.after_NG), ("ref_mean", case.before_MG)):
        paired = moments_of(np.zeros_like(values_NG), counts_of(values_NG, True), True)
        np.testing.assert_allclose(paired.ref_mean_G, found[name], rtol=1e-6)
        np.testing.assert_allclose(paired.target_mean_G, found[name], rtol=1e-6)
    both = moments_of(case.after_NG[:n] - case.before_MG[:n], counts_of(case.before_MG[:n], True), True)
    np.testing.assert_allclose(
        both.target_mean_G, np.expm1(case.after_NG[:n], dtype=np.float64).mean(0), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("tie_correct", [False, True])
def test_the_rank_sum_is_scanpys_wilcoxon(case: Case, tie_correct: bool) -> None:
    data = case.anndata()
    if len(case.after_NG) < 2 or len(case.before_MG) < 2:
        # it refuses groups of one cell; illico and pdex are there for these
        with pytest.raises(ValueError, match="only contain one sample"):
            sc.tl.rank_genes_groups(data, "target", reference="control", method="wilcoxon")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.tl.rank_genes_groups(data, "target", reference="control", method="wilcoxon", tie_correct=tie_correct)
    found = sc.get.rank_genes_groups_df(data, "p").set_index("names").loc[data.var_names]
    z_G, p_G = case.rank_sum(tie_correct)
    # its scores are kept as float32
    np.testing.assert_allclose(z_G, found["scores"], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(p_G, found["pvals"], rtol=1e-6)
    np.testing.assert_allclose(benjamini_hochberg(p_G), found["pvals_adj"], rtol=1e-6)


@pytest.mark.parametrize("n", [2, 3, 40])
def test_the_paired_t_and_its_error_are_statsmodels(n: int) -> None:
    case = Case.random(n, n)
    delta_NG = case.after_NG - case.before_MG
    found = moments_of(delta_NG, counts_of(case.before_MG, True), True)
    se_G, (t_G, p_G) = standard_error(found), paired_t(Sample(found, of_replicates=True))
    spreads = np.ptp(delta_NG, axis=0) > 0
    # by its rounding, a gene that changes the same everywhere has an error of 1e-17 there and of 0 here
    theirs = DescrStatsW(delta_NG[:, spreads].astype(np.float64))
    np.testing.assert_allclose(se_G[spreads], theirs.std_mean, rtol=1e-6)
    t, p, _ = theirs.ttest_mean(0)
    np.testing.assert_allclose(t_G[spreads], t, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(p_G[spreads], p, rtol=1e-6)
    assert (se_G[~spreads] == 0).all()
    # none at all is certain, and any other is a change beyond rounding
    np.testing.assert_array_equal(p_G[~spreads] == 1, found.mean_delta_G[~spreads] == 0)
    assert (p_G[~spreads] > 0).all()


def test_one_cell_has_no_error_no_t_and_no_p() -> None:
    case = Case.random(1, 1)
    found = moments_of(case.after_NG - case.before_MG, counts_of(case.before_MG, True), True)
    assert np.isnan([standard_error(found), *paired_t(Sample(found))]).all()
    # a sign alone: its rank test can say nothing either
    _, p_G = signed_rank(np.ascontiguousarray((case.after_NG - case.before_MG).T))
    assert (p_G == 1).all()


@pytest.mark.parametrize("n_missing", [0, 3])
def test_false_discovery_rates_are_statsmodels(n_missing: int) -> None:
    rng = np.random.default_rng(n_missing)
    p_G = np.round(rng.beta(0.4, 1, 300), 3)
    p_G[:5] = 0, 1, 1e-300, 5e-324, 0.5
    expected_G = multipletests(p_G, method="fdr_bh")[1]
    missing_G = np.insert(p_G, rng.integers(0, 300, n_missing), np.nan)
    found_G = benjamini_hochberg(missing_G)
    assert np.isnan(found_G).sum() == n_missing
    np.testing.assert_allclose(found_G[~np.isnan(missing_G)], expected_G, rtol=1e-12)
