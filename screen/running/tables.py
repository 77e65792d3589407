"""The tables of a finished directory, made and made again. No torch: the store is all they need."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from screen.config.sections import ComputeConfig
from screen.directory import PREDICTIONS, REPORT, STORE
from screen.errors import ScreenError
from screen.report.page import write_report
from screen.results.results import Results, open_results
from screen.running.configuration import cluster_with
from screen.running.listener import Listener
from screen.stats.again import analysis
from screen.stats.parts import Compute, on_threads
from screen.stats.tables import donor_notes, set_presentation, write_all
from screen.store.export import UpstreamRows
from screen.store.h5ad import write_h5ad
from screen.store.lines import Wanted
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


def make_export(store: ScreenStore, directory: Path, listener: Listener) -> None:
    """predictions.h5ad, in upstream's layout. Raises StoreError."""
    rows, path = UpstreamRows(store, Wanted()), directory / PREDICTIONS
    with listener.status(PREDICTIONS):
        n_rows, n_genes = write_h5ad(rows, path)
    listener.say(f"{path}: {n_rows:,} rows x {n_genes:,} genes, in the layout of upstream's h5ad")
    for note in rows.notes:
        listener.note(note)


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
    with _writing(directory, workers, listener) as (store, compute):
        set_presentation(store, _given(changes), gene_sets, reset)
        _say_donors(store, store.provenance["view"], listener)
        has_report = (directory / REPORT).is_file()
        _, is_new = make_tables(store, directory, listener, compute())
    results = open_results(directory)
    if has_report and is_new:
        make_report(results, listener)
    return results, is_new


def make_analysis(
    directory: Path,
    name: str,
    cells: Mapping[str, object],
    changes: Mapping[str, object],
    gene_sets: Sequence[Path],
    reset: Sequence[str],
    workers: Mapping[str, object],
    listener: Listener,
) -> tuple[Results, bool]:
    """(results, whether any table was made): tables of a finished screen under a name of their own; see `analysis.asked`.

    `cells` has the command line's `strata` and `where`; the other arguments are those of `remake_tables`, whose tables are
    left alone.
    """
    with _writing(directory, workers, listener) as (store, compute):
        view = analysis.asked(store, directory, name, _given(cells), _given(changes), gene_sets, reset)
        _say_donors(store, view, listener)
        folder, text = analysis.place(directory, name), f"tables of {name}"
        has_report = (folder / REPORT).is_file()
        with listener.status(text):
            _, is_new = analysis.write_analysis(store, directory, view, compute(), listener.parts(text))
        if is_new:
            (folder / REPORT).unlink(missing_ok=True)
    results = open_results(directory, name)
    if has_report and is_new:
        make_report(results, listener)
    return results, is_new


@contextmanager
def _writing(
    directory: Path, workers: Mapping[str, object], listener: Listener
) -> Iterator[tuple[ScreenStore, Callable[[], Compute]]]:
    """The store, while nobody else writes, and what starts the workers that compute tables."""
    store = ScreenStore.open(directory / STORE, "r+")
    cluster = cluster_with(None, workers, store.path)
    with ExitStack() as stack:
        stack.enter_context(only_writer(directory, scratch_of(store.path)))

        def compute() -> Compute:
            if cluster is None:
                return on_threads
            from screen.running.cluster.cluster import started

            return stack.enter_context(started(cluster, ComputeConfig(), listener.say)).tables

        yield store, compute


def _given(settings: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in settings.items() if value is not None}


def _say_donors(store: ScreenStore, view: Mapping[str, Any], listener: Listener) -> None:
    for note in donor_notes(store, view["deg"]["replicate"]):
        listener.say(note)


def make_report(results: Results, listener: Listener) -> None:
    """report.html beside the tables. Where it cannot be made, a note says why: the results are whole without."""
    try:
        with listener.status("report"):
            write_report(results)
    except ScreenError as error:
        listener.note(f"no report: {error}")
    except Exception as error:
        # a mistake of the page's own must not end a run whose results are there
        listener.note(f"no report: {type(error).__name__}: {error}; everything else is written")
