"""What a batch asks of a device: launches, kernels among them, waits of the host, bytes; and the host's time for each launch.

python -m benchmarks.engine.launches                   # two minutes on a CPU; the demo's model and cells
python -m benchmarks.engine.launches --device cuda     # the same, and how long kernels were busy

Counted where operations are dispatched: an operation that computes is one launch, a call of one of our kernels one more,
a view none. The host waits where it reads a number back; the copy of the results, one per batch, is not counted.
Time per launch is that of a batch of one edit of the shortest cell: what Python and torch take, and what so little computes. On a CPU
kernels of changes give zeros meanwhile, so that nothing is in it of their definitions, or of what a kernel's own launch takes.
Batches of changes are of whole cells, others of one shape: cells differ between precisions.
"""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from screen_kernels.delta import Frame, Scaled
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.record import median, record
from benchmarks.run_all import exit_code, parser_of, reported
from screen.config.sections import LibraryConfig, NullConfig
from screen.engine.batch import BatchComputer, float32_products
from screen.engine.control import join
from screen.engine.executor import AnyPrecision, Executor, find_device
from screen.engine.precision import find_scales
from screen.engine.sample import sample
from screen.engine.screen import Screen
from screen.models.adapter import Batching
from screen.models.delta import frame, kernel_ops
from screen.models.delta.forward import DeltaForward
from screen.models.perturbgen.packed import PackedPerturbGen
from screen.planning.batches import Batch, pack_controls, pack_unit
from screen.running.configuration import load_config
from screen.running.prepare import prepare
from screen.running.workload import item_flops

DEMO = Path(__file__).parents[2] / "configs" / "demo.yaml"
PRECISIONS: tuple[AnyPrecision, ...] = ("float32", "fp16x2", "delta32", "delta16")
BATCH_TOKENS, N_CELLS, N_GENES, N_ROUNDS = 65_536, 12, 40, 5
WAITS = ("_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "equal", "masked_select", "is_nonzero")
FREE = (
    "empty",
    "empty_like",
    "new_empty",
    "empty_strided",
    "detach",
    "_unsafe_view",
    "lift_fresh",
    "resize_",
    "promote_types",
)
"""Operations that neither compute nor are views by their signature."""


@dataclass
class Count:
    """What was asked: calls of our kernels, of operations by name, of those that wait, and bytes that they made."""

    kernels: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    n_bytes: int = 0

    @property
    def launches(self) -> int:
        """Of kernels and of operations."""
        return self.kernels.total() + self.operations.total()


class Counting(TorchDispatchMode):
    """Counts while it is entered; what happens within a call of one of our kernels is that kernel's."""

    def __init__(self) -> None:
        super().__init__()
        self.found = Count()
        self._call: FrameType | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result, call = func(*args, **(kwargs or {})), _kernel_call()
        if call is not None:
            if call is not self._call:
                self.found.kernels[call.f_code.co_name] += 1
                self.found.n_bytes += _n_bytes(args)
            self._call = call
            return result
        name = func.overloadpacket.__name__
        if name in WAITS or (name in ("index", "index_put", "index_put_") and _has_mask(args)):
            self.found.waits[name] += 1
        elif name not in FREE and not _is_view(func):
            self.found.operations[name] += 1
            self.found.n_bytes += _n_bytes(args) + _n_bytes((result,))
        return result


def _kernel_call() -> FrameType | None:
    """The outermost call that runs in the package of kernels."""
    frame, found = sys._getframe(1), None
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("screen_kernels"):
            found = frame
        frame = frame.f_back  # type: ignore[assignment]
    return found


def _is_view(func: Any) -> bool:
    return any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)


def _has_mask(args: Sequence[Any]) -> bool:
    return any(isinstance(x, Tensor) and x.dtype == torch.bool for x in args[1])


def _n_bytes(values: Sequence[Any]) -> int:
    return sum(x.nbytes for x in values if isinstance(x, Tensor))


def demo_screen(mode: str, site: str) -> Screen:
    """Many edits of a few of the demo's cells."""
    config = load_config(DEMO)
    library = LibraryConfig(genes="all", modes=[mode], perturbation_sequence=[site])  # type: ignore[list-item]
    screen = prepare(config.model_copy(update={"library": [library], "null": NullConfig(n=0)}))
    return sample(screen, N_CELLS, N_GENES)


def batch_of(screen: Screen, executor: Executor, budget: int) -> tuple[BatchComputer, Batch, Any]:
    """The fullest batch of items, and the controls it needs."""
    computer = BatchComputer(screen, executor)
    # as on a GPU, wherever this runs
    if isinstance(computer.model, DeltaForward):
        computer.model = replace(computer.model, at_once=True)
    else:
        batching = Batching(screen.edits, screen.layout.keep_gene_cosine, screen.window.pool_everywhere)
        packed = screen.adapter.packed(executor.device, executor.arithmetic, batching, fuse=True)
        assert isinstance(packed, PackedPerturbGen)
        computer.model = replace(packed, reuse=packed.reuse - {"few"})
    ((_, batches),) = pack_unit(screen.lengths, screen.plan, 0, budget, executor.is_delta)
    batch = max(batches, key=lambda b: b.n_items)
    controls = [computer.controls(b) for b in pack_controls(screen.lengths, np.unique(batch.cell_B), budget)]
    return computer, batch, join(controls, screen.bank.cell_id_C)


def executors(screen: Screen, device: torch.device) -> Iterator[tuple[str, Executor]]:
    """Of every precision; delta16 with scales from the screen itself."""
    for precision in PRECISIONS:
        one = Executor(device, precision)
        scales = find_scales(screen, replace(one, device=torch.device("cpu"))) if precision == "delta16" else {}
        yield precision, replace(one, scales=scales)


def counted(screen: Screen, executor: Executor, budget: int) -> tuple[Count, Batch, float]:
    """(what a batch asks, whose controls are recorded; the batch; seconds of the host)."""
    with torch.inference_mode(), float32_products(executor):
        computer, batch, control = batch_of(screen, executor, budget)
        computer.items(batch, control)
        taken = []
        for _ in range(N_ROUNDS):
            start = time.perf_counter()
            computer.items(batch, control)
            taken.append(time.perf_counter() - start)
        with Counting() as counting:
            computer.items(batch, control)
    return counting.found, batch, median(taken)


def host_microseconds(screen: Screen, executor: Executor) -> float:
    """Per launch, of one edit of the shortest cell: mostly what Python and torch take to launch anything."""
    length_C = screen.bank.states[0].tokens.length_C
    shortest = min(np.unique(screen.plan.cell_I).tolist(), key=lambda c: int(length_C[c]))
    row = int(np.flatnonzero(screen.plan.cell_I == shortest)[0])
    few = screen.altered(plan=screen.plan.only(np.array([row])))
    found, _, seconds = counted(few, executor, BATCH_TOKENS)
    if executor.device.type == "cpu" and executor.is_delta:
        with kernels_that_compute_nothing():
            _, _, seconds = counted(few, executor, BATCH_TOKENS)
    return seconds / found.launches * 1e6


@contextmanager
def kernels_that_compute_nothing() -> Iterator[None]:
    """Those of changes give zeros: a device that takes next to no time."""

    def like_queries(queries: Any, *rest: Any, scale: float, dtype: torch.dtype, **_: Any) -> Scaled:
        return Scaled(rest[1].out_MI.new_zeros((queries.n_rows, rest[1].out_MI.shape[1]), dtype=dtype), scale)

    def like_rows(rows: Any, control_MD: Tensor, *_: Any, scale: float, dtype: torch.dtype, **__: Any) -> Scaled:
        return Scaled(control_MD.new_zeros((rows.n_rows, control_MD.shape[1]), dtype=dtype), scale)

    def pooled(rows: Any, x_MD: Tensor, *_: Any) -> Tensor:
        return x_MD.new_zeros((len(rows.cell_B), x_MD.shape[1]), dtype=torch.float64)

    def frames(control_CL: Tensor, *rest: Any) -> Frame:
        (n_items, width), n_columns = rest[3].shape, control_CL.shape[1] + rest[5]
        ids, column = (
            control_CL.new_zeros(shape, dtype=torch.long) for shape in ((n_items, n_columns, 4), (n_items, width))
        )
        keep, counted = (control_CL.new_ones((n_items, n_columns, 2), dtype=torch.bool) for _ in range(2))
        return Frame(ids, keep, counted, column, control_CL.new_ones(n_items, dtype=torch.bool))

    null = [(kernel_ops, "attention_change_rows", like_queries), (kernel_ops, "norm_change_rows", like_rows)]
    null += [(kernel_ops, "activation_change_rows", like_rows), (kernel_ops, "pool_change_rows", pooled)]
    null += [(frame, "frame_rows", frames)]
    before = [(module, name, getattr(module, name)) for module, name, _ in null]
    try:
        for module, name, kernel in null:
            setattr(module, name, kernel)
        yield
    finally:
        for module, name, kernel in before:
            setattr(module, name, kernel)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints and records launches, waits and bytes of a batch by precision, mode and site."""
    parser = parser_of(__doc__)
    parser.add_argument("--device", default="cpu", help="cpu, cuda")
    given = parser.parse_args(arguments)
    device, faults = find_device(given.device), []
    for mode, site in [("mask", "src")] if given.quick else [("mask", "src"), ("delete", "src"), ("mask", "tgt")]:
        screen = demo_screen(mode, site)
        for precision, executor in executors(screen, device):
            found, batch, _ = counted(screen, executor, BATCH_TOKENS)
            n_cells = len(np.unique(batch.cell_B))
            line = record(
                f"launches_{mode}_{site}_{precision}", found.launches, "launches per batch", None, None, given.results,
                n_edits=batch.n_items, n_cells=n_cells, per_edit=round(found.launches / batch.n_items, 2),
                n_waits=found.waits.total(), waits=dict(found.waits), n_kernels=found.kernels.total(),
                most=dict(found.operations.most_common(6)), mb_per_edit=round(found.n_bytes / batch.n_items / 1e6, 2),
                tokens_per_edit=round(batch.n_tokens / batch.n_items, 1),
                # carrying changes multiplies more in attention, and nothing in the first one of a masked row
                mflop_per_edit_packed=round(item_flops(screen, batch) / batch.n_items / 1e6, 1),
                host_us_per_launch=round(host_microseconds(screen, executor), 1), device=given.device,
            )  # fmt: skip
            faults.append(reported(line))
            if found.waits:
                faults.append(f"the host waits within a batch of {precision}: {dict(found.waits)}")
    return exit_code(faults, given.quick)


if __name__ == "__main__":
    sys.exit(main())
