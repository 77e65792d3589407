"""What only a GPU can show, in one command on a bare node: kernels and engine checked, then bandwidth, speed, precision.

PYTHONPATH=.:kernels python -m benchmarks.gpu                        # a CUDA device, under 8 minutes
PYTHONPATH=.:kernels python -m benchmarks.gpu --device cpu --quick   # every code path anywhere, in seconds

Needs torch >= 2.11, triton >= 3.6, numpy, pydantic, yaml and rich. Exit code 1 if any check or part failed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from screen_kernels import add_norm, align_rows, edit_tokens, pool_shift, split_half
from screen_kernels.add_norm import add_norm_bytes
from screen_kernels.backend import BACKENDS
from screen_kernels.edit_tokens import MODES, edit_tokens_bytes
from screen_kernels.pool_shift import pool_shift_bytes
from screen_kernels.split_half import split_half_bytes

from benchmarks.record import circumstances, median
from screen.bench.measure import PUBLISHED, SMALL, Wanted, measure
from screen.bench.report import measured_as_json
from screen.bench.synthetic import synthetic_screen
from screen.cells.bank import SOURCE
from screen.config.sections import ComputeConfig
from screen.engine.choose import choose_executor
from screen.engine.executor import Executor, default_batch_tokens, find_device
from screen.engine.packed import PackedEngine
from screen.engine.reference import ReferenceEngine
from screen.engine.screen import Screen
from screen.errors import ConfigError
from screen.models.ops import Precision
from screen.models.perturbgen.random import random_model, sizes_of
from screen.models.synthetic import SyntheticSizes

CPU = torch.device("cpu")
PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "fp16x2", "bf16")
TINY = SyntheticSizes(
    width=64, n_heads=4, encoder_head_width=16, head_width=8, n_encoder_blocks=2, n_blocks=2, n_genes=300,
    n_source_tokens=903, max_len=256, n_times=2,
)  # fmt: skip
EDITS: dict[str, dict[str, Any]] = {
    "src": {"sites": ("src",)},
    "src, context mode": {"sites": ("src",), "context_mode": True},
    "tgt at both times": {"sites": ("tgt",), "pert_tps": (1, 2)},
    "tgt at one of two times": {"sites": ("tgt",), "pert_tps": (2,)},
    "tgt at one of two times, context mode": {"sites": ("tgt",), "pert_tps": (1,), "context_mode": True},
    "src and tgt": {"sites": ("src", "tgt"), "pert_tps": (1,)},
}
GROUPS = {"250-420 tokens": (250, 420), "more than 700 tokens": (701, 10**9)}
LENGTH = 352
N_TIMED, TIMED_S = 7, 0.02
Columns = dict[str, NDArray[Any]]


@dataclass
class Job:
    """What is asked, and what is found; `figures` becomes the JSON file."""

    device: torch.device
    is_quick: bool
    seconds: float
    limits: Mapping[str, float]
    figures: dict[str, Any] = field(default_factory=lambda: {"checks": [], "failures": []})

    @property
    def sizes(self) -> SyntheticSizes:
        """Of the model in parts that measure."""
        return SMALL if self.is_quick else PUBLISHED

    @property
    def batch_tokens(self) -> int:
        """Rows of the kernels that are timed, tokens of a batch."""
        return 2048 if self.is_quick else default_batch_tokens(self.device)

    def check(self, name: str, errors: Mapping[str, float]) -> None:
        """Records errors, each against its limit; a NaN is above any."""
        wrong = {kind: e for kind, e in errors.items() if not e <= self.limits[kind]}
        self.figures["checks"].append({"name": name, "passed": not wrong, "errors": dict(errors)})
        say(f"{'FAILED' if wrong else 'passed'}  {name}  " + ", ".join(f"{k} {e:.2g}" for k, e in errors.items()))
        for kind, error in wrong.items():
            self.figures["failures"].append(f"{name}: {kind} is {error:.3g}, allowed {self.limits[kind]:.3g}")

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What fails inside is recorded and does not stop the rest."""
        start = time.perf_counter()
        try:
            yield
        except Exception as error:
            say(f"FAILED  {name}\n{traceback.format_exc()}")
            self.figures["failures"].append(f"{name}: {type(error).__name__}: {error}")
            self.figures["checks"].append({"name": name, "passed": False})
        self.figures.setdefault("seconds", {})[name] = round(time.perf_counter() - start, 1)


def say(text: str) -> None:
    """One line, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def kernels(job: Job) -> None:
    """Every kernel against its definition: by Triton on a GPU, by torch on a CPU."""
    from tests.support.kernel_cases import CHECKS, TRITON_CHECKS

    backend = "triton" if job.device.type == "cuda" else "torch"
    for check in (*CHECKS, *(TRITON_CHECKS if backend == "triton" else ())):
        name = f"{check.__name__.removeprefix('check_')} by {backend}"
        with job.part(name):
            check(str(job.device), backend)
            job.check(name, {})


def twin(sizes: SyntheticSizes, n_cells: int, genes: Sequence[int], **edits: Any) -> Screen:
    """A screen with a model of its own, always the same one, whose deltas are kept in float32."""
    screen = synthetic_screen(sizes, n_cells, genes=genes, model=random_model(sizes_of(sizes)), **edits)
    return replace(screen, layout=replace(screen.layout, dtype="float32"))


def results(engine: PackedEngine | ReferenceEngine) -> Columns:
    """All columns of all units; those of controls by cell."""
    columns: dict[str, list[NDArray[Any]]] = {}
    controls: dict[str, dict[int, Any]] = {}
    for unit in engine.units(range(engine.screen.plan.n_units), lambda *_: None):
        for name, x in unit.columns.items():
            columns.setdefault(name, []).append(x)
        for cells, of_cells in unit.controls:
            for name, x in of_cells.items():
                controls.setdefault(f"control/{name}", {}).update(zip(cells.tolist(), x, strict=True))
    found = {name: np.concatenate(parts) for name, parts in columns.items()}
    return found | {name: np.stack([x[c] for c in sorted(x)]) for name, x in controls.items()}


def errors_of(ours: Columns, expected: Columns) -> dict[str, float]:
    """Worst errors by kind: integers by how many differ, readouts of their column's scale, deltas absolute.

    `delta relative` is rms error over rms delta, which a wrong engine fails where deltas are tiny.
    """
    found = {"columns missing": float(len(set(ours) ^ set(expected)))}
    for name in set(ours) & set(expected):
        a, b = ours[name], expected[name]
        if b.dtype.kind in "ib":
            errors = {"integers that differ": float((a != b).sum())}
        elif not np.array_equal(np.isfinite(a), np.isfinite(b)):
            errors = {"readout": float("inf")}
        elif name.startswith(("delta/", "items/rms_delta")):
            errors = {"delta rms": rms(a - b), "delta worst": float(np.abs(a - b).max())}
            errors["delta relative"] = errors["delta rms"] / max(rms(b), 1e-30)
        else:
            errors = {"readout": float(np.nan_to_num(np.abs(a - b)).max() / max(np.nanmax(np.abs(b)), 1e-30))}
        found |= {kind: max(found.get(kind, 0.0), error) for kind, error in errors.items()}
    return found


def rms(x: NDArray[Any]) -> float:
    """Root mean square of all numbers."""
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def engines(job: Job) -> None:
    """PackedEngine on the device against ReferenceEngine on the CPU: all modes, sites, context mode, several units."""
    from tests.support.modes import EVERY

    genes = range(0, TINY.n_genes, 100 if job.is_quick else 40)
    for name, edits in EDITS.items():
        with job.part(f"engine = reference, {name}"):
            # each has a model of its own, wherever the other one is moved
            ours, definition = (everything_of(twin(TINY, 5, genes, modes=EVERY, **edits)) for _ in range(2))
            found = results(PackedEngine(ours, Executor(job.device, batch_tokens=2000)))
            expected = results(ReferenceEngine(definition, Executor(CPU)))
            job.check(f"engine = reference, {name}", errors_of(found, expected))


def everything_of(screen: Screen) -> Screen:
    """Keeps embeddings and gene cosines too, and cuts the plan into several units."""
    layout = replace(screen.layout, keep_embeddings=True, keep_gene_cosine=True)
    return replace(screen, layout=layout, plan=replace(screen.plan, unit_rows=max(screen.plan.n_items // 3, 1)))


def seconds_of(device: torch.device, work: Callable[[], object]) -> float:
    """Median over N_TIMED rounds of the seconds of one call, after warm-up; by CUDA events on a GPU."""

    def round_s(n: int) -> float:
        if device.type == "cpu":
            start_s = time.perf_counter()
            for _ in range(n):
                work()
            return (time.perf_counter() - start_s) / n
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(n):
            work()
        stop.record()
        stop.synchronize()
        return float(start.elapsed_time(stop)) / 1e3 / n

    round_s(3)
    n = max(1, min(1000, round(TIMED_S / max(round_s(1), 1e-7))))
    return median([round_s(n) for _ in range(N_TIMED)])


Kernel = tuple[int, Callable[..., object]]
"""Bytes declared, and the call, which takes a backend."""


def row_kernels(device: torch.device, n_rows: int, width: int) -> dict[str, Kernel]:
    """Kernels that read activations, at the size of a batch."""
    x_TD, update_TD = torch.randn(2, n_rows, width, device=device)
    one_D, zero_D = torch.ones(width, device=device), torch.zeros(width, device=device)
    n_items = max(n_rows // LENGTH, 1)
    hidden_BLD = torch.randn(n_items, LENGTH, width, device=device)
    counted_BL = torch.ones(n_items, LENGTH, dtype=torch.bool, device=device)
    counted_BL[:, ::50] = False
    item_B, n_counted = torch.zeros(n_items, dtype=torch.int64, device=device), int(counted_BL.sum())
    normed, half = partial(add_norm, x_TD, update_TD, one_D, zero_D), split_half_bytes(n_rows, width)
    return {
        "add_norm": (add_norm_bytes(n_rows, width), normed),
        "split_half": (half, partial(split_half, x_TD)),
        "split_half, gelu": (half, partial(split_half, x_TD, "gelu")),
        "pool_shift": (
            pool_shift_bytes(n_counted, n_items, LENGTH, width, 4),
            partial(pool_shift, hidden_BLD, counted_BL, one_D[None], item_B),
        ),
    }


def edit_kernels(device: torch.device, sizes: Sequence[int]) -> dict[str, Kernel]:
    """Edits of one gene in rows of LENGTH tokens, for so many items."""
    rng = np.random.default_rng(0)
    found: dict[str, Kernel] = {}
    token_CL = np.stack([rng.permutation(2000)[:LENGTH] + 4 for _ in range(64)]).astype(np.int32)
    rows = align_rows(token_CL.ravel(), np.arange(65) * LENGTH, device)
    for n in sizes:
        cell_B = torch.arange(n, device=device) % 64
        gene_BK = torch.from_numpy(token_CL[np.arange(n) % 64, rng.integers(0, LENGTH, n)][:, None]).to(device)
        for mode in ("mask", "overexpress"):
            mode_B = torch.full((n,), MODES.index(mode), dtype=torch.int8, device=device)
            edit = partial(edit_tokens, rows, cell_B, gene_BK, mode_B, site="src", width=2 * LENGTH, out_width=LENGTH)
            found[f"edit_tokens, {mode}, {n:,} items"] = edit_tokens_bytes(n * LENGTH, n, LENGTH, 1), edit
    return found


def bandwidth(job: Job) -> None:
    """Bytes per second of every kernel by each backend, and their share of a copy on the same device."""
    n = 2**20 if job.is_quick else 2**28
    x, y = torch.randn(2, n, device=job.device)
    copy = 2 * x.nbytes / seconds_of(job.device, lambda: y.copy_(x)) / 1e9
    job.figures["copy GB/s"] = copy
    say(f"\ndevice copy {copy:,.0f} GB/s")
    found = job.figures.setdefault("kernels", {})
    backends = BACKENDS if job.device.type == "cuda" else ("torch",)
    n_items = max(job.batch_tokens // LENGTH, 1)
    # those of a batch, and so many that launching the kernel does not count
    edits = edit_kernels(job.device, (n_items,) if job.is_quick else (n_items, 64 * n_items))
    for name, (n_bytes, call) in {**row_kernels(job.device, job.batch_tokens, job.sizes.width), **edits}.items():
        for backend in backends:
            with job.part(f"bandwidth of {name} by {backend}"), torch.inference_mode():
                taken = seconds_of(job.device, partial(call, backend=backend))
                speed = n_bytes / taken / 1e9
                figures = {"microseconds": taken * 1e6, "GB/s": speed, "share of copy": speed / copy}
                found.setdefault(name, {"bytes": n_bytes})[backend] = figures
                say(
                    f"{name:<38} {backend:<7} {taken * 1e6:>10,.1f} us {speed:>8,.0f} GB/s {speed / copy:>6.0%} of copy"
                )


def precisions(job: Job) -> None:
    """Speed and error of every precision at the model's real sizes, float32 first: the others are compared with it."""
    n_genes, n_cells = job.sizes.n_genes, 24 if job.is_quick else 96
    screen = twin(job.sizes, n_cells, range(0, n_genes, n_genes // 10))
    length_I = screen.bank.states[SOURCE].tokens.length_C[screen.plan.cell_I]
    expected: NDArray[np.float32] | None = None
    for precision in PRECISIONS:
        with job.part(f"precision {precision}"):
            wanted = Wanted(job.sizes, str(job.device), precision, batch_tokens=job.batch_tokens, seconds=job.seconds)
            found = measured_as_json(measure(wanted))
            job.figures.setdefault("precisions", {})[precision] = found
            compute = ComputeConfig(device=str(job.device), precision=precision, batch_tokens=job.batch_tokens)
            ours = results(PackedEngine(screen, choose_executor(compute, screen)))["delta/t1"]
            expected = ours if precision == "float32" else expected
            if expected is None:
                raise RuntimeError("float32 failed: there is nothing to compare with")
            found["delta error"] = delta_errors(ours, expected, length_I)


def delta_errors(ours: NDArray[Any], expected: NDArray[Any], length_I: NDArray[Any]) -> dict[str, Any]:
    """Median over items of rms error over rms delta, for all of them and by the length of the edited row."""
    error_I, size_I = (np.sqrt(np.square(x, dtype=np.float64).mean(1)) for x in (ours - expected, expected))
    error_I /= np.where(size_I > 0, size_I, np.nan)
    chosen = {"all": size_I > 0}
    chosen |= {name: (length_I >= a) & (length_I <= b) & (size_I > 0) for name, (a, b) in GROUPS.items()}
    found = {name: error_I[is_in] for name, is_in in chosen.items()}
    return {name: {"n": len(x), "median": float(np.median(x)) if len(x) else None} for name, x in found.items()}


def real_items(job: Job) -> None:
    """A few items at real sizes against the CPU: float32 against the definition, fp16x2 against its emulation."""
    genes = range(0, job.sizes.n_genes, job.sizes.n_genes // 4)
    for precision in ("float32", "fp16x2"):
        name = f"a few items at real sizes, {precision} = the CPU's"
        with job.part(name):
            ours, theirs = (twin(job.sizes, 3, genes) for _ in range(2))
            on_cpu: PackedEngine | ReferenceEngine = ReferenceEngine(theirs, Executor(CPU))
            if precision != "float32":
                on_cpu = PackedEngine(theirs, Executor(CPU, precision))
            there = PackedEngine(ours, Executor(job.device, precision, batch_tokens=job.batch_tokens))
            job.check(name, errors_of(results(there), results(on_cpu)))


def table(job: Job) -> None:
    """The precisions side by side."""
    head = f"\n{'precision':<10}{'edits/s':>12}{'TFLOP/s':>10}{'ceiling':>10}{'share':>8}{'outside':>9}{'peak GB':>9}"
    say(head + "".join(f"{'error, ' + g:>30}" for g in GROUPS) + f"{'genome-wide, hours':>20}")
    for precision, m in job.figures.get("precisions", {}).items():
        line = f"{precision:<10}{m['edits_per_s']:>12,.1f}{m['tflops']:>10.3g}{m['ceiling_tflops']:>10.3g}"
        line += f"{m['share_of_ceiling']:>8.0%}{m['outside_model_share']:>9.1%}{m['peak_memory_bytes'] / 1e9:>9.2f}"
        for error in (m.get("delta error", {}).get(g, {"n": 0}) for g in GROUPS):
            line += f"{'{median:.2e} ({n} edits)'.format(**error) if error['n'] else 'no edit':>30}"
        say(f"{line}{m['projection']['device_hours']:>20,.2f}")
    edits = "{n_edits:,} edits, {mean_gflop_per_edit:.1f} GFLOP each on average, rows as in the synthetic cells"
    for m in list(job.figures.get("precisions", {}).values())[:1]:
        say(f"genome-wide is projected, not run: {edits.format(**m['projection'])}; storing not included")


PARTS = (kernels, engines, bandwidth, real_items, precisions)


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
    parser.add_argument("--seconds", type=float, help="to measure each precision, about (default: 20; quick: 0.5)")
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
    job = Job(device, asked.quick, asked.seconds or (0.5 if asked.quick else 20.0), limits)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    job.figures |= {"device": name, "driver": driver(), "quick": asked.quick, **circumstances()}
    say(", ".join(f"{key} {job.figures[key]}" for key in ("device", "driver", "versions", "commit")) + "\n")
    start = time.perf_counter()
    for part in PARTS if asked.only is None else [p for p in PARTS if p.__name__ in asked.only]:
        with job.part(part.__name__):
            part(job)
        job.figures["total seconds"] = round(time.perf_counter() - start, 1)
        asked.out.write_text(json.dumps(job.figures, indent=2) + "\n")
    table(job)
    for failure in job.figures["failures"]:
        say(f"FAILED: {failure}")
    passed = [check["passed"] for check in job.figures["checks"]]
    say(f"\n{sum(passed)} of {len(passed)} checks passed; {asked.out}")
    return 1 if job.figures["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
