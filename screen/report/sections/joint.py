"""Joint edits: what they do beyond the sum of their single edits."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from screen.report.numbers import UNKNOWN, as_text, signed
from screen.report.sections.table import EDIT, Column, Table, Wording
from screen.stats.relations.epistasis import ADDITIVE, OTHER, SUPPRESSION, SYNERGY, UNCLEAR

if TYPE_CHECKING:
    from screen.results.results import Results

N_PAIRS = 12
ORDER = {SYNERGY: 0, SUPPRESSION: 0, OTHER: 0, UNCLEAR: 1, ADDITIVE: 2}
"""What is listed first."""


@dataclass(frozen=True)
class JointEdits:
    """A sentence, the joint edits that are farthest from the sum, and cautions."""

    words: str
    table: Table
    cautions: list[str]


def joint_edits(results: "Results", wording: Wording) -> JointEdits | None:
    """None where no joint edit has its single edits in the screen. Raises StoreError where the table is damaged."""
    if not results.has_relations:
        return None
    every = results.relations("epistasis").filter(~pl.col("is_null"))
    if every.is_empty():
        return None
    order = pl.col("class").replace_strict(ORDER, default=3, return_dtype=pl.Int32)
    far = pl.max_horizontal(pl.col("interaction").abs(), pl.col("other").fill_null(0.0))
    key = ["perturbation", "stratum", "time"]
    table = every.with_columns(order=order, far=far).sort(
        "order", "far", *key, descending=[False, True, False, False, False], nulls_last=True
    )
    best = table.unique("perturbation", keep="first", maintain_order=True)
    same = Counter(every.select("perturbation", "class").rows())
    n_of = Counter(every["perturbation"].to_list())
    listed = best.head(N_PAIRS)
    rows = [
        _row(row, same[row["perturbation"], row["class"]], n_of[row["perturbation"]], wording)
        for row in listed.iter_rows(named=True)
    ]
    return JointEdits(
        _words(best),
        Table(
            "Joint edits and the sum of their single edits", _columns(wording), rows, listed["perturbation"].to_list()
        ),
        list(_cautions(every)),
    )


def _columns(wording: Wording) -> list[Column]:
    found = [
        Column("together"), Column("edit", is_wide=True, is_short=True), Column("where", is_wide=True, is_short=True),
        Column("observed", True, True), Column("sum", True, True), Column("beyond the sum", True),
        Column("another response", True, True), Column("null p", True, True), Column("what it is", is_short=True),
        Column("in", is_wide=True, is_short=True),
    ]  # fmt: skip
    return [c for c in found if wording.n_places > 1 or c.title not in ("where", "in")]


def _row(row: dict[str, Any], n_same: int, n: int, wording: Wording) -> list[str]:
    low, high = row["interaction_low"], row["interaction_high"]
    interval = "" if low is None else f" [{_share(low)}, {_share(high)}]"
    difference = UNKNOWN if row["interaction"] is None else f"{_share(row['interaction'])} %{interval}"
    other = UNKNOWN if row["other"] is None else f"{100 * row['other']:.0f} %"
    kind = UNKNOWN if row["class"] is None else row["class"]
    count = [f"{n_same} of {n}"] if wording.n_places > 1 else []
    p = row["null_other_p_value"] if row["class"] == OTHER else row["null_p_value"]
    place = [wording.place(row["stratum"], row["time"])] if wording.n_places > 1 else []
    strengths = as_text(row["strength_joint"]), as_text(row["strength_additive"])
    return [
        row["target_symbol"],
        wording.edit(*(row[k] for k in EDIT[:2])),
        *place,
        *strengths,
        difference,
        other,
        as_text(p, 2),
        kind,
        *count,
    ]


def _share(x: float) -> str:
    """+48: per cent."""
    return signed(float(round(100 * x)), 9) if round(100 * x) else "0"


def _words(best: pl.DataFrame) -> str:
    """How many joint edits are not the sum somewhere, and how."""
    n_of = Counter(best["class"].to_list())
    named = [f"{n_of[name]:,} {name}" for name in (SYNERGY, SUPPRESSION, OTHER) if n_of[name]]
    n = best.height
    first = f"{n:,} joint edit{'s' * (n > 1)} can be held against the sum of {'their' if n > 1 else 'its'} single edits, on the log scale"
    if n_of[None] == n:
        return f"{first}; too few cells, or no single cells, tell how sure a difference is."
    how = (
        f"{sum(n_of[x] for x in (SYNERGY, SUPPRESSION, OTHER)):,} clearly do something else somewhere ({', '.join(named)})"
        if named
        else "none clearly does anything else"
    )
    return f"{first}; {how}."


def _cautions(every: pl.DataFrame) -> Iterator[str]:
    if not every["is_paired"].all():
        yield (
            "Joint edits are compared with single ones on means that may be of other cells (`keep: summaries`): differences have no "
            "interval."
        )
    elif every["null_p_value"].null_count() == every.height:
        yield (
            "No null joint edits say what joint edits do anyway: saturation alone makes one do less than the sum of its single edits."
        )
