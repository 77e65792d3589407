"""Real screen: what `perturbscreen evaluate` found, if it was asked: agreement with an experiment, and positive controls."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from screen.directory import EVALUATION, EVALUATION_SUMMARY
from screen.errors import StoreError
from screen.report.numbers import MINUS, UNKNOWN, as_text, signed
from screen.report.sections.table import Column, Table, Wording

if TYPE_CHECKING:
    from screen.results.results import Results

N_CONTROLS = 25


@dataclass(frozen=True)
class RealScreen:
    """Paragraphs and a table of what was compared, positive controls likewise, all lines that were printed, cautions."""

    paragraphs: list[str]
    scores: Table | None
    controls_words: str
    controls: Table | None
    lines: list[str]
    cautions: list[str]


def real_screen(results: "Results", wording: Wording) -> RealScreen | None:
    """None where no evaluation lies beside the tables. Raises StoreError where its files are damaged."""
    said = results.evaluation
    if said is None:
        return None
    try:
        return _found(results, said, wording)
    except (LookupError, TypeError, ValueError, OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).partition("\n")[0]
        raise StoreError(
            f"cannot read {results.tables / EVALUATION_SUMMARY} and {EVALUATION}/*.parquet beside it ({type(error).__name__}: "
            f"{reason}); remove them, or ask `perturbscreen evaluate {results.directory}` again"
        ) from error


def _found(results: "Results", said: Mapping[str, Any], wording: Wording) -> RealScreen:
    from screen.evaluate.described import MAIN, paragraphs
    from screen.evaluate.screen_level import SCHEMA

    scores = None
    if said["comparisons"]:
        scores = results.evaluated("screen")
        scores = pl.DataFrame(schema=SCHEMA) if scores is None else scores
    expected = results.evaluated("expected")
    main = None if scores is None else scores.filter(effect=MAIN)
    return RealScreen(
        [] if scores is None else [" ".join(p) for p in paragraphs(scores, said)],
        None if main is None or main.is_empty() else _scores(main),
        "" if expected is None else _controls_words(expected),
        None if expected is None else _controls(expected, wording),
        [str(line) for line in said["summary"]],
        list(_cautions(main, expected)),
    )


def _scores(main: pl.DataFrame) -> Table:
    """Every score where all cells were compared together; strength alone where each cell type was."""
    from screen.evaluate.described import NAMES

    is_one = main["stratum"].n_unique() == 1
    rows = []
    for row in (main if is_one else main.filter(score="strength")).iter_rows(named=True):
        name = NAMES.get(row["score"], row["score"]) if is_one else row["stratum"]
        gain = "" if is_one else _interval(row["gain"], row["gain_low"], row["gain_high"], True)
        numbers = [f"{row['n']:,}", _interval(row["spearman"], row["low"], row["high"])]
        rows.append([name, *numbers, _two(row["partial_spearman"]) if is_one else gain, _two(row["auprc"])])
    fourth = (
        Column("beyond what needs no model", True, True)
        if is_one
        else Column("more than the best of what needs no model", True)
    )
    first = Column("score" if is_one else "cell type")
    columns = [
        first,
        Column("perturbations", True, True),
        Column("Spearman [95 %]", True),
        fourth,
        Column("AUPRC", True),
    ]
    return Table("Scores beside the real effects (energy distance to the controls)", columns, rows)


def _interval(x: float | None, low: float | None, high: float | None, is_signed: bool = False) -> str:
    if x is None:
        return UNKNOWN
    is_known = low is not None and high is not None
    return _two(x, is_signed) + (f" [{_two(low, is_signed)}, {_two(high, is_signed)}]" if is_known else "")


def _two(x: float | None, is_signed: bool = False) -> str:
    """Two decimals, as the command prints them."""
    if x is None:
        return UNKNOWN
    return (f"{x:+.2f}" if is_signed else f"{x:.2f}").replace("-", MINUS)


def _controls_words(expected: pl.DataFrame) -> str:
    n = expected.height
    cut = f" The first {N_CONTROLS} are listed." if n > N_CONTROLS else ""
    return (
        f"{int(expected['is_found'].sum()):,} of {n:,} responses that must be there were found: fdr below 0.05, and among the tenth of "
        f"genes that change most.{cut}"
    )


def _controls(expected: pl.DataFrame, wording: Wording) -> Table:
    rows = []
    for row in expected.head(N_CONTROLS).iter_rows(named=True):
        found = "found" if row["is_found"] else row["note"] or "not found"
        if row["perturbation"] is None:
            rows.append([row["edit"], row["gene"], UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, found])
            continue
        where = ", ".join(x for x in (row["mode"], wording.place(row["stratum"], row["time"])) if x)
        rank = UNKNOWN if row["rank"] is None else f"{row['rank']:,} of {row['n_genes']:,}"
        rows.append([row["edit"], row["gene"], where, signed(row["change"]), as_text(row["fdr"], 2), rank, found])
    columns = [
        Column("edit", is_short=True), Column("must move", is_short=True), Column("where", is_wide=True, is_short=True),
        Column("change", True), Column("fdr", True, True),
        Column("rank", True, True), Column("found?"),
    ]  # fmt: skip
    return Table("Positive controls", columns, rows)


def _cautions(main: pl.DataFrame | None, expected: pl.DataFrame | None) -> Iterator[str]:
    if main is not None:
        yield "The comparison with a real screen is of the tables that there were when `evaluate` was asked; after `deg`, ask again."
        for row in main.filter(score="strength").drop_nulls("gain").iter_rows(named=True):
            if row["gain_low"] <= 0:
                what = "less than" if row["gain_high"] < 0 else "no more than"
                yield (
                    f"Of the real screen's effects, strength says {what} is known of a gene without a model "
                    f"({_two(row['gain'], True)} in Spearman{'' if main['stratum'].n_unique() == 1 else ', ' + row['stratum']})."
                )
    if expected is not None and (n := int((~expected["is_found"]).sum())):
        yield f"{n:,} of {expected.height:,} responses that must be there were not found."
