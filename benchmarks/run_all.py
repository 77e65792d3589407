"""All benchmarks of a CPU, one script after another, then the tables made of them: what `make bench` calls.

python -m benchmarks.run_all                     # about sixteen minutes on two quiet cores
python -m benchmarks.run_all --only precision    # one script; may be given more than once
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS

# name -> (module, the most seconds it may take)
SCRIPTS = {
    "real_size": ("benchmarks.engine.real_size", 480),
    "ablation": ("benchmarks.engine.ablation", 180),
    "plans": ("benchmarks.engine.plans", 240),
    "precision": ("benchmarks.engine.precision", 180),
    "reference": ("benchmarks.engine.reference", 150),
    "store": ("benchmarks.store.store", 150),
    "scale_out": ("benchmarks.engine.scale_out", 150),
    "differential": ("benchmarks.stats.differential", 900),
    "power": ("benchmarks.stats.power", 200),
    "questions": ("benchmarks.stats.questions", 400),
}


def options(doc: str | None, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What every script takes: where figures are appended, and whether sizes are tiny and no threshold counts."""
    return parser_of(doc).parse_args(arguments)


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """A parser with --results and --quick."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON lines are appended here")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works; no threshold counts")
    return parser


def verdict(line: Mapping[str, Any], at_least: float | None = None, at_most: float | None = None) -> str:
    """What is wrong with a figure's ratio, or with its value where it has none; empty if nothing is."""
    seen = line["value"] if line["ratio"] is None else line["ratio"]
    if at_least is not None and seen < at_least:
        return f"{line['name']} is {seen:.4g}; it must be at least {at_least:.4g}"
    if at_most is not None and seen > at_most:
        return f"{line['name']} is {seen:.4g}; it must be at most {at_most:.4g}"
    return ""


def reported(line: Mapping[str, Any], at_least: float | None = None, at_most: float | None = None) -> str:
    """Prints a figure; what is wrong with it."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
    return verdict(line, at_least, at_most)


def exit_code(faults: Sequence[str], is_quick: bool) -> int:
    """Says what is wrong; 1 if anything is, except at tiny sizes, which prove nothing."""
    for fault in filter(None, faults):
        sys.stderr.write(f"{fault}\n")
    return int(any(faults) and not is_quick)


def run(name: str, more: Sequence[str]) -> str:
    """Runs a script; what went wrong, or nothing."""
    (module, limit_s), start = SCRIPTS[name], time.perf_counter()
    try:
        code = subprocess.run([sys.executable, "-m", module, *more], timeout=limit_s, check=False).returncode
    except subprocess.TimeoutExpired:
        return f"{name} was stopped after {limit_s:.0f} s; what it had measured is recorded"
    sys.stdout.write(f"{name}: {time.perf_counter() - start:.0f} s\n")
    sys.stdout.flush()
    return f"{name} failed with exit code {code}; its figures are recorded all the same" if code else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 if every script passed and the table is written, 1 otherwise."""
    parser = parser_of(__doc__)
    parser.add_argument("--only", action="append", choices=SCRIPTS, help="run this script only")
    parser.add_argument("--no-table", action="store_true", help="leave docs/performance.md and README.md as they are")
    given = parser.parse_args(arguments)
    more = ["--results", str(given.results.resolve()), *(["--quick"] if given.quick else [])]
    faults = [run(name, more) for name in given.only or SCRIPTS]
    for fault in filter(None, faults):
        sys.stderr.write(f"{fault}\n")
    code = int(any(faults))
    if not given.no_table:
        from benchmarks import table

        code |= table.main(["--results", str(given.results)]) > 0
    return code


if __name__ == "__main__":
    sys.exit(main())
