"""Errors: which names are said to be meant."""

import pytest

from screen.errors import closest, nearest

GENES = ("GBP1", "GPBP1", "PHB1", "GPX1", "GBP2", "CCL2", "CD14")


@pytest.mark.parametrize("wrong", ["GPB1", "gpb1", "BGP1", "GB1P"])
def test_two_letters_the_wrong_way_round_come_before_other_names_like_it(wrong: str) -> None:
    assert closest(wrong, GENES)[0] == "GBP1"


def test_letter_case_alone_comes_first_and_no_name_twice() -> None:
    assert closest("gpbp1", GENES)[0] == "GPBP1"
    # an exchange of equal letters is the name itself
    assert closest("CCL2", GENES)[0] == "CCL2"
    found = closest("GPB1", GENES, n=10)
    assert len(found) == len(set(found)) > 2
    assert len(closest("GPB1", GENES, n=2)) == 2


@pytest.mark.parametrize("wrong", ["", "G", "QQQQQQQ"])
def test_a_name_like_none_gets_no_guess(wrong: str) -> None:
    assert nearest(wrong, GENES) == ""


def test_guesses_are_said_as_they_are_spelt() -> None:
    assert nearest("GPB1", GENES, n=2).startswith('; did you mean "GBP1" or "')
