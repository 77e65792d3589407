"""Between times: the perturbations that differ most between time points that were compared, and the genes in which they do."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from screen.report.numbers import MINUS, as_text
from screen.report.sections.table import Column, Table, Wording
from screen.results.times import LEAST, MAX_FDR, differing

if TYPE_CHECKING:
    from screen.results.results import Results

N_ROWS, N_GENES = 12, 3
GROWS = 1.25
"""How many times stronger the median perturbation is at one of two time points that is worth a caution."""


@dataclass(frozen=True)
class BetweenTimes:
    """The table, None where nothing was compared; what is said in its place or before it; cautions."""

    words: str
    table: Table | None
    cautions: list[str]


def between_times(results: "Results", wording: Wording) -> BetweenTimes | None:
    """None for one time point, or without counts. Raises StoreError where the table is damaged."""
    if len(results.times) < 2 or not results.has_counts:
        return None
    if not results.compared_times:
        a, b = results.times[0], results.times[-1]
        asked = f"perturbscreen deg {results.asked_by} --compare {a},{b}"
        return BetweenTimes(f"Time points were not compared gene by gene; {asked} does that.", None, [])
    every = differing(results)
    best = every.unique("perturbation", keep="first", maintain_order=True).head(N_ROWS)
    rows = []
    for row in best.iter_rows(named=True):
        before, after = row["time_before"], row["time"]
        names = [row["stratum"]] if len(results.strata) > 1 else []
        strengths = as_text(row["strength_before"]), as_text(row["strength"])
        lead = [row["target_symbol"], wording.edit(row["site"], row["mode"]), *names, f"t{before} to t{after}"]
        genes = _genes(results, row["perturbation"], row["stratum"], (before, after))
        rows.append([*lead, *strengths, as_text(row["difference"]), f"{row['n_genes']:,}", genes])
    columns = [
        Column("gene"), Column("edit", is_wide=True, is_short=True), Column("stratum", is_wide=True, is_short=True),
        Column("between", is_wide=True, is_short=True),
        Column("strength before", True, True), Column("after", True, True), Column("difference", True),
        Column("genes that differ", True, True), Column("differ most"),
    ]  # fmt: skip
    columns = [c for c in columns if len(results.strata) > 1 or c.title != "stratum"]
    table = Table("Perturbations that differ most between time points", columns, rows, best["perturbation"].to_list())
    return BetweenTimes(_words(every), table, list(_cautions(every)))


def _words(every: pl.DataFrame) -> str:
    n, n_some = every["perturbation"].n_unique(), every.filter(pl.col("n_genes") > 0)["perturbation"].n_unique()
    return (
        f"Of {n:,} perturbations {n_some:,} change at least one gene more, or less, at one of two time points than at the other, in the "
        f"same cells (fdr < {MAX_FDR}, and by more than {LEAST}). Those that differ most, each where it does so most:"
    )


def _genes(results: "Results", perturbation: str, stratum: str, times: tuple[int, int]) -> str:
    """CXCL10 -0.1 to +0.2: the genes whose change differs most."""
    table = results.compared(perturbation, stratum, times)
    size = pl.col("mean_delta").cast(pl.Float64).abs()
    listed = table.sort(size, pl.col("feature"), descending=[True, False], nulls_last=True).head(N_GENES)
    named = listed.select("feature_symbol", "change_before", "change").rows()
    return ", ".join(f"{gene} {_from_to(before, after)}" for gene, before, after in named)


def _from_to(before: float, after: float) -> str:
    """-0.001 to +0.090: two digits of the larger, as many decimals of both, on one line."""
    largest = max(abs(before), abs(after))
    decimals = max(1 - math.floor(math.log10(largest)), 0) if largest > 0 else 0
    texts = [f"{x:+.{decimals}f}".replace("-", MINUS) if round(x, decimals) else "0" for x in (before, after)]
    return "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}".join(texts)


def _cautions(every: pl.DataFrame) -> Iterator[str]:
    for (before, after), part in every.group_by("time_before", "time", maintain_order=True):
        both = part.filter(pl.col("strength_before") > 0, pl.col("strength") > 0)
        ratio = (both["strength"] / both["strength_before"]).median()
        if isinstance(ratio, float) and not 1 / GROWS < ratio < GROWS:
            yield (
                f"The median perturbation is {as_text(ratio, 2)} times as strong at t{after} as at t{before}: a difference between "
                "them may be everybody's, not one perturbation's."
            )
