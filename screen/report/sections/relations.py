"""Relations: whether halves of the cells agree and edited genes move, which genes answer to everything, which edits do the same."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from screen.report.numbers import as_text, percent, span
from screen.report.sections.table import EDIT, Column, Table, Wording

if TYPE_CHECKING:
    from screen.results.results import Results

STABLE, HALF_STABLE, AS_EXPECTED, EVERYBODY, FEW_WAYS = 0.8, 0.5, 0.8, 0.1, 0.95
"""Median cosine of halves that is called stable, and partly so; share of edited genes that move as they should; share of
perturbations by which a gene is among the most changed, from which it is named; share in ten directions that is worth a caution."""
MUCH = 0.25
"""Such a share of perturbations that is worth a caution."""
N_GENES, N_MODULES, N_MEMBERS, N_MOVED, FEWEST = 6, 12, 10, 3, 30
"""Most genes of an edit; modules, members and genes of a module; perturbations whose ten directions say something."""

Everybody = dict[tuple[Any, ...], list[tuple[str, float]]]
"""Edit -> symbols, and the share of perturbations."""


@dataclass(frozen=True)
class Relations:
    """Sentences, a table of edits, everybody's genes of each edit, modules and what is said of them, cautions."""

    sentences: list[str]
    edits: Table
    everybody: Table | None
    modules_words: str
    modules: Table | None
    cautions: list[str]


def relations(results: "Results", wording: Wording) -> Relations | None:
    """None where relations were not asked for. Raises StoreError where a table is missing or damaged."""
    if not results.has_relations:
        return None
    found = _figures(results)
    everybody = _everybody(results.relations("genes"))
    words, table = _modules(results, wording)
    genes = _table_of_genes(found, everybody, wording) if everybody else None
    return Relations(
        list(_sentences(found)), _table(found, wording), genes, words, table, list(_cautions(found, everybody, wording))
    )


def _figures(results: "Results") -> pl.DataFrame:
    """A row per edit: halves, centred, found (identifiability), medians; n_own, share_own of edited genes; directions (ten)."""
    genes = results.relations("genes")
    found = genes.select(EDIT).unique(maintain_order=True)
    own = results.relations("targets").filter(~pl.col("is_null")).drop_nulls("is_as_expected")
    own = own.group_by(EDIT).agg(n_own=pl.len(), n_as_expected=pl.col("is_as_expected").sum())
    kind = [*EDIT, "stratum", "time"]
    enough = genes.group_by(kind).agg(pl.col("n_perturbations").max()).filter(pl.col("n_perturbations") >= FEWEST)
    factors = results.relations("factors").join(enough, on=kind, how="semi")
    directions = factors.group_by(kind).agg(pl.col("cumulative_share").max()).group_by(EDIT)
    found = found.join(own, on=EDIT, how="left", maintain_order="left")
    found = found.join(
        directions.agg(directions=pl.col("cumulative_share").median()), on=EDIT, how="left", maintain_order="left"
    )
    medians = {"halves": "split_half_cosine", "centred": "centred_split_half_cosine", "found": "identifiability"}
    if results.store.layout.keeps_summaries:
        return found.with_columns(pl.lit(None, pl.Float64).alias(name) for name in medians)
    halves = results.relations("halves").filter(~pl.col("is_null")).group_by(EDIT)
    halves_of = halves.agg(pl.col(column).median().alias(name) for name, column in medians.items())
    return found.join(halves_of, on=EDIT, how="left", maintain_order="left")


def _sentences(found: pl.DataFrame) -> Iterator[str]:
    halves, identified = (found[name].drop_nulls().to_list() for name in ("halves", "found"))
    if halves:
        least = min(halves)
        is_stable = "" if least >= STABLE else "only partly " if least >= HALF_STABLE else "not "
        yield (
            f"What a perturbation does is {is_stable}stable between halves of its cells: the mean changes of two halves have a median "
            f"cosine of {span(halves)}."
        )
    if identified:
        yield (
            "By what sets it apart from the others, a perturbation's one half finds the other among the halves of all with "
            f"identifiability {span(identified, 3)} (1: it comes first; 0.5: chance)."
        )
    n, n_as_expected = int(found["n_own"].sum()), int(found["n_as_expected"].sum())
    if n:
        yield (
            f"The edited gene itself moves the way the edit says in {n_as_expected:,} of {n:,} results ({percent(n_as_expected / n)}): a "
            "sign of life, not of truth."
        )


def _table(found: pl.DataFrame, wording: Wording) -> Table:
    columns = [
        Column("edit"), Column("halves agree (cosine)", True), Column("without everybody's response", True, True),
        Column("found again", True), Column("own gene as expected", True), Column("ten directions hold", True, True),
    ]  # fmt: skip
    rows = []
    for row in found.iter_rows(named=True):
        own = None if row["n_own"] is None else row["n_as_expected"] / row["n_own"]
        numbers = as_text(row["halves"], 2), as_text(row["centred"], 2), as_text(row["found"])
        rows.append([_edit(row, wording), *numbers, percent(own), percent(row["directions"])])
    return Table("Halves, own genes and directions of every edit", columns, rows)


def _everybody(genes: pl.DataFrame) -> Everybody:
    """Edit -> the genes that are most often among the five most changed, over strata and time points, and their shares."""
    share = pl.col("n_top").sum() / pl.col("n_perturbations").sum()
    table = genes.group_by(*EDIT, "feature", "feature_symbol").agg(share=share).filter(pl.col("share") >= EVERYBODY)
    table = table.sort("share", "feature", descending=[True, False])
    found: Everybody = {}
    for site, mode, n_joint, symbol, share_top in table.select(*EDIT, "feature_symbol", "share").rows():
        found.setdefault((site, mode, n_joint), []).append((symbol, share_top))
    return {edit: listed[:N_GENES] for edit, listed in found.items()}


def _table_of_genes(found: pl.DataFrame, everybody: Everybody, wording: Wording) -> Table:
    rows = [
        [_edit(row, wording), ", ".join(f"{symbol} ({percent(share)})" for symbol, share in listed)]
        for row in found.iter_rows(named=True)
        if (listed := everybody.get(tuple(row[name] for name in EDIT)))
    ]
    return Table(
        "Genes that answer to everything",
        [Column("by", is_short=True), Column("among the five that change most")],
        rows,
    )


def _modules(results: "Results", wording: Wording) -> tuple[str, Table | None]:
    """What is said of the groups, and those with most members; the same members in several places are one row."""
    table = results.relations("modules")
    if table.is_empty():
        return "No three perturbations of an edit are so alike that they make a group.", None
    groups: dict[tuple[Any, ...], list[pl.DataFrame]] = {}
    for part in table.partition_by(*EDIT, "stratum", "time", "module", maintain_order=True):
        key = (*part.select(EDIT).row(0), *sorted(part["perturbation"].to_list()))
        groups.setdefault(key, []).append(part)
    ordered = sorted(groups.values(), key=lambda parts: (-parts[0].height, -len(parts)))
    rows = [_row(parts, wording) for parts in ordered[:N_MODULES]]
    columns = [
        Column("do the same"), Column("edit", is_short=True), Column("where", is_wide=True, is_short=True), Column("cosine", True),
        Column("move most", is_wide=True),
    ]  # fmt: skip
    thresholds = table["threshold"].cast(pl.Float64).to_list()
    shown = f"; the {N_MODULES} largest are listed" if len(ordered) > N_MODULES else ""
    words = (
        f"{len(ordered):,} group{'s' * (len(ordered) > 1)} of three or more do the same, or the opposite, once everybody's response is "
        f"taken out: the tree of all is cut at a mean |cosine| of {span(thresholds)}{shown}."
    )
    return words, Table("Groups of perturbations that do the same", columns, rows)


def _row(parts: list[pl.DataFrame], wording: Wording) -> list[str]:
    first = parts[0]
    kind = first.row(0, named=True)
    members = [_listed(first.filter(sign=sign)["target_symbol"].to_list()) for sign in (1, -1)]
    moved = [f"+{g}" for g in kind["top_up"][:N_MOVED]] + [f"\N{MINUS SIGN}{g}" for g in kind["top_down"][:N_MOVED]]
    places = [p.select("stratum", "time").row(0) for p in parts]
    cosine = pl.concat(parts)["member_cosine"].cast(pl.Float64).mean()
    assert isinstance(cosine, float)
    names = members[0] + (f"; the opposite: {members[1]}" if members[1] else "")
    return [names, _edit(kind, wording), wording.places(places), as_text(cosine, 2), " ".join(moved)]


def _listed(names: list[str]) -> str:
    more = len(names) - N_MEMBERS
    return ", ".join(names[:N_MEMBERS]) + (f" and {more:,} more" if more > 0 else "")


def _cautions(found: pl.DataFrame, everybody: Everybody, wording: Wording) -> Iterator[str]:
    for row in found.iter_rows(named=True):
        name = _edit(row, wording)
        if row["halves"] is not None and row["halves"] < HALF_STABLE:
            yield (
                f"By {name}, half of the cells do not show what the other half shows (median cosine {as_text(row['halves'], 2)}): "
                "which genes change is in large part a matter of which cells there are."
            )
        if row["n_own"] and row["n_as_expected"] < AS_EXPECTED * row["n_own"]:
            yield f"By {name}, only {percent(row['n_as_expected'] / row['n_own'])} of edited genes move the way the edit says."
    few = found.filter(pl.col("directions") >= FEW_WAYS)
    if not few.is_empty():
        named = ", ".join(_edit(row, wording) for row in few.iter_rows(named=True))
        share = percent(few["directions"].to_list()[0]) if few.height == 1 else f"{percent(FEW_WAYS)} or more"
        yield (
            f"Ten directions hold {share} of all that {named} does: the model has few ways to answer, and perturbations that look "
            "alike may share no more than that."
        )
    much = sorted({(-share, symbol) for genes in everybody.values() for symbol, share in genes if share >= MUCH})
    symbols = list(dict.fromkeys(symbol for _, symbol in much))[:N_GENES]
    if symbols:
        yield (
            f"{', '.join(symbols)} {'are' if len(symbols) > 1 else 'is'} among the five genes that change most by {percent(MUCH)} or more "
            "of the perturbations of an edit: that they move says little of one perturbation; null z takes that into account."
        )


def _edit(row: dict[str, Any], wording: Wording) -> str:
    return wording.edit(*(row[name] for name in EDIT))
