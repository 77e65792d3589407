"""What a finished screen says, in sentences: whether anything stands out, what p rests on, and the whole in a few lines."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from screen.config.sections import FEWEST_NULLS
from screen.errors import some

if TYPE_CHECKING:
    import polars as pl

    from screen.results.results import Results

STANDS_OUT = 0.1
"""False discovery rate up to which a perturbation is said to stand out."""
GROUP = ("mode", "site", "stratum", "time")
N_NAMED = 5
"""Perturbations of a mode that the summary of a screen names."""


def described_results(results: Results) -> Iterator[str]:
    """What was run, how much of it, what stands out, and how to go on."""
    import polars as pl

    hits, store = results.hits, results.store
    yield f"Results of {results.tables}"
    own, times = hits.filter(~pl.col("is_null")), results.times
    of_mode = {m: own.filter(mode=m)["perturbation"].n_unique() for m in own["mode"].unique().sort().to_list()}
    n_null = hits.filter("is_null")["perturbation"].n_unique()
    null = f" and {n_null:,} null ones" if n_null else ""
    read_out = "read out at the source" if times == [0] else f"time point{'s' * (len(times) > 1)} {some(times, 9)}"
    yield (
        f"  {sum(of_mode.values()):,} perturbations ({', '.join(f'{m} {n:,}' for m, n in of_mode.items())}){null} of "
        f"{store.n_cells:,} cells in {_strata(results.strata)}, {read_out}: {sum(b.n_items for b in store.blocks):,} edits"
    )
    ranked = hits.drop_nulls("strength_rank")
    yield f"  {standing_out(ranked, results.has_counts)}"
    for mode in of_mode:
        best = ranked.filter(mode=mode).unique("perturbation", keep="first", maintain_order=True).head(N_NAMED)
        if not best.is_empty():
            yield f"  strongest by {mode}: {', '.join(_named_hit(row) for row in best.iter_rows(named=True))}"
    for sentence in described_null(hits, results.min_cells):
        yield f"  {sentence}"
    if results.shifted is not None and not results.shifted.is_empty():
        yield f"  {gene_sets_shifted(results.shifted)}"
    if n_lost := results.unscreened.height:
        yield f"  {n_lost:,} perturbation{'s' * (n_lost > 1)} asked for that no cell allows: .unscreened"
    genes = [".differential(GENE)"] * results.has_counts + [".gene_sets(GENE)"] * results.has_gene_sets
    cells = [] if store.layout.keeps_summaries else [".anndata(GENE)"]
    yield "  " + ", ".join([".hits", *genes, ".coverage", ".provenance", ".store", *cells])


def _strata(names: list[str]) -> str:
    return "1 stratum" if len(names) == 1 else f"{len(names)} strata ({some(names, 4)})"


def _named_hit(row: dict[str, Any]) -> str:
    q = "" if row["q_value"] is None else f" (q {row['q_value']:.2g})"
    return f"{row['target_symbol']} {row['strength']:.2g}{q}"


def gene_sets_shifted(shown: pl.DataFrame) -> str:
    """How many perturbations shift a gene set, of a table with the set that each shifts most."""
    import polars as pl

    n_found = shown.filter(pl.col("q_value") < STANDS_OUT)["perturbation"].n_unique()
    n = f"{n_found:,} perturbation{'s' * (n_found != 1)}" if n_found else "No perturbation"
    return f"{n} shift{'s' * (n_found < 2)} a gene set at q < {STANDS_OUT}, beside what null perturbations do to the same set"


def standing_out(ranked: pl.DataFrame, has_counts: bool) -> str:
    """One plain sentence."""
    if ranked.is_empty():
        return "No perturbation has a rank."
    import polars as pl

    strongest = float(ranked["strength"].to_numpy().max(initial=0.0))
    size = (
        f"the strongest changes expression by {_percent(math.expm1(strongest))} on average"
        if has_counts
        else f"the strongest moves the embedding by {strongest:.2g} (1 - cosine)"
    )
    judged = ranked.drop_nulls("q_value")
    if judged.is_empty():
        return f"Nothing says whether a perturbation stands out (no p, see below); {size}."
    found = judged.filter(pl.col("q_value") < STANDS_OUT)
    n_found, n_judged = found["perturbation"].n_unique(), judged["perturbation"].n_unique()
    if n_found == 0:
        return f"No perturbation of {n_judged:,} stands out at q < {STANDS_OUT}; {size}."
    verb = "perturbation stands" if n_found == 1 else "perturbations stand"
    return f"{n_found:,} {verb} out at q < {STANDS_OUT}, of {n_judged:,}; {size}."


def _percent(share: float) -> str:
    """'3 %', '0.04 %'."""
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"


def described_null(hits: pl.DataFrame, min_cells: int) -> list[str]:
    """What p and q of the ranking rest on; and for every mode, site, stratum and time point without, why, with numbers."""
    import polars as pl

    sentences, sizes, without = [], set[int](), dict[str, list[str]]()
    for which, part in hits.group_by(GROUP, maintain_order=True):
        own = part.filter(~pl.col("is_null"))
        if own["q_value"].count():
            sizes |= set(own["n_pool"].drop_nulls().to_list()) - {0}
        elif not own.is_empty():
            without.setdefault(_why(part, own, min_cells), []).append(named_group(which))
    if sizes:
        pool = f"{min(sizes):,}" if len(sizes) == 1 else f"{min(sizes):,} to {max(sizes):,}"
        like = "in rank, cells, row length and how many of their genes were there"
        sentences.append(
            f"p, q: against {pool} null values, matched {like}; q is over the same mode, site, stratum, time"
        )
    for why, groups in without.items():
        some = ", ".join(groups[:3]) + (f" and {len(groups) - 3} more" if len(groups) > 3 else "")
        sentences.append(f"no p for {some}: {why}")
    return sentences


def _why(part: pl.DataFrame, own: pl.DataFrame, min_cells: int) -> str:
    import polars as pl

    most = int(own["n_cells"].to_numpy().max(initial=0))
    if most < min_cells:
        return f"{most} cell{'s' * (most != 1)} at most, {min_cells} needed (`output.min_cells` in a file of our own format)"
    nulls = part.filter("is_null")
    enough = nulls.filter(pl.col("n_cells") >= min_cells)
    if nulls.is_empty() and own.height >= FEWEST_NULLS:
        return (
            "no null perturbations to compare with (`null: {n: 0}`, or too few genes are left); `genes: all` needs none"
        )
    if nulls.is_empty():
        how = "`null: {n: 200}` in a file of our own format adds them"
        return f"{own.height} perturbations and no null ones, {FEWEST_NULLS} needed: {how}"
    return f"{enough.height} of {nulls.height} null perturbations have {min_cells} cells or more here, {FEWEST_NULLS} needed"


def named_group(which: tuple[Any, ...]) -> str:
    """Mode, site, stratum and time point in words: src:mask in T cells at t1."""
    mode, site, stratum, time = which
    return f"{site}:{mode} in {stratum} at t{time}"
