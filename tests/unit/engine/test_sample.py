"""sample: a few items of a few cells, the same ones for the same screen."""

from collections import Counter

import numpy as np
import pytest

from screen.bench.synthetic import synthetic_screen
from screen.engine.sample import sample
from screen.engine.screen import Screen
from screen.models.synthetic import SyntheticSizes

SIZES = SyntheticSizes(
    width=32, n_heads=2, encoder_head_width=16, head_width=8, n_encoder_blocks=1, n_blocks=1, n_genes=200,
    n_source_tokens=400, max_len=50, n_times=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def screen() -> Screen:
    """Of masks, which need the gene, and of overexpressions, which do not: of these a cell has more."""
    return synthetic_screen(SIZES, 6, modes=("mask", "overexpress"))


def items(screen: Screen) -> list[tuple[int, int]]:
    return list(zip(screen.plan.perturbation_I.tolist(), screen.plan.cell_I.tolist(), strict=True))


def modes(screen: Screen, cell: int) -> Counter[str]:
    ps, plan = screen.library.perturbations, screen.plan
    return Counter(ps[p].mode for p in plan.perturbation_I[plan.cell_I == cell].tolist())


@pytest.mark.parametrize("is_even", [False, True])
def test_a_sample_is_so_many_different_items_of_so_many_cells_in_one_unit(screen: Screen, is_even: bool) -> None:
    found = sample(screen, 3, 10, is_even)
    assert len(items(found)) == 30
    assert set(items(found)) < set(items(screen))
    assert len(set(items(found))) == 30
    assert items(found) == sorted(items(found)) == items(sample(screen, 3, 10, is_even))
    assert (found.plan.n_units, found.plan.n_blocks) == (1, 1)
    assert np.unique(found.plan.cell_I).tolist() == [0, 2, 5]


def test_an_even_sample_has_as_many_of_every_mode(screen: Screen) -> None:
    as_they_come, even = (sample(screen, 6, 8, is_even) for is_even in (False, True))
    for cell in range(6):
        assert modes(even, cell) == {"mask": 4, "overexpress": 4}
        assert modes(as_they_come, cell)["overexpress"] > 4


def test_what_a_cell_lacks_of_a_mode_others_give_and_none_is_left_out(screen: Screen) -> None:
    n_seen, rows = Counter[int](), list[int]()
    for row, (p, cell) in enumerate(items(screen)):
        is_mask = screen.library.perturbations[p].mode == "mask"
        n_seen[cell] += is_mask
        if not is_mask or n_seen[cell] <= 2:
            rows.append(row)
    # two masks of each cell are left
    short = screen.altered(plan=screen.plan.only(np.array(rows)))
    for cell in range(6):
        assert modes(sample(short, 6, 8, is_even=True), cell) == {"mask": 2, "overexpress": 6}
        assert modes(sample(short, 6, 1, is_even=True), cell) == {"mask": 1, "overexpress": 1}


def test_some_items_of_a_plan_are_a_plan(screen: Screen) -> None:
    rows = np.array([3, 1, 7])
    found = screen.plan.only(rows)
    assert list(zip(found.perturbation_I, found.cell_I, strict=True)) == [items(screen)[i] for i in rows]
    assert (found.n_items, found.n_units, found.unit_rows) == (3, 1, 3)
    assert screen.plan.only(np.array([], np.int64)).n_units == 0
