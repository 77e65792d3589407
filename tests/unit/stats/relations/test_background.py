"""Background and targets: fast counts equal loops; z is of the others; an edited gene's row is that of the table of genes."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import screen
from screen.config.sections import FEWEST_NULLS
from screen.edits import OVEREXPRESS, TABLE, Edit
from screen.stats.relations import background
from screen.stats.relations.background import N_TOP, spread, top_counts
from screen.stats.relations.kinds import Kind, without_own


class Given:
    """Mean changes that are there."""

    def __init__(self, mean_NG: np.ndarray) -> None:
        self.mean_NG, self.n_genes = mean_NG, mean_NG.shape[1]

    def rows(self, place_N: np.ndarray) -> np.ndarray:
        return self.mean_NG[place_N]


@st.composite
def of_a_kind(draw: st.DrawFn) -> tuple[Kind, Any]:
    n, n_genes, seed = draw(st.integers(1, 30)), draw(st.integers(1, 9)), draw(st.integers(0, 99))
    rng = np.random.default_rng(seed)
    # ties, and changes that are none
    mean_NG = np.round(rng.standard_normal((n, n_genes)), 1) * rng.integers(0, 2, (n, n_genes))
    place_N = rng.permutation(n)
    own_NK = np.stack([rng.permutation(np.append(np.arange(n_genes), -1))[:2] for _ in range(n)])
    return Kind(pl.DataFrame({"row": range(n)}), place_N, own_NK, rng.random(n) < 0.8), Given(mean_NG)


@given(of_a_kind(), st.integers(1, 3))
def test_what_null_perturbations_do_to_a_gene_is_of_those_that_edit_others(made: Any, rows_at_once: int) -> None:
    kind, means = made
    patch = pytest.MonkeyPatch()
    patch.setattr("screen.stats.sets.groups.PIECE_BYTES", 8 * means.n_genes * rows_at_once)
    with patch.context():
        n_G, mean_G, sd_G = spread(kind, kind.is_null_N, means)
        n_all_G, n_top_G = top_counts(kind, means)
    for g in range(means.n_genes):
        others = [n for n in range(len(kind)) if g not in kind.own_NK[n]]
        pool = [means.mean_NG[kind.place_N[n], g] for n in others if kind.is_null_N[n]]
        assert n_G[g] == len(pool) and n_all_G[g] == len(others)
        if len(pool) < FEWEST_NULLS:
            assert np.isnan(mean_G[g]) and np.isnan(sd_G[g])
        else:
            np.testing.assert_allclose([mean_G[g], sd_G[g]], [np.mean(pool), np.std(pool, ddof=1)], atol=1e-14)
        n_top = 0
        for n in others:
            size_G = [abs(x) * (i not in kind.own_NK[n]) for i, x in enumerate(means.mean_NG[kind.place_N[n]])]
            larger = sum(s > size_G[g] for s in size_G)
            n_top += size_G[g] > 0 and larger < N_TOP
        assert n_top_G[g] == n_top


@given(of_a_kind())
def test_edited_genes_are_left_out(made: Any) -> None:
    kind, means = made
    found_NG = without_own(means.mean_NG, kind.own_NK)
    for n in range(len(kind)):
        for g in range(means.n_genes):
            assert found_NG[n, g] == (0 if g in kind.own_NK[n] else means.mean_NG[n, g])


@pytest.mark.parametrize("is_null", [True, False])
def test_z_of_a_gene_is_that_among_the_other_null_perturbations(planted: screen.Results, is_null: bool) -> None:
    of_kind = planted.hits.filter(mode=OVEREXPRESS.name, time=1, stratum=planted.strata[0], is_null=is_null)
    one = of_kind.filter(~pl.col("target").str.contains("+", literal=True)).row(0, named=True)
    rows = planted.null_z(one["perturbation"], stratum=one["stratum"], time=1)
    changes = planted.differential(stratum=one["stratum"], time=1, mode=OVEREXPRESS.name).filter(
        ~pl.col("target").str.contains("+", literal=True)
    )
    nulls = planted.hits.filter("is_null", pl.col("n_cells") >= planted.min_cells)["perturbation"].unique()
    assert rows.height == 320 and rows["null_z"].null_count() == 0
    for row in rows.sort("null_z").gather([0, 7, 160, -1]).iter_rows(named=True):
        pool = changes.filter(
            pl.col("perturbation").is_in(nulls.to_list()), pl.col("perturbation") != one["perturbation"],
            feature=row["feature"],
        ).filter(pl.col("target") != row["feature"])  # fmt: skip
        x_N = pool["mean_delta"].cast(pl.Float64).to_numpy()
        assert row["null_z"] == pytest.approx((row["mean_delta"] - x_N.mean()) / x_N.std(ddof=1), rel=1e-3)


def test_genes_that_answer_to_everything_are_said_to(planted: screen.Results) -> None:
    table = planted.relations("genes", mode=OVEREXPRESS.name, stratum=planted.strata[1], time=2).filter(n_joint=1)
    assert table.height == 320 and (table["pool"] == background.NULLS).all() and table["n_null"].min() >= 39
    # five of every perturbation, and more only where two change as much
    assert table["n_top"].sum() == pytest.approx(5 * table["n_perturbations"].max(), rel=0.02)
    answering = table.sort("share_top", descending=True).head(10)
    assert answering["null_sd"].mean() + answering["null_mean"].abs().mean() > 1.5 * table["null_sd"].mean()


def test_the_edited_gene_is_as_in_the_table_of_genes(planted: screen.Results) -> None:
    targets = planted.relations("targets")
    assert targets.height == planted.hits.filter(pl.col("n_cells") > 0)["target"].str.split("+").list.len().sum()
    key = ["perturbation", "stratum", "time", "feature"]
    both = targets.join(planted.differential(), on=key, how="left")
    for name in ("mean_delta", "se", "p_value", "fdr"):
        a, b = (both[n].cast(pl.Float64) for n in (name, f"{name}_right"))
        assert (a.is_null() == b.is_null()).all()
        assert (a - b).abs().max() < 1e-6
    singles = targets.filter(n_joint=1, time=1)
    assert (singles["is_as_expected"] == (singles["mean_delta"].sign() == singles["expected"])).all()
    assert set(singles.filter(mode=OVEREXPRESS.name)["expected"]) == {1}
    assert singles["is_as_expected"].mean() > 0.97
    assert (
        singles.filter(pl.col("n_cells") > 4)["null_z"] * singles.filter(pl.col("n_cells") > 4)["expected"]
    ).median() > 5


@pytest.mark.parametrize("mode", TABLE, ids=lambda m: m.name)
def test_a_mode_says_where_its_gene_should_go(mode: Any) -> None:
    up = Edit(mode, 3 if mode.parameter else 0)
    assert up.direction == (1 if mode.name.startswith(("over", "shift")) else -1)
    if mode.parameter:
        assert Edit(mode, -3).direction == -up.direction
