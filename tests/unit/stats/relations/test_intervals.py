"""Intervals: quadratic forms equal weighted means; they hold what was observed, and are as wide as other cells make them."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import screen
from screen.edits import MASK
from screen.errors import ConfigError
from screen.stats.relations.intervals import strengths


@given(st.integers(1, 9), st.integers(1, 6), st.booleans(), st.integers(0, 99))
def test_a_draw_is_the_strength_of_the_weighted_mean(n: int, n_genes: int, has_replicates: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    change_NG, weight_BU = rng.standard_normal((n, n_genes)), rng.exponential(size=(4, 12))
    unit_N = rng.integers(0, 3, n) if has_replicates else rng.permutation(12)[:n]
    units = sorted(set(unit_N.tolist()))
    mean_RG = np.stack([change_NG[unit_N == u].mean(0) for u in units])
    square_B, added_B = [], []
    for b in range(4):
        weight_R = weight_BU[b, units] / weight_BU[b, units].sum()
        square_B.append(np.mean(np.square(weight_R @ mean_RG)))
        added_B.append(np.mean(np.square(weight_R @ mean_RG - mean_RG.mean(0))))
    expected_B = np.sqrt(np.maximum(np.array(square_B) - np.mean(added_B), 0))
    np.testing.assert_allclose(strengths(change_NG, unit_N, weight_BU), expected_B, atol=1e-7)


def test_intervals_hold_the_strengths_of_other_cells() -> None:
    rng, inside = np.random.default_rng(0), 0
    signal_G = 0.1 * rng.standard_normal(200)
    truth = np.sqrt(np.mean(np.square(signal_G)))
    for _ in range(100):
        # cells respond more or less strongly
        change_NG = rng.lognormal(0, 0.3, (20, 1)) / np.exp(0.045) * signal_G + 0.02 * rng.standard_normal((20, 200))
        found_B = strengths(change_NG, np.arange(20), rng.exponential(size=(300, 20)))
        low, high = np.quantile(found_B, (0.025, 0.975))
        inside += low <= truth <= high
    assert 85 <= inside <= 100


def test_intervals_hold_strength_and_rank_and_are_the_same_again(planted: screen.Results) -> None:
    table = planted.strength_intervals(mode=MASK.name, time=1, n_draws=100)
    ranked = planted.hits.filter(mode=MASK.name, time=1).drop_nulls("strength_rank")
    assert table.height == ranked.height
    assert (table["strength_low"] <= table["strength_high"]).all() and (table["rank_low"] <= table["rank_high"]).all()
    is_inside = table.select(pl.col("strength").is_between("strength_low", "strength_high").mean()).item()
    assert is_inside > 0.95
    strongest = table.filter(pl.col("strength_rank") <= 3)
    weakest = table.filter(pl.col("strength_rank") > 60)
    assert (strongest["rank_high"] < 12).all()
    width = weakest.select((pl.col("rank_high") - pl.col("rank_low")).median()).item()
    assert width > strongest.select((pl.col("rank_high") - pl.col("rank_low")).max()).item()
    assert table.equals(planted.strength_intervals(mode=MASK.name, time=1, n_draws=100))
    assert not table.equals(planted.strength_intervals(mode=MASK.name, time=1, n_draws=100, seed=1))
    with pytest.raises(ConfigError, match="1 draws give no interval"):
        planted.strength_intervals(n_draws=1)
