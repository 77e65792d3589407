"""What only a GPU can show, in one command on a bare node: kernels and engines checked, then speed and precision.

PYTHONPATH=.:kernels python -m benchmarks.gpu                        # a CUDA device; four to five minutes of an H100, by counting
PYTHONPATH=.:kernels python -m benchmarks.gpu --device cpu --quick   # every code path anywhere, in seconds

Needs torch >= 2.11, triton >= 3.6, numpy, pydantic, yaml and rich; the part `demo` needs perturbscreen installed, and is
skipped where it is not. Exit code 1 if any check or part failed; targets that are not reached do not count.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu.bandwidth import bandwidth
from benchmarks.gpu.changes import changes
from benchmarks.gpu.checks import engines, kernels, real_items
from benchmarks.gpu.demo import demo
from benchmarks.gpu.job import Job, say
from benchmarks.gpu.precisions import precisions, table
from benchmarks.gpu.projection import projection
from benchmarks.gpu.targets import compared, targets
from benchmarks.gpu.upstream import upstream
from benchmarks.record import circumstances
from screen.engine.executor import find_device
from screen.engine.precision import LIMITS
from screen.errors import ConfigError

PARTS = (kernels, engines, changes, upstream, demo, bandwidth, real_items, precisions, projection)


def driver() -> str:
    """Version of the GPU's driver; empty where there is none."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0].strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu (default: cuda)")
    parser.add_argument("--only", nargs="+", choices=[p.__name__ for p in PARTS], help="some parts (default: all)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    parser.add_argument("--seconds", type=float, help="to measure each precision, about (default: 2.5; quick: 0.5)")
    out = Path(os.environ.get("OUT", "."), "gpu.json")
    parser.add_argument("--out", type=Path, default=out, help="JSON file (default: $OUT/gpu.json, or here)")
    parser.add_argument("--readout", type=float, default=1e-5, help="largest error of a readout, of its scale")
    parser.add_argument("--delta-rms", type=float, default=3e-6, help="largest rms error of deltas, absolute")
    parser.add_argument("--delta-worst", type=float, default=1e-5, help="largest error of a delta, absolute")
    parser.add_argument("--delta-relative", type=float, default=0.05, help="largest rms error of deltas over their rms")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs every part, prints, writes the JSON file after each; 1 if anything failed, 2 without the device."""
    asked = parse(arguments)
    try:
        device = find_device(asked.device)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    limits = {"readout": asked.readout, "delta rms": asked.delta_rms, "delta worst": asked.delta_worst}
    limits |= {"delta relative": asked.delta_relative, "integers that differ": 0, "columns missing": 0}
    limits |= {"change, median": LIMITS["median_error"], "change, 90 %": LIMITS["p90_error"]}
    job = Job(device, asked.quick, asked.seconds or (0.5 if asked.quick else 2.5), limits)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    job.figures |= {"device": name, "driver": driver(), "quick": asked.quick, **circumstances()}
    say(", ".join(f"{key} {job.figures[key]}" for key in ("device", "driver", "versions", "commit")) + "\n")
    run_parts(job, asked)
    table(job)
    compared(job)
    seconds_of_parts(job)
    targets(job)
    write(job, asked.out)
    for failure in job.figures["failures"]:
        say(f"FAILED: {failure}")
    passed = [check["passed"] for check in job.figures["checks"]]
    say(f"\n{sum(passed)} of {len(passed)} checks passed; {asked.out}")
    return 1 if job.figures["failures"] else 0


def run_parts(job: Job, asked: argparse.Namespace) -> None:
    """Every part that is asked for, in order, and what became of each; the file is written after each."""
    start, failures = time.perf_counter(), job.figures["failures"]
    for part in PARTS if asked.only is None else [p for p in PARTS if p.__name__ in asked.only]:
        name, n_before = part.__name__, len(failures)
        with job.part(name):
            part(job)
        skipped = job.figures.get("skipped", {}).get(name)
        became = "failed" if len(failures) > n_before else "done" if skipped is None else f"skipped: {skipped}"
        job.figures.setdefault("parts", {})[name] = became
        job.figures["total seconds"] = round(time.perf_counter() - start, 1)
        write(job, asked.out)
    if asked.only is None and set(job.figures["parts"].values()) == {"done"}:
        job.figures["seconds of all parts"] = job.figures["total seconds"]


def seconds_of_parts(job: Job) -> None:
    """What each part cost, and what became of it: skipped is neither done nor failed."""
    say(f"\n{'part':<12}{'seconds':>8}")
    for name, became in job.figures["parts"].items():
        say(f"{name:<12}{job.figures['seconds'][name]:>8.1f}  {became}")
    say(f"{'all':<12}{job.figures['total seconds']:>8.1f}")


def write(job: Job, path: Path) -> None:
    """The figures so far."""
    path.write_text(json.dumps(job.figures, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
