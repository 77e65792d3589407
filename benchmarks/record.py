"""Figures: one JSON line each in benchmarks/results.jsonl, with what is needed to judge and repeat them.

Needs only torch, numpy and the standard library, so that it runs on a bare GPU node.
"""

import json
import math
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results.jsonl"
# What recording itself writes: the results, and the tables made from them.
WRITTEN = ("benchmarks/results.jsonl", "docs/performance.md", "README.md")
PACKAGES = ("torch", "triton", "numpy", "perturbscreen")


def record(
    name: str, value: float, unit: str, baseline: float | None, ratio: float | None, path: Path = RESULTS, **more: Any
) -> dict[str, Any]:
    """Appends one figure and returns its line.

    `baseline` is what `value` is compared with, in the same unit, None where there is nothing to compare.
    `more` joins the line as it is, for example p20_p80=[..]. Raises ValueError for NaN and infinity.
    """
    line = {"name": name, "value": value, "unit": unit, "baseline": baseline, "ratio": ratio, **more, **circumstances()}
    if not all(math.isfinite(x) for x in (value, baseline, ratio) if x is not None):
        raise ValueError(f"{name} is {value} {unit} against {baseline}, ratio {ratio}; a figure must be finite")
    text = json.dumps(line, allow_nan=False)
    with path.open("a") as results:
        results.write(text + "\n")
    return line


def circumstances() -> dict[str, Any]:
    """Commit, machine, versions and date of a run."""
    return {
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def commit(root: Path = ROOT) -> str:
    """Short commit, with `-dirty` if the tree differs from it (results and their tables aside); empty without git."""

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", *arguments]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ".", *(f":(exclude){name}" for name in WRITTEN))
        return git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def machine() -> str:
    """Platform, cores this process may use, processor model and GPU."""
    has_affinity = hasattr(os, "sched_getaffinity")
    n_cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()
    gpu = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    parts = [f"{platform.system()} {platform.machine()}", f"{n_cores} cores", cpu_model(), *gpu]
    return ", ".join(p for p in parts if p)


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name and, since names can be vague, its family and model numbers; empty where unknown."""
    try:
        found = dict(re.findall(r"^(model name|cpu family|model)\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE))
    except OSError:
        return ""
    if "model name" not in found:
        return ""
    return f"{found['model name']} (family {found.get('cpu family', '?')}, model {found.get('model', '?')})"


def versions() -> dict[str, str]:
    """Versions of the packages that are there."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if "perturbscreen" not in found:  # not installed: read from the source tree
        found |= dict(
            re.findall(r'^__(version)__ = "(.+)"$', (ROOT / "screen" / "__init__.py").read_text(), re.MULTILINE)
        )
        found["perturbscreen"] = found.pop("version", "unknown")
    return found


def latest(path: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """name -> its last line, in order of first appearance. Raises ValueError naming a line that is no figure."""
    found: dict[str, dict[str, Any]] = {}
    for number, text in enumerate(path.read_text().splitlines(), 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            found[line["name"]] = line
        except (json.JSONDecodeError, KeyError, TypeError) as problem:
            raise ValueError(f"{path}:{number} is no figure: {problem}; correct or delete the line") from problem
    return found


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """`work` as a variant for `rounds`: the seconds it takes, the GPU waited for."""

    def seconds() -> float:
        is_cuda = torch.cuda.is_available()
        if is_cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return seconds


def rounds(variants: Mapping[str, Callable[[], float]], n: int, n_warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of every variant in n rounds, the variants in turn within each round, after warm-up rounds.

    A variant does its work once and returns the seconds that count (see `timed`).
    """
    for _ in range(n_warm_up):
        for variant in variants.values():
            variant()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(n):
        for name, variant in variants.items():
            seconds[name].append(variant())
    return seconds


def median(values: Sequence[float]) -> float:
    """The median."""
    return float(statistics.median(values))


def p20_p80(values: Sequence[float]) -> list[float]:
    """The 20th and the 80th percentile."""
    return [float(q) for q in np.quantile(values, [0.2, 0.8])]
