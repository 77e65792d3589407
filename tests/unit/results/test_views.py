"""Views: what page and plots show is what the tables of a screen say."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import pdist

from screen.cli.main import main
from screen.edits import DELETE, MASK, OVEREXPRESS, PAD
from screen.errors import ConfigError, GeneError, StoreError
from screen.results import views
from screen.results.results import Results, open_results
from tests.support.store_fixture import GENES
from tests.support.tiny import tiny, write

SYMBOLS = {GENES[2]: "$x_1$", GENES[3]: "<b>IL1B</b>", GENES[4]: "CCL2", GENES[5]: "TWIN", GENES[6]: "TWIN"}
LIBRARY = [
    {"genes": [*GENES[2:10], GENES[29]], "modes": [MASK.name, DELETE.name, PAD.name]},
    {"genes": [GENES[4], GENES[2]], "modes": [OVEREXPRESS.name]},
]
KEY = ["perturbation", "stratum", "time"]


def screened(folder: Path, library: Any = LIBRARY, **output: Any) -> Results:
    """Three strata, two time points, null genes, genes nobody would like to be called."""
    (folder / "genes.tsv").write_text("ensembl_id\tsymbol\n" + "".join(f"{e}\t{s}\n" for e, s in SYMBOLS.items()))
    config = tiny(
        model={"gene_table": str(folder / "genes.tsv")},
        output={"strata": ["cell_type"], "allow_missing": True, "min_cells": 2, **output},
        null={"n": 20},
    )
    config |= {"library": library}
    assert main(["run", str(write(config, folder / "s.yaml")), "--out", str(folder / "out")]) == 0
    return open_results(folder / "out")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return screened(tmp_path_factory.mktemp("views"))


def test_what_ranks_highest_comes_first_then_what_was_named(results: Results) -> None:
    ranked = results.hits.drop_nulls("strength_rank")
    best_rank = dict(ranked.group_by("perturbation").agg(pl.col("strength_rank").min()).rows())
    top = views.top_perturbations(results, n=5, n_named=0)
    assert len(top) == 5 and [best_rank[i] for i in top] == sorted(best_rank.values())[:5]
    everything = views.top_perturbations(results)
    named = {f"src:{mode.name}:{g}" for mode in (MASK, DELETE, PAD) for g in GENES[2:10]}
    assert set(everything) >= named - set(results.unscreened["perturbation"]) and len(set(everything)) == len(
        everything
    )
    assert not set(everything) & set(results.hits.filter("is_null")["perturbation"])
    assert views.top_perturbations(results, n=5, n_named=3) == everything[:8] == [*top, *everything[5:8]]
    assert views.top_perturbations(results, n=0, n_named=0) == []


@pytest.mark.parametrize(("n_perturbations", "n_genes"), [(30, 40), (3, 5), (1, 1), (30, 200)])
def test_a_matrix_is_the_table_of_genes(results: Results, n_perturbations: int, n_genes: int) -> None:
    group = (
        results.hits.drop_nulls("strength_rank")
        .filter(mode=DELETE.name)
        .select("mode", "site", "stratum", "time")
        .row(0)
    )
    matrix = views.change_matrix(results, *group, n_perturbations=n_perturbations, n_genes=n_genes)
    best = results.hits.filter(mode=group[0], stratum=group[2], time=group[3]).drop_nulls("strength_rank")
    assert set(matrix.perturbation_P) == set(best.sort("strength_rank")["perturbation"].head(n_perturbations))
    rows = results.differential(stratum=group[2], time=group[3]).filter(
        pl.col("perturbation").is_in(matrix.perturbation_P)
    )
    said = {(p, g): d for p, g, d in rows.select("perturbation", "feature", "mean_delta").iter_rows()}
    for p, perturbation in enumerate(matrix.perturbation_P):
        assert matrix.symbol_P[p] == best.filter(perturbation=perturbation)["target_symbol"][0]
        for g, feature in enumerate(matrix.feature_G):
            assert matrix.change_PG[p, g] == said[perturbation, feature]
            assert matrix.feature_symbol_G[g] == SYMBOLS.get(feature, feature)
    square = rows.group_by("feature").agg(pl.col("mean_delta").cast(pl.Float64).pow(2).sum())
    least = square.filter(pl.col("feature").is_in(matrix.feature_G))["mean_delta"].min()
    left_out = square.filter(~pl.col("feature").is_in(matrix.feature_G))["mean_delta"]
    assert len(matrix.feature_G) == min(n_genes, 61) and all(x <= least for x in left_out)


def test_a_group_without_a_rank_has_an_empty_matrix(results: Results) -> None:
    matrix = views.change_matrix(results, OVEREXPRESS.name, "tgt", "A", 1)
    assert matrix.change_PG.shape == (0, 0) and matrix.perturbation_P == matrix.feature_G == []


def test_genes_that_a_table_leaves_out_are_nan(tmp_path: Path) -> None:
    results = screened(tmp_path, LIBRARY[:1])
    assert main(["deg", str(tmp_path / "out"), "--top", "3"]) == 0
    results = open_results(tmp_path / "out")
    group = results.hits.drop_nulls("strength_rank").select("mode", "site", "stratum", "time").row(0)
    matrix = views.change_matrix(results, *group)
    assert (np.isfinite(matrix.change_PG).sum(axis=1) == 3).all()


values = arrays(
    np.float64, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9), elements=st.floats(-10, 10, width=32)
)


@given(values)
def test_an_order_is_a_permutation_and_always_the_same(value_NK: np.ndarray) -> None:
    order = views.clustered(value_NK)
    assert sorted(order.tolist()) == list(range(len(value_NK)))
    holes_NK = np.where(value_NK > 5, np.nan, value_NK)
    np.testing.assert_array_equal(views.clustered(value_NK), order)
    assert sorted(views.clustered(holes_NK).tolist()) == list(range(len(value_NK)))


@given(st.integers(0, 2**16), st.integers(3, 12), st.integers(2, 8))
def test_an_order_is_that_of_scipy(seed: int, n_rows: int, n_columns: int) -> None:
    value_NK = np.random.default_rng(seed).normal(0, 1, (n_rows, n_columns))
    expected = leaves_list(linkage(pdist(value_NK, "cosine"), "average", optimal_ordering=True))
    places, at = np.argsort(expected), np.argsort(views.clustered(value_NK))
    # distances are equal to rounding: the order, or its mirror image
    assert places.tolist() == at.tolist() or places.tolist() == (n_rows - 1 - at).tolist()


@pytest.mark.parametrize(
    "value_NK", [np.zeros((4, 3)), np.ones((4, 0)), np.full((5, 2), np.nan), np.full((3, 2), 1e-300)]
)
def test_rows_without_a_direction_have_an_order(value_NK: np.ndarray) -> None:
    assert sorted(views.clustered(value_NK).tolist()) == list(range(len(value_NK)))


def test_rows_that_are_alike_stand_together() -> None:
    one, two = np.array([1.0, 0, 0]), np.array([0, 1.0, -1])
    order = views.clustered(np.stack([one, two, 3 * one, 0.5 * two, one, 2 * two])).tolist()
    assert {frozenset(order[:3]), frozenset(order[3:])} == {frozenset({0, 2, 4}), frozenset({1, 3, 5})}


def test_what_moves_a_gene_is_every_row_of_it_largest_first(results: Results) -> None:
    found = results.movers("CCL2", n=10_000)
    every = results.differential().filter(pl.col("feature") == GENES[4], pl.col("n_cells") >= 2)
    assert set(found.select(*KEY, "mean_delta").rows()) == set(every.select(*KEY, "mean_delta").rows())
    size = found["mean_delta"].abs()
    assert size.equals(size.sort(descending=True))
    ranks = found.join(results.hits, on=KEY, how="left", suffix="_in_hits")
    for column in ("strength_rank", "q_value", "is_null"):
        assert ranks[column].equals(ranks[f"{column}_in_hits"].alias(column))
    assert results.movers(GENES[4], n=10_000).equals(found) and results.movers("CCL2", n=3).equals(found.head(3))
    some = results.movers("CCL2", stratum="B", time=2, mode=DELETE.name, n=10_000)
    assert some.equals(found.filter(stratum="B", time=2, mode=DELETE.name))
    assert set(results.movers("TWIN", n=10_000)["feature"]) == {GENES[5], GENES[6]}


def test_cells_are_the_items_of_the_store(results: Results) -> None:
    found = results.cells("CCL2", mode=MASK.name)
    adata = results.anndata("CCL2", mode=MASK.name)
    assert found.schema == views.CELLS_SCHEMA and set(found["target_symbol"]) == {"CCL2"}
    ours = found.select("cell_idx", "time").rows()
    obs = adata.obs[["cell_idx", "time"]].itertuples(index=False, name=None)
    assert set(ours) == set(obs) and len(ours) == adata.n_obs
    cosine = dict(zip(adata.obs["cell_idx"], adata.obsm["mean_cos_similarity"][:, 0], strict=True))
    for cell, time, shift in found.select("cell_idx", "time", "embedding_shift").rows():
        assert shift == 1 - float(cosine[cell]), (cell, time)
    means = found.group_by("stratum", "time").agg(pl.len(), pl.col("embedding_shift", "rank_position", "length").mean())
    hits = results.hits.filter(pl.col("perturbation") == found["perturbation"][0], pl.col("n_cells") > 0)
    for row in means.iter_rows(named=True):
        said = hits.filter(stratum=row["stratum"], time=row["time"]).row(0, named=True)
        assert said["n_cells"] == row["len"]
        for name in ("embedding_shift", "rank_position", "length"):
            assert row[name] == pytest.approx(said[name], rel=1e-12)


def test_a_cells_strength_is_that_of_its_change(results: Results) -> None:
    store = results.store
    block, t = store.blocks[0], 2
    number = store.perturbations("id").tolist().index(f"src:{DELETE.name}:{GENES[3]}")
    rows = block.rows_of(number)
    rows = rows[block.read(f"items/is_screened_t{t}", rows)]
    expected = np.sqrt(np.mean(np.square(block.delta(t, rows).astype(np.float64)), axis=1))
    found = views.cells_of(results, [number], time=t)
    np.testing.assert_allclose(found["strength"].to_numpy(), expected, rtol=1e-5)
    ids = store.strings("cells/id")[block.read("items/cell", rows)].tolist()
    assert found["cell"].to_list() == ids


def test_cells_of_many_are_those_of_each_in_turn(results: Results) -> None:
    both = views.cells_of(results, [5, 2])
    assert both.equals(pl.concat([views.cells_of(results, [5]), views.cells_of(results, [2])]))
    assert views.cells_of(results, []).schema == views.CELLS_SCHEMA
    some = results.cells(stratum="B", time=1, mode=OVEREXPRESS.name)
    assert some.equals(results.cells(mode=OVEREXPRESS.name).filter(stratum="B", time=1))
    assert results.cells(GENES[29], mode=MASK.name).is_empty()


def test_a_deletion_is_compared_with_a_pad_of_the_same_gene(results: Results) -> None:
    found = views.rank_shift(results, GENES[3])
    assert set(found.groups["target_symbol"]) == {"<b>IL1B</b>"} and found.groups.height > 2
    genes = results.differential(GENES[3])
    key = ["stratum", "time", "feature"]
    one, two = (genes.filter(mode=m.name).select(*key, "mean_delta") for m in (DELETE, PAD))
    both = one.join(two, on=key, suffix="_pad").with_columns(pl.selectors.float().cast(pl.Float64))
    both = both.with_columns(d=pl.col("mean_delta") - pl.col("mean_delta_pad"))
    assert set(found.genes.select(*key, "difference").rows()) == set(both.select(*key, "d").rows())
    for row in found.groups.iter_rows(named=True):
        place = {"stratum": row["stratum"], "time": row["time"]}
        difference = both.filter(**place)["d"].to_numpy()
        assert row["rms_difference"] == pytest.approx(float(np.sqrt(np.mean(difference**2))), rel=1e-12)
        assert row["n_genes"] == len(difference) == 61
        for mode in (DELETE, PAD):
            hit = results.hits.filter(mode=mode.name, target=GENES[3], **place).row(0, named=True)
            assert (row[f"strength_{mode.name}"], row[f"n_cells_{mode.name}"]) == (hit["strength"], hit["n_cells"])
    assert set(views.rank_shift(results, GENES[3], "B", 2).genes.select("stratum", "time").unique().rows()) == {
        ("B", 2)
    }
    unscreened = views.rank_shift(results, GENES[29])
    assert unscreened.groups.is_empty() and unscreened.genes.is_empty()


@pytest.mark.parametrize(
    ("ask", "error", "words"),
    [
        (lambda r: r.movers("CCL3"), GeneError, ('no gene "CCL3" among the 61', 'did you mean "CCL2"')),
        (lambda r: r.movers("CCL2", mode="delet"), GeneError, ('did you mean "delete"',)),
        (lambda r: r.movers("CCL2", stratum="a"), ConfigError, ('no stratum "a"', 'did you mean "A"')),
        (lambda r: r.cells("CCL3"), GeneError, ('did you mean "CCL2"',)),
        (lambda r: r.cells("CCL2", time=7), ConfigError, ("no time point 7; there are 1, 2",)),
        (lambda r: views.rank_shift(r, "CCL2", stratum="a"), ConfigError, ('no stratum "a"',)),
    ],
)
def test_what_is_not_there_is_refused_naming_what_is(
    results: Results, ask: Any, error: type[Exception], words: tuple[str, ...]
) -> None:
    with pytest.raises(error) as refused:
        ask(results)
    assert all(w in str(refused.value) for w in words), refused.value


def test_embeddings_only_have_cells_and_no_genes(tmp_path: Path) -> None:
    config = tiny(predict={"use_count_decoder": False}, library={"genes": list(GENES[2:7])})
    assert main(["run", str(write(config, tmp_path / "s.yaml")), "--out", str(tmp_path / "out")]) == 0
    results = open_results(tmp_path / "out")
    found = results.cells(GENES[3])
    assert found["strength"].null_count() == found.height > 0 and found["embedding_shift"].null_count() == 0
    assert len(views.top_perturbations(results)) > 1
    for ask in (lambda: results.movers(GENES[3]), lambda: views.rank_shift(results, GENES[3])):
        with pytest.raises(StoreError, match="embeddings only"):
            ask()


def test_summaries_have_cells_too(tmp_path: Path) -> None:
    results = screened(tmp_path, [{"genes": list(GENES[2:5]), "modes": [MASK.name]}], keep="summaries")
    assert results.cells("CCL2")["strength"].null_count() == 0
