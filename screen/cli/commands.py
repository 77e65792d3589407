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
    describe_status,
    describe_unscreened,
)
from screen.cli.options import DEG_OPTIONS, OF_CELLS, SIZE_OPTIONS
from screen.cli.ranking import describe_gene_sets, describe_result
from screen.cli.terminal import Console
from screen.directory import EVALUATION, REPORT
from screen.errors import ConfigError, RequestError, some
from screen.planning.layout import COUNTS

if TYPE_CHECKING:
    from screen.config.screen_config import ScreenConfig
    from screen.results.results import Results


def _config(arguments: argparse.Namespace) -> "ScreenConfig":
    from screen.running.configuration import load_config, overridden

    compute = {name: getattr(arguments, name) for name in ("engine", "device", "precision", "batch_tokens")}
    cluster = {name: getattr(arguments, name, None) for name in ("workers", "scheduler")}
    options = (arguments.store_dtype, arguments.allow_missing, arguments.encoder_heads, compute, cluster)
    return overridden(load_config(arguments.config), arguments.config, *options)


def init(arguments: argparse.Namespace, console: Console) -> int:
    from screen.cells.vocabulary import read_tsv
    from screen.starting.look import look
    from screen.starting.write import configuration

    a = arguments
    if a.out.exists():
        raise RequestError(f"{a.out} is there already; name another file (--out), or remove it")
    looked = look(a.cells, None if a.vocabulary is None else read_tsv(a.vocabulary))
    for note in looked.genes:
        console.note(note)
    try:
        a.out.parent.mkdir(parents=True, exist_ok=True)
        a.out.write_text(configuration(looked, a.out, a.model, a.vocabulary), encoding="utf-8")
    except OSError as error:
        raise RequestError(f"cannot write {a.out} ({error.strerror}); name another file (--out)") from error
    console.say(f"{a.out}: read it, fill in what says TODO, then `perturbscreen plan {a.out}`")
    return 0


def run(arguments: argparse.Namespace, console: Console) -> int:
    from screen.running import session

    if threading.current_thread() is threading.main_thread():
        # importing polars makes waiting go on after Ctrl-C
        signal.siginterrupt(signal.SIGINT, True)
    config = _config(arguments)
    text = arguments.config.read_text(encoding="utf-8")
    directory = arguments.out = arguments.out or _directory(config, arguments.config)
    results, unscreened = session.run_screen(config, text, directory, console, arguments.add)
    is_allowed = config.output.allow_missing
    _describe(results, unscreened, console, is_allowed)
    return 2 if unscreened and not is_allowed else 0


def _describe(results: "Results", unscreened: Sequence[str], console: Console, is_allowed: bool = False) -> None:
    describe_result(results.hits, results.has_counts, results.min_cells, console)
    if results.shifted is not None:
        describe_gene_sets(results.shifted, console)
    console.say(f"{results.tables}: {results.files}")
    if (results.tables / REPORT).is_file():
        console.say(f"to look at it: {results.tables / REPORT}")
    describe_unscreened(unscreened, console, is_allowed)


def plan(arguments: argparse.Namespace, console: Console) -> int:
    from screen.running.preflight import preflight

    config = _config(arguments)
    found = preflight(config)
    for line in [json.dumps(found.json(), indent=2)] if arguments.json else found.lines:
        console.say(line)
    for note in found.notes:
        console.note(note)
    is_allowed = config.output.allow_missing
    describe_unscreened(found.unscreened, console, is_allowed)
    return 2 if found.unscreened and not is_allowed else 0


def check(arguments: argparse.Namespace, console: Console) -> int:
    from screen.checking.check import check as checked
    from screen.directory import CHECK, CHECKED_CELLS, CHECKS
    from screen.running.configuration import load_config, overridden

    compute = {"device": arguments.device}
    config = overridden(load_config(arguments.config), arguments.config, None, False, arguments.encoder_heads, compute)
    out = arguments.out or _directory(config, arguments.config) / CHECKS
    found = checked(config, out, arguments.cells, arguments.model, console)
    console.say(str(found))
    console.say(f"{out}: {CHECK}, {CHECKED_CELLS}")
    return 0


def _directory(config: "ScreenConfig", path: Path) -> Path:
    """Where `run` writes unless it is told otherwise."""
    return config.output.directory or Path("runs") / path.stem


def export(arguments: argparse.Namespace, console: Console) -> int:
    from screen.directory import STORE
    from screen.results.exported import wanted_of
    from screen.store.export import UpstreamRows
    from screen.store.h5ad import Rows, write_h5ad
    from screen.store.lines import require_some
    from screen.store.reader import StoreReader
    from screen.store.with_control import for_cell_eval, with_control

    a = arguments
    if a.scale is not None and not a.with_control:
        raise RequestError(f"--scale {a.scale} is of rows with their controls; say --with-control too")
    store = StoreReader.open(a.directory / STORE)
    names = [*([] if a.perturbation is None else [a.perturbation]), *a.gene]
    wanted = wanted_of(store, names, a.mode, a.stratum, a.time)
    rows: Rows
    if a.cell_eval:
        rows = for_cell_eval(store, wanted)
    elif a.with_control:
        rows = with_control(store, wanted, a.scale or COUNTS)
    else:
        rows = UpstreamRows(store, wanted)
        require_some(rows.lines, wanted)
    shape = write_h5ad(rows, a.h5ad)
    console.say(f"{a.h5ad}: {shape[0]} rows x {shape[1]} genes")
    for note in rows.notes:
        console.note(note)
    return 0


def status(arguments: argparse.Namespace, console: Console) -> int:
    from screen.directory import STORE
    from screen.store import audit
    from screen.store.store import ScreenStore

    store = ScreenStore.open(arguments.directory / STORE)
    describe_status(store.path, store.provenance, audit.status(store), console)
    return 0 if store.is_complete else 1


def deg(arguments: argparse.Namespace, console: Console) -> int:
    from screen.running.tables import make_analysis, remake_tables

    given = {name: getattr(arguments, name) for name in DEG_OPTIONS}
    cells = {name: getattr(arguments, name) for name in OF_CELLS}
    workers = {name: getattr(arguments, name) for name in ("workers", "scheduler")}
    gene_sets = [p.absolute() for p in arguments.gene_sets]
    reset = _reset(arguments, given | cells, gene_sets)
    if arguments.name is None:
        _require_name([name for name in OF_CELLS if cells[name] is not None or name in reset])
        found = remake_tables(arguments.directory, given, gene_sets, reset, workers, console)
    else:
        found = make_analysis(arguments.directory, arguments.name, cells, given, gene_sets, reset, workers, console)
    results, is_new = found
    console.say(f"settings: {results.settings}")
    console.say("the tables are made anew" if is_new else "the tables are as asked for already")
    _describe(results, (), console)
    return 0


def _reset(arguments: argparse.Namespace, given: dict[str, object], gene_sets: Sequence[Path]) -> list[str]:
    """Settings to be the default again; `all` are those that are not given."""
    if "all" not in arguments.reset:
        return list(arguments.reset)
    every = [*DEG_OPTIONS, "gene_sets", *([] if arguments.name is None else OF_CELLS)]
    return [name for name in every if given.get(name) is None and not (name == "gene_sets" and gene_sets)]


def _require_name(settings: Sequence[str]) -> None:
    """Raises ConfigError where settings are given that the first tables do not take."""
    if settings:
        raise ConfigError(
            f"{some(f'--{name}' for name in settings)}: the first tables keep their cells; --name NAME makes others beside them"
        )


def report(arguments: argparse.Namespace, console: Console) -> int:
    from screen.report.figures import write_png
    from screen.report.page import write_report
    from screen.results.results import open_results

    results = open_results(arguments.directory, arguments.name)
    with console.status("report"):
        path = write_report(results, arguments.out)
    console.say(f"{path}: {path.stat().st_size / 1e6:.1f} MB, open it in a browser")
    if arguments.png is not None:
        with console.status("figures"):
            written = write_png(results, arguments.png, arguments.format)
        console.say(f"{arguments.png}: {len(written)} figures")
    return 0


def evaluate(arguments: argparse.Namespace, console: Console) -> int:
    from screen.evaluate.evaluation import evaluate
    from screen.evaluate.expected import read_expect
    from screen.results.results import open_results

    a, results = arguments, open_results(arguments.directory)
    expect = None if a.expect is None else read_expect(a.expect)
    with console.status("evaluation"):
        found = evaluate(
            results, a.real, a.perturbation_column, a.control, celltype=a.celltype, mode=a.mode, time=a.time,
            layer=a.layer, max_cells=a.max_cells, expect=expect,
        )  # fmt: skip
        path = found.write(a.out or a.directory)
    for line in found.lines:
        console.say(line)
    console.say(f"{path}, {path.parent / EVALUATION}/*.parquet")
    return 0


def verify(arguments: argparse.Namespace, console: Console) -> int:
    from screen.directory import STORE
    from screen.store import audit, stamp
    from screen.store.lock import only_writer
    from screen.store.store import ScreenStore, scratch_of

    store = ScreenStore.open(arguments.directory / STORE, "r+" if arguments.discard else "r")
    with console.status(f"reading {arguments.directory}"):
        faults, tables = audit.verify(store), stamp.damaged_tables(arguments.directory)
    n_missing = store.n_units - store.n_committed
    for fault in faults:
        console.error(f"damaged: {fault}")
    for folder, wrong in tables.items():
        console.error(f"damaged: tables in {folder}: " + "; ".join(f"{name} {what}" for name, what in wrong.items()))
    of_units = f"{store.n_committed} of {store.n_units} units finished, {len(faults)} damaged, {n_missing} missing"
    console.say(f"{of_units}; {sum(map(len, tables.values()))} of the tables damaged")
    if (faults or tables) and arguments.discard:
        with only_writer(arguments.directory, scratch_of(store.path)):
            n_units = audit.discard(store, faults)
            stamp.discard_tables(tables)
        if faults:
            console.say(f"{n_units} unit(s) are forgotten; the same `perturbscreen run` computes them again")
        for folder in tables:
            again = "run" if folder == arguments.directory else f"deg {arguments.directory} --name {folder.name}"
            console.say(f"`perturbscreen {again}` makes the tables in {folder} again")
    elif any(f.what == audit.FIXED for f in faults):
        console.say(
            "what cannot be computed again is damaged: restore it from a copy, or screen again into another --out"
        )
    elif faults or tables:
        console.say("`perturbscreen verify DIR --discard` forgets what is damaged; the same `run` makes it again")
    return 1 if faults or tables or n_missing else 0


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
