"""What is said of a finished screen: whether anything stands out, and why a group has no p."""

from typing import Any

import polars as pl
import pytest

from screen.results.sentences import described_null, standing_out
from screen.stats.hits import SCHEMA


def row(**changes: Any) -> dict[str, Any]:
    """A ranked knock-out."""
    base: dict[str, Any] = {
        "strength_rank": 1, "perturbation": "src:mask:E", "target": "E", "target_symbol": "G", "mode": "mask", "site": "src",
        "stratum": "all", "time": 1, "is_null": False, "strength": 0.03, "n_cells": 9, "p_value": 0.2, "q_value": 0.4,
        "n_pool": 200, "top_up": [], "top_down": [],
    }  # fmt: skip
    return {**base, **changes}


def table(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema={k: v for k, v in SCHEMA.items() if k in rows[0]})


def test_one_sentence_says_whether_anything_stands_out() -> None:
    weak, strong = row(perturbation="a"), row(perturbation="b", q_value=0.01, strength=0.1)
    assert standing_out(table(weak), True) == (
        "No perturbation of 1 stands out at q < 0.1; the strongest changes expression by 3 % on average."
    )
    assert standing_out(table(weak, strong), True).startswith("1 perturbation stands out at q < 0.1, of 2; ")
    assert standing_out(table(strong, strong | {"perturbation": "c"}), True).startswith("2 perturbations stand out")
    assert "moves the embedding by 0.03" in standing_out(table(weak), False)
    assert "Nothing says whether" in standing_out(table(row(q_value=None, p_value=None)), True)
    assert standing_out(table(row()).head(0), True) == "No perturbation has a rank."


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([row(n_cells=2, strength_rank=None)], "no p for src:mask in all at t1: 2 cells at most, 5 needed"),
        ([row()], "1 perturbations and no null ones, 20 needed"),
        ([row(perturbation=str(i)) for i in range(30)], "no null perturbations to compare with"),
        (
            [row(), *(row(is_null=True, n_cells=n, perturbation=str(n)) for n in range(1, 12))],
            "7 of 11 null perturbations have 5 cells or more here, 20 needed",
        ),
    ],
)
def test_a_group_without_p_says_why_with_numbers(rows: list[dict[str, Any]], why: str) -> None:
    said = described_null(table(*(r | {"q_value": None, "n_pool": 0} for r in rows)), 5)
    assert len(said) == 1
    assert why in said[0]


def test_a_group_is_described_by_its_own_pool() -> None:
    said = described_null(table(row(), row(stratum="b", n_pool=50), row(stratum="c", q_value=None, n_cells=3)), 5)
    assert "against 50 to 200 null values" in said[0]
    assert (
        said[1]
        == "no p for src:mask in c at t1: 3 cells at most, 5 needed (`output.min_cells` in a file of our own format)"
    )
