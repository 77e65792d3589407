"""Donors: their levels, what is missing, and which columns look like them."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from screen.cells.bank import Ragged, State, TokenBank
from screen.cells.donors import check_replicates, levels_of, unused_donors, without_replicate
from screen.cells.metadata import texts
from screen.errors import ConfigError
from screen.models.perturbgen.conditions import _lookup


def column(*values: str) -> np.ndarray:
    return np.array(values, dtype=object)


@given(st.lists(st.sampled_from(["", "b", "a", "nan", "None"]), max_size=12))
def test_levels_are_those_of_cells_that_have_one(values: list[str]) -> None:
    code_C, names = levels_of(column(*values))
    assert names == sorted(set(values) - {""})
    assert [names[c] if c >= 0 else "" for c in code_C] == values


@pytest.mark.parametrize(
    "values",
    [
        pd.Series(["x", None, "", "nan"], dtype=object),
        pd.Series(["x", np.nan, "", "nan"], dtype="string"),
        pd.Series(pd.Categorical(["x", np.nan, "", "nan"])),
    ],
)
def test_none_nan_and_empty_text_are_missing_and_a_name_is_a_name(values: pd.Series) -> None:
    assert texts(values).tolist() == ["x", "", "", "nan"]


def test_numbers_that_are_missing_are_missing() -> None:
    assert texts(pd.Series([1.5, np.nan])).tolist() == ["1.5", ""]
    assert texts(pd.Series([1, None], dtype="Int64")).tolist() == ["1", ""]


@pytest.mark.parametrize("name", ["donor", "Donor_ID", "patient", "sample_id", "Batch", "mouse.id"])
def test_a_column_that_looks_like_donors_is_told(name: str) -> None:
    (note,) = unused_donors({"cell_type": column(*"xyxyxy"), name: column(*"aabbba")})
    assert f'"{name}" (2 levels: a, b)' in note
    assert f"--replicate {name}" in note


@pytest.mark.parametrize("values", ["aaaaaa", "abcdef", "abcabc", ""])
def test_one_level_or_as_many_as_half_of_the_cells_are_no_donors(values: str) -> None:
    assert unused_donors({"donor": column(*values)}) == []


def test_the_likeliest_column_is_told() -> None:
    (note,) = unused_donors({"batch": column(*"xxyyxx"), "donor": column(*"aabbba"), "kind": column(*"aabbba")})
    assert note.startswith('"donor"')


def test_fewer_than_two_replicates_are_refused_and_missing_ones_counted() -> None:
    with pytest.raises(ConfigError, match=r'"donor" has one level, "a"; .* needs 2 for a p-value'):
        check_replicates("donor", column("a", "", "a"))
    with pytest.raises(ConfigError, match="no value in any of the 2 cells"):
        check_replicates("donor", column("", ""))
    check_replicates("donor", column("a", "b"))
    assert without_replicate("donor", column("a", "b")) == []
    assert without_replicate("donor", column("a", "", "b"))[0].startswith('1 of 3 cells have no "donor"')


def bank(donors: np.ndarray) -> TokenBank:
    tokens = Ragged.from_rows([[4, 5]] * len(donors))
    state = State(tokens, np.arange(len(donors)), {"donor": donors})
    return TokenBank({0: state}, tuple(f"c{i}" for i in range(len(donors))))


def test_directories_of_when_a_missing_value_was_called_nan_go_on() -> None:
    assert bank(column("a", "")).fingerprint() == bank(column("a", "nan")).fingerprint()
    assert bank(column("a", "")).fingerprint() != bank(column("a", "b")).fingerprint()


def test_a_model_that_was_trained_with_a_condition_nan_knows_a_missing_one() -> None:
    assert _lookup(bank(column("a", "")), "donor", 0, {"a": 7, "nan": 9}).tolist() == [7, 9]
    assert _lookup(bank(column("a", "")), "donor", 0, {"a": 7, "": 8, "nan": 9}).tolist() == [7, 8]
