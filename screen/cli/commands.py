"""What each command does: read the configuration, call one function, describe what it gave; returns the exit code."""

import argparse
import json
import signal
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from screen.cli.describe import (
    describe_bench,
    describe_files,
    describe_forecast,
    describe_plan,
    describe_status,
    describe_unscreened,
)
from screen.cli.options import DEG_OPTIONS, SIZE_OPTIONS
from screen.cli.ranking import describe_gene_sets, describe_result
from screen.cli.terminal import Console

if TYPE_CHECKING:
    from screen.running.tables import Result


def _config(arguments: argparse.Namespace):  # type: ignore[no-untyped-def]
    from screen.running.configuration import load_config

    compute = {name: getattr(arguments, name) for name in ("engine", "device", "precision", "batch_tokens")}
    cluster = {name: getattr(arguments, name, None) for name in ("workers", "scheduler")}
    return load_config(
        arguments.config, arguments.store_dtype, arguments.allow_missing, arguments.encoder_heads, compute, cluster
    )


def run(arguments: argparse.Namespace, console: Console) -> int:
    from screen.running import session

    if threading.current_thread() is threading.main_thread():
        # importing polars makes waiting go on after Ctrl-C
        signal.siginterrupt(signal.SIGINT, True)
    config, text = _config(arguments)
    directory = arguments.out or config.output.directory or Path("runs") / arguments.config.stem
    result = session.run(config, text, directory, console, arguments.add)
    _describe(result, result.unscreened, console)
    return 2 if result.unscreened and not config.output.allow_missing else 0


def _describe(result: "Result", unscreened: Sequence[str], console: Console) -> None:
    describe_result(result.hits, result.has_counts, result.min_cells, console)
    if result.ranked is not None:
        describe_gene_sets(result.ranked, console)
    describe_files(result.directory, result.has_counts, result.ranked is not None, console)
    describe_unscreened(unscreened, console)


def plan(arguments: argparse.Namespace, console: Console) -> int:
    from screen.engine.choose import choose_executor
    from screen.engine.precision import yardstick
    from screen.errors import CellError, ConfigError
    from screen.running.preflight import forecast
    from screen.running.prepare import prepare
    from screen.running.unscreened import nothing_to_screen, reasons

    config, _ = _config(arguments)
    if config.compute.engine == "reference":
        raise ConfigError("`plan` predicts the packed engine only; remove --engine reference (compute.engine)")
    screen = prepare(config)
    if screen.plan.n_items == 0:
        raise CellError(nothing_to_screen(screen))
    executor = choose_executor(config.compute, screen)
    found = forecast(screen, executor)
    if arguments.json:
        console.say(json.dumps(found.json(), indent=2))
    else:
        describe_plan(screen, console)
        describe_forecast(found, console)
    if executor.precision != "float32":
        console.note(
            f"`run` first tries {executor.precision} against {yardstick(executor.precision)} on a sample, and refuses it if they "
            "disagree"
        )
    unscreened = reasons(screen, screen.unscreened())
    describe_unscreened(unscreened, console)
    return 2 if unscreened and not config.output.allow_missing else 0


def export(arguments: argparse.Namespace, console: Console) -> int:
    from screen.store.export import write_h5ad

    shape = write_h5ad(arguments.directory, arguments.h5ad, arguments.perturbation)
    console.say(f"{arguments.h5ad}: {shape[0]} rows x {shape[1]} genes")
    return 0


def status(arguments: argparse.Namespace, console: Console) -> int:
    from screen.store import audit
    from screen.store.reader import STORE
    from screen.store.store import ScreenStore

    store = ScreenStore.open(arguments.directory / STORE)
    describe_status(store.path, store.provenance, audit.status(store), console)
    return 0 if store.is_complete else 1


def deg(arguments: argparse.Namespace, console: Console) -> int:
    from screen.running.tables import remake_tables

    given = {name: getattr(arguments, name) for name in DEG_OPTIONS}
    workers = {name: getattr(arguments, name) for name in ("workers", "scheduler")}
    gene_sets = [p.absolute() for p in arguments.gene_sets]
    reset = [*DEG_OPTIONS, "gene_sets"] if "all" in arguments.reset else arguments.reset
    reset = [name for name in reset if "all" not in arguments.reset or given.get(name) is None]
    if gene_sets and "all" in arguments.reset:
        reset.remove("gene_sets")
    result, is_new = remake_tables(arguments.directory, given, gene_sets, reset, workers, console)
    console.say(f"settings: {result.settings}")
    console.say("the tables are made anew" if is_new else "the tables are as asked for already")
    _describe(result, (), console)
    return 0


def verify(arguments: argparse.Namespace, console: Console) -> int:
    from screen.store import audit
    from screen.store.lock import only_writer
    from screen.store.reader import STORE
    from screen.store.store import ScreenStore, scratch_of

    store = ScreenStore.open(arguments.directory / STORE, "r+" if arguments.discard else "r")
    with console.status(f"reading {store.path}"):
        faults = audit.verify(store)
    n_missing = store.n_units - store.n_committed
    for fault in faults:
        console.error(f"damaged: {fault}")
    console.say(f"{store.n_committed} of {store.n_units} units finished, {len(faults)} damaged, {n_missing} missing")
    if faults and arguments.discard:
        with only_writer(arguments.directory, scratch_of(store.path)):
            n_units = audit.discard(store, faults)
        console.say(f"{n_units} unit(s) are forgotten; the same `perturbscreen run` computes them again")
    elif any(f.what == audit.FIXED for f in faults):
        console.say(
            "what cannot be computed again is damaged: restore it from a copy, or screen again into another --out"
        )
    elif faults:
        console.say("`perturbscreen verify DIR --discard` forgets what is damaged; the same `run` computes it again")
    return 1 if faults or n_missing else 0


def bench(arguments: argparse.Namespace, console: Console) -> int:
    from screen.bench.measure import SIZES, Wanted, measure
    from screen.bench.report import report

    given = {field: getattr(arguments, name.replace("-", "_")) for name, field in SIZE_OPTIONS.items()}
    wanted = Wanted(
        replace(SIZES[arguments.size], **{field: n for field, n in given.items() if n is not None}),
        arguments.device,
        arguments.precision,
        tuple(arguments.modes),
        arguments.site,
        tuple(arguments.edit_times),
        arguments.cells,
        arguments.genes,
        arguments.batch_tokens,
        arguments.seconds,
    )
    measured = measure(wanted)
    describe_bench(wanted, measured, console)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report(wanted, measured), indent=2) + "\n")
    return 0
