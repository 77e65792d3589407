"""A value in YAML is the file's value if it is written so, is the same number, or the same of true and false."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from screen.cells.values import meant_by, suggested
from screen.config.inputs import CellsConfig
from screen.errors import CellError
from tests.support.h5ad_files import N_CELLS, read, same, some_counts, some_obs, write


@pytest.mark.parametrize(
    ("value", "there", "meant"),
    [
        ("6", ["0", "6"], ["6"]),
        ("6", ["0.0", "6.0"], ["6.0"]),
        ("6.0", ["06", "0"], ["06"]),
        ("1", ["01", "1"], ["1"]),
        ("1", ["01", "1.0"], ["01", "1.0"]),
        ("0.5", ["5e-1", "5"], ["5e-1"]),
        ("True", ["TRUE", "FALSE"], ["TRUE"]),
        ("True", ["no", "yes"], ["yes"]),
        ("False", ["0", "1"], ["0"]),
        ("1", ["True", "False"], ["True"]),
        ("2", ["True", "False"], []),
        ("yes", ["true", "on"], ["true", "on"]),
        ("nan", ["NaN"], []),
        ("control", ["Control", "control "], []),
        ("1_0", ["10"], []),
    ],
)
def test_what_is_meant(value: str, there: list[str], meant: list[str]) -> None:
    assert meant_by(value, there) == meant


def test_suggestions_are_counted_and_blanks_and_case_come_first() -> None:
    n_of = {"CD14+ Monocytes": 1234, "CD14- Monocytes": 7, "Monocytes ": 3}
    assert suggested("cd14+_monocytes", n_of) == '; did you mean "CD14+ Monocytes" (1,234 cells)?'
    assert suggested("Monocytes", n_of) == '; did you mean "Monocytes " (3 cells)?'
    assert suggested("CD14 Monocytes", n_of).count("cells)") == 3
    assert suggested("xyz", n_of) == ""


STATES: dict[str, tuple[Any, str]] = {
    "whole numbers": (np.array([0, 6] * 6), "{source: 0, targets: {1: 6}}"),
    "decimals": (np.array([0.0, 6.0] * 6), "{source: 0, targets: {1: 6}}"),
    "booleans": (np.array([False, True] * 6), "{source: false, targets: {1: true}}"),
    "words that YAML reads as booleans": (np.array(["no", "yes"] * 6), "{source: no, targets: {1: yes}}"),
    "categories of numbers": (pd.Categorical([0, 6] * 6), "{source: 0.0, targets: {1: 6}}"),
    "numbers that are missing": (pd.array([0, 6] * 5 + [None, None], dtype="Int64"), "{source: 0, targets: {1: '6'}}"),
    "dates": (np.array(["2024-01-31", "2024-02-01"] * 6), "{source: 2024-01-31, targets: {1: 2024-02-01}}"),
}


@pytest.mark.parametrize("name", STATES)
def test_states_of_any_type_are_found_as_yaml_reads_them(name: str, tmp_path: Path) -> None:
    values, text = STATES[name]
    obs = some_obs()
    expected = obs["condition"].copy()
    expected[pd.isna(values)] = None
    plain = read(write(tmp_path / "plain.h5ad", some_counts(), obs=obs.assign(condition=expected)))
    path = write(tmp_path / "f.h5ad", some_counts(), obs=obs.assign(condition=pd.Series(values, index=obs.index)))
    config = CellsConfig.model_validate({"h5ad": path, "state_column": "condition", **yaml.safe_load(text)})
    bank = read(path, source=config.source, targets=config.targets)
    assert bank.cell_id_C == plain.cell_id_C
    for state in (0, 1):
        np.testing.assert_array_equal(bank.states[state].cell_index_C, plain.states[state].cell_index_C)
        np.testing.assert_array_equal(bank.states[state].tokens.token_T, plain.states[state].tokens.token_T)


def test_filters_may_be_one_value_and_of_any_type(tmp_path: Path) -> None:
    obs = some_obs().assign(is_b=lambda t: (t["cell_type"] == "B").to_numpy())
    path = write(tmp_path / "f.h5ad", some_counts(), obs=obs)
    for text in ("{is_b: true}", "{is_b: [yes]}", "{cell_type: B}"):
        config = CellsConfig.model_validate({"h5ad": path, "filters": yaml.safe_load(text)})
        assert same(read(path, filters=config.filters), read(path, filters={"cell_type": ["B"]}))
    assert read(path, filters={"donor": ["1.0", "2"]}).n_cells == sum(i % 2 == 0 and i % 3 > 0 for i in range(N_CELLS))
    assert CellsConfig.model_validate({"h5ad": path, "strata": "cell_type"}).strata == ["cell_type"]


def test_a_mapping_is_held_to_states_as_the_file_writes_them(tmp_path: Path) -> None:
    obs = some_obs().assign(condition=[0.0, 6.0] * 6)
    path, mapping = write(tmp_path / "f.h5ad", some_counts(), obs=obs), tmp_path / "pairs.csv"
    mapping.write_text("source,target\ncell0,cell3\n")
    assert read(path, source="0", targets={1: "6"}, pairing=mapping).cell_id_C == ("cell0",)


def test_a_value_that_may_be_two_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "f.h5ad", some_counts(), obs=some_obs().assign(condition=["01", "1.0"] * 6))
    with pytest.raises(CellError, match=r'"1" \(source\) may be "01" or "1\.0"; write it as the file does'):
        read(path, source="1", targets={})
    with pytest.raises(CellError, match="source and targets must differ"):
        read(path, source="01", targets={1: "01"})


def test_a_value_with_a_blank_is_quoted_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "f.h5ad", some_counts(), obs=some_obs().assign(condition=["control ", "stimulated"] * 6))
    with pytest.raises(CellError, match=r'values: "control ", stimulated; did you mean "control " \(6 cells\)\?'):
        read(path)
