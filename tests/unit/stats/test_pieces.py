"""Pieces of the gene tables: what whole arrays say of groups is what each group says of itself."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from screen.config.sections import DegConfig
from screen.stats.deg import DEG_FDR, DEG_MIN_DELTA, N_TOP_GENES, Names, Piece, schema_of, summaries, table
from screen.stats.false_discovery import benjamini_hochberg
from screen.stats.gene_results import from_moments, of_many
from screen.stats.groups import Group, Strata
from screen.stats.moments import Moments
from screen.stats.tests.sample import Sample
from screen.stats.tests.table import NAMES, named

few = st.sampled_from([0.0, -0.02, 0.02, 0.3, -0.3]) | st.floats(-1, 1, width=32)
groups_of = st.tuples(st.integers(1, 4), st.integers(1, 30)).flatmap(
    lambda shape: st.tuples(
        arrays(np.float64, shape, elements=few), st.lists(st.integers(1, 5), min_size=4, max_size=4)
    )
)


def piece_of(mean_NG: np.ndarray, n_cells: list[int], config: DegConfig) -> Piece:
    found = []
    for i, mean_G in enumerate(mean_NG):
        moments = Moments(n_cells[i], mean_G, np.abs(mean_G) * 1e-3, 1 + np.abs(mean_G), np.ones_like(mean_G))
        genes = from_moments(moments, config)
        found.append(Group(3 - i, i % 2, 1, n_cells[i], 0, genes, 0.1, 2.0, 3.0, 1.0, named(config.test_name)))
    return Piece(found)


class MadeNames(Names):
    """Of four perturbations, each of one gene, that no store holds."""

    def __init__(self, **arrays: np.ndarray) -> None:
        vars(self).update(arrays)

    def edited(self, perturbation: int) -> list[int]:
        return [perturbation % len(self.feature)]


def names_of(n_genes: int) -> Names:
    text = {n: np.array([f"{n}{p % 2}" for p in range(4)], object) for n in ("mode", "site", "target", "symbol")}
    genes = {"feature": [f"E{g}" for g in range(n_genes)], "feature_symbol": [f"S{g // 2}" for g in range(n_genes)]}
    genes = {name: np.array(values, object) for name, values in genes.items()}
    ids = np.array([f"p{p}" for p in range(4)], object)
    return MadeNames(id=ids, **text, **genes)


STRATA = Strata(("a", "b"), np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]))


@given(groups_of)
def test_the_ranking_keeps_what_sorting_each_group_gives(found: tuple[np.ndarray, list[int]]) -> None:
    mean_NG, n_cells = found
    piece, names = piece_of(mean_NG, n_cells, DegConfig()), names_of(mean_NG.shape[1])
    for group, mean_G, summary in zip(piece.groups, mean_NG, summaries(piece, names), strict=True):
        order = np.argsort(mean_G, kind="stable")
        up = [names.feature_symbol[g] for g in order[::-1][:N_TOP_GENES] if mean_G[g] > 0]
        down = [names.feature_symbol[g] for g in order[:N_TOP_GENES] if mean_G[g] < 0]
        assert (summary.top_up, summary.top_down) == (up, down)
        assert (summary.perturbation, summary.stratum, summary.n_cells) == (
            group.perturbation,
            group.stratum,
            group.n_cells,
        )
        np.testing.assert_allclose(summary.strength, np.sqrt(np.mean(mean_G**2)), rtol=1e-12)
        assert group.genes is not None
        fdr_G = benjamini_hochberg(group.genes.of("t_p_value"))
        n_deg = int(((fdr_G < DEG_FDR) & (np.abs(mean_G) > DEG_MIN_DELTA)).sum())
        own = (group.genes.mean_delta, group.genes.se, group.genes.of("t"), group.genes.of("t_p_value"), fdr_G)
        g = group.perturbation % len(mean_G)
        np.testing.assert_array_equal(summary.own, [(g, *(x_G[g] for x_G in own))])
        assert summary.n_deg == (None if np.isnan(fdr_G).all() else n_deg), "unknown without a p"


@given(groups_of, st.sampled_from([None, 1, 3]), st.sampled_from([None, 0.02]), st.sampled_from([None, 0.05]))
def test_rows_are_those_of_each_group_in_order(
    found: tuple[np.ndarray, list[int]], top: int | None, least: float | None, most: float | None
) -> None:
    (mean_NG, n_cells), config = found, DegConfig(top=top, min_delta=least, max_fdr=most)
    piece, names = piece_of(mean_NG, n_cells, config), names_of(mean_NG.shape[1])
    ours: Any = pl.from_arrow(table(piece, names, STRATA, config))
    rows = []
    for group, mean_G in zip(piece.groups, mean_NG, strict=True):
        assert group.genes is not None
        fdr_G = benjamini_hochberg(group.genes.of("t_p_value"))
        is_kept_G = np.abs(mean_G) >= (least or 0)
        if most is not None:
            is_kept_G &= fdr_G <= most
        kept = np.flatnonzero(is_kept_G)
        kept = np.sort(kept[np.argsort(-np.abs(mean_G[kept]), kind="stable")[: top or len(kept)]])
        p, fold_G = group.perturbation, np.log2((1 + np.abs(mean_G) + 1e-9) / (1 + 1e-9))
        for g in kept.tolist():
            share = group.n_cells / STRATA.n_cells_S[group.stratum]
            lead = [names.id[p], names.target[p], names.symbol[p], names.mode[p], names.site[p], "ab"[group.stratum], 1]
            lead += [group.n_cells, None, share, names.feature[g], names.feature_symbol[g], 1 + abs(mean_G[g]), 1.0]
            rows.append([*lead, fold_G[g], mean_G[g], float(fdr_G[g]), "paired_t"])
    columns = [c for c in schema_of(config) if c not in ("se", "statistic", "p_value")]
    assert list(ours.columns) == list(schema_of(config))
    assert ours.height == len(rows)
    for name, values in zip(columns, zip(*rows, strict=True), strict=False):
        if isinstance(values[0], float):
            np.testing.assert_allclose(ours[name].to_numpy(), np.array(values), rtol=1e-6, atol=1e-9, err_msg=name)
        else:
            assert ours[name].to_list() == list(values), name
    assert ours["signed_rank"].null_count() == ours.height


@pytest.mark.parametrize("n_cells", [1, 3])
def test_what_was_not_computed_is_null_and_never_not_a_number(n_cells: int) -> None:
    piece = piece_of(np.zeros((1, 3)), [n_cells], DegConfig())
    ours: Any = pl.from_arrow(table(piece, names_of(3), STRATA, DegConfig()))
    assert ours["se"].null_count() == (3 if n_cells == 1 else 0)
    assert not any(ours[c].is_nan().any() for c, dtype in ours.schema.items() if dtype.is_float())


@pytest.mark.parametrize("name", ["paired_t", "moderated_t"])
def test_tests_of_many_groups_at_once_say_what_each_group_says_alone(name: str) -> None:
    config, rng, n_cells_N = DegConfig(test=name), np.random.default_rng(3), [50, 1, 49, 50, 2, 3, 200, 50, 49]
    moments_N = []
    for n in n_cells_N:
        # some far out, where Student's distribution is not summed; a gene that never changes
        mean_G = rng.normal(size=700) * rng.choice([1e-3, 0.1, 3.0], 700)
        mean_G[5] = 0
        moments_N.append(Moments(n, mean_G, rng.gamma(2.0, 0.1, 700) * (mean_G != 0) * (n - 1), mean_G + 4, mean_G + 2))
    for moments, together in zip(moments_N, of_many(moments_N, config), strict=True):
        alone = from_moments(moments, config)
        assert together.sample.moments is moments
        assert set(together.of_tests) == set(alone.of_tests)
        for value in alone.of_tests:
            np.testing.assert_array_equal(together.of(value), alone.of(value), err_msg=value)


def test_only_tests_that_say_so_are_computed_for_many_groups_and_see_each_group_alone() -> None:
    for test in map(named, NAMES):
        if test.takes_groups:
            rng = np.random.default_rng(1)
            mean_NG, m2_NG = rng.normal(size=(3, 40)), rng.gamma(2.0, size=(3, 40)) * np.array([[1.0], [0.0], [9.0]])
            whole = test.compute(Sample(Moments(9, mean_NG, m2_NG, mean_NG, mean_NG)), DegConfig())
            for i in range(3):
                alone = Moments(9, *(x_NG[i] for x_NG in (mean_NG, m2_NG, mean_NG, mean_NG)))
                for value, x_G in test.compute(Sample(alone), DegConfig()).items():
                    np.testing.assert_array_equal(whole[value][i], x_G, err_msg=f"{test.name}: {value}")
