"""The tables of a finished directory, made and made again. No torch: the store is all they need."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import polars as pl

from screen.config.sections import ComputeConfig
from screen.directory import REPORT, STORE
from screen.errors import ScreenError
from screen.report.page import write_report
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
    """(hits.parquet, whether any table was made): deg/part-*.parquet and hits.parquet, beside coverage.parquet.

    A report of other tables is removed.
    """
    text = "differential expression"
    with listener.status(text):
        hits, is_new = write_all(store, directory, compute, listener.parts(text))
    if is_new:
        (directory / REPORT).unlink(missing_ok=True)
    return hits, is_new


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
        has_report = (directory / REPORT).is_file()
        _, is_new = make_tables(store, directory, listener, compute)
    results = open_results(directory)
    if has_report and is_new:
        make_report(results, listener)
    return results, is_new


def make_report(results: Results, listener: Listener) -> None:
    """report.html beside the tables. Where it cannot be made, a note says why: the results are whole without."""
    try:
        with listener.status("report"):
            write_report(results)
    except ScreenError as error:
        listener.note(f"no report: {error}")
