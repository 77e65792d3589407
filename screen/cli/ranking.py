"""What a person reads of a finished screen: whether anything stands out, the strongest, and why a group has no p."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from rich.table import Table

from screen.directory import HITS
from screen.results.sentences import described_null, gene_sets_shifted, standing_out

if TYPE_CHECKING:
    import polars as pl

    from screen.cli.terminal import Console

N_TOP, N_TOP_OF_MODE = 10, 5
GOES_FIRST = ("Ensembl ID", "edit", "t", "stratum", "cells", "strongest changes")
"""Columns that a narrow terminal does without, in this order; those that are the same in every row go before all others."""
NUMBERS = ("#", "t", "cells", "strength", "q", "genes", "z")
GAP, SHORTEST = 2, 12
"""Spaces between columns; characters to which the strongest changes and gene sets are cut before a column goes."""


def describe_result(hits: pl.DataFrame, has_counts: bool, min_cells: int, console: Console) -> None:
    """Whether anything stands out, the strongest perturbations, what p rests on, and what has none."""
    import polars as pl

    ranked = hits.drop_nulls("strength_rank")
    console.say(f"\n{standing_out(ranked, has_counts)}")
    # an insertion moves a cell more than a knock-out: in one list it would hide them all
    modes = ranked["mode"].unique(maintain_order=True).to_list()
    n_top = N_TOP if len(modes) == 1 else N_TOP_OF_MODE
    for mode in modes:
        console.say(f"\nThe strongest of mode {mode}")
        console.show(fitting(_rows(ranked.filter(mode=mode).head(n_top)), console.width))
    console.say("")
    if not ranked.is_empty():
        console.say(
            "strength: root mean square over genes of the mean change of log1p(counts per 10,000 counts of the model's genes)"
            if has_counts
            else "strength: mean of 1 - cosine between perturbed and control embedding"
        )
    for sentence in described_null(hits, min_cells):
        console.say(sentence)
    own = hits.filter(~pl.col("is_null"))
    n_unranked = own["strength"].count() - own["strength_rank"].count()
    if n_unranked and not ranked.is_empty():
        console.say(f"{n_unranked} more are in fewer than {min_cells} cells: no rank, but in {HITS}")


def describe_gene_sets(shown: pl.DataFrame, console: Console) -> None:
    """The perturbations that shift a gene set most surely, and that set, a line each."""
    import polars as pl

    rows = shown.unique(["perturbation", "stratum", "time"], keep="first", maintain_order=True)
    if rows.is_empty():
        return
    console.say(f"\n{gene_sets_shifted(rows)} (z)")
    best = rows.filter(pl.int_range(pl.len()).over("mode") < N_TOP_OF_MODE)
    console.show(fitting(_set_rows(best), console.width))


def _set_rows(shown: pl.DataFrame) -> list[dict[str, str]]:
    found = []
    for row in shown.iter_rows(named=True):
        z, q = ("-" if x is None else f"{x:.2g}" for x in (row["null_z"], row["q_value"]))
        found.append(
            {
                "gene": row["target_symbol"],
                "edit": f"{row['site']}:{row['mode']}",
                "stratum": row["stratum"],
                "t": str(row["time"]),
                "genes": str(row["n_set"]),
                "z": z,
                "q": q,
                "gene set": row["gene_set"],
            }
        )
    return found


def _rows(hits: pl.DataFrame) -> list[dict[str, str]]:
    """The first rows of the ranking, as text."""
    found = []
    for row in hits.iter_rows(named=True):
        changes = [f"+{g}" for g in row["top_up"][:2]] + [f"-{g}" for g in row["top_down"][:2]]
        found.append(
            {
                "#": str(row["strength_rank"]),
                "gene": row["target_symbol"],
                "Ensembl ID": row["target"],
                "edit": f"{row['site']}:{row['mode']}",
                "stratum": row["stratum"],
                "t": str(row["time"]),
                "cells": str(row["n_cells"]),
                "strength": f"{row['strength']:.3g}",
                "q": "-" if row["q_value"] is None else f"{row['q_value']:.2g}",
                "strongest changes": " ".join(changes),
            }
        )
    return found


def fitting(rows: Sequence[dict[str, str]], width: int) -> Table:
    """A table of at most `width` characters: what says least goes first, never the gene or a strength, q or score.

    A column with the same value in every row goes first, then those of GOES_FIRST in turn; the last column is cut before.
    """
    columns = list(rows[0]) if rows else []
    same = [n for n in columns if n in GOES_FIRST and len(rows) > 1 and len({r[n] for r in rows}) == 1]
    twins = [n for n in columns if n == "Ensembl ID" and all(r[n] == r["gene"] for r in rows)]
    for name in [*twins, *same, *(n for n in GOES_FIRST if n not in same)]:
        if name in columns and (name in twins or _least_width(rows, columns) > width):
            columns.remove(name)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    left = width - _least_width(rows, columns)
    for name in columns:
        justify: Literal["left", "right"] = "right" if name in NUMBERS else "left"
        most = SHORTEST + max(left, 0) if name == columns[-1] else None
        table.add_column(name, justify=justify, no_wrap=True, overflow="ellipsis", max_width=most)
    for row in rows:
        table.add_row(*(row[n] for n in columns))
    return table


def _least_width(rows: Sequence[dict[str, str]], columns: Sequence[str]) -> int:
    """Characters that these columns take, the last one cut to SHORTEST if it is longer."""
    widths = [max(len(name), *(len(r[name]) for r in rows)) for name in columns]
    if widths and columns[-1] not in NUMBERS:
        widths[-1] = max(min(widths[-1], SHORTEST), len(columns[-1]))
    return sum(widths) + GAP * (len(columns) - 1)
