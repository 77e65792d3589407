"""Halves: what is read at once equals perturbation by perturbation; ranks are those of loops."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import screen
from screen.edits import MASK
from screen.stats.relations import halves, items
from screen.stats.relations.halves import half_means, judged
from screen.stats.relations.items import Items, some_of
from screen.stats.tables import strata_of


@pytest.mark.parametrize("most", [500, 3])
def test_half_means_are_those_of_every_other_cell(
    planted: screen.Results, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(halves, "some_of", lambda n: some_of(n, most))
    store = planted.store
    strata = strata_of(store, store.provenance["view"]["strata"], None)
    number_M = np.array([0, 200, 31, 7])
    n_M, half_M2G = half_means(Items(store, strata), number_M, 1, 2, 320)
    block = store.blocks[0]
    for m, p in enumerate(number_M.tolist()):
        rows = block.rows_of(p)
        rows = rows[strata.stratum_C[block.read("items/cell", rows)] == 1]
        rows = rows[some_of(len(rows), most)]
        assert n_M[m] == len(rows) <= most
        for half in (0, 1):
            if len(rows) < 2:
                assert np.isnan(half_M2G[m]).all()
            else:
                change_G = np.mean([block.delta(2, np.array([r]))[0].astype(float) for r in rows[half::2]], axis=0)
                np.testing.assert_allclose(half_M2G[m, half], change_G, rtol=0, atol=1e-15)


@given(st.integers(1, 50), st.integers(1, 60))
def test_cells_that_are_read_are_spread_over_all(n: int, most: int) -> None:
    at = some_of(n, most)
    assert len(at) == min(n, most) and (np.diff(at) > 0).all() and at[0] == 0 and at[-1] < n


@given(st.integers(1, 8), st.integers(2, 5), st.integers(0, 99))
def test_a_perturbation_is_found_among_all_as_loops_find_it(n: int, n_genes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    half_N2G = rng.standard_normal((n, 2, n_genes)) + rng.standard_normal((n, 1, n_genes))
    half_N2G[rng.random(n) < 0.2] = np.nan
    found = judged(half_N2G)
    known = [i for i in range(n) if np.isfinite(half_N2G[i]).all()]
    apart = half_N2G - half_N2G[known].mean(0) if len(known) > 1 else half_N2G

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))

    for i in range(n):
        if i not in known:
            assert all(np.isnan(values_N[i]) for values_N in found.values())
            continue
        mine = cosine(apart[i, 0], apart[i, 1])
        rank = 1 + sum(cosine(apart[i, 0], apart[j, 1]) > mine for j in known if j != i)
        assert (found["found_rank"][i], found["n_others"][i]) == (rank, len(known) - 1)
        assert found["split_half_cosine"][i] == pytest.approx(cosine(half_N2G[i, 0], half_N2G[i, 1]))
        assert found["centred_split_half_cosine"][i] == pytest.approx(mine)
        if len(known) > 1:
            assert found["identifiability"][i] == pytest.approx(1 - (rank - 1) / (len(known) - 1))


def test_strong_perturbations_are_found_and_all_with_a_rank_are_there(planted: screen.Results) -> None:
    table = planted.relations("halves")
    ranked = planted.hits.filter(pl.col("n_cells") >= planted.min_cells)
    assert table.height == ranked.height
    both = ranked.join(table.drop("n_cells"), on=["perturbation", "stratum", "time"])
    assert both.filter(mode=MASK.name).sort("strength")["identifiability"].tail(20).min() > 0.9
    strong, weak = (
        both.sort("strength")["centred_split_half_cosine"].gather(range(*x)).mean() for x in ((-100, 0), (0, 100))
    )
    assert float(strong) > float(weak) + 0.1  # type: ignore[arg-type]
    assert table["n_cells"].max() <= items.MOST_CELLS
