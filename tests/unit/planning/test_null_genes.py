"""Null perturbations: near what is asked for, of use in every stratum, as many as said; on the demo's cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from screen.cells.bank import SOURCE
from screen.config.sections import FEWEST_NULLS, MANY_NULLS, NullConfig
from screen.edits import Site
from screen.engine.screen import Screen
from screen.errors import ConfigError
from screen.planning.null_genes import NullPlan, null_perturbations
from screen.planning.perturbations import Perturbation, make_perturbation
from screen.planning.selection import select_items
from screen.running.configuration import load_config
from screen.running.prepare import prepare
from tests.support.places import ROOT

MIN_CELLS = 5


@dataclass(frozen=True)
class Cells:
    """The demo's cells of four types, and how many of each stratum hold a gene, at what mean rank."""

    screen: Screen

    def drawn(
        self,
        asked: Sequence[Sequence[int]],
        mode: str = "mask",
        n: int | None = None,
        there: Mapping[str, bool] | None = None,
        seed: int = 0,
        min_cells: int = MIN_CELLS,
    ) -> list[Perturbation]:
        plan, possible = self.plan(n, there, seed, min_cells), list(range(len(self.screen.vocabulary)))
        return null_perturbations([self.made(g, mode) for g in asked], lambda p: possible, self.screen.index, plan)

    def plan(
        self, n: int | None, there: Mapping[str, bool] | None, seed: int = 0, min_cells: int = MIN_CELLS
    ) -> NullPlan:
        plan = self.screen.plan
        return NullPlan(NullConfig(n=n, seed=seed), plan.stratum_C, plan.coverage.stratum, min_cells, there or {})

    def made(self, genes: Sequence[int], mode: str = "mask", sites: Sequence[Site] = ("src",)) -> Perturbation:
        return make_perturbation(genes, mode, sites, (), self.screen.vocabulary)

    def n_usable(self, ps: Sequence[Perturbation]) -> list[int]:
        """How many have enough cells, per stratum, by the planner itself."""
        screen, plan = self.screen, self.screen.plan
        library = type(screen.library)(tuple(ps), (False,) * len(ps))
        names = plan.coverage.stratum
        found = select_items(library, screen.index, screen.window, plan.stratum_C, names).coverage.screened_PS
        return (found >= MIN_CELLS).sum(0).tolist()

    def tally(self) -> tuple[np.ndarray, np.ndarray]:
        """((G,) cells with each gene, (G,) mean rank)."""
        index, n = self.screen.index[SOURCE], len(self.screen.vocabulary)
        held = np.array([len(index.cells(g)) for g in range(n)])
        total = np.array([index.rank_N[index.offset_N[2 * g] : index.offset_N[2 * g + 1]].sum() for g in range(n)])
        return held, np.where(held > 0, total / np.maximum(held, 1), np.inf)


def prepared(**changes: object) -> Cells:
    config = load_config(ROOT / "configs" / "demo.yaml")
    return Cells(prepare(config.model_copy(update={"cells": config.cells.model_copy(update=changes), "enrich": None})))


@pytest.fixture(scope="module")
def cells() -> Cells:
    """Of four types."""
    return prepared(filters={}, max_cells=160)


@pytest.fixture(scope="module")
def alike() -> Cells:
    """Of one type."""
    return prepared(max_cells=60)


def test_null_genes_stand_where_the_genes_asked_for_stand(alike: Cells) -> None:
    cells, (held_G, rank_G) = alike, alike.tally()
    # a rank in one or two cells says little
    rank_G = np.where(held_G >= MIN_CELLS, rank_G, np.inf)
    for order in (np.argsort(rank_G), np.argsort(-held_G)):
        asked = order[:20].tolist()
        found = [p.genes[0] for p in cells.drawn([[g] for g in asked], n=40)]
        assert not set(found) & set(asked)
        place_G = np.argsort(order)
        # forty of 1,500: the next ones in order, or nearly
        assert np.median(place_G[found]) < 150
    everywhere = np.random.default_rng(0).permutation(np.flatnonzero(held_G >= MIN_CELLS))[:40]
    assert np.median(np.argsort(np.argsort(rank_G))[everywhere]) > 400, "random genes would be elsewhere"


def test_every_stratum_gets_as_many_as_are_asked_for_that_have_enough_cells(cells: Cells) -> None:
    held_G, _ = cells.tally()
    asked = [[g] for g in np.argsort(-held_G)[:30:3].tolist()]
    by_default, fewer = cells.drawn(asked), cells.drawn(asked, n=60)
    assert min(cells.n_usable(fewer)) >= 60
    assert max(cells.n_usable(by_default)) >= MANY_NULLS
    assert len(fewer) < 60 * len(cells.screen.plan.coverage.stratum), "what is of use in one is used in others"


def test_a_stratum_where_nothing_asked_for_is_of_use_gets_none(cells: Cells) -> None:
    plan, index = cells.screen.plan, cells.screen.index[SOURCE]
    n_strata = len(plan.coverage.stratum)
    held_GS = np.array(
        [np.bincount(plan.stratum_C[index.cells(g)], minlength=n_strata) for g in range(len(cells.screen.vocabulary))]
    )
    only = np.flatnonzero((held_GS.max(1) >= 8) & ((held_GS >= MIN_CELLS).sum(1) == 1))
    gene = int(only[0])
    stratum = int(held_GS[gene].argmax())
    found = cells.drawn([[gene]], n=25)
    assert len(found) == 25
    assert cells.n_usable(found)[stratum] == 25


def test_the_seed_decides_and_a_number_that_cannot_be_met_is_refused(cells: Cells) -> None:
    assert cells.drawn([[3], [90]], n=30) == cells.drawn([[3], [90]], n=30)
    assert cells.drawn([[3], [90]], n=30) != cells.drawn([[3], [90]], n=30, seed=1)
    with pytest.raises(ConfigError, match=r"null\.n is 1600, but only \d+ genes .* in at least 5 cells"):
        cells.drawn([[3], [90]], n=1600)


def test_a_joint_edit_is_compared_with_joint_edits_of_genes_near_its_own(alike: Cells) -> None:
    held_G, _ = alike.tally()
    common = np.argsort(-held_G)[:3].tolist()
    found = alike.drawn([common], n=50)
    assert len({frozenset(p.genes) for p in found}) == 50
    assert {len(p.genes) for p in found} == {3}
    assert np.median([held_G[list(p.genes)].mean() for p in found]) > np.quantile(held_G, 0.9)


def test_an_insertion_of_genes_that_few_cells_hold_is_compared_with_such(alike: Cells) -> None:
    held_G, _ = alike.tally()
    rare = np.flatnonzero(held_G <= 2)[:20]
    found = [p.genes[0] for p in alike.drawn([[int(g)] for g in rare], "overexpress", n=30)]
    assert held_G[found].max() <= 4 < np.median(held_G)


def test_a_directory_keeps_its_own_and_more_are_drawn_for_new_genes_alone(cells: Cells) -> None:
    vocabulary = cells.screen.vocabulary
    first = cells.drawn([[3], [90]], n=30)
    there = {p.id(vocabulary): True for p in first} | {cells.made([g]).id(vocabulary): False for g in (3, 90)}
    assert cells.drawn([[3], [90]], there=there) == first, "by default MANY_NULLS would be drawn"
    wider = cells.drawn([[3], [90]], there=there, n=40)
    assert set(first) < set(wider)
    assert max(cells.n_usable(wider)) >= 40
    more = cells.drawn([[3], [90], [700]], there=there, n=30)
    assert set(first) < set(more)
    # one of them is asked for now
    asked = first[0].genes
    rest = cells.drawn([[3], [90], list(asked)], there=there)
    assert first[0] not in rest
    assert set(first[1:]) <= set(rest)


def test_fewer_than_give_a_p_are_not_drawn(cells: Cells) -> None:
    held_G, _ = cells.tally()
    asked = [[g] for g in np.flatnonzero(held_G >= 150).tolist()]
    plan, free = cells.plan(None, None, min_cells=150), np.flatnonzero(held_G < 140)[: FEWEST_NULLS - 1].tolist()
    made = [cells.made(g, "overexpress") for g in asked[:5]]
    assert null_perturbations(made, lambda p: free, cells.screen.index, plan) == []
