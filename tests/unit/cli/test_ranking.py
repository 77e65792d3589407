"""What a narrow terminal shows."""

import rich.console
from hypothesis import given
from hypothesis import strategies as st

from screen.cli.ranking import NUMBERS, fitting

WORD = st.text("ABCDEFGHIJ-12", min_size=1, max_size=24)


@given(st.lists(st.tuples(*[WORD] * 6), min_size=1, max_size=6), st.integers(60, 200))
def test_a_table_fits_and_keeps_the_gene_and_its_numbers(words: list[tuple[str, ...]], width: int) -> None:
    rows = [
        {
            "#": "12", "gene": w[0], "Ensembl ID": w[1], "edit": w[2], "stratum": w[3], "t": "1", "cells": "40",
            "strength": "0.0123", "q": "0.73", "strongest changes": " ".join(w[4:]),
        }
        for w in words
    ]  # fmt: skip
    shown = fitting(rows, width)
    names = [str(c.header) for c in shown.columns]
    assert {"#", "gene", "strength", "q"} <= set(names)
    console = rich.console.Console(width=width, soft_wrap=True, file=None, color_system=None)
    with console.capture() as captured:
        console.print(shown)
    lines = captured.get().splitlines()
    assert len(lines) == len(rows) + 1
    assert max(len(line.rstrip()) for line in lines) <= width
    for line, r in zip(lines[1:], rows, strict=True):
        assert r["gene"] in line
        assert all(r[n] in line for n in NUMBERS if n in names)


def test_constant_columns_go_before_others() -> None:
    shared = {"stratum": "x" * 20, "strength": "1", "q": "1"}
    rows = [{"#": "1", "gene": "g", "Ensembl ID": f"E{i}" * 8, **shared, "strongest changes": "a"} for i in range(2)]
    names = [str(c.header) for c in fitting(rows, 60).columns]
    assert "stratum" not in names
    assert "Ensembl ID" in names
