"""Similarity, factors, modules: products equal loops; what is planted is found, and nothing else."""

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import screen
from demo.planted.written import TRUTH
from screen.edits import MASK
from screen.stats.relations import similarity
from screen.stats.relations.modules import FEWEST_MEMBERS, clusters, signs
from screen.stats.relations.similarity import low_rank, nearest


@given(st.integers(0, 12), st.integers(1, 5), st.integers(0, 99))
def test_neighbours_are_the_nearest(n: int, n_kept: int, seed: int) -> None:
    cosine_MM = np.round(np.random.default_rng(seed).uniform(-1, 1, (n, n)), 1)
    near_MK = nearest(cosine_MM, n_kept)
    assert near_MK.shape == (n, min(n_kept, max(n - 1, 0)))
    for i in range(n):
        others = sorted((j for j in range(n) if j != i), key=lambda j: (-abs(cosine_MM[i, j]), j))
        assert near_MK[i].tolist() == others[:n_kept]


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(0, 99))
def test_factors_are_the_singular_vectors(n: int, n_genes: int, rank: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    change_NG = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, n_genes))
    share_F, of_perturbation_FN, of_gene_FG = low_rank(change_NG, 3)
    single_F = np.linalg.svd(change_NG, compute_uv=False)
    expected_F = np.square(single_F[:3]) / np.square(single_F).sum()
    np.testing.assert_allclose(share_F, expected_F[: len(share_F)], atol=1e-12)
    assert (expected_F[len(share_F) :] < 1e-11).all()
    size_F = np.sqrt(share_F * np.square(change_NG).sum())
    for f in range(len(share_F)):
        np.testing.assert_allclose(of_gene_FG[f] @ change_NG.T, size_F[f] * of_perturbation_FN[f], atol=1e-5)
        assert of_perturbation_FN[f].sum() >= 0


def test_many_perturbations_have_the_factors_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    change_NG = rng.standard_normal((120, 5)) @ rng.standard_normal((5, 90)) + 0.1 * rng.standard_normal((120, 90))
    quick = low_rank(change_NG, 6)
    assert all(np.array_equal(a, b) for a, b in zip(quick, low_rank(change_NG, 6), strict=True))
    monkeypatch.setattr(
        similarity, "_largest", lambda gram, n: tuple(x[..., ::-1][..., :n] for x in np.linalg.eigh(gram))
    )
    for a, b in zip(quick, low_rank(change_NG, 6), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)
    assert low_rank(np.zeros((4, 3)), 2)[0].tolist() == []


@given(st.lists(st.integers(0, 3), min_size=1, max_size=14), st.integers(0, 99))
def test_clusters_are_what_was_put_together(label: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    sign_M = rng.choice([-1.0, 1.0], len(label))
    vector_MG = np.eye(4)[label] * sign_M[:, None] + rng.uniform(-0.05, 0.05, (len(label), 4))
    unit_MG = vector_MG / np.sqrt(np.square(vector_MG).sum(1, keepdims=True))
    found = clusters(unit_MG @ unit_MG.T, 0.5)
    expected = [np.flatnonzero(np.array(label) == x).tolist() for x in set(label)]
    assert [m.tolist() for m in found] == sorted(
        (m for m in expected if len(m) >= FEWEST_MEMBERS), key=lambda m: (-len(m), m[0])
    )
    for member_K in found:
        side_K = signs(unit_MG[member_K] @ unit_MG[member_K].T)
        assert side_K.sum() >= 0 and len(set((side_K * sign_M[member_K]).tolist())) == 1


@pytest.fixture(scope="module")
def truth(planted: screen.Results) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((planted.directory / TRUTH).read_text())
    return found


def test_planted_modules_are_found_with_their_opposite_members(planted: screen.Results, truth: dict[str, Any]) -> None:
    for stratum in planted.strata:
        table = planted.relations("modules", stratum=stratum, time=1, mode=MASK.name).filter(n_joint=1)
        found = {frozenset(g["target_symbol"]): g for _, g in table.group_by("module")}
        assert {frozenset(genes) for genes in truth["modules"].values()} <= set(found)
        for genes in truth["modules"].values():
            members = found[frozenset(genes)]
            assert members.filter(sign=-1)["target_symbol"].to_list() == [f"{genes[0][:4]}5"]
            assert (members["member_cosine"] > members["threshold"]).all() and (members["n_members"] == 5).all()
            up = set(members["top_up"][0]) | set(members["top_down"][0])
            assert len(up) == 20 and not up & set(genes)


def test_neighbours_of_a_module_are_its_members_and_null_ones_are_nobodys(
    planted: screen.Results, truth: dict[str, Any]
) -> None:
    table = planted.relations("similarity", time=2, mode=MASK.name)
    assert not table["perturbation"].is_in(planted.hits.filter("is_null")["perturbation"].to_list()).any()
    assert not table["neighbour"].is_in(planted.hits.filter("is_null")["perturbation"].to_list()).any()
    for genes in truth["modules"].values():
        for gene in genes:
            near = table.filter(target_symbol=gene).filter(pl.col("neighbour_rank") < 5)
            assert set(near["neighbour_symbol"]) == set(genes) - {gene}
            opposite = near.filter(pl.col("cosine") < 0)["neighbour_symbol"]
            assert set(opposite) == ({g for g in genes if g != gene} if gene[-1] == "5" else {f"{genes[0][:4]}5"})


def test_factors_add_up_and_name_what_is_strong(planted: screen.Results) -> None:
    table = planted.relations("factors", stratum=planted.strata[0], time=1, mode=MASK.name).filter(n_joint=1)
    assert table["factor"].to_list() == list(range(1, 11))
    assert table["share"].is_sorted(descending=True) and table["cumulative_share"][-1] < 1
    assert table["cumulative_share"].to_list() == pytest.approx(table["share"].cum_sum().to_list(), rel=1e-5)
    named = set(table["strongest"].explode()) | set(table["opposite"].explode())
    assert {"ALL1", "ALL2"} <= named
