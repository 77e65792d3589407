"""Bench: edits per second of a synthetic screen on this machine, and what share of its ceiling that is.

Runs the packed engine over units without a store. Needs torch, numpy, pydantic and rich, so that it runs on a bare node.
"""

import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from screen import edits
from screen.bench.bare import control_call, item_call, taken_over
from screen.bench.synthetic import synthetic_screen
from screen.cells.bank import SOURCE
from screen.config.sections import ComputeConfig
from screen.edits import Site
from screen.engine.batch import BatchComputer, float32_products
from screen.engine.choose import choose_executor
from screen.engine.executor import Executor
from screen.engine.lanes import Lanes, default_lanes
from screen.engine.packed import PackedEngine
from screen.engine.screen import Screen
from screen.errors import ConfigError
from screen.machine import available_cores
from screen.models.adapter import Cost, ModelAdapter
from screen.models.cost import counted
from screen.models.ops import Precision, product_ops
from screen.models.synthetic import MEDIAN_LENGTH, SyntheticSizes, lengths_like_blood
from screen.running.unit_sizes import ITEMS_PER_CELL
from screen.running.workload import batches_by_block, total_flops

PUBLISHED = SyntheticSizes()
SMALL = replace(PUBLISHED, width=96, n_heads=4, encoder_head_width=24, head_width=16, n_blocks=2, n_genes=1000)
SIZES = {"published": PUBLISHED, "small": SMALL}
MOST_ROUNDS, BATCHES_PER_ROUND = 5, 12
"""Batches of each lane that a round on a CPU should have: fewer, and what idles at its end would count too much."""
MIN_CELLS, MOST_CELLS = 4, 20_000
CEILING_ROUNDS, CEILING_S = 5, 0.05
SCREEN_GENES, SCREEN_CELLS, DETECTION = 6_000, 20_000, 0.19
"""The genome-wide screen that is projected: a knock-out has an item where its gene is detected."""


@dataclass(frozen=True)
class Wanted:
    """What to measure. None: chosen from `seconds` after a short calibration.

    n_genes      how many genes are perturbed, each in every mode
    edited_tps   time points that target edits change, empty for all
    seconds      about how long to measure, engine and bare model together
    """

    sizes: SyntheticSizes = PUBLISHED
    device: str = "auto"
    precision: Precision = "float32"
    modes: tuple[str, ...] = ("mask",)
    site: Site = "src"
    edited_tps: tuple[int, ...] = ()
    n_cells: int | None = None
    n_genes: int | None = None
    batch_tokens: int | None = None
    seconds: float = 30.0

    def __post_init__(self) -> None:
        wrong = [t for t in self.edited_tps if self.site == "src" or not 1 <= t <= self.sizes.n_times]
        if wrong:
            raise ConfigError(f"time points {wrong} cannot be edited; with site tgt: 1 to {self.sizes.n_times}")

    @property
    def pert_tps(self) -> tuple[int, ...]:
        """Time points that the edits change; none for edits of the source."""
        return (self.edited_tps or tuple(range(1, self.sizes.n_times + 1))) if self.site == "tgt" else ()

    @property
    def share_screened(self) -> float:
        """Items per (gene, cell), summed over modes: some need the gene, for some every cell will do."""
        mean = row_lengths(self.sizes, 4096, np.random.default_rng(0)).mean()
        found = 1 - (1 - mean / self.sizes.n_genes) ** max(len(self.pert_tps), 1)
        return float(sum(found if edits.parse(m).mode.needs_gene else 1.0 for m in self.modes))


@dataclass(frozen=True)
class Projection:
    """A genome-wide screen at the measured rate, storing aside. Nothing here was run."""

    n_edits: int
    n_cells: int
    n_genes: int
    mean_gflop_per_edit: float
    gflop_per_control: float
    device_hours: float


@dataclass(frozen=True)
class Measured:
    """Figures of one run; rates are medians over rounds, controls and host work included.

    tflops               model operations per second (a multiply-add is two; fp16x2 counts once), controls included
    ceiling_by_shape     TFLOP/s of the same products alone, `in x out`; the ceiling is the best of them
    outside_model_share  of the units' time (on a CPU: processor time), what the bare model does not need
    busy_share           processor time of the units over what all lanes could have had; of use on a CPU only
    """

    executor: dict[str, Any]
    n_lanes: int
    n_edits: int
    n_cells: int
    n_perturbations: int
    n_units: int
    gflop_per_edit: float
    edits_per_s: float
    tokens_per_s: float
    padding_share: float
    tflops: float
    ceiling_tflops: float
    ceiling_by_shape: dict[str, float]
    share_of_ceiling: float
    outside_model_share: float
    busy_share: float
    peak_memory_bytes: int
    units_s: list[float]
    bare_s: list[float]
    projection: Projection
    circumstances: dict[str, Any]


def measure(wanted: Wanted, model: nn.Module | None = None) -> Measured:
    """Builds a synthetic screen, warms up and measures. Raises ConfigError for a device or a screen that is not there."""
    compute = ComputeConfig(device=wanted.device, precision=wanted.precision, batch_tokens=wanted.batch_tokens)
    first = synthetic(wanted, MIN_CELLS, 1, model)
    executor, model = choose_executor(compute, first), first.adapter.model
    edits_per_s, batch_s = _calibrated(wanted, executor, model)
    is_cpu, shortest = executor.device.type == "cpu", 2 * BATCHES_PER_ROUND * batch_s
    n_rounds = max(1, min(MOST_ROUNDS, int(wanted.seconds / shortest))) if is_cpu else MOST_ROUNDS
    screen = synthetic(wanted, *_size(wanted, edits_per_s * wanted.seconds / (2 * n_rounds)), model)
    n_edits = screen.plan.n_items
    if n_edits == 0:
        raise ConfigError("none of the chosen cells expresses any of the chosen genes; use more cells or more genes")
    n_rounds = max(1, min(n_rounds, round(wanted.seconds * edits_per_s / (2 * n_edits))))
    if not is_cpu:
        torch.cuda.reset_peak_memory_stats(executor.device)
    rounds = [(run_units(screen, executor), run_bare(screen, executor)) for _ in range(n_rounds)]
    units, n_lanes = [u for u, _ in rounds], n_lanes_of(executor)
    peak, by_shape = peak_bytes(executor.device), ceiling(executor, screen.adapter)
    seconds, cpu_s = (statistics.median(getattr(r, n) for r in units) for n in ("wall_s", "cpu_s"))
    inside = statistics.median(b.cpu_s / u.cpu_s if is_cpu else b.wall_s / u.wall_s for u, b in rounds)
    flops = total_flops(screen, executor.batch_tokens)
    tflops, best, n_tokens = flops / seconds / 1e12, max(by_shape.values()), units[0].n_tokens
    return Measured(
        executor.record(), n_lanes, n_edits, screen.bank.n_cells, len(screen.library), screen.plan.n_units,
        flops / n_edits / 1e9, n_edits / seconds, n_tokens / seconds, units[0].n_padded / n_tokens, tflops, best, by_shape,
        tflops / best, 1 - inside, cpu_s / seconds / n_lanes, peak, [u.wall_s for u in units],
        [b.wall_s for _, b in rounds], project(wanted, screen.adapter.cost, tflops * 1e12), circumstances(),
    )  # fmt: skip


def synthetic(wanted: Wanted, n_cells: int, n_genes: int, model: nn.Module | None) -> Screen:
    """A screen of so many cells and of genes spread over all of them by popularity."""
    most = wanted.sizes.n_genes
    genes = np.linspace(0, most - 1, min(n_genes, most)).round().astype(int).tolist()
    library: dict[str, Any] = {"modes": wanted.modes, "sites": (wanted.site,), "pert_tps": wanted.pert_tps}
    return synthetic_screen(wanted.sizes, n_cells, **library, genes=genes, model=model)


def _size(wanted: Wanted, n_edits: float) -> tuple[int, int]:
    """(cells, genes) of a screen of about so many edits: as many of each cell as a unit holds, if there are enough."""
    share, most = wanted.share_screened, wanted.n_genes or wanted.sizes.n_genes
    per_cell = min(ITEMS_PER_CELL, share * most)
    n_cells = wanted.n_cells or min(max(round(n_edits / per_cell), MIN_CELLS), MOST_CELLS)
    return n_cells, wanted.n_genes or min(max(round(n_edits / (n_cells * share)), 1), most)


@dataclass(frozen=True)
class Run:
    """Time of one run over all batches, on the clock and of the processor; tokens of items, and of these padding."""

    wall_s: float
    cpu_s: float
    n_tokens: int = 0
    n_padded: int = 0


def run_units(screen: Screen, executor: Executor) -> Run:
    """All units once by a new engine, which remembers no control; making it is not counted."""
    engine, counted = PackedEngine(screen, executor), [(0, 0)]
    _forget(executor.device)
    start = _now()
    for _ in engine.units(range(screen.plan.n_units), lambda n, tokens, padded: counted.append((tokens, padded))):
        pass
    wall_s, cpu_s = (_now() - start).tolist()
    if engine.executor != executor:
        raise MemoryError(f"batches of {executor.batch_tokens:,} tokens do not fit; use a smaller --batch-tokens")
    return Run(wall_s, cpu_s, *np.sum(counted, axis=0).tolist())


def _now() -> NDArray[np.float64]:
    """Seconds on the clock and of the processor."""
    return np.array([time.perf_counter(), time.process_time()])


def _forget(device: torch.device) -> None:
    """Gives back what the allocator keeps for streams that are gone: new lanes have new ones."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


def _calibrated(wanted: Wanted, executor: Executor, model: nn.Module | None) -> tuple[float, float]:
    """(edits/s, seconds of one full batch in its lane), from about one batch per lane, warmed up."""
    n_tokens = n_lanes_of(executor) * executor.batch_tokens
    some = replace(wanted, n_cells=n_lanes_of(executor), n_genes=None)
    screen = synthetic(some, *_size(some, max(n_tokens / min(MEDIAN_LENGTH, wanted.sizes.n_genes), 20)), model)
    run_units(screen, executor)
    done = run_units(screen, executor)
    return screen.plan.n_items / done.wall_s, n_tokens * (1 + wanted.sizes.n_times) * done.wall_s / done.n_tokens


def n_lanes_of(executor: Executor) -> int:
    """How many lanes the engine opens."""
    return executor.n_lanes or default_lanes(executor.device)


def run_bare(screen: Screen, executor: Executor) -> Run:
    """The model alone on all batches, in the same lanes; rows are made before, outputs are dropped."""
    computer, total = BatchComputer(screen, executor), 0.0 * _now()
    _forget(executor.device)
    with float32_products(executor), Lanes(executor.device, executor.n_lanes) as lanes:
        for controls, items in batches_by_block(screen, executor.batch_tokens, range(screen.plan.n_units)):
            calls: list[Callable[[], Any]] = [lanes.submit(control_call, computer, b).result() for b in controls]
            seconds, found = _timed(lanes, calls)
            taken = taken_over(controls, found)
            calls = [lanes.submit(item_call, computer, b, taken).result() for b in items]
            total += seconds + _timed(lanes, calls)[0]
    return Run(float(total[0]), float(total[1]))


def _timed(lanes: Lanes, calls: Sequence[Callable[[], Any]]) -> tuple[NDArray[np.float64], list[Any]]:
    """(seconds on the clock and of the processor until all calls are done, what they gave)."""
    start = _now()
    results = [w.result() for w in [lanes.submit(call) for call in calls]]
    return _now() - start, results


def shapes_of(adapter: ModelAdapter, is_fused: bool) -> list[tuple[int, int]]:
    """(in, out) of the model's products; fused: queries, keys and values of one input are one product."""
    found = counted(adapter, 1, dict.fromkeys(adapter.reads_out, 1))
    return sorted(found.shapes | (found.fused_shapes if is_fused else set()))


def ceiling(executor: Executor, adapter: ModelAdapter) -> dict[str, float]:
    """`in x out` -> TFLOP/s of the executor's own products of `batch_tokens` rows, every lane busy, medians."""
    device, ops, found = executor.device, product_ops(executor.arithmetic, executor.device), {}
    _forget(device)
    with float32_products(executor), Lanes(device, executor.n_lanes) as lanes:
        for n_in, n_out in shapes_of(adapter, is_fused=device.type == "cuda"):
            linear = nn.Linear(n_in, n_out, bias=False, device=device).requires_grad_(False)
            product = partial(ops.product, linear=linear)
            x_TD = [torch.randn(executor.batch_tokens, n_in, device=device) for _ in range(lanes.n_lanes)]
            _forget(device)

            _repeated(lanes, product, x_TD, 1)
            n_times = max(1, round(CEILING_S / _repeated(lanes, product, x_TD, 1)))
            seconds = statistics.median(_repeated(lanes, product, x_TD, n_times) for _ in range(CEILING_ROUNDS))
            flops = 2.0 * executor.batch_tokens * n_in * n_out * n_times * lanes.n_lanes
            found[f"{n_in} x {n_out}"] = flops / seconds / 1e12
    return found


def _repeated(lanes: Lanes, product: Callable[[Tensor], Tensor], x_TD: Sequence[Tensor], n_times: int) -> float:
    """Seconds until every lane has multiplied its own rows so many times."""

    def multiply(x: Tensor) -> None:
        for _ in range(n_times):
            product(x)

    return float(_timed(lanes, [partial(multiply, x) for x in x_TD])[0][0])


def project(wanted: Wanted, cost: Cost, flops_per_s: float) -> Projection:
    """A screen of SCREEN_GENES x SCREEN_CELLS in the wanted modes, row lengths as in the synthetic cells."""
    rng = np.random.default_rng(0)
    length = {s: row_lengths(wanted.sizes, SCREEN_CELLS, rng) for s in range(wanted.sizes.n_times + 1)}
    target = {t: n for t, n in length.items() if t != SOURCE}
    edited = (SOURCE,) if wanted.site == "src" else wanted.pert_tps
    flops_C = cost.items(edited, length[SOURCE], target, shares_queries=True)
    n_pairs, share = SCREEN_GENES * SCREEN_CELLS, 1 - (1 - DETECTION) ** len(edited)
    # a cell has as many items of a mode that needs the gene as its edited rows have genes
    by_mode = [
        (round(n_pairs * share), np.average(flops_C, weights=sum(length[s] for s in edited)))
        if edits.parse(m).mode.needs_gene
        else (n_pairs, flops_C.mean())
        for m in wanted.modes
    ]
    n_edits = sum(n for n, _ in by_mode)
    flops, control = sum(n * float(f) for n, f in by_mode), float(cost.control(length[SOURCE], target).mean())
    hours = (flops + SCREEN_CELLS * control) / flops_per_s / 3600
    return Projection(n_edits, SCREEN_CELLS, SCREEN_GENES, flops / n_edits / 1e9, control / 1e9, hours)


def row_lengths(sizes: SyntheticSizes, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Lengths of n rows, as `screen.bench.synthetic` draws them."""
    return np.minimum(lengths_like_blood(n, rng, sizes.max_len), sizes.n_genes)


def peak_bytes(device: torch.device) -> int:
    """Most memory allocated on a GPU since it was reset, or resident in this process's life on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def circumstances() -> dict[str, Any]:
    """Machine, versions, commit (empty without git) and date."""
    git = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run([*git, "--exclude=*"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = ""
    return {
        "machine": f"{platform.system()} {platform.machine()}, {available_cores()} cores",
        "versions": {m.__name__: m.__version__ for m in (torch, np, sys.modules.get("triton")) if m is not None},
        "commit": commit,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
