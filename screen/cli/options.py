"""The command line: every command and option, and what each is for."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from screen import __version__, edits
from screen.planning.layout import SCALES
from screen.stats.tests import table

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

EXIT_CODES = """exit codes:
  0  everything asked for was screened
  1  something failed while running; what was committed is kept, the same command continues
  2  the request cannot be met as written, or not in full: the message says why
  130  interrupted (Ctrl-C), 143 terminated: units in work are dropped, finished ones are written and kept;
       the same command continues"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="perturbscreen",
        description="In-silico perturbation screens over rank-token transformers.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"perturbscreen {__version__}")
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    added = [
        _add_init(commands),
        *_add_run_and_plan(commands),
        _add_check(commands),
        *_add_for_stores(commands),
        _add_bench(commands),
    ]
    for sub in added:
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return made


def _add_run_and_plan(commands: Commands) -> list[argparse.ArgumentParser]:
    run = commands.add_parser("run", help="run a screen, or continue one")
    plan = commands.add_parser("plan", help="say what a screen would do and cost, without running it")
    for sub in (run, plan):
        _add_config(sub)
        sub.add_argument("--store-dtype", choices=["float16", "float32"], help="how log-expression changes are stored")
        sub.add_argument(
            "--allow-missing", action="store_true", help="exit 0 even if a requested gene could not be screened"
        )
        sub.add_argument(
            "--engine",
            choices=["auto", "packed", "reference"],
            help="how items are computed (default: auto: changes for a precision delta*, else packed batches)",
        )
        sub.add_argument(
            "--precision",
            choices=["auto", "float32", "fp16x2", "tf32", "bf16", "delta16", "delta32", "float64"],
            help="of the model's products, or of changes (delta16, delta32); anything but float32 must first agree with the "
            "plain model on a sample (default: auto; float64: --engine reference only)",
        )
        sub.add_argument("--batch-tokens", type=_positive, metavar="N", help="tokens per batch in its widest state")
    run.add_argument(
        "--out", type=Path, metavar="DIR", help="output directory (default: output.directory, or runs/<name of CONFIG>)"
    )
    run.add_argument(
        "--add", action="store_true", help="add the perturbations that a finished DIR lacks; nothing is computed again"
    )
    _add_workers(run)
    run.set_defaults(command="run")
    demo = commands.add_parser(
        "demo", help="screen the shipped cells with the shipped model: about two minutes, to see what comes of it"
    )
    demo.add_argument("--out", type=Path, metavar="DIR", help="output directory (default: runs/demo)")
    demo.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    demo.set_defaults(**vars(run.parse_args([str(demo_configuration()), "--out", "runs/demo"])))
    plan.add_argument("--json", action="store_true", help="print the prediction as JSON, for machines")
    plan.set_defaults(command="plan")
    return [run, plan, demo]


def demo_configuration() -> Path:
    """The YAML file of the demo's screen: of the source tree, or what a wheel holds of it."""
    package = Path(edits.__file__).parent
    shipped = package / "demo.yaml"
    return shipped if shipped.is_file() else package.parent / "configs" / "demo.yaml"


def config_in_place(arguments: Sequence[str]) -> list[str]:
    """Arguments of a command about a configuration, where `--config FILE`, as upstream's val.py is called, is FILE."""
    if arguments[:1] and arguments[0] not in ("run", "plan", "check"):
        return list(arguments)
    return [a.removeprefix("--config=") for a in arguments if a != "--config"]


def _add_config(command: argparse.ArgumentParser) -> None:
    """What every command about a configuration takes."""
    command.add_argument(
        "config",
        type=Path,
        metavar="CONFIG",
        help="a screen's YAML file: ours, or upstream's perturbation.yaml as it is",
    )
    command.add_argument(
        "--encoder-heads", type=_positive, metavar="N", help="attention heads of the encoder, if not upstream's 8"
    )
    command.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1, ... (default: auto)")


def _add_init(commands: Commands) -> argparse.ArgumentParser:
    init = commands.add_parser(
        "init", help="write a first configuration for a file of cells: what it holds is filled in"
    )
    init.add_argument("cells", type=Path, metavar="CELLS", help="an h5ad, or an AnnData Zarr directory")
    init.add_argument("--model", type=Path, metavar="CKPT", help="checkpoint of the model")
    init.add_argument(
        "--vocabulary", type=Path, metavar="TSV", help="its genes; then those of the file are compared with them"
    )
    init.add_argument("--out", type=Path, default=Path("screen.yaml"), metavar="FILE", help="(default: screen.yaml)")
    init.set_defaults(command="init")
    return init


def _add_check(commands: Commands) -> argparse.ArgumentParser:
    check = commands.add_parser(
        "check", help="is this model any good on these cells: say it before a screen, in minutes"
    )
    _add_config(check)
    check.add_argument(
        "--cells", type=_positive, metavar="N", help="cells that predictions are judged on (default: check.cells, 600)"
    )
    check.add_argument(
        "--model",
        type=Path,
        nargs="+",
        default=[],
        metavar="CKPT",
        help="checkpoints of other training seeds, whose rankings are compared (beside check.models)",
    )
    check.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where check.json and check.parquet go (default: check/ in the screen's output directory)",
    )
    check.set_defaults(command="check")
    return check


def _add_for_stores(commands: Commands) -> list[argparse.ArgumentParser]:
    """Commands about a directory that `run` wrote."""
    export = _add_export(commands)
    status = commands.add_parser("status", help="how far a screen is: exit code 0 if it is complete, 1 if not")
    status.set_defaults(command="status")
    verify = commands.add_parser(
        "verify",
        help="compare every file of a screen with its checksum: exit code 0 if all are there and intact, else 1",
    )
    verify.add_argument(
        "--discard", action="store_true", help="forget damaged units, so that the same `run` computes them again"
    )
    verify.set_defaults(command="verify")
    deg, report, evaluate = _add_deg(commands), _add_report(commands), _add_evaluate(commands)
    for sub in (export, status, verify, deg, report, evaluate):
        sub.add_argument("directory", type=Path, metavar="DIR", help="a directory that `run` wrote")
    return [export, status, verify, deg, report, evaluate]


def _add_export(commands: Commands) -> argparse.ArgumentParser:
    export = commands.add_parser("export", help="write predictions as h5ad, in upstream's layout")
    export.add_argument("--h5ad", type=Path, required=True, metavar="FILE", help="where to write")
    export.add_argument(
        "--perturbation", metavar="ID", help="one perturbation, e.g. src:mask:ENSG00000125538 (default: all)"
    )
    export.add_argument(
        "--gene",
        action="append",
        default=[],
        metavar="SYMBOL",
        help="every edit of a gene, by symbol or Ensembl ID, of joint ones as A+B; may be given several times",
    )
    export.add_argument("--mode", help="edits of one mode only")
    export.add_argument("--stratum", metavar="NAME", help="cells of one stratum only, by its name in the hits")
    export.add_argument("--time", type=int, metavar="K", help="one time point only")
    layout = export.add_mutually_exclusive_group()
    layout.add_argument(
        "--cell-eval",
        action="store_true",
        help="the same as cell-eval reads it: log1p of counts per 10,000, one condition per target, non-targeting controls",
    )
    layout.add_argument(
        "--with-control",
        action="store_true",
        help="edited cells and, once each, the same cells unedited, as rows; columns as of scPerturb and pertpy",
    )
    export.add_argument(
        "--scale", choices=SCALES, help="of X, with --with-control: counts (default), or log1p of counts per 10,000"
    )
    export.set_defaults(command="export")
    return export


def _add_deg(commands: Commands) -> argparse.ArgumentParser:
    deg = commands.add_parser(
        "deg", help="make the tables of a finished screen again: what is not said stays as recorded"
    )
    deg.add_argument(
        "--test",
        choices=("auto", *table.NAMES),
        help="fills statistic, p_value and fdr (auto: moderated_t with replicates, else paired_t)",
    )
    deg.add_argument("--signed-rank", action="store_true", default=None, help="also Wilcoxon's signed-rank test")
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
    deg.add_argument(
        "--compare",
        type=_pair,
        nargs="+",
        metavar="A,B",
        help="also compare the change at time point B with that at A, in the same cells, per gene",
    )
    deg.add_argument("--max-fdr", type=float, metavar="X", help="write only genes up to this false discovery rate")
    deg.add_argument("--min-delta", type=float, metavar="X", help="write only genes whose mean change is as large")
    deg.add_argument(
        "--reset",
        nargs="+",
        default=[],
        choices=[*DEG_OPTIONS, "gene_sets", *OF_CELLS, "all"],
        metavar="NAME",
        help=f"settings to be the default again ({', '.join(DEG_OPTIONS)}), gene_sets: none, or all; with --name also "
        f"{', '.join(OF_CELLS)}",
    )
    deg.add_argument(
        "--relations",
        action="store_true",
        default=None,
        help="also what perturbations have to do with each other: similarity, modules, halves, epistasis",
    )
    _add_cells(deg)
    _add_workers(deg)
    deg.set_defaults(command="deg")
    return deg


def _add_cells(deg: argparse.ArgumentParser) -> None:
    """Tables of their own, and of which cells."""
    deg.add_argument(
        "--name", metavar="NAME", help="make tables of their own in DIR/analyses/NAME and leave the first ones alone"
    )
    deg.add_argument(
        "--strata",
        metavar="A,B",
        type=lambda text: [column.strip() for column in text.split(",") if column.strip()],
        help="with --name: group cells by these obs columns ('': all are one group)",
    )
    deg.add_argument(
        "--where",
        metavar="EXPRESSION",
        help="with --name: these cells alone, as in \"cell_type in ['CD14', 'CD16'] and t1.donor != 'D3'\"",
    )


def _add_evaluate(commands: Commands) -> argparse.ArgumentParser:
    evaluate = commands.add_parser(
        "evaluate", help="compare a finished screen with a real one, and with what is known without a model"
    )
    evaluate.add_argument("--real", type=Path, metavar="H5AD", help="raw counts of a real perturbation screen")
    evaluate.add_argument(
        "--perturbation-column",
        default="perturbation",
        metavar="COLUMN",
        help="obs column of what was perturbed: symbols, Ensembl IDs, A+B (default: perturbation)",
    )
    evaluate.add_argument("--control", default="control", metavar="NAME", help="its value for control cells")
    evaluate.add_argument("--celltype", metavar="COLUMN", help="obs column whose values are the screen's strata")
    evaluate.add_argument("--mode", metavar="MODE", help="which edit, if there are several: mask, or src:mask")
    evaluate.add_argument("--time", type=_count, metavar="T", help="which time point, if there are several")
    evaluate.add_argument("--layer", metavar="NAME", help="layer of the counts (default: X, or raw)")
    evaluate.add_argument(
        "--max-cells", type=_positive, default=300, metavar="N", help="real cells read per perturbation (default: 300)"
    )
    evaluate.add_argument(
        "--expect",
        nargs="+",
        metavar="E",
        help="genes that must respond: IFNAR1=STAT1,IRF9, or a YAML file (default: `expect` of the configuration)",
    )
    evaluate.add_argument("--out", type=Path, metavar="FOLDER", help="where tables go (default: DIR)")
    evaluate.set_defaults(command="evaluate")
    return evaluate


def _add_report(commands: Commands) -> argparse.ArgumentParser:
    report = commands.add_parser("report", help="write a finished screen as one HTML page that needs nothing else")
    report.add_argument("--out", type=Path, metavar="FILE", help="the page (default: report.html beside the tables)")
    report.add_argument("--name", metavar="NAME", help="of the tables that `deg --name NAME` made")
    report.add_argument("--png", type=Path, metavar="FOLDER", help="also every figure for a paper, into a folder")
    report.add_argument(
        "--format",
        nargs="+",
        choices=["png", "pdf", "svg"],
        default=["png"],
        metavar="F",
        help="of the figures of --png: png, pdf, svg (default: png)",
    )
    report.set_defaults(command="report")
    return report


def _add_workers(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--workers", type=_positive, metavar="N", help="compute in N worker processes (cluster.workers)"
    )
    command.add_argument("--scheduler", metavar="ADDRESS", help="compute on the workers of a running Dask scheduler")


DEG_OPTIONS = ("test", "signed_rank", "rank_sum", "replicate", "top", "max_fdr", "min_delta", "compare", "relations")
"""Settings of the tables of differential expression that `deg` takes, and resets."""
OF_CELLS = ("strata", "where")
"""What it takes with `--name` alone: which cells, and how they are grouped."""
SIZE_OPTIONS = {
    "width": "width", "heads": "n_heads", "head-width": "head_width", "encoder-head-width": "encoder_head_width",
    "blocks": "n_blocks", "max-len": "max_len", "model-genes": "n_genes", "times": "n_times",
}  # fmt: skip
"""Option of `bench` -> field of SyntheticSizes."""


def _add_bench(commands: Commands) -> argparse.ArgumentParser:
    bench = commands.add_parser("bench", help="measure this machine on synthetic cells and a random model")
    bench.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    precisions, default = ["float32", "fp16x2", "tf32", "bf16"], edits.MASK.name
    bench.add_argument("--precision", choices=precisions, default="float32", help="(default: float32)")
    bench.add_argument(
        "--modes",
        nargs="+",
        type=_mode,
        default=[default],
        metavar="MODE",
        help=f"{edits.allowed()} (default: {default})",
    )
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
    bench.set_defaults(command="bench")
    return bench


def _mode(text: str) -> str:
    """A mode of the table, or argparse's refusal."""
    try:
        return edits.canonical(text)
    except edits.UnknownModeError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _positive(text: str, least: int = 1) -> int:
    """A whole number, 1 or more, or argparse's refusal."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of {least} or more")
    return int(text)


def _pair(text: str) -> tuple[int, int]:
    """Two time points, or argparse's refusal."""
    times = text.split(",")
    if len(times) != 2:
        raise argparse.ArgumentTypeError(f"{text!r} is no pair of time points, as 1,2 is")
    return _positive(times[0].strip()), _positive(times[1].strip())


def _count(text: str) -> int:
    """A whole number, 0 or more, or argparse's refusal."""
    return _positive(text, 0)
