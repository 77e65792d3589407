"""Pairs of source and target cells: within strata, by the seed, or from a file."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from screen.cells.pairing import draw_pairs, subset_pairs, unique_names
from screen.errors import CellError
from tests.support.h5ad_files import N_CELLS, read, same, some_counts, some_obs, write
from tests.support.h5ad_files import file as file

CELL = st.tuples(st.sampled_from([0, 1, 2]), st.sampled_from("xyz"))


@given(st.lists(CELL, min_size=1, max_size=40), st.integers(0, 3))
def test_drawn_pairs_stay_within_strata_and_spread_over_the_targets(cells: list[tuple[int, str]], seed: int) -> None:
    cells = cells + [(s, x) for s in (0, 1, 2) for x in "xyz"]
    state_C, stratum_C = np.array([c[0] for c in cells]), np.array([c[1] for c in cells])
    candidates = {s: np.flatnonzero(state_C == s) for s in (0, 1, 2)}
    pairs = draw_pairs(candidates, stratum_C, seed)
    assert np.array_equal(pairs[0], candidates[0])
    for time in (1, 2):
        assert (state_C[pairs[time]] == time).all()
        assert (stratum_C[pairs[time]] == stratum_C[pairs[0]]).all()
        for name in "xyz":
            targets = candidates[time][stratum_C[candidates[time]] == name]
            uses = [int((pairs[time] == t).sum()) for t in targets]
            assert max(uses) - min(uses) <= 1
    again = draw_pairs(candidates, stratum_C, seed)
    assert all(np.array_equal(pairs[s], again[s]) for s in pairs)


@given(st.permutations([f"{s}x{i}" for s in "01" for i in range(4)] + [f"{s}y{i}" for s in "01" for i in range(4)]))
def test_the_draw_of_a_stratum_ignores_where_the_cells_of_others_lie(names: list[str]) -> None:
    x_order = iter(sorted(n for n in names if n[1] == "x"))
    names = [next(x_order) if n[1] == "x" else n for n in names]  # x cells keep their order, y cells move
    state_C, stratum_C = np.array([n[0] for n in names]), np.array([n[1] for n in names])
    pairs = draw_pairs({s: np.flatnonzero(state_C == str(s)) for s in (0, 1)}, stratum_C, seed=5)
    drawn = {names[a]: names[b] for a, b in zip(pairs[0], pairs[1], strict=True) if names[a][1] == "x"}
    alone = sorted(n for n in names if n[1] == "x")
    lone = draw_pairs({0: np.arange(4), 1: np.arange(4, 8)}, np.full(8, "x"), seed=5)
    assert drawn == {alone[a]: alone[b] for a, b in zip(lone[0], lone[1], strict=True)}


def test_another_seed_or_time_point_draws_other_pairs() -> None:
    candidates = {0: np.arange(50), 1: np.arange(50, 100), 2: np.arange(100, 150)}
    one, other = (draw_pairs(candidates, np.full(150, "x"), seed) for seed in (0, 1))
    assert not np.array_equal(one[1], other[1])
    assert not np.array_equal(one[1], one[2] - 50)


def test_a_stratum_without_targets_is_named_with_its_counts(tmp_path: Path) -> None:
    obs = some_obs()
    obs["cell_type"] = ["NK" if i in (2, 4) else "B" for i in range(N_CELLS)]
    path = write(tmp_path / "f.h5ad", some_counts(), obs=obs)
    with pytest.raises(CellError, match='cell_type "NK" has 2 source cells and 0 cells of time point 1'):
        read(path, strata=["cell_type"])
    assert read(path, pairing="random", strata=["cell_type"]).n_cells == 6
    assert read(path, strata=["cell_type"], filters={"cell_type": ["B"]}).n_cells == 4


def test_strata_combine_columns_in_any_order(tmp_path: Path) -> None:
    obs = pd.DataFrame(index=[f"c{i}" for i in range(48)])
    obs["condition"] = ["control", "stimulated"] * 24
    obs["cell_type"] = np.repeat(["B", "T"], 24)
    obs["donor"] = np.tile(np.repeat(["1", "2", "3"], 8), 2)
    path = write(tmp_path / "f.h5ad", np.ones((48, 5), dtype=int), obs=obs)
    one, other = read(path, strata=["cell_type", "donor"]), read(path, strata=["donor", "cell_type"])
    assert same(one, other)
    for column in ("cell_type", "donor"):
        assert np.array_equal(one.states[0].obs[column], one.states[1].obs[column])
    assert any("within 6 strata (seed 0)" in n for n in one.notes)
    assert not same(one, read(path, strata=["cell_type", "donor"], seed=1))


def test_filters_hold_for_source_and_target_cells(file: Path) -> None:
    bank = read(file, filters={"cell_type": ["B"]}, pairing="random")
    assert bank.n_cells == 4
    assert set(bank.states[0].obs["cell_type"]) == set(bank.states[1].obs["cell_type"]) == {"B"}


def test_max_cells_takes_pairs_and_keeps_their_order(file: Path) -> None:
    every, fewer = read(file, strata=["cell_type"]), read(file, strata=["cell_type"], max_cells=4)
    pairs = list(zip(every.states[0].cell_index_C, every.states[1].cell_index_C, strict=True))
    kept = list(zip(fewer.states[0].cell_index_C, fewer.states[1].cell_index_C, strict=True))
    assert len(kept) == 4 and kept == [p for p in pairs if p in kept]
    assert any(n.startswith("4 of 6 pairings were taken at random") for n in fewer.notes)
    assert same(read(file, strata=["cell_type"], max_cells=6), every)


def test_max_cells_draws_by_the_seed() -> None:
    pairs = {0: np.arange(100), 1: np.arange(100)[::-1]}
    one, again, other = (subset_pairs(pairs, 10, seed) for seed in (0, 0, 1))
    assert np.array_equal(one[0], again[0]) and not np.array_equal(one[0], other[0])
    assert np.array_equal(one[1], 99 - one[0]) and len(set(one[0])) == 10


@pytest.mark.parametrize("header", ["source\ttarget", "target_1,source,comment"])
def test_a_mapping_file_gives_cells_order_and_repeats(file: Path, tmp_path: Path, header: str) -> None:
    listed = [("cell8", "cell3"), ("cell0", "cell11"), ("cell8", "cell1")]
    rows = [f"{a}\t{b}" if "\t" in header else f"{b},{a},x" for a, b in listed]
    mapping = tmp_path / "pairs.txt"
    mapping.write_text("\n".join([header, *rows]) + "\n")
    bank = read(file, pairing=mapping)
    assert bank.cell_id_C == ("cell8", "cell0", "cell8#2")
    assert list(bank.states[0].cell_index_C) == [8, 0, 8] and list(bank.states[1].cell_index_C) == [3, 11, 1]
    assert np.array_equal(bank.states[1].counts.toarray(), some_counts()[[3, 11, 1]])
    assert list(bank.states[0].tokens[0]) == list(bank.states[0].tokens[2])
    assert read(file, pairing=str(mapping), filters={"donor": ["2"]}).cell_id_C == ("cell8", "cell8#2")
    with pytest.raises(CellError, match="leave no cell of the source"):
        read(file, pairing=mapping, filters={"donor": ["1"]})


def test_a_mapping_row_with_an_empty_cell_is_left_out(tmp_path: Path) -> None:
    counts_CG = some_counts()
    counts_CG[[3, 4]] = 0
    path, mapping = write(tmp_path / "f.h5ad", counts_CG), tmp_path / "pairs.tsv"
    mapping.write_text("source\ttarget\ncell0\tcell3\ncell2\tcell5\ncell4\tcell1\n")
    bank = read(path, pairing=mapping)
    assert bank.cell_id_C == ("cell2",)
    assert "2 of the 3 pairings of the mapping name such a cell and were left out." in bank.notes
    mapping.write_text("source\ttarget\ncell0\tcell3\ncell4\tcell1\n")
    with pytest.raises(CellError, match="each pairing of the mapping names a cell that cannot be used"):
        read(path, pairing=mapping)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source\ttarget\ncell0\tCell1\n", 'column "target": cells.h5ad has no cell "Cell1"; did you mean "cell1'),
        ("source\ttarget\ncell0\n", "no row with a cell in each of source, target"),
        (
            "source\ttarget\ncell1\tcell3\n",
            r'column "source": not every cell is of the source .*"cell1" is "stimulated"',
        ),
        (
            "source\ttarget\ncell0\tcell2\n",
            r'column "target": not every cell is of time point 1 .*"cell2" is "control"',
        ),
        ("from\ttarget\ncell0\tcell1\n", r"lacks the column\(s\) source; it has from, target"),
        ("source\ttarget\n", "holds no pair"),
        ("", "holds no pair"),
    ],
)
def test_a_wrong_mapping_is_refused(file: Path, tmp_path: Path, text: str, message: str) -> None:
    mapping = tmp_path / "pairs.tsv"
    mapping.write_text(text)
    with pytest.raises(CellError, match=message):
        read(file, pairing=mapping)


def test_a_mapping_for_several_time_points_needs_a_column_for_each(tmp_path: Path) -> None:
    obs = some_obs()
    obs["condition"] = ["control", "early", "late"] * 4
    path, mapping = write(tmp_path / "f.h5ad", some_counts(), obs=obs), tmp_path / "pairs.csv"
    targets = {1: "early", 3: "late"}
    mapping.write_text("source,target_1,target_3\ncell3,cell1,cell8\n")
    bank = read(path, targets=targets, pairing=mapping)
    assert [int(bank.states[s].cell_index_C[0]) for s in (0, 1, 3)] == [3, 1, 8]
    mapping.write_text("source,target\ncell3,cell1\n")
    with pytest.raises(CellError, match=r"lacks the column\(s\) target_1, target_3"):
        read(path, targets=targets, pairing=mapping)


def test_a_mapping_cannot_name_one_of_several_cells_with_the_same_name(tmp_path: Path) -> None:
    path, mapping = write(tmp_path / "f.h5ad", some_counts()), tmp_path / "pairs.csv"
    with h5py.File(path, "r+") as handle:
        handle["obs/_index"][2] = "cell0"
    mapping.write_text("source,target\ncell0,cell1\n")
    with pytest.raises(CellError, match='several cells "cell0"; make its obs names unique'):
        read(path, pairing=mapping)
    assert read(path).cell_id_C[:2] == ("cell0", "cell0#2")


def test_a_made_up_cell_id_is_never_one_that_exists() -> None:
    assert unique_names(np.array(["a", "a", "a#2", "a"])) == ("a", "a#3", "a#2", "a#4")
