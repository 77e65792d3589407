"""Differential expression from a store, as parquet: per perturbation, stratum, time point and gene."""

import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from screen.groups import ChosenTests, Group, GroupReader, Strata
from screen.reading import StoreReader

ROWS_PER_PART = 2_000_000
ROWS_PER_GROUP = 64 * 1024
MAX_PARTS = 64
N_TOP_GENES = 10
DEG_FDR, DEG_MIN_DELTA = 0.05, 0.01
MEAN_FLOOR = 1e-9
"""Added to both means (counts per 10,000) before log2 of their ratio."""
SCHEMA: dict[str, Any] = {
    "perturbation": pl.String, "target": pl.String, "target_symbol": pl.String, "mode": pl.String, "site": pl.String,
    "stratum": pl.String, "time": pl.Int8, "n_cells": pl.Int32, "n_replicates": pl.Int32, "coverage": pl.Float32,
    "feature": pl.String, "feature_symbol": pl.String, "target_mean": pl.Float32, "ref_mean": pl.Float32,
    "log2_fold_change": pl.Float32, "mean_delta": pl.Float32, "se": pl.Float32, "statistic": pl.Float32,
    "p_value": pl.Float64, "fdr": pl.Float64, "signed_rank": pl.Float32, "signed_rank_p_value": pl.Float64,
    "rank_sum_z": pl.Float32, "rank_sum_p_value": pl.Float64,
}  # fmt: skip
"""Of every part, whatever was computed: pdex's names and ours. What could not be computed is null."""


@dataclass(frozen=True)
class Wanted:
    """Tests, and which genes of a group are written: the `top` by |mean change|, of those within the thresholds."""

    tests: ChosenTests
    top: int | None = None
    max_fdr: float | None = None
    min_delta: float | None = None


Means: TypeAlias = NDArray[np.float32]
"""Mean change of every group (P x S x T, G), groups by perturbation, stratum, time point; zero where there is no cell."""


class Names:
    """What the tables call things: genes and perturbations of one store."""

    def __init__(self, store: StoreReader) -> None:
        self.feature = store.strings("genes/ensembl_id")
        self.feature_symbol = store.strings("genes/symbol")
        self.id, self.mode, self.site, self.target, self.symbol = (
            store.perturbations(n) for n in ("id", "mode", "site", "target_gene", "target_symbol")
        )
        self.must_screen, self.is_null = (
            np.concatenate([b.read(f"perturbations/{n}") for b in store.blocks]) for n in ("must_screen", "is_null")
        )


def frame(group: Group, names: Names, strata: Strata, wanted: Wanted) -> pl.DataFrame:
    """SCHEMA, one row per gene that is wanted."""
    genes, p = group.genes, group.perturbation
    assert genes is not None
    statistic, p_value, fdr = group.primary(wanted.tests.test)
    floor = MEAN_FLOOR
    fold = np.log2(np.maximum(genes.target_mean, 0) + floor) - np.log2(np.maximum(genes.ref_mean, 0) + floor)
    kept = _kept(genes.mean_delta, fdr, wanted)
    columns = {
        "feature": names.feature, "feature_symbol": names.feature_symbol, "target_mean": genes.target_mean,
        "ref_mean": genes.ref_mean, "log2_fold_change": fold, "mean_delta": genes.mean_delta, "se": genes.se,
        "statistic": statistic, "p_value": p_value, "fdr": fdr, "signed_rank": genes.signed_rank,
        "signed_rank_p_value": genes.signed_rank_p_value, "rank_sum_z": genes.rank_sum_z,
        "rank_sum_p_value": genes.rank_sum_p_value,
    }  # fmt: skip
    table = pl.DataFrame({k: v[kept] if v.dtype != object else v[kept].tolist() for k, v in columns.items()})
    lead = {
        "perturbation": names.id[p], "target": names.target[p], "target_symbol": names.symbol[p], "mode": names.mode[p],
        "site": names.site[p], "stratum": strata.name_S[group.stratum], "time": group.time, "n_cells": group.n_cells,
        "n_replicates": group.n_replicates if strata.replicate_C is not None else None,
        "coverage": group.n_cells / int(strata.n_cells_S[group.stratum]),
    }  # fmt: skip
    table = table.with_columns(**{k: pl.lit(v, SCHEMA[k]) for k, v in lead.items()})
    return table.with_columns(pl.selectors.float().fill_nan(None)).select(
        pl.col(name).cast(dtype) for name, dtype in SCHEMA.items()
    )


def _kept(mean_G: np.ndarray[Any, Any], fdr_G: np.ndarray[Any, Any], wanted: Wanted) -> np.ndarray[Any, Any]:
    """Gene columns to be written, ascending."""
    is_kept_G = np.ones(len(mean_G), dtype=bool)
    if wanted.max_fdr is not None:
        is_kept_G &= fdr_G <= wanted.max_fdr
    if wanted.min_delta is not None:
        is_kept_G &= np.abs(mean_G) >= wanted.min_delta
    kept = np.flatnonzero(is_kept_G)
    if wanted.top is not None and len(kept) > wanted.top:
        kept = np.sort(kept[np.argsort(-np.abs(mean_G[kept]), kind="stable")[: wanted.top]])
    return kept


@dataclass(frozen=True)
class Summary:
    """What the ranking keeps of a Group: one perturbation in one stratum at one time point.

    strength  root mean square over genes of the mean change, NaN without counts; n_deg None then
    top_up, top_down  the genes that change most, at most N_TOP_GENES of each
    """

    perturbation: int
    stratum: int
    time: int
    n_cells: int
    strength: float
    n_deg: int | None
    embedding_shift: float
    rank: float
    length: float
    top_up: list[str]
    top_down: list[str]


def summarise(group: Group, names: Names, wanted: Wanted) -> Summary:
    """The numbers of a group that a ranking needs, without its genes."""
    strength, n_deg, up, down = math.nan, None, list[str](), list[str]()
    if group.genes is not None:
        mean_G = group.genes.mean_delta
        order = np.argsort(mean_G, kind="stable")
        strength = float(np.sqrt(np.mean(mean_G**2)))
        _, _, fdr_G = group.primary(wanted.tests.test)
        n_deg = int(np.sum((fdr_G < DEG_FDR) & (np.abs(mean_G) > DEG_MIN_DELTA)))
        up = [str(names.feature_symbol[i]) for i in order[::-1][:N_TOP_GENES] if mean_G[i] > 0]
        down = [str(names.feature_symbol[i]) for i in order[:N_TOP_GENES] if mean_G[i] < 0]
    lead = (group.perturbation, group.stratum, group.time, group.n_cells, strength, n_deg)
    return Summary(*lead, group.embedding_shift, group.rank, group.length, up, down)


@contextmanager
def means_file(store: StoreReader, directory: Path, strata: Strata) -> Iterator[Means | None]:
    """Room for the mean change of every group, in a file without a name; None without counts."""
    if not store.layout.has_counts:
        yield None
        return
    n_groups = len(store.perturbations("id")) * len(strata.name_S) * len(store.layout.pred_tps)
    shape = (max(n_groups, 1), int(store.array("genes/ensembl_id").shape[0]))
    # without a name where the system can: nothing is left behind by a run that is killed
    with tempfile.TemporaryFile(dir=directory) as file:
        # a full disk is an error here, not a bus error where a page is first written
        os.posix_fallocate(file.fileno(), 0, 4 * shape[0] * shape[1])
        yield np.memmap(file, np.float32, "w+", shape=shape)


def write_tables(
    store: StoreReader, directory: Path, strata: Strata, wanted: Wanted, means: Means | None
) -> list[Summary]:
    """Writes `deg/part-*.parquet`, sorted by target, and `means`; returns a summary of every group for the ranking.

    Parts are computed by Dask, in threads, and written as they come; each has another name until it is whole. A thread
    holds the changes of one group of cells, as far as they fit, and one row group of its part.
    """
    import dask

    names, readers = Names(store), [GroupReader(store, b, strata, wanted.tests) for b in store.blocks]
    perturbations = np.concatenate([np.unique(b.read("items/perturbation")) + b.first for b in store.blocks])
    order = sorted((int(p) for p in perturbations), key=lambda p: (names.target[p], names.id[p]))
    n_rows = len(order) * len(names.feature) * len(strata.name_S) * len(store.layout.pred_tps)
    n_cores = os.cpu_count() or 1
    n_parts = min(MAX_PARTS, len(order), max(-(-n_rows // ROWS_PER_PART), n_cores))
    folder = directory / "deg"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("part-*.parquet"):
        old.unlink()
    make = dask.delayed(_write_part, pure=False)
    with dask.config.set(scheduler="threads", num_workers=n_cores):
        parts = dask.compute(
            *[
                make(readers, folder / f"part-{i:04d}.parquet", [int(p) for p in chunk], names, strata, wanted, means)
                for i, chunk in enumerate(np.array_split(order, n_parts))
            ]
        )
    return [s for part in parts for s in part]


def _write_part(
    readers: Sequence[GroupReader], path: Path, perturbations: list[int], names: Names, strata: Strata, wanted: Wanted,
    means: Means | None,
) -> list[Summary]:  # fmt: skip
    """One file, at most ROWS_PER_GROUP rows in memory."""
    # parts run side by side: each has one thread
    torch.set_num_threads(1)
    summaries: list[Summary] = []
    waiting: list[pl.DataFrame] = []
    partial, writer = path.with_name(f".{path.name}"), None
    for p in perturbations:
        reader = next(r for r in reversed(readers) if r.block.first <= p)
        for group in reader.groups(p):
            summaries.append(summarise(group, names, wanted))
            if group.genes is not None and means is not None:
                pred_tps = reader.layout.pred_tps
                means[(p * len(strata.name_S) + group.stratum) * len(pred_tps) + pred_tps.index(group.time)] = (
                    group.genes.mean_delta
                )
                waiting.append(frame(group, names, strata, wanted))
            if sum(f.height for f in waiting) >= ROWS_PER_GROUP:
                writer = _flush(waiting, writer, partial)
    if waiting:
        writer = _flush(waiting, writer, partial)
    if writer is not None:
        writer.close()
        partial.replace(path)
    return summaries


def _flush(waiting: list[pl.DataFrame], writer: Any, path: Path) -> Any:
    """Writes and forgets the waiting rows as one row group."""
    import pyarrow.parquet as pq

    table = pl.concat(waiting).to_arrow(compat_level=pl.CompatLevel.oldest())
    waiting.clear()
    writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
    writer.write_table(table)
    return writer


def scan(directory: str | Path) -> pl.LazyFrame:
    """The differential-expression table of a screen directory, SCHEMA, read lazily."""
    return pl.scan_parquet(Path(directory) / "deg" / "part-*.parquet")
