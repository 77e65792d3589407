"""Set scores: decoupler's univariate linear model, all perturbations at once, the edited gene left out."""

import decoupler
import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from screen.stats.sets.scores import ulm


def random_case(seed: int, n_sets: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """(changes of 6 perturbations in 80 genes around a common shift, sets of 5 to 40 genes)."""
    rng = np.random.default_rng(seed)
    mean_PG = rng.standard_t(3, (6, 80)) * 0.01 + 0.3
    member_GS = np.zeros((80, n_sets), dtype=np.float32)
    for s in range(n_sets):
        member_GS[rng.permutation(80)[: rng.integers(5, 41)], s] = 1
    mean_PG[2] += 0.02 * member_GS[:, 0]
    return mean_PG, member_GS


def decouplers(mean_PG: np.ndarray, member_GS: np.ndarray) -> np.ndarray:
    genes = [f"g{i:03d}" for i in range(len(member_GS))]
    gene, number = np.nonzero(member_GS)
    net = pd.DataFrame({"source": [f"s{i:03d}" for i in number], "target": [genes[g] for g in gene], "weight": 1.0})
    table = pd.DataFrame(mean_PG, index=[f"p{i}" for i in range(len(mean_PG))], columns=genes)
    score, _ = decoupler.mt.ulm(table, net, tmin=1)
    found: np.ndarray = score.sort_index(axis=0).sort_index(axis=1).to_numpy()
    return found


def test_scores_are_decouplers() -> None:
    mean_PG, member_GS = random_case(0)
    found_PS = ulm(mean_PG, member_GS)
    assert_allclose(found_PS, decouplers(mean_PG, member_GS), rtol=1e-6)
    assert np.argmax(found_PS[2]) == 0
    assert found_PS[2, 0] > 3


@given(st.integers(0, 10**6), st.lists(st.lists(st.integers(-1, 79), min_size=2, max_size=2), min_size=6, max_size=6))
def test_edited_genes_are_no_evidence_for_their_sets(seed: int, own: list[list[int]]) -> None:
    mean_PG, member_GS = random_case(seed)
    own_PK = np.array([[a, -1 if a == b else b] for a, b in own])
    mean_PG[np.arange(6), own_PK[:, 0]] -= 5
    found_PS = ulm(mean_PG, member_GS, own_PK)
    for p in range(6):
        others = np.setdiff1d(np.arange(80), own_PK[p])
        alone_S = ulm(mean_PG[p : p + 1, others], member_GS[others])[0]
        assert_allclose(found_PS[p], alone_S, rtol=1e-6, atol=1e-9)


def test_without_a_change_or_a_contrast_there_is_no_score() -> None:
    mean_PG, member_GS = random_case(1)
    mean_PG[3] = 0
    member_GS[:, 1], member_GS[:, 2] = 0, 1
    found_PS = ulm(mean_PG, member_GS)
    assert np.isnan(found_PS[3]).all()
    assert np.isnan(found_PS[:, 1:3]).all()
    assert np.isfinite(np.delete(np.delete(found_PS, 3, 0), [1, 2], 1)).all()
