"""The matched null: p-values of nothing are uniform wherever one looks, hits are found, false ones bounded."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from screen.config.sections import FEWEST_NULLS
from screen.stats.false_discovery import benjamini_hochberg
from screen.stats.null import Calibration, _median, baseline_residual, calibrate, covariates


def noise(n: int, seed: int, n_hits: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(strengths, covariates, which are hits): edits that do nothing but noise, whose size depends on the covariates.

    The rarer a gene is and the lower it ranks, the fewer the cells and the wider the spread of its strength.
    """
    rng = np.random.default_rng(seed)
    rank, detection, length = rng.exponential(200, n), rng.uniform(0.05, 1, n), rng.normal(400, 80, n)
    location = -3 - 0.004 * rank - 1.5 * np.log(detection) + 0.002 * length + 0.001 * rank * detection
    scale = 0.15 + 0.3 * (1 - detection)
    is_hit = np.arange(n) < n_hits
    log_strength = location + scale * rng.standard_normal(n) + np.where(is_hit, rng.uniform(1, 3, n), 0)
    return np.exp(log_strength), np.stack([rank, np.log(detection), length], axis=1), is_hit


def ks_of_bins(p_P: np.ndarray, covariate_PK: np.ndarray) -> list[float]:
    """Kolmogorov-Smirnov p of uniformity within each bin of rank position and detection."""
    rank_P, detection_P = covariate_PK[:, 0], covariate_PK[:, 1]
    edges = [np.quantile(x, np.linspace(0, 1, n + 1)) for x, n in ((rank_P, 4), (detection_P, 3))]
    place = [
        np.clip(np.searchsorted(e, x, side="right") - 1, 0, len(e) - 2)
        for e, x in zip(edges, (rank_P, detection_P), strict=True)
    ]
    return [
        float(stats.kstest(p_P[(place[0] == i) & (place[1] == j)], "uniform").pvalue)
        for i, j in product(range(4), range(3))
    ]


def test_p_of_held_out_null_perturbations_is_uniform_in_every_bin() -> None:
    found = []
    for seed in range(6):
        strength_P, covariate_PK, _ = noise(3000, seed)
        is_null_P = np.arange(3000) < 2000
        p_P = calibrate(strength_P, covariate_PK, is_null_P).p_P
        found += ks_of_bins(p_P[~is_null_P], covariate_PK[~is_null_P])
    # 72 tests: by chance one in 72 is below 0.014; a null that is not matched fails them all
    assert min(found) > 0.01 / len(found)
    assert np.mean(np.array(found) < 0.05) < 0.2


def test_joint_edits_are_not_called_for_genes_that_the_null_ones_share_and_they_lack() -> None:
    """Triples of 200 genes that do what they do by chance: a listed one's genes are in no null triple, these share theirs."""
    shares: dict[str, list[float]] = {"shared": [], "as if each had its own": []}
    for seed in range(150):
        rng = np.random.default_rng(seed)
        effect_G, order = np.exp(0.6 * rng.standard_t(3, 200)), rng.permutation(200)
        null = np.array([rng.choice(order[90:], 3, replace=False) for _ in range(200)])
        triples = np.concatenate([order[:90].reshape(30, 3), null])
        strength_P = np.sqrt(np.square(effect_G[triples]).sum(1)) * np.exp(0.15 * rng.standard_normal(230))
        covariate_PK, is_null_P = rng.standard_normal((230, 2)), np.arange(230) >= 30
        for found, repeats in zip(shares.values(), (null.size / len(np.unique(null)), 1.0), strict=True):
            p_P = calibrate(strength_P, covariate_PK, is_null_P, repeats).p_P
            found.append(float((p_P[~is_null_P] < 0.05).mean()))
    told, untold = map(np.array, shares.values())
    assert told.mean() < 0.05 + 3 * told.std() / np.sqrt(len(told))
    assert untold.mean() > 0.05 + 3 * untold.std() / np.sqrt(len(untold))


def test_strength_alone_would_not_be_uniform() -> None:
    strength_P, covariate_PK, _ = noise(3000, 0)
    is_null_P = np.arange(3000) < 2000
    p_P = calibrate(strength_P, np.zeros((3000, 0)), is_null_P).p_P
    assert max(ks_of_bins(p_P[~is_null_P], covariate_PK[~is_null_P])) < 0.01 / 12


@pytest.mark.parametrize("designated", [True, False])
def test_false_discoveries_stay_below_their_rate_and_hits_are_found(designated: bool) -> None:
    shares, powers = [], []
    for seed in range(6):
        strength_P, covariate_PK, is_hit_P = noise(3000, seed, n_hits=300)
        is_null_P = np.arange(3000) >= 1500 if designated else None
        p_P = calibrate(strength_P, covariate_PK, is_null_P).p_P
        tested_P = np.arange(3000) < 1500 if designated else np.ones(3000, dtype=bool)
        is_called_P = benjamini_hochberg(np.where(tested_P, p_P, np.nan)) < 0.1
        shares.append((is_called_P & ~is_hit_P).sum() / max(is_called_P.sum(), 1))
        powers.append((is_called_P & is_hit_P).sum() / is_hit_P.sum())
    assert np.mean(shares) < 0.1
    assert np.mean(powers) > 0.8


def test_without_any_effect_hardly_anything_is_called() -> None:
    called = []
    for seed in range(10):
        strength_P, covariate_PK, _ = noise(1000, seed)
        called.append((benjamini_hochberg(calibrate(strength_P, covariate_PK).p_P) < 0.1).any())
    assert np.mean(called) <= 0.3


def test_where_the_upper_half_is_the_shorter_one_p_is_the_rank_and_hits_are_found_all_the_same() -> None:
    shares, called, found = [], [], []
    for seed in range(10):
        _, covariate_PK, _ = noise(1000, seed)
        rng = np.random.default_rng([1, seed])
        # skewed to the left: what noise adds has an upper end
        log_strength_P = 0.3 * np.log(rng.gamma(2.0, size=1000)) + 0.5 * covariate_PK[:, 1]
        p_P = calibrate(np.exp(log_strength_P), covariate_PK).p_P
        shares.append((p_P < 0.05).mean())
        called.append((benjamini_hochberg(p_P) < 0.1).any())
        is_hit_P = np.arange(1000) < 30
        p_P = calibrate(np.exp(log_strength_P + np.where(is_hit_P, 2.0, 0.0)), covariate_PK).p_P
        found.append((benjamini_hochberg(p_P) < 0.1)[is_hit_P].mean())
        assert (p_P[~is_hit_P] < 0.05).mean() <= 0.05
    assert 0.045 < np.mean(shares) < 0.055
    assert np.mean(called) <= 0.3
    assert np.mean(found) > 0.5


def test_p_counts_the_pool_and_a_member_is_judged_by_the_others() -> None:
    rng = np.random.default_rng(0)
    strength_P, is_null_P = np.exp(rng.normal(size=60)), np.arange(60) < 40
    found: Calibration = calibrate(strength_P, np.zeros((60, 0)), is_null_P)
    assert found.n_pool == 40
    pool = found.z_P[is_null_P]
    for i in range(60):
        others = np.delete(pool, i) if is_null_P[i] else pool
        assert found.p_P[i] == (1 + (others >= found.z_P[i]).sum()) / (1 + len(others))


def groups_of(covariate_P: np.ndarray, p_P: np.ndarray, edges: list[float]) -> list[float]:
    """Share of p < .1 between edges of a covariate."""
    place_P = np.digitize(covariate_P, edges)
    return [float((p_P[place_P == i] < 0.1).mean()) for i in range(len(edges) + 1)]


@pytest.mark.parametrize("designated", [True, False])
def test_insertions_are_matched_by_whether_the_gene_was_there(designated: bool) -> None:
    found: list[list[float]] = []
    for seed in range(10):
        rng, n = np.random.default_rng(seed), 2000
        # of most genes few cells have any
        held_P = np.minimum(rng.exponential(0.25, n), 1.0)
        rank_P = np.where(held_P < 0.02, np.nan, rng.exponential(200, n))
        strength_P = np.exp(1.5 * (1 - held_P) + (0.2 + 0.4 * held_P) * rng.standard_normal(n))
        covariate_PK = covariates(rank_P, np.full(n, 15.0), np.full(n, 400.0), held_P)
        is_null_P = np.arange(n) < 1000 if designated else None
        p_P = calibrate(strength_P, covariate_PK, is_null_P).p_P
        tested = np.arange(n) >= 1000 if designated else np.ones(n, dtype=bool)
        found.append(groups_of(held_P[tested], p_P[tested], [0.1, 0.3, 0.6]))
    share = np.mean(found, axis=0)
    assert (share > 0.06).all() and (share < 0.14).all(), share


def test_scale_is_standardised_from_fifty_null_perturbations_on() -> None:
    assert calibrated_spread(60) == pytest.approx(1.0, abs=0.35)
    assert calibrated_spread(40) > 1.8, "below, one scale serves all"


def calibrated_spread(n_nulls: int) -> float:
    """How much wider p's standard scores spread where the covariate is high than where it is low, over many nulls."""
    low, high = [], []
    for seed in range(40):
        rng, n = np.random.default_rng(seed), n_nulls + 200
        x_P = rng.uniform(0, 1, n)
        z_P = calibrate(np.exp(np.exp(1.5 * x_P) * rng.standard_normal(n)), x_P[:, None], np.arange(n) < n_nulls).z_P[
            n_nulls:
        ]
        low.append(z_P[x_P[n_nulls:] < 0.25])
        high.append(z_P[x_P[n_nulls:] > 0.75])
    return float(np.median(np.abs(np.concatenate(high))) / np.median(np.abs(np.concatenate(low))))


def test_too_few_strengths_give_no_p_and_odd_values_no_error() -> None:
    few = calibrate(np.ones(FEWEST_NULLS - 1), np.zeros((FEWEST_NULLS - 1, 2)))
    assert few.n_pool == 0
    assert np.isnan(few.p_P).all()
    same = calibrate(np.full(50, 0.1), np.full((50, 3), np.nan))
    assert (same.z_P == 0).all()
    rng = np.random.default_rng(0)
    odd = np.exp(rng.normal(size=50))
    odd[:3] = [0.0, np.nan, np.inf]
    found = calibrate(odd, rng.normal(size=(50, 3)))
    assert found.z_P[0] == -np.inf
    assert found.p_P[0] == 1.0
    assert np.isnan(found.p_P[1:3]).all()
    assert np.isfinite(found.p_P[3:]).all()


def test_the_baseline_is_a_regression_on_rank_position_and_cells_alone() -> None:
    rng = np.random.default_rng(0)
    rank, cells = rng.integers(0, 500, 80).astype(float), rng.integers(5, 300, 80).astype(float)
    strength = np.exp(0.3 - 0.5 * np.log1p(rank) + 0.7 * np.log(cells))
    np.testing.assert_allclose(baseline_residual(strength, rank, cells), 0, atol=1e-9)
    strength[7] *= np.e
    residual = baseline_residual(strength, rank, cells)
    assert residual.argmax() == 7
    assert np.isnan(baseline_residual(np.append(strength, np.nan), np.append(rank, 1), np.append(cells, 1))[-1])


@given(st.lists(st.sampled_from([0.0, 1.0, 2.5]) | st.floats(0, 1e300), min_size=1, max_size=30))
def test_the_median_is_numpys(values: list[float]) -> None:
    assert _median(np.array(values)) == np.median(values)
