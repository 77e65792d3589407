"""The tables of a finished directory, made and made again. No torch: the store is all they need."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from screen.config.sections import ComputeConfig
from screen.running.configuration import cluster_with
from screen.running.listener import Listener
from screen.stats.enrich import shown_in
from screen.stats.parts import Compute, on_threads
from screen.stats.tables import described_view, donor_notes, set_presentation, write_all
from screen.store.lock import only_writer
from screen.store.reader import STORE
from screen.store.store import ScreenStore, scratch_of


@dataclass(frozen=True)
class Result:
    """What a run left behind.

    ranked      for each perturbation the gene set that it shifts most, None where none were asked for
    min_cells   a perturbation with fewer has no rank
    unscreened  labels of requested perturbations without any item, each with its reason
    settings    how the tables present the results, in words
    """

    directory: Path
    hits: pl.DataFrame
    ranked: pl.DataFrame | None
    has_counts: bool
    min_cells: int
    unscreened: tuple[str, ...]
    settings: str


def make_tables(
    store: ScreenStore, directory: Path, listener: Listener, compute: Compute = on_threads
) -> tuple[pl.DataFrame, bool]:
    """(hits.parquet, whether any table was made): deg/part-*.parquet and hits.parquet, beside coverage.parquet."""
    text = "differential expression"
    with listener.status(text):
        return write_all(store, directory, compute, listener.parts(text))


def remake_tables(
    directory: Path,
    changes: Mapping[str, object],
    gene_sets: Sequence[Path],
    reset: Sequence[str],
    workers: Mapping[str, object],
    listener: Listener,
) -> tuple[Result, bool]:
    """(result, whether any table was made): the tables of a finished screen, with other settings of `deg`, or gene sets,
    where given; those named in `reset` are the defaults again.

    `workers` has the command line's `workers` and `scheduler`. Raises StoreError, ConfigError.
    """
    store = ScreenStore.open(directory / STORE, "r+")
    cluster = cluster_with(None, workers, store.path)
    with ExitStack() as stack:
        stack.enter_context(only_writer(directory, scratch_of(store.path)))
        given = {name: value for name, value in changes.items() if value is not None}
        set_presentation(store, given, gene_sets, reset)
        for note in donor_notes(store, store.provenance["view"]["deg"]["replicate"]):
            listener.say(note)
        compute = on_threads
        if cluster is not None:
            from screen.running.cluster.cluster import started

            compute = stack.enter_context(started(cluster, ComputeConfig(), listener.say)).tables
        hits, is_new = make_tables(store, directory, listener, compute)
    return result_of(store, directory, hits), is_new


def result_of(store: ScreenStore, directory: Path, hits: pl.DataFrame, unscreened: Sequence[str] = ()) -> Result:
    """What a directory with these tables holds."""
    view = store.provenance["view"]
    shown = shown_in(directory)
    return Result(
        directory, hits, shown, store.layout.has_counts, view["min_cells"], tuple(unscreened), described_view(view)
    )
