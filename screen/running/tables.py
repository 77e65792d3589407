"""The tables of a finished directory, made and made again. No torch: the store is all they need."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import polars as pl

from screen.config.sections import ComputeConfig
from screen.directory import REPORT, STORE
from screen.report.page import ReportError, write_report
from screen.results.results import Results, open_results
from screen.running.configuration import cluster_with
from screen.running.listener import Listener
from screen.stats.parts import Compute, on_threads
from screen.stats.tables import donor_notes, set_presentation, write_all
from screen.store.lock import only_writer
from screen.store.store import ScreenStore, scratch_of


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
) -> tuple[Results, bool]:
    """(results, whether any table was made): the tables of a finished screen, with other settings of `deg`, or gene sets,
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
        _, is_new = make_tables(store, directory, listener, compute)
    results = open_results(directory)
    if (directory / REPORT).is_file():
        make_report(results, listener)
    return results, is_new


def make_report(results: Results, listener: Listener) -> None:
    """report.html beside the tables. Where it cannot be made, a note says why: the results are whole without."""
    try:
        with listener.status("report"):
            write_report(results)
    except (ReportError, OSError) as error:
        listener.note(f"no report: {error}")
