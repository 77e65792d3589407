"""Epistasis: sums equal a slow definition, cell by cell; found where it is planted, absent where single edits add up."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import screen
from demo.planted.sizes import Sizes
from demo.planted.written import TRUTH, build
from screen.errors import ConfigError, StoreError
from screen.stats.moments import FLOAT32
from screen.stats.relations.epistasis import ADDITIVE, N_GENES, OTHER, SUPPRESSION, SYNERGY, UNCLEAR, judge
from screen.stats.relations.kinds import KIND
from screen.stats.relations.pairs import Joint, interaction_of, on_cells

CLASS_OF = {"additive": ADDITIVE, "synergy": SYNERGY, "suppression": SUPPRESSION, "new response": OTHER}


@given(st.integers(1, 9), st.integers(2, 3), st.integers(0, 99))
def test_a_joint_edit_is_compared_with_the_sum_on_the_same_cells(n: int, n_singles: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    change_ENG = [rng.standard_normal((n, 6)).astype(np.float32) for _ in range(1 + n_singles)]
    found = on_cells(Joint(0, tuple(range(1, 1 + n_singles)), (2, 4)), change_ENG, None, FLOAT32)
    away_NG = change_ENG[0].astype(float) - sum(x.astype(float) for x in change_ENG[1:])
    np.testing.assert_allclose(found.difference_G, away_NG.mean(0), atol=1e-12)
    assert np.flatnonzero(~found.other_G).tolist() == [2, 4]
    if n < 3:
        assert np.isnan(found.p_G).all() and np.isnan(found.low)
        return
    t_G, p_G = stats.ttest_1samp(away_NG, 0)
    np.testing.assert_allclose(found.statistic_G, t_G, rtol=1e-5)
    np.testing.assert_allclose(found.p_G, p_G, rtol=1e-5)
    np.testing.assert_allclose(found.fdr_G, stats.false_discovery_control(found.p_G), rtol=1e-12)
    kept = [0, 1, 3, 5]
    additive_NG = sum(x.astype(float) for x in change_ENG[1:])[:, kept]
    share = []
    for u in range(n):
        others_G = additive_NG[[v for v in range(n) if v != u]].mean(0)
        share.append(away_NG[u, kept] @ others_G / (others_G @ others_G))
    interval = stats.t.interval(0.95, n - 1, np.mean(share), stats.sem(share))
    np.testing.assert_allclose((found.interaction, found.low, found.high), (np.mean(share), *interval), rtol=1e-9)


def test_replicates_count_once_and_cells_of_none_are_left_out() -> None:
    rng = np.random.default_rng(0)
    change_ENG = [rng.standard_normal((8, 5)) for _ in range(3)]
    replicate_N = np.array([2, 0, 0, 1, -1, 2, 2, 1])
    found = on_cells(Joint(0, (1, 2), ()), change_ENG, replicate_N, FLOAT32)
    means = [np.stack([x[replicate_N == r].mean(0) for r in range(3)]) for x in change_ENG]
    np.testing.assert_allclose(found.p_G, stats.ttest_1samp(means[0] - means[1] - means[2], 0)[1], rtol=1e-6)
    assert found.n_cells == 8


def test_the_noise_of_single_edits_does_not_look_like_suppression() -> None:
    rng, found = np.random.default_rng(1), []
    for _ in range(200):
        signal_G = 0.1 * rng.standard_normal(50)
        single_ENG = [0.5 * signal_G + 0.2 * rng.standard_normal((10, 50)) for _ in range(2)]
        joint_NG = signal_G + 0.2 * rng.standard_normal((10, 50))
        found.append(interaction_of(joint_NG - sum(single_ENG), sum(single_ENG)))
    inside = np.mean([low <= 0 <= high for _, low, high in found])
    assert 0.9 < inside < 0.99 and abs(np.median([x for x, _, _ in found])) < 0.03
    assert np.isnan(interaction_of(np.zeros((4, 3)), np.zeros((4, 3)))).all()


def classes(results: screen.Results) -> pl.DataFrame:
    """Rows of the table with what was planted."""
    truth: Any = json.loads((results.directory / TRUTH).read_text())
    planted = {
        e["perturbation"]: e.get("interaction", "additive") for e in truth["planted"] if "+" in e["perturbation"]
    }
    known = pl.col("perturbation").replace_strict(planted, default="additive")
    return results.relations("epistasis").with_columns(planted=known)


def test_planted_epistasis_is_found_and_absent_where_single_edits_add_up(planted: screen.Results) -> None:
    table = classes(planted)
    assert (
        table.height
        == planted.hits.filter(pl.col("target").str.contains("+", literal=True), pl.col("n_cells") > 0).height
    )
    clear = table.filter(pl.col("n_cells") >= planted.min_cells, ~pl.col("is_null"))
    tally = Counter(clear.select("planted", "class").iter_rows())
    assert set(CLASS_OF) == {kind for kind, _ in tally}
    for kind, name in CLASS_OF.items():
        right, wrong = (
            tally[kind, name],
            sum(n for (k, c), n in tally.items() if k == kind and c not in (name, UNCLEAR)),
        )
        assert wrong == 0, tally
        assert right >= 0.8 * sum(n for (k, _), n in tally.items() if k == kind), tally
    nulls = table.filter("is_null")["class"].drop_nulls()
    assert (nulls == ADDITIVE).mean() > 0.95  # type: ignore[operator]
    by_kind = clear.group_by("planted").agg(
        pl.col("interaction", "strength_ratio", "other", "rms_difference", "noise").median()
    )
    said = {row["planted"]: row for row in by_kind.iter_rows(named=True)}
    assert said["synergy"]["strength_ratio"] > 1.2 > 1.05 > said["additive"]["strength_ratio"]
    assert said["suppression"]["strength_ratio"] < 0.9 and said["new response"]["other"] > 0.7
    assert said["additive"]["rms_difference"] == pytest.approx(said["additive"]["noise"], rel=0.3)


def test_genes_that_differ_most_are_those_of_the_cells(planted: screen.Results) -> None:
    one = classes(planted).filter(planted="new response", time=1, stratum=planted.strata[0]).row(0, named=True)
    genes = planted.relations("epistasis_genes", one["perturbation"], stratum=one["stratum"], time=1)
    assert genes.height == N_GENES and genes["difference"].abs().is_sorted(descending=True)
    site, mode, targets = one["perturbation"].split(":")
    store, ids = planted.store, planted.store.perturbations("id").tolist()
    block, cell_type = store.blocks[0], store.strings("cells/source/obs/cell_type")
    of_cell = []
    for target in (targets, *targets.split("+")):
        rows = block.rows_of(ids.index(f"{site}:{mode}:{target}"))
        of_cell.append(
            dict(zip(block.read("items/cell", rows).tolist(), block.delta(1, rows).astype(float), strict=True))
        )
    both = [c for c in set.intersection(*map(set, of_cell)) if cell_type[c] == one["stratum"]]
    away_NG = np.array([of_cell[0][c] - of_cell[1][c] - of_cell[2][c] for c in both])
    feature = store.strings("genes/ensembl_id").tolist()
    assert one["n_cells"] == len(both)
    for row in genes.iter_rows(named=True):
        x_N = away_NG[:, feature.index(row["feature"])]
        assert row["difference"] == pytest.approx(x_N.mean(), rel=1e-5)
        assert row["p_value"] == pytest.approx(stats.ttest_1samp(x_N, 0)[1], rel=1e-4)
    assert one["n_genes"] == (genes.filter(pl.col("difference").abs() > 0.01)["fdr"] < 0.05).sum()
    assert genes.filter("is_edited").height <= 2


def test_with_summaries_means_are_compared_and_no_class_is_given(tmp_path: Path) -> None:
    sizes = Sizes(
        n_perturbations=250,
        n_strata=1,
        n_cells=12,
        n_genes=320,
        n_nulls=20,
        has_replicates=False,
        keep="summaries",
        has_relations=True,
    )
    results = build(tmp_path / "screen", sizes)
    table = classes(results)
    assert not table["is_paired"].any() and table["class"].null_count() == table.height
    assert table["interaction_low"].null_count() == table.height
    one = table.row(0, named=True)
    rows = results.differential(stratum=one["stratum"], time=one["time"], mode=one["mode"])
    joint, *single = (
        rows.filter(target=t)["mean_delta"].cast(pl.Float64).to_numpy()
        for t in (one["target"], *one["target"].split("+"))
    )
    kept = ~np.isin(rows.filter(target=one["target"])["feature"], one["target"].split("+"))
    assert one["rms_difference"] == pytest.approx(np.sqrt(np.square((joint - sum(single))[kept]).mean()), rel=1e-4)
    with pytest.raises(StoreError, match="keeps summaries: halves of the cells need the single cells"):
        results.relations("halves")
    with pytest.raises(ConfigError, match=r'no table "epistases".*did you mean "epistasis"'):
        results.relations("epistases")
    with pytest.raises(ConfigError, match='"factors" is of no single perturbation'):
        results.relations("factors", "ALL1")
    (results.directory / "relations" / "modules.parquet").unlink()
    with pytest.raises(
        StoreError, match=r"has no relations/modules.parquet.*`perturbscreen deg .* --relations` makes it"
    ):
        results.relations("modules")


def test_a_class_needs_the_null_where_there_is_one() -> None:
    def rows(**columns: Any) -> pl.DataFrame:
        n = max(len(v) for v in columns.values())
        plain: dict[str, Any] = {
            "n_cells": [9] * n,
            "is_null": [False] * n,
            "other": [0.0] * n,
            **dict.fromkeys(KIND, [0] * n),
        }
        return pl.DataFrame(plain | columns)

    def interval(x: list[float]) -> dict[str, list[float]]:
        return {"interaction": x, "interaction_low": [v - 0.05 for v in x], "interaction_high": [v + 0.05 for v in x]}

    alone = judge(
        rows(**interval([0.3, -0.3, 0.0, 0.12, 0.3, 0.2]), other=[0.0, 0.0, 0.0, 0.0, 0.8, 0.0], n_cells=[9] * 5 + [2]),
        5,
    )
    assert alone["class"].to_list() == [SYNERGY, SUPPRESSION, ADDITIVE, ADDITIVE, OTHER, None]
    assert alone["null_p_value"].is_nan().all()
    # joint edits of random genes are as suppressed: this one is like any
    nulls = np.linspace(-0.5, -0.1, 41).tolist()
    found = judge(rows(**interval([-0.3, 0.3, *nulls]), is_null=[False] * 2 + [True] * 41), 5)
    assert found["class"].to_list()[:2] == [ADDITIVE, SYNERGY] and found["null_interaction"][0] == pytest.approx(-0.3)
    assert found["null_p_value"].to_list()[:2] == [1, pytest.approx(1 / 42)]
