"""Tables of a screen directory, made from its store: coverage.parquet, deg/part-*.parquet, hits.parquet, relations/.

They are made again unless those there were made of the same results, presented in the same way (`tables.json`).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screen.cells.bank import MISSING, combined
from screen.cells.donors import check_replicates, is_donor_like, levels_of, unused_donors, without_replicate
from screen.config.screen_config import parse_section
from screen.config.sections import DegConfig, EnrichConfig
from screen.directory import COVERAGE, HITS
from screen.errors import ConfigError, StoreError, nearest, some
from screen.planning.selection import Coverage
from screen.stats.again.coverage import UNKNOWN
from screen.stats.again.metadata import metadata_of
from screen.stats.again.where import chosen
from screen.stats.deg import Names
from screen.stats.groups import Strata
from screen.stats.hits import hits, write_whole
from screen.stats.parts import Compute, gene_tables, on_threads
from screen.stats.relations.tables import forget_relations, write_relations
from screen.stats.sets.gene_sets import GeneSets, checksums_of, view_of_gene_sets
from screen.stats.sets.tables import forget_gene_sets, write_gene_sets
from screen.stats.tests.table import named
from screen.store.arrays import stored_name
from screen.store.reader import StoreReader
from screen.store.stamp import forget_tables, is_stamped, write_stamp
from screen.store.store import ScreenStore, jsonable

CLASSES = ("screened", "absent", "truncated", "emptied")
STATISTICS_VERSION = 3
"""Changes when the same results give other tables: those of an earlier version are made anew."""
GENE_SETS = "gene_sets"
"""What gene sets are called among the settings that can be reset."""


def write_coverage(coverage: Coverage, store: StoreReader, directory: Path) -> None:
    """What became of every cell: one row per perturbation and stratum, in the store's order; null for what is UNKNOWN."""
    ids, n_strata = store.perturbations("id"), len(coverage.stratum)
    columns: dict[str, Any] = {
        "perturbation": np.repeat(ids, n_strata).tolist(),
        "stratum": list(coverage.stratum) * len(ids),
        "n_stratum": np.tile(coverage.n_cells_S, len(ids)),
    }
    columns |= {f"n_{name}": getattr(coverage, f"{name}_PS").reshape(-1) for name in CLASSES}
    known = [pl.when(pl.col(f"n_{name}") != UNKNOWN).then(pl.col(f"n_{name}")).alias(f"n_{name}") for name in CLASSES]
    write_whole(pl.DataFrame(columns).with_columns(known), directory / COVERAGE)


def read_coverage(directory: Path, store: StoreReader) -> Coverage:
    """The coverage that `run` wrote. Raises StoreError where it is missing or of other perturbations."""
    numbers = ["n_stratum", *(f"n_{name}" for name in CLASSES)]
    columns = {"perturbation": pl.String(), "stratum": pl.String(), **dict.fromkeys(numbers, pl.Int64())}
    try:
        table = read_table(directory / COVERAGE)
        if {n: table.schema.get(n) for n in columns} != columns or any(table[n].null_count() for n in columns):
            raise ValueError(f"it must have the columns {some(columns, len(columns))}, complete")
        of_row_RN = table.select(numbers).to_numpy()
        if of_row_RN.size and (of_row_RN.min() < 0 or of_row_RN.max() > store.n_cells):
            raise ValueError(f"it counts {of_row_RN.min()} to {of_row_RN.max()} cells; the screen has {store.n_cells}")
        if (of_row_RN[:, 1:].sum(1) != of_row_RN[:, 0]).any():
            raise ValueError("what became of a stratum's cells does not add up to them")
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {directory / COVERAGE} ({error}); `perturbscreen run` writes it") from error
    ids, strata = store.perturbations("id"), table["stratum"].unique(maintain_order=True).to_list()
    if (
        not strata
        or table.height != len(ids) * len(strata)
        or table["perturbation"][:: len(strata)].to_list() != ids.tolist()
    ):
        raise StoreError(
            f"{directory / COVERAGE} is of other perturbations than the store; `perturbscreen run` writes it anew"
        )
    tallies = (table[f"n_{name}"].to_numpy().reshape(len(ids), len(strata)) for name in CLASSES)
    return Coverage(tuple(strata), table["n_stratum"][: len(strata)].to_numpy(), *tallies)


def read_table(path: Path) -> pl.DataFrame:
    """A table that we wrote. Raises OSError, or ValueError where it is damaged."""
    import pyarrow.parquet as pq

    try:
        # this reader does not take a file's word for its lengths
        found = pl.from_arrow(pq.ParquetFile(path).read())
    except OSError:
        raise
    except Exception as error:
        raise ValueError(str(error).partition("\n")[0]) from error
    assert isinstance(found, pl.DataFrame)
    return found


def strata_of(store: StoreReader, columns: Sequence[str], replicate: str | None, where: str | None = None) -> Strata:
    """Groups of cells by metadata columns of the source, or of the first time point. Raises ConfigError.

    where  an expression over the cells (`screen.stats.again.where`); None: all cells
    A cell that is not chosen or lacks one of the values is in no group; one whose replicate is missing has replicate -1.
    """
    values = [_obs(store, c, "strata") for c in columns]
    is_in_C = np.ones(store.n_cells, dtype=bool) if where is None else chosen(where, metadata_of(store))
    for value_C in values:
        is_in_C &= value_C != MISSING
    if not is_in_C.any():
        raise ConfigError(f"none of the cells that are chosen has a value of {some(columns)}; name other columns")
    code_C = np.full(store.n_cells, -1, dtype=np.int64)
    code_C[is_in_C], names = combined([v[is_in_C] for v in values], int(is_in_C.sum()))
    if not store.layout.keeps_summaries:
        return Strata(tuple(names), code_C, None if replicate is None else levels_of(_obs(store, replicate))[0])
    if replicate is not None:
        raise ConfigError(
            "deg.replicate needs the single cells, but this screen keeps summaries; add the column to output.strata, or "
            "screen with keep: predictions"
        )
    return Strata(tuple(names), code_C, None, _of_stored(store, columns, names, code_C, where))


def _of_stored(
    store: StoreReader, columns: Sequence[str], names: Sequence[str], code_C: NDArray[np.int64], where: str | None
) -> tuple[int, ...] | None:
    """Which group each stratum of the summaries is part of. Raises ConfigError for one that is in several."""
    kept: list[str] = store.provenance["view"]["strata"]
    if where is None and list(columns) == kept:
        return None
    stored = strata_of(store, kept, None)
    found = [np.unique(code_C[stored.stratum_C == s]).tolist() for s in range(len(stored.name_S))]
    for name, codes in zip(stored.name_S, found, strict=True):
        if len(codes) > 1:
            places = [names[i] if i >= 0 else "none" for i in codes]
            raise ConfigError(
                f"this screen keeps summaries: sums over all cells of each stratum ({', '.join(kept) or 'one for all'}), which are "
                f'not taken apart; cells of "{name}" would be in {some(places, 4)}; choose whole strata (--strata, --where), or '
                "screen with keep: predictions"
            )
    return tuple(codes[0] for codes in found)


def donor_notes(store: StoreReader, replicate: str | None) -> list[str]:
    """What to know of the replicates of a store, or of a column that could be."""
    if not store.layout.has_counts:
        return []
    if replicate is not None:
        return without_replicate(replicate, _obs(store, replicate))
    found: dict[str, Any] = {}
    for state in ("source", f"t{store.layout.pred_tps[0]}"):
        folders = sorted(p for p in store.path.glob(f"cells/{state}/obs/*") if p.is_dir() and is_donor_like(p.name))
        found = {p.name: store.strings(f"cells/{state}/obs/{p.name}") for p in folders} | found
    return unused_donors({name: v for name, v in found.items() if name not in store.provenance["view"]["strata"]})


def _obs(store: StoreReader, column: str, what: str = "deg.replicate") -> Any:
    for state in ("source", f"t{store.layout.pred_tps[0]}"):
        name = f"cells/{state}/obs/{stored_name(column)}"
        if (store.path / name).is_dir():
            return store.strings(name)
    there = sorted({p.name for p in store.path.glob("cells/*/obs/*") if p.is_dir()})
    raise ConfigError(
        f'the cells have no column "{column}" ({what}); columns: {", ".join(there) or "none"}{nearest(column, there)}'
    )


def set_presentation(
    store: ScreenStore, changes: Mapping[str, object], gene_sets: Sequence[Path] = (), reset: Sequence[str] = ()
) -> None:
    """Changes how tables present the results, from now on, beginning with what is recorded.

    `reset` names settings that are what they are by default again; `gene_sets` among them: none are tested.
    Raises StoreError for an unfinished screen, or ConfigError.
    """
    before: Mapping[str, Any] = store.provenance["view"]
    view = changed_view(store, before, changes, gene_sets, reset)
    if jsonable(view) != before:
        store.set_view(view)
        store.finish()


def changed_view(
    store: StoreReader,
    before: Mapping[str, Any],
    changes: Mapping[str, object],
    gene_sets: Sequence[Path] = (),
    reset: Sequence[str] = (),
) -> dict[str, Any]:
    """How tables present the results with other settings, checked; nothing is changed. Raises as `set_presentation`."""
    both = [name for name in reset if name in changes or (name == GENE_SETS and gene_sets)]
    if both:
        raise ConfigError(f"{some(both)}: both given and reset; say one of the two")
    if not store.is_complete:
        raise StoreError(
            f"{store.path} is unfinished: {store.n_committed} of {store.n_units} units; run it to the end first"
        )
    kept = {name: value for name, value in before["deg"].items() if name not in reset}
    deg = parse_section(DegConfig, {**kept, **changes}, store.path)
    named(deg.test_name)
    check_compare(store, deg)
    strata_of(store, before["strata"], deg.replicate, before.get("where"))
    if deg.replicate is not None and deg.replicate != before["deg"]["replicate"]:
        check_replicates(deg.replicate, _obs(store, deg.replicate))
    enrich = None if GENE_SETS in reset else before.get("enrich")
    if gene_sets:
        config = parse_section(EnrichConfig, {**_config_of(enrich), "gene_sets": list(gene_sets)}, store.path)
        enrich = view_of_gene_sets(config)
    _gene_sets(enrich, store)
    return {**before, "deg": deg.recorded(), "enrich": enrich}


def check_compare(store: StoreReader, deg: DegConfig) -> None:
    """Raises ConfigError where time points cannot be compared in this screen."""
    late = sorted({t for pair in deg.compare for t in pair} - set(store.layout.pred_tps))
    if late:
        raise ConfigError(f"deg.compare: no time point {some(late)}; the screen has {some(store.layout.pred_tps, 9)}")
    if deg.compare and store.layout.keeps_summaries:
        raise ConfigError(
            "deg.compare needs the change of every cell at both time points, but this screen keeps summaries; screen with "
            "keep: predictions"
        )
    if deg.compare and not store.layout.has_counts:
        raise ConfigError("deg.compare needs predicted counts, and this screen has embeddings only")


def described_view(view: Mapping[str, Any]) -> str:
    """How tables present the results: every setting of `deg`, those that are not the default first, and gene sets."""
    plain = jsonable(DegConfig().model_dump())
    settings = {**plain, **jsonable(view["deg"])}
    if settings["test"] is None:
        settings["test"] = plain["test"] = DegConfig.model_validate(settings).test_name
    asked = [f"{k}: {view[k]}" for k in ("where", "strata") if "name" in view and view[k]]
    changed = asked + [f"{k}: {v}" for k, v in settings.items() if v != plain.get(k)]
    same = [f"{k}: {'-' if v is None else v}" for k, v in settings.items() if v == plain.get(k)]
    enrich = view.get("enrich")
    sets = "none" if enrich is None else ", ".join(Path(p).name for p in enrich["gene_sets"])
    return f"{', '.join(changed)}{'; ' if changed else ''}by default {', '.join(same)}; gene sets: {sets}"


def _config_of(view: Mapping[str, Any] | None) -> dict[str, Any]:
    return {k: v for k, v in (view or {}).items() if k != "files"}


def _gene_sets(view: Mapping[str, Any] | None, store: StoreReader) -> tuple[EnrichConfig, GeneSets] | None:
    """Raises ConfigError for files that cannot be read, or that are others than when the tables were asked for."""
    if view is None:
        return None
    if not store.layout.has_counts:
        raise ConfigError("gene sets need predicted counts, and this screen has embeddings only")
    config = EnrichConfig.model_validate(_config_of(view))
    changed = [p for p, found in checksums_of(config.gene_sets).items() if view["files"].get(p) != found]
    if changed:
        raise ConfigError(
            f"the gene sets {some(changed)} are others than when they were asked for; "
            "`perturbscreen deg DIR --gene-sets FILE ...` takes them as they are now"
        )
    ensembl_id, symbol = (store.strings(f"genes/{name}").tolist() for name in ("ensembl_id", "symbol"))
    return config, GeneSets.read(config.gene_sets, ensembl_id, symbol, config.min_size, config.max_size)


def write_all(
    store: ScreenStore,
    directory: Path,
    compute: Compute = on_threads,
    show: Callable[[int], Callable[[], None]] = lambda n_parts: lambda: None,
) -> tuple[pl.DataFrame, bool]:
    """(hits.parquet, whether any table was made): everything that follows from the store and its coverage.

    `compute` and `show` are those of `gene_tables`.
    """
    view: Mapping[str, Any] = store.provenance["view"]
    return write_tables(store, directory, view, lambda strata: read_coverage(directory, store), compute, show)


def write_tables(
    store: ScreenStore,
    directory: Path,
    view: Mapping[str, Any],
    find_coverage: Callable[[Strata], Coverage],
    compute: Compute = on_threads,
    show: Callable[[int], Callable[[], None]] = lambda n_parts: lambda: None,
) -> tuple[pl.DataFrame, bool]:
    """(hits.parquet, whether any table was made), presented as a view says, into a directory: see `write_all`."""
    from threadpoolctl import threadpool_limits

    digest = store.results_digest(view)
    # an analysis also says what was asked, and of which library
    asked = {"library": libraries(store), "asked": jsonable(view)} if "name" in view else {}
    made_of = {"results": digest, "statistics": STATISTICS_VERSION, **asked}
    if is_stamped(directory, made_of):
        # a damaged table is made again
        with suppress(OSError, ValueError):
            return read_table(directory / HITS), False
    config = DegConfig.model_validate(view["deg"])
    named(config.test_name)
    check_compare(store, config)
    strata, names = strata_of(store, view["strata"], config.replicate, view.get("where")), Names(store)
    coverage, enrich = find_coverage(strata), _gene_sets(view.get("enrich"), store)
    forget_tables(directory)
    forget_gene_sets(directory)
    forget_relations(directory)
    # a thread per core is ours: BLAS's own only wait for one, at the price of a sixth of the time
    with (
        threadpool_limits(1, "blas"),
        gene_tables(store, directory, strata, config, compute, show) as (summaries, means),
    ):
        table = hits(summaries, names, coverage, store.layout.pred_tps, view["min_cells"], means)
        if config.relations and means is not None:
            write_relations(table, summaries, means, names, strata, store, view["min_cells"], directory)
        if enrich is not None and means is not None:
            write_gene_sets(*enrich, table, names, strata, means, view["min_cells"], directory)
    write_whole(table, directory / HITS)
    write_stamp(directory, made_of)
    return table, True


def libraries(store: StoreReader) -> list[str]:
    """Fingerprints of the perturbations of every library block."""
    return [str(block.attributes["library"]) for block in store.blocks]
