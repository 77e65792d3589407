"""The command `perturbscreen`: parse, call one function, print."""

import argparse
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeAlias

from screen import __version__
from screen.errors import ScreenError
from screen.report import (
    Console,
    describe_forecast,
    describe_plan,
    describe_result,
    describe_status,
    describe_unscreened,
)

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

EXIT_CODES = """exit codes:
  0  everything asked for was screened
  1  something failed while running; what was committed is kept, the same command continues
  2  the request cannot be met as written, or not in full: the message says why
  130  interrupted (Ctrl-C), 143 terminated: units in work are dropped, finished ones are written and kept;
       the same command continues"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = _parser().parse_args(argv)
    with _signals():
        return _called(arguments)


def _called(arguments: argparse.Namespace) -> int:
    """Calls the command and turns what goes wrong into words and an exit code."""
    console = Console()
    command: Callable[[argparse.Namespace, Console], int] = arguments.command
    try:
        return command(arguments, console)
    except KeyboardInterrupt:
        console.error(f"interrupted; {_KEPT}")
        return 130
    except _TerminatedError:
        console.error(f"terminated; {_KEPT}")
        return 143
    except Exception as error:
        if arguments.debug:
            traceback.print_exc()
        if isinstance(error, ScreenError):
            console.error(str(error))
            return error.exit_code
        kept = "What was committed is kept. " if arguments.command is _run else ""
        console.error(f"{type(error).__name__}: {error}\n{kept}Run again with --debug to see where this came from.")
        return 1


_KEPT = "finished units are kept, those in work are dropped; run the same command to continue"


class _TerminatedError(BaseException):
    """SIGTERM came: what is in work is dropped as at Ctrl-C."""


@contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and Ctrl-C end a command in good order; a second one at once: what is on the disk is whole at any moment."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        for each in tuple(before):
            signal.signal(each, lambda number, frame: os._exit(128 + number))
            # and it stays so until the process is gone
            del before[each]
        raise _TerminatedError if number == signal.SIGTERM else KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="perturbscreen",
        description="In-silico perturbation screens over rank-token transformers.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"perturbscreen {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    added = [*_add_run_and_plan(commands), *_add_for_stores(commands), _add_bench(commands)]
    for sub in added:
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _add_run_and_plan(commands: Commands) -> list[argparse.ArgumentParser]:
    run = commands.add_parser("run", help="run a screen, or continue one")
    plan = commands.add_parser("plan", help="say what a screen would do and cost, without running it")
    for sub in (run, plan):
        sub.add_argument(
            "config",
            type=Path,
            metavar="CONFIG",
            help="a screen's YAML file: ours, or upstream's perturbation.yaml as it is",
        )
        sub.add_argument("--store-dtype", choices=["float16", "float32"], help="how log-expression changes are stored")
        sub.add_argument(
            "--allow-missing", action="store_true", help="exit 0 even if a requested gene could not be screened"
        )
        sub.add_argument(
            "--encoder-heads", type=_positive, metavar="N", help="attention heads of the encoder, if not upstream's 8"
        )
        sub.add_argument("--engine", choices=["packed", "reference"], help="how items are computed (default: packed)")
        sub.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
        sub.add_argument(
            "--precision",
            choices=["auto", "float32", "fp16x2", "tf32", "bf16"],
            help="of the model's products; anything but float32 must first agree with it on a sample (default: auto)",
        )
        sub.add_argument("--batch-tokens", type=_positive, metavar="N", help="tokens per batch in its widest state")
    run.add_argument(
        "--out", type=Path, metavar="DIR", help="output directory (default: output.directory, or runs/<name of CONFIG>)"
    )
    run.add_argument(
        "--add", action="store_true", help="add the perturbations that a finished DIR lacks; nothing is computed again"
    )
    _add_workers(run)
    run.set_defaults(command=_run)
    plan.add_argument("--json", action="store_true", help="print the prediction as JSON, for machines")
    plan.set_defaults(command=_plan)
    return [run, plan]


def _add_for_stores(commands: Commands) -> list[argparse.ArgumentParser]:
    """Commands about a directory that `run` wrote."""
    export = commands.add_parser("export", help="write predictions as h5ad in upstream's layout")
    export.add_argument("directory", type=Path, metavar="DIR", help="a directory that `run` wrote")
    export.add_argument("--h5ad", type=Path, required=True, metavar="FILE", help="where to write")
    export.add_argument(
        "--perturbation", metavar="ID", help="one perturbation, e.g. src:mask:ENSG00000125538 (default: all)"
    )
    export.set_defaults(command=_export)
    status = commands.add_parser("status", help="how far a screen is: exit code 0 if it is complete, 1 if not")
    status.set_defaults(command=_status)
    verify = commands.add_parser(
        "verify",
        help="compare every file of a screen with its checksum: exit code 0 if all are there and intact, else 1",
    )
    verify.add_argument(
        "--discard", action="store_true", help="forget damaged units, so that the same `run` computes them again"
    )
    verify.set_defaults(command=_verify)
    deg = commands.add_parser("deg", help="make the tables of a finished screen again, with other tests or replicates")
    deg.add_argument("--test", choices=["paired_t", "signed_rank", "rank_sum"], help="fills statistic, p_value and fdr")
    deg.add_argument("--rank-sum", choices=["off", "plain", "tie_corrected"], help="also the unpaired rank-sum test")
    deg.add_argument("--replicate", metavar="COLUMN", help="tests are over the means of these groups of cells (donor)")
    deg.add_argument(
        "--top",
        type=_count,
        metavar="N",
        help="write the N genes of each group that change most (0: the ranking alone)",
    )
    deg.add_argument(
        "--gene-sets", type=Path, nargs="+", default=[], metavar="GMT", help="test what changes against these gene sets"
    )
    _add_workers(deg)
    deg.set_defaults(command=_deg)
    for sub in (status, verify, deg):
        sub.add_argument("directory", type=Path, metavar="DIR", help="a directory that `run` wrote")
    return [export, status, verify, deg]


def _add_workers(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--workers", type=_positive, metavar="N", help="compute in N worker processes (cluster.workers)"
    )
    command.add_argument("--scheduler", metavar="ADDRESS", help="compute on the workers of a running Dask scheduler")


SIZE_OPTIONS = {
    "width": "width", "heads": "n_heads", "head-width": "head_width", "encoder-head-width": "encoder_head_width",
    "blocks": "n_blocks", "max-len": "max_len", "model-genes": "n_genes", "times": "n_times",
}  # fmt: skip
"""Option of `bench` -> field of SyntheticSizes."""


def _add_bench(commands: Commands) -> argparse.ArgumentParser:
    bench = commands.add_parser("bench", help="measure this machine on synthetic cells and a random model")
    bench.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    precisions, modes = ["float32", "fp16x2", "tf32", "bf16"], ["mask", "pad", "delete", "overexpress"]
    bench.add_argument("--precision", choices=precisions, default="float32", help="(default: float32)")
    bench.add_argument("--modes", nargs="+", choices=modes, default=modes[:1], help="(default: mask)")
    bench.add_argument("--site", choices=["src", "tgt"], default="src", help="(default: src)")
    bench.add_argument(
        "--edit-times", nargs="+", type=_positive, default=[], metavar="T", help="edited by site tgt (default: all)"
    )
    bench.add_argument("--size", choices=["published", "small"], default="published", help="(default: published)")
    for name in SIZE_OPTIONS:
        bench.add_argument(f"--{name}", type=_positive, metavar="N", help="in place of what --size says")
    for name in ("cells", "genes", "batch-tokens"):
        bench.add_argument(f"--{name}", type=_positive, metavar="N", help="(default: chosen for this machine)")
    bench.add_argument("--seconds", type=_positive, default=30, metavar="S", help="to measure, about (default: 30)")
    bench.add_argument("--json", type=Path, metavar="FILE", help="also write everything into a file")
    bench.set_defaults(command=_bench)
    return bench


def _positive(text: str, least: int = 1) -> int:
    """A whole number, 1 or more, or argparse's refusal."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of {least} or more")
    return int(text)


def _count(text: str) -> int:
    """A whole number, 0 or more, or argparse's refusal."""
    return _positive(text, 0)


def _config(arguments: argparse.Namespace):  # type: ignore[no-untyped-def]
    from screen.session import load_config

    compute = {name: getattr(arguments, name) for name in ("engine", "device", "precision", "batch_tokens")}
    cluster = {name: getattr(arguments, name, None) for name in ("workers", "scheduler")}
    return load_config(
        arguments.config, arguments.store_dtype, arguments.allow_missing, arguments.encoder_heads, compute, cluster
    )


def _run(arguments: argparse.Namespace, console: Console) -> int:
    from screen.session import run

    if threading.current_thread() is threading.main_thread():
        # importing polars makes waiting go on after Ctrl-C
        signal.siginterrupt(signal.SIGINT, True)
    config, text = _config(arguments)
    directory = arguments.out or config.output.directory or Path("runs") / arguments.config.stem
    result = run(config, text, directory, console, arguments.add)
    describe_result(result.directory, result.hits, result.ranked, result.has_counts, result.unscreened, console)
    return 2 if result.unscreened and not config.output.allow_missing else 0


def _plan(arguments: argparse.Namespace, console: Console) -> int:
    from screen.decide import decide
    from screen.errors import CellError, ConfigError
    from screen.preflight import forecast
    from screen.prepare import prepare
    from screen.session import nothing_to_screen, reasons

    config, _ = _config(arguments)
    if config.compute.engine == "reference":
        raise ConfigError("`plan` predicts the packed engine only; remove --engine reference (compute.engine)")
    screen = prepare(config)
    if screen.plan.n_items == 0:
        raise CellError(nothing_to_screen(screen))
    executor = decide(config.compute, screen)
    found = forecast(screen, executor)
    if arguments.json:
        console.say(json.dumps(found.json(), indent=2))
    else:
        describe_plan(screen, console)
        describe_forecast(found, console)
    if executor.precision != "float32":
        console.note(
            f"`run` first tries {executor.precision} against float32 on a sample, and refuses it if they disagree"
        )
    unscreened = reasons(screen, screen.unscreened())
    describe_unscreened(unscreened, console)
    return 2 if unscreened and not config.output.allow_missing else 0


def _export(arguments: argparse.Namespace, console: Console) -> int:
    from screen.export import write_h5ad

    shape = write_h5ad(arguments.directory, arguments.h5ad, arguments.perturbation)
    console.say(f"{arguments.h5ad}: {shape[0]} rows x {shape[1]} genes")
    return 0


def _status(arguments: argparse.Namespace, console: Console) -> int:
    from screen.audit import status
    from screen.resume import STORE
    from screen.store import ScreenStore

    store = ScreenStore.open(arguments.directory / STORE)
    describe_status(store.path, store.provenance, status(store), console)
    return 0 if store.is_complete else 1


def _deg(arguments: argparse.Namespace, console: Console) -> int:
    from screen.session import present_again

    given = {name: getattr(arguments, name) for name in ("test", "rank_sum", "replicate", "top")}
    workers = {name: getattr(arguments, name) for name in ("workers", "scheduler")}
    gene_sets = [p.absolute() for p in arguments.gene_sets]
    result, is_new = present_again(arguments.directory, given, gene_sets, workers, console)
    console.say("the tables are made anew" if is_new else "the tables are as asked for already")
    describe_result(result.directory, result.hits, result.ranked, result.has_counts, (), console)
    return 0


def _verify(arguments: argparse.Namespace, console: Console) -> int:
    from screen.audit import FIXED, discard, verify
    from screen.lock import only_writer
    from screen.resume import STORE
    from screen.store import ScreenStore, scratch_of

    store = ScreenStore.open(arguments.directory / STORE, "r+" if arguments.discard else "r")
    with console.status(f"reading {store.path}"):
        faults = verify(store)
    n_missing = store.n_units - store.n_committed
    for fault in faults:
        console.error(f"damaged: {fault}")
    console.say(f"{store.n_committed} of {store.n_units} units finished, {len(faults)} damaged, {n_missing} missing")
    if faults and arguments.discard:
        with only_writer(arguments.directory, scratch_of(store.path)):
            n_units = discard(store, faults)
        console.say(f"{n_units} unit(s) are forgotten; the same `perturbscreen run` computes them again")
    elif any(f.what == FIXED for f in faults):
        console.say(
            "what cannot be computed again is damaged: restore it from a copy, or screen again into another --out"
        )
    elif faults:
        console.say("`perturbscreen verify DIR --discard` forgets what is damaged; the same `run` computes it again")
    return 1 if faults or n_missing else 0


def _bench(arguments: argparse.Namespace, console: Console) -> int:
    from screen.bench import SIZES, Wanted, describe, measure

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
    describe(wanted, measured, console)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"wanted": asdict(wanted), **asdict(measured)}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
