"""The answer's names: the strongest of every edit, and where they stand out."""

from typing import Any

import polars as pl

from screen.edits import DELETE, MASK
from screen.report.leaders import leaders


def ranked(*rows: tuple[str, str, str, str, int, float | None]) -> pl.DataFrame:
    """Rows of hits, strongest first: site, mode, symbol, stratum, time, q."""
    columns: dict[str, Any] = {"site": pl.String, "mode": pl.String, "target_symbol": pl.String, "stratum": pl.String}
    table = pl.DataFrame(rows, schema={**columns, "time": pl.Int8, "q_value": pl.Float64}, orient="row")
    return table.with_columns(perturbation=pl.concat_str("site", "mode", "target_symbol", separator=":"))


def test_where_they_stand_out_is_said() -> None:
    mask, delete = MASK.name, DELETE.name
    table = ranked(
        ("src", mask, "A", "T", 1, 0.01), ("src", mask, "B", "T", 1, 0.5), ("src", mask, "A", "B", 1, 0.02),
        ("src", delete, "A", "T", 1, 0.4), ("src", mask, "B", "B", 2, 0.03), ("src", mask, "C", "T", 1, 0.01),
        ("src", mask, "C", "T", 2, 0.01), ("src", mask, "C", "B", 1, None), ("src", delete, "B", "T", 1, None),
    )  # fmt: skip
    first, second = leaders(table)
    assert (first.edit, first.stand_out) == (mask, True)
    assert [(x.symbol, x.where) for x in first.listed] == [("A", "all 2"), ("B", "B, t2 alone"), ("C", "2 of 3")]
    assert (second.edit, second.stand_out) == (delete, False)
    assert [(x.symbol, x.where) for x in second.listed] == [("A", "q 0.4"), ("B", "")]


def test_sites_are_named_where_there_are_two_and_nothing_has_no_leaders() -> None:
    table = ranked(("src", MASK.name, "A", "T", 1, 0.01), ("tgt", MASK.name, "A", "T", 1, 0.01))
    assert [x.edit for x in leaders(table)] == [f"src:{MASK.name}", f"tgt:{MASK.name}"]
    assert leaders(table.clear()) == []
