"""Differential expression from a store: paired statistics per perturbation, stratum, time point and gene."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screen.layout import SUMMARIES
from screen.moments import Moments, joined, moments_of
from screen.reading import Block, StoreReader
from screen.statistics import benjamini_hochberg, paired_t

ROWS_PER_PART = 2_000_000
ROWS_PER_GROUP = 64 * 1024
MAX_PARTS = 64
N_TOP_GENES = 10
DEG_FDR, DEG_MIN_DELTA = 0.05, 0.01
MEAN_FLOOR = 1e-9
"""Added to both means (counts per 10,000) before log2 of their ratio."""


@dataclass(frozen=True)
class Group:
    """The items of one perturbation in one stratum at one time point. G genes, N cells.

    Statistics are over cells, paired with each cell's own control, on the log1p CP10K scale (natural logarithm);
    `target_mean_G` and `ref_mean_G` are arithmetic means of counts per 10,000.
    """

    perturbation: int
    stratum: str
    time: int
    n_cells: int
    n_stratum: int
    mean_delta_G: NDArray[np.float64]
    se_G: NDArray[np.float64]
    statistic_G: NDArray[np.float64]
    p_value_G: NDArray[np.float64]
    fdr_G: NDArray[np.float64]
    target_mean_G: NDArray[np.float64]
    ref_mean_G: NDArray[np.float64]
    rms_delta: float
    embedding_shift: float
    rank: float
    length: float


def groups(
    readers: Sequence["Reader"], strata: Sequence[str], stratum_C: NDArray[np.int64], perturbations: Sequence[int]
) -> Iterator[Group]:
    """Statistics of every group of the given perturbations that has a cell. Reads one perturbation at a time."""
    n_stratum = np.bincount(stratum_C, minlength=len(strata))
    for p in perturbations:
        reader = next(r for r in reversed(readers) if r.block.first <= p)
        rows = reader.block.rows_of(p - reader.block.first)
        cells = reader.cell_I[rows]
        for t in reader.layout.pred_tps:
            screened = reader.is_screened[t][rows]
            delta = reader.block.delta(t, rows) if reader.keeps_deltas else None
            for s in np.unique(stratum_C[cells]):
                at = np.flatnonzero(screened & (stratum_C[cells] == s))
                if len(at):
                    moments = reader.moments(p, int(s), t, cells[at], None if delta is None else delta[at])
                    yield reader.group(p, strata[s], int(n_stratum[s]), t, rows[at], moments)


class Reader:
    """Items and controls of one library block, read once; deltas are read per perturbation."""

    def __init__(self, store: StoreReader, block: Block) -> None:
        self.block, self.layout = block, store.layout
        tps = store.layout.pred_tps
        self.cell_I = block.read("items/cell")
        self.is_screened = {t: block.read(f"items/is_screened_t{t}") for t in tps}
        self.keeps_deltas = self.layout.has_counts and not self.layout.keeps_summaries
        self.control = {t: store.control(f"expression_t{t}", block) for t in tps} if self.keeps_deltas else {}
        self.summaries = None
        if self.layout.keeps_summaries:
            self.summaries = {n: block.read(f"summaries/{n}") for n in ("perturbation", "stratum")}

    def moments(
        self, p: int, stratum: int, time: int, cells: NDArray[np.integer], delta_NG: NDArray[np.float32] | None
    ) -> Moments | None:
        """Sufficient statistics of some items of a perturbation; None without counts."""
        if delta_NG is not None:
            control_NG = self.control[time][cells]
            return moments_of(delta_NG, control_NG, self.layout.expression_scale == "log1p_cp10k")
        if self.summaries is None:
            return None
        is_its_J = (self.summaries["perturbation"] == p - self.block.first) & (self.summaries["stratum"] == stratum)
        n_J = self.block.read(f"summaries/n_cells_t{time}")
        row_J = np.flatnonzero(is_its_J & (n_J > 0))
        parts = {name: self.block.read(f"summaries/{name}/t{time}", row_J) for name in SUMMARIES}
        return joined([Moments(int(n_J[r]), *(x[k] for x in parts.values())) for k, r in enumerate(row_J)])

    def group(
        self, p: int, stratum: str, n_stratum: int, time: int, rows: NDArray[np.int64], moments: Moments | None
    ) -> Group:
        """The statistics of one group."""
        empty = np.zeros(0)
        mean_G, se_G, t_G, p_G, target_G, ref_G = (empty,) * 6
        if moments is not None:
            mean_G, target_G, ref_G = moments.mean_delta_G, moments.target_mean_G, moments.ref_mean_G
            se_G, t_G, p_G = paired_t(moments)
        effects = dict(zip(self.layout.effects, self.block.read("items/effects", rows).T, strict=True))
        rank = effects["rank"]
        return Group(
            p, stratum, time, len(rows), n_stratum, mean_G, se_G, t_G, p_G, benjamini_hochberg(p_G), target_G, ref_G,
            float(np.sqrt(np.mean(mean_G**2))) if len(mean_G) else float("nan"),
            float(np.mean(1 - effects[f"embedding_cosine_t{time}"], dtype=np.float64)),
            float(rank[rank >= 0].mean(dtype=np.float64)) if (rank >= 0).any() else float("nan"),
            float(effects["length"].mean(dtype=np.float64)),
        )  # fmt: skip


class Names:
    """What the tables call things: genes and perturbations of one store."""

    def __init__(self, store: StoreReader) -> None:
        self.feature = store.strings("genes/ensembl_id")
        self.feature_symbol = store.strings("genes/symbol")
        self.id, self.mode, self.site, self.target, self.symbol = (
            store.perturbations(n) for n in ("id", "mode", "site", "target_gene", "target_symbol")
        )


def frame(group: Group, names: Names) -> pl.DataFrame:
    """One row per gene: pdex's column names and ours."""
    p = group.perturbation
    floor = MEAN_FLOOR
    columns: dict[str, Any] = {
        "feature": names.feature.tolist(),
        "feature_symbol": names.feature_symbol.tolist(),
        "target_mean": group.target_mean_G,
        "ref_mean": group.ref_mean_G,
        "log2_fold_change": np.log2(np.maximum(group.target_mean_G, 0) + floor)
        - np.log2(np.maximum(group.ref_mean_G, 0) + floor),
        "mean_delta": group.mean_delta_G,
        "se": group.se_G,
        "statistic": group.statistic_G,
        "p_value": group.p_value_G,
        "fdr": group.fdr_G,
    }
    first = {"perturbation": names.id[p], "target": names.target[p], "target_symbol": names.symbol[p]}
    first |= {"mode": names.mode[p], "site": names.site[p], "stratum": group.stratum}
    table = pl.DataFrame(columns).with_columns(pl.selectors.float().fill_nan(None))
    table = table.with_columns(
        pl.col("statistic", "mean_delta", "se", "target_mean", "ref_mean", "log2_fold_change").cast(pl.Float32)
    )
    lead = [pl.lit(str(v)).alias(k) for k, v in first.items()]
    counts = [pl.lit(group.time, pl.Int8).alias("time"), pl.lit(group.n_cells, pl.Int32).alias("n_cells")]
    counts.append(pl.lit(group.n_cells / group.n_stratum, pl.Float32).alias("coverage"))
    return table.select(*lead, *counts, *columns)


@dataclass(frozen=True)
class Summary:
    """What the ranking keeps of a Group: one perturbation in one stratum at one time point.

    strength  root mean square over genes of the mean change, NaN without counts; n_deg None then
    top_up, top_down  the genes that change most, at most N_TOP_GENES of each
    """

    perturbation: int
    stratum: str
    time: int
    n_cells: int
    strength: float
    n_deg: int | None
    embedding_shift: float
    rank: float
    length: float
    top_up: list[str]
    top_down: list[str]


def summarise(group: Group, names: Names) -> Summary:
    """The numbers of a group that a ranking needs, without its genes."""
    mean_G = group.mean_delta_G
    order = np.argsort(mean_G, kind="stable")
    n_deg = int(np.sum((group.fdr_G < DEG_FDR) & (np.abs(mean_G) > DEG_MIN_DELTA))) if len(mean_G) else None
    up = [str(names.feature_symbol[i]) for i in order[::-1][:N_TOP_GENES] if mean_G[i] > 0]
    down = [str(names.feature_symbol[i]) for i in order[:N_TOP_GENES] if mean_G[i] < 0]
    lead = (group.perturbation, group.stratum, group.time, group.n_cells, group.rms_delta, n_deg)
    return Summary(*lead, group.embedding_shift, group.rank, group.length, up, down)


def write_tables(
    store: StoreReader, directory: Path, strata: Sequence[str], stratum_C: NDArray[np.int64]
) -> list[Summary]:
    """Writes `deg/part-*.parquet`, sorted by target, and returns a summary of every group for the ranking.

    Parts are computed by Dask, in threads, and written as they come; each has another name until it is whole.
    """
    import dask

    names, readers = Names(store), [Reader(store, b) for b in store.blocks]
    perturbations = np.concatenate([np.unique(b.read("items/perturbation")) + b.first for b in store.blocks])
    order = sorted((int(p) for p in perturbations), key=lambda p: (names.target[p], names.id[p]))
    per_perturbation = len(names.feature) * len(strata) * len(store.layout.pred_tps)
    n_cores = os.cpu_count() or 1
    n_parts = min(MAX_PARTS, len(order), max(-(-len(order) * per_perturbation // ROWS_PER_PART), n_cores))
    folder = directory / "deg"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("part-*.parquet"):
        old.unlink()
    chunks = [[int(p) for p in c] for c in np.array_split(order, n_parts)]
    make = dask.delayed(_write_part, pure=False)
    with dask.config.set(scheduler="threads", num_workers=n_cores):
        parts = dask.compute(
            *[
                make(readers, folder / f"part-{i:04d}.parquet", chunk, strata, stratum_C, names)
                for i, chunk in enumerate(chunks)
            ]
        )
    return [s for part in parts for s in part]


def _write_part(
    readers: Sequence[Reader],
    path: Path,
    perturbations: list[int],
    strata: Sequence[str],
    stratum_C: NDArray[np.int64],
    names: Names,
) -> list[Summary]:
    """One file, at most ROWS_PER_GROUP rows and one perturbation in memory."""
    import pyarrow.parquet as pq

    summaries: list[Summary] = []
    waiting: list[pl.DataFrame] = []
    partial, writer = path.with_name(f".{path.name}"), None
    for group in groups(readers, strata, stratum_C, perturbations):
        summaries.append(summarise(group, names))
        if not readers[0].layout.has_counts:
            continue
        waiting.append(frame(group, names))
        if sum(f.height for f in waiting) >= ROWS_PER_GROUP:
            writer = _flush(waiting, writer, partial)
    if waiting:
        writer = _flush(waiting, writer, partial)
    if writer is not None:
        assert isinstance(writer, pq.ParquetWriter)
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
    """The differential-expression table of a screen directory, read lazily."""
    return pl.scan_parquet(Path(directory) / "deg" / "part-*.parquet")
