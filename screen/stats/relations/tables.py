"""Tables of what perturbations have to do with each other, made when all mean changes are there: `relations/`."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from screen.directory import (
    BACKGROUND,
    EPISTASIS,
    EPISTASIS_GENES,
    FACTORS,
    HALVES,
    MODULES,
    ON_TARGET,
    RELATIONS,
    SIMILARITY,
)
from screen.stats.deg import Names, Summary
from screen.stats.groups import Strata
from screen.stats.hits import write_whole
from screen.stats.parts import Means
from screen.stats.relations.background import gene_background
from screen.stats.relations.epistasis import epistasis
from screen.stats.relations.halves import halves
from screen.stats.relations.items import Items
from screen.stats.relations.kinds import joined, kinds
from screen.stats.relations.modules import MODULES_SCHEMA, modules
from screen.stats.relations.similarity import FACTORS_SCHEMA, SIMILARITY_SCHEMA, Changes, factors, similarity
from screen.stats.relations.targets import on_target
from screen.stats.sets.groups import Groups
from screen.store.reader import StoreReader


def write_relations(
    hits: pl.DataFrame, summaries: Sequence[Summary], means: Means, names: Names, strata: Strata, store: StoreReader,
    min_cells: int, directory: Path,
) -> None:  # fmt: skip
    """Every table of `relations/`. Halves need the single cells: none is written where summaries alone are kept."""
    (directory / RELATIONS).mkdir(exist_ok=True)

    def write(table: pl.DataFrame, name: str) -> None:
        write_whole(table, directory / name)

    groups = Groups.of(hits, names, strata, means, min_cells)
    of_kinds, items = list(kinds(groups)), Items(store, strata)
    table = with_n_joint(hits)
    background = gene_background(of_kinds, means, names)
    write(background, BACKGROUND)
    write(on_target(table, summaries, names, strata.name_S, background), ON_TARGET)
    found: dict[str, list[pl.DataFrame]] = {SIMILARITY: [], FACTORS: [], MODULES: []}
    for kind in of_kinds:
        changes = Changes.of(kind, means)
        found[SIMILARITY].append(similarity(changes))
        found[FACTORS].append(factors(changes, names))
        found[MODULES].append(modules(changes, names))
    for name, schema in ((SIMILARITY, SIMILARITY_SCHEMA), (FACTORS, FACTORS_SCHEMA), (MODULES, MODULES_SCHEMA)):
        write(joined(found[name], schema), name)
    if not store.layout.keeps_summaries:
        number = {perturbation: i for i, perturbation in enumerate(names.id.tolist())}
        write(halves(of_kinds, items, number, means.n_genes), HALVES)
    whole, genes = epistasis(table, names, store.layout, items, means, min_cells)
    write(whole, EPISTASIS)
    write(genes, EPISTASIS_GENES)


def with_n_joint(hits: pl.DataFrame) -> pl.DataFrame:
    """The ranking with `n_joint`, the genes of one edit."""
    return hits.with_columns(n_joint=1 + pl.col("target").str.count_matches("+", literal=True).cast(pl.Int32))


def forget_relations(directory: Path) -> None:
    """Removes the tables of other results."""
    for old in (directory / RELATIONS).glob("*.parquet"):
        old.unlink(missing_ok=True)
