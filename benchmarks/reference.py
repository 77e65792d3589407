"""Edits per second of the reference engine on the demo: one worker, and one per core, in turn in one run.

python benchmarks/reference.py        # about a minute; appends one line to benchmarks/results.jsonl
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from screen.control import ControlCache
from screen.prepare import Prepared, prepare
from screen.runner import ReferenceEngine, available_cores
from screen.session import load_config

ROOT = Path(__file__).parent.parent
N_ITEMS, N_ROUNDS = 400, 7


def edits_per_s(screen: Prepared, items: list[int], n_workers: int) -> float:
    """Items of the plan computed per second, their cells' controls included."""
    engine = ReferenceEngine(screen, n_workers)
    controls = ControlCache(engine.control)
    start = time.perf_counter()
    with ThreadPoolExecutor(n_workers) as pool:
        done = list(pool.map(partial(engine.item, controls=controls), items))
    elapsed_s = time.perf_counter() - start
    deltas = [e.delta_G for i in done for e in i.effects if e is not None and e.delta_G is not None]
    assert deltas
    assert all(np.isfinite(d).all() for d in deltas)
    return len(items) / elapsed_s


def main() -> None:
    """Measures, prints and appends."""
    torch.set_num_threads(1)
    screen = prepare(load_config(ROOT / "configs" / "demo.yaml")[0])
    items = np.random.default_rng(0).choice(screen.plan.n_items, N_ITEMS, replace=False).tolist()
    n_cores = available_cores()
    edits_per_s(screen, items[:50], n_cores)
    rates: dict[int, list[float]] = {1: [], n_cores: []}
    for _ in range(N_ROUNDS):
        for n_workers, measured in rates.items():
            measured.append(edits_per_s(screen, items, n_workers))
    value, baseline = statistics.median(rates[n_cores]), statistics.median(rates[1])
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    line = {
        "name": "reference_demo_all_cores_vs_one",
        "value": round(value, 1),
        "unit": "edits/s",
        "baseline": round(baseline, 1),
        "ratio": round(value / baseline, 2),
        "p20_p80": [round(float(q), 1) for q in np.quantile(rates[n_cores], [0.2, 0.8])],
        "n_cores": n_cores,
        "commit": commit.stdout.strip(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("torch", "numpy", "perturbscreen")},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    text = json.dumps(line)
    with (ROOT / "benchmarks" / "results.jsonl").open("a") as results:
        results.write(text + "\n")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
