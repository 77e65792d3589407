"""Tables of gene sets, made of the mean changes of all groups at once when those are there: `enrichment/`."""

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screen.config.sections import FEWEST_NULLS, EnrichConfig
from screen.directory import GENE_SETS, RANKED, SCORES, TARGETS, part
from screen.files import whole
from screen.stats.deg import Names
from screen.stats.enrich import CHANGED_SCHEMA, WHICH
from screen.stats.groups import Strata
from screen.stats.hits import write_whole
from screen.stats.parts import Means, each
from screen.stats.sets.gene_sets import GeneSets
from screen.stats.sets.groups import Groups, pieces
from screen.stats.sets.gsea import joined, ranked
from screen.stats.sets.moved import moved_sets
from screen.stats.sets.over_representation import overlaps
from screen.stats.sets.targets import of_targets

Bools = NDArray[np.bool_]


def write_gene_sets(
    config: EnrichConfig, sets: GeneSets, hits: pl.DataFrame, names: Names, strata: Strata, means: Means, min_cells: int,
    directory: Path,
) -> None:  # fmt: skip
    """Everything below `enrichment/`; permutation tests only where the settings ask for them."""
    (directory / GENE_SETS).mkdir(exist_ok=True)
    groups = Groups.of(hits, names, strata, means, min_cells)
    each(
        lambda write: write(),
        [
            (lambda: write_whole(moved_sets(groups, sets, means, config.best, config.max_fdr), directory / SCORES),),
            (lambda: write_changed(groups, sets, names, means, config.max_fdr, directory),),
            (lambda: write_whole(of_targets(hits, sets, names, config.targets, config.max_fdr), directory / TARGETS),),
        ],
    )
    if config.ranked:
        strongest = hits.filter(pl.col("strength_rank").is_not_null())
        strongest = strongest.filter(pl.int_range(pl.len()).over("mode", "site", "stratum", "time") < config.ranked)
        number = {perturbation: i for i, perturbation in enumerate(names.id.tolist())}
        which = strongest.select("perturbation", "stratum", "time").rows()
        place_N = [means.place(number[p], strata.name_S.index(s), t) for p, s, t in which]
        found = each(ranked, [(mean_G, sets, names) for mean_G in means.rows(np.array(place_N, dtype=np.int64))])
        write_whole(joined(strongest, found), directory / RANKED)


def forget_gene_sets(directory: Path) -> None:
    """Removes the tables of other gene sets, or of other results."""
    for old in [*(directory / GENE_SETS).glob("*.parquet"), *(directory / GENE_SETS).glob(".part-*")]:
        old.unlink(missing_ok=True)


def backgrounds(groups: Groups, means: Means, n_genes: int) -> Bools:
    """(kinds, G) the genes that can move: those that some perturbation of a kind changes, null ones included.

    All genes for kinds of fewer than FEWEST_NULLS perturbations, which do not show what can move.
    """
    found_KG = np.zeros((groups.n_kinds, n_genes), dtype=bool)
    for some in pieces(len(groups), n_genes):
        changed_NG, kind_N = means.changed(groups.place_N[some]), groups.kind_N[some]
        for kind in np.unique(kind_N):
            found_KG[kind] |= changed_NG[kind_N == kind].any(axis=0)
    found_KG[np.bincount(groups.kind_N, minlength=groups.n_kinds) < FEWEST_NULLS] = True
    return found_KG


def write_changed(groups: Groups, sets: GeneSets, names: Names, means: Means, max_fdr: float, directory: Path) -> None:
    """`enrichment/part-0000.parquet`, CHANGED_SCHEMA: a row group at a time."""
    import pyarrow.parquet as pq

    n_genes = len(names.feature)
    background_KG = backgrounds(groups, means, n_genes)
    n_set_KS, n_background_K = (background_KG @ sets.member_GS).astype(np.int64), background_KG.sum(1)
    schema = pl.DataFrame(schema=CHANGED_SCHEMA).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    with (
        whole(part(directory / GENE_SETS, 0), durable=True) as partial,
        pq.ParquetWriter(partial, schema, compression="zstd") as writer,
    ):
        for some in pieces(len(groups), 2 * n_genes + 4 * len(sets)):
            place_N, kind_N = groups.place_N[some], groups.kind_N[some]
            changed_NG, mean_NG = means.changed(place_N), means.rows(place_N)
            parts = []
            for number, (direction, is_so_NG) in enumerate((("up", mean_NG > 0), ("down", mean_NG < 0))):
                row, table = overlaps(
                    changed_NG & is_so_NG, n_set_KS[kind_N], n_background_K[kind_N], sets, names.feature_symbol, max_fdr
                )
                which = groups.table[some][row].select(*WHICH).with_columns(direction=pl.lit(direction))
                order = pl.DataFrame({"row": row, "number": np.full(len(row), number)})
                parts.append(pl.concat([order, which, table], how="horizontal"))
            rows = pl.concat(parts).sort("row", "number", maintain_order=True).select(*CHANGED_SCHEMA)
            if rows.height:
                writer.write_table(rows.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema))
