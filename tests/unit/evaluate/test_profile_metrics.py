"""Metrics of profiles: equal to cell-eval's own on the same arrays, and right where the answer is known."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from screen.evaluate.energy import energy_distance, log1p_cp10k, principal_axes
from screen.evaluate.profile_metrics import (
    direction_match,
    discrimination,
    mean_absolute_error,
    overlap_at,
    pearson,
    spearman_brown,
    spearman_of_changed,
    weighted_r2,
    weights,
)
from tests.support.places import ROOT

REFERENCE: dict[str, Any] = json.loads((ROOT / "tests" / "support" / "cell_eval" / "reference.json").read_text())
METRICS, PERTURBED, GENES = REFERENCE["metrics"], REFERENCE["perturbed"], REFERENCE["genes"]
MAX_FDR = 0.05
ROUNDING = 1e-9
"""Both sides compute in float64, cell-eval's fold changes in float32 that only orders them."""


def cells(side: int, label: str) -> np.ndarray:
    return np.array(REFERENCE["cells"][label][side])


def changes(side: int) -> np.ndarray:
    return np.stack([cells(side, p).mean(0) - cells(side, REFERENCE["control"]).mean(0) for p in PERTURBED])


def same(ours: Any, theirs: dict[str, float]) -> None:
    assert np.max(np.abs(np.array(ours) - [theirs[p] for p in PERTURBED])) <= ROUNDING


def test_correlation_and_error_of_changes_are_cell_evals() -> None:
    pairs = list(zip(changes(1), changes(0), strict=True))
    same([pearson(x, y) for x, y in pairs], METRICS["pearson_delta"])
    same([mean_absolute_error(x, y) for x, y in pairs], METRICS["mae_delta"])


@pytest.mark.parametrize("metric", ["l1", "l2", "cosine"])
def test_the_discrimination_score_is_cell_evals(metric: str) -> None:
    own = [[GENES.index(p)] for p in PERTURBED]
    found = discrimination(changes(1), changes(0), own, metric)
    same(found, METRICS[f"discrimination_{metric}"])
    # without leaving its own gene out it is another number
    assert len({round(x, 6) for x in found}) > 2


@pytest.mark.parametrize(("name", "n"), [("overlap_at_N", None), ("overlap_at_3", 3)])
def test_the_overlap_of_changed_genes_is_cell_evals(name: str, n: int | None) -> None:
    found = []
    for p in PERTURBED:
        real, predicted, fdr, predicted_fdr = (np.array(x) for x in REFERENCE["changes"][p])
        found.append(overlap_at(predicted, real, fdr < MAX_FDR, predicted_fdr < MAX_FDR, n))
    same(found, METRICS[name])


@pytest.mark.parametrize(
    ("name", "ours"), [("direction_match", direction_match), ("spearman_lfc", spearman_of_changed)]
)
def test_direction_and_order_of_changed_genes_are_cell_evals(name: str, ours: Any) -> None:
    found = []
    for p in PERTURBED:
        real, predicted, fdr, _ = (np.array(x) for x in REFERENCE["changes"][p])
        found.append(ours(predicted, real, fdr < MAX_FDR))
    same(found, METRICS[name])


def test_energy_distances_with_pairs_of_one_cell_are_cell_evals() -> None:
    control = cells(0, REFERENCE["control"])
    by_side = [[energy_distance(cells(side, p), control, is_biased=True) for p in PERTURBED] for side in (0, 1)]
    # cell-eval gives the correlation of real with predicted ones
    assert abs(pearson(*map(np.array, by_side)) - METRICS["edistance"]) <= ROUNDING


def test_few_cells_are_not_far_from_what_they_were_drawn_from() -> None:
    rng = np.random.default_rng(0)
    control = rng.normal(size=(400, 5))
    found = [energy_distance(rng.normal(size=(6, 5)), control) for _ in range(200)]
    biased = [energy_distance(rng.normal(size=(6, 5)), control, is_biased=True) for _ in range(200)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(200) < 0.2 < np.mean(biased)


@given(st.integers(2, 9), st.integers(2, 12), st.integers(0, 999))
def test_components_turn_cells_without_changing_distances(n: int, n_genes: int, seed: int) -> None:
    from scipy import sparse
    from scipy.spatial.distance import pdist

    counts = np.random.default_rng(seed).poisson(2.0, (n, n_genes))
    x_CG = log1p_cp10k(sparse.csr_matrix(counts.astype(float)))
    dense = np.asarray(x_CG.todense())
    total = counts.sum(1, keepdims=True)
    assert np.max(np.abs(dense - np.log1p(1e4 * counts / np.maximum(total, 1)))) < 1e-12
    axes = principal_axes(x_CG, 50)
    assert np.max(np.abs(pdist(dense @ axes) - pdist(dense))) <= 1e-6


def test_a_prediction_that_says_nothing_gets_nothing() -> None:
    rng = np.random.default_rng(1)
    real = rng.normal(size=(9, 30))
    nothing = np.zeros_like(real)
    assert pearson(nothing[0], real[0]) == 0 and np.isnan(pearson(real[0], nothing[0]))
    assert np.all(discrimination(nothing, real, [[]] * 9, "cosine") == (9 + 1) / 18)
    assert np.all(discrimination(real, real, [[0]] * 9) == 1)
    is_large = np.abs(real[0]) > 0.7
    assert overlap_at(real[0], real[0], is_large) == 1 and np.isnan(overlap_at(real[0], real[0], real[0] > 99))
    w = weights(real[0])
    assert abs(w.sum() - 1) < 1e-12 and weighted_r2(real[0], real[0], w) == 1
    assert abs(weighted_r2(np.full(30, w @ real[0]), real[0], w)) < 1e-12
    assert weights(np.full(4, np.nan)).tolist() == [0.25] * 4


def test_halves_say_what_all_cells_would() -> None:
    rng = np.random.default_rng(2)
    truth = rng.normal(size=20_000)
    a, b, c, d = (truth + rng.normal(0, 1.5, truth.shape) for _ in range(4))
    whole = pearson((a + b) / 2, (c + d) / 2)
    # the standard error of a correlation of 20,000 is below 0.007
    assert abs(spearman_brown(pearson(a, c)) - whole) < 0.02
    assert spearman_brown(-0.2) == -0.2
