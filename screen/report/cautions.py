"""Cautions: what could mislead a reader of this screen, each with its own numbers."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import polars as pl

from screen.results.sentences import GROUP, STANDS_OUT, described_null

if TYPE_CHECKING:
    from screen.results.results import Results

FEW_CELLS, TOP = 20, 20
ALIKE, FOLLOWS = 0.5, 0.3
"""Cosine to everybody's change, and rank correlation with detection, from which they are worth a sentence."""


def cautions(results: "Results") -> list[str]:
    """Sentences, those that weigh most first."""
    hits = results.hits
    ranked = hits.drop_nulls("strength_rank")
    found = ["A prediction is a model's, not an experiment: it can only repeat what the model learned from its cells."]
    found += described_null(hits, results.min_cells)
    found += [*_units(results), *_follows(ranked), *_alike(ranked), *_few(ranked), *_families(ranked)]
    return found


def _units(results: "Results") -> Iterator[str]:
    if results.has_counts and results.view["deg"]["replicate"] is None:
        yield (
            "p and fdr of genes count cells as independent, which cells of one donor are not, and predictions have no noise: "
            "in many cells tiny changes have tiny p. Read the size of a change first (0.01 is about 1 %)."
        )


def _follows(ranked: pl.DataFrame) -> Iterator[str]:
    """Where strength goes with how high a gene ranks or how often it is detected."""
    for mode, part in _modes(ranked):
        for column, words in (
            ("rank_position", "the gene's place in the cell"),
            ("n_cells", "the number of its cells"),
        ):
            both = part.drop_nulls([column, "strength"])
            if both.height < 10 or both[column].n_unique() < 2:
                continue
            rho = both.select(pl.corr("strength", column, method="spearman")).item()
            if rho is not None and abs(rho) >= FOLLOWS:
                yield (
                    f"Strength of {mode} goes with {words} (Spearman {rho:+.2f}): a list by strength is in part a list by that. "
                    "p and q compare with genes that stand alike."
                )


def _alike(ranked: pl.DataFrame) -> Iterator[str]:
    for mode, part in _modes(ranked):
        median = part.head(TOP)["universal_cosine"].median()
        if isinstance(median, float) and abs(median) >= ALIKE:
            yield (
                f"Of the strongest {min(TOP, part.height)} by {mode}, the median change points where everybody's does (cosine "
                f"{median:.2f}): much of it is the response to any edit. `specific_strength` and its q are without that."
            )


def _few(ranked: pl.DataFrame) -> Iterator[str]:
    n = ranked.filter(pl.col("n_cells") < FEW_CELLS).height
    if n:
        yield f"{n:,} of {ranked.height:,} ranked results rest on fewer than {FEW_CELLS} cells."


def _families(ranked: pl.DataFrame) -> Iterator[str]:
    n = ranked.drop_nulls("q_value").select(GROUP).n_unique()
    if n > 1:
        yield (
            f"q counts within each mode, site, stratum and time point; there are {n}, so among everything called over all of "
            f"them up to {STANDS_OUT:.0%} of each may be false, and each has its own chance of a false call."
        )


def _modes(ranked: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    for mode in ranked["mode"].unique(maintain_order=True).to_list():
        yield mode, ranked.filter(mode=mode)
