"""The same bytes without workers, with 1, with 3, and after kill -9 and resume; and what workers cost on one machine.

python -m benchmarks.engine.scale_out            # a minute or two; appends to benchmarks/results.jsonl
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
import zarr

from benchmarks.record import ROOT, record
from benchmarks.run_all import exit_code, options
from screen.store.store import ScreenStore

UNIT_ROWS = 64
# many units of a small screen: what a unit is, is decided by the process that plans
START = f"import sys, screen.running.unit_sizes as s; s.MAX_ROWS = {UNIT_ROWS}; from screen.cli.main import main; sys.exit(main())"


def configuration(folder: Path, n_genes: int) -> Path:
    """Some genes of the demo, one lane per process, torch's own products: records that are equal."""
    raw = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text().replace("../screen", str(ROOT / "screen")))
    genes = (ROOT / "screen/demo/data/genes.tsv").read_text().splitlines()[1 : n_genes + 1]
    raw["null"] = {"n": 0}
    # which are no arrays
    del raw["enrich"]
    raw["library"] = {"genes": [line.split("\t")[0] for line in genes], "modes": ["overexpress"]}
    raw["compute"] = {"cpu_products": "torch", "lanes": 1}
    path = folder / "screen.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def started(config: Path, out: Path, *more: str) -> "subprocess.Popen[bytes]":
    """The command line in a process of its own."""
    command = [sys.executable, "-c", START, "run", str(config), "--out", str(out), *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def finished_s(config: Path, out: Path, *more: str) -> float:
    """Seconds of a whole run."""
    start = time.perf_counter()
    code = started(config, out, *more).wait()
    assert code == 0, f"run {' '.join(more)} ended with exit code {code}"
    return time.perf_counter() - start


def killed_and_resumed(config: Path, out: Path) -> int:
    """A run of three workers, killed without warning as soon as two units are there, then finished; units kept."""
    running = started(config, out, "--workers", "3")
    commits = out / "screen.zarr/library/0/commits"
    while running.poll() is None and not (commits.is_dir() and len(list(commits.glob("c.*"))) >= 2):
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    n_kept = ScreenStore.open(out / "screen.zarr").n_committed
    finished_s(config, out)
    return n_kept


def arrays(out: Path) -> dict[str, Any]:
    """Name -> values of every array; of markers the checksums."""
    root = zarr.open_group(out / "screen.zarr", mode="r")
    found = {name: a[...] for name, a in root.members(max_depth=None) if isinstance(a, zarr.Array)}
    for name, values in found.items():
        if name.endswith("commits"):
            found[name] = np.array([json.dumps(json.loads(str(x))["files"]) if x else "" for x in values])
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 1 if any array differs."""
    given = options(__doc__, arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = configuration(folder, 24 if given.quick else 60)
        elapsed = {"none": finished_s(config, folder / "none")}
        for n in (1, 3):
            elapsed[str(n)] = finished_s(config, folder / str(n), "--workers", str(n))
        n_kept = killed_and_resumed(config, folder / "killed")
        reference = arrays(folder / "none")
        others = {how: arrays(folder / how) for how in ("1", "3", "killed")}
        same = [all(np.array_equal(x[a], reference[a]) for x in others.values()) for a in reference]
        n_units = ScreenStore.open(folder / "none/screen.zarr").n_units
    line = record(
        "workers_same_arrays", sum(same), "arrays", len(same), round(sum(same) / len(same), 4), given.results,
        n_units=n_units, n_units_kept_by_the_killed=n_kept, elapsed_s={k: round(s, 1) for k, s in elapsed.items()},
    )  # fmt: skip
    sys.stdout.write(json.dumps(line) + "\n")
    return exit_code([] if all(same) else ["some arrays depend on who computed them"], False)


if __name__ == "__main__":
    sys.exit(main())
