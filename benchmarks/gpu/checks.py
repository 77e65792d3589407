"""Kernels against their definitions, the packed engine against the reference engine."""

import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch
from screen_kernels.backend import Backend

from benchmarks.gpu.job import Job, errors_of, results, twin
from screen.engine.executor import Executor
from screen.engine.packed import PackedEngine
from screen.engine.reference import ReferenceEngine
from screen.engine.screen import Screen
from screen.machine import available_cores
from screen.models.synthetic import SyntheticSizes

CPU, MOST_PROCESSES, CHECKS_S = torch.device("cpu"), 8, 240.0
Check = Callable[[str, str], None]
"""Of a kernel, on a device, by a backend; raises AssertionError."""
TINY = SyntheticSizes(
    width=64, n_heads=4, encoder_head_width=16, head_width=8, n_encoder_blocks=2, n_blocks=2, n_genes=300,
    n_source_tokens=903, max_len=256, n_times=2,
)  # fmt: skip
EDITS: dict[str, dict[str, Any]] = {
    "src": {"sites": ("src",)},
    "src, context mode": {"sites": ("src",), "context_mode": True},
    "tgt at both times": {"sites": ("tgt",), "pert_tps": (1, 2)},
    "tgt at one of two times, context mode": {"sites": ("tgt",), "pert_tps": (1,), "context_mode": True},
    "src and tgt": {"sites": ("src", "tgt"), "pert_tps": (1,)},
}


def kernels(job: Job) -> None:
    """Every kernel, those of changes too, against its definition: by Triton on a GPU, by torch on a CPU."""
    from tests.support import delta_attention_cases, delta_cases, delta_frame_cases, kernel_cases

    backend, n_processes = (
        ("triton", min(available_cores(), MOST_PROCESSES)) if job.device.type == "cuda" else ("torch", 1)
    )
    # what takes longest to compile first
    modules: tuple[Any, ...] = (delta_attention_cases, kernel_cases, delta_cases, delta_frame_cases)
    checks = [check for m in modules for check in (*m.CHECKS, *(m.TRITON_CHECKS if backend == "triton" else ()))]
    run_checks(job, checks, backend, n_processes)


def run_checks(job: Job, checks: Sequence[Check], backend: Backend, n_processes: int) -> None:
    """Each on the device; by several processes side by side, each check in a new one, all within CHECKS_S.

    Where no kernel is compiled yet, compiling is most of the work; and a kernel that breaks the device breaks no other's.
    """
    runs: list[Callable[[], float]] = [partial(seconds_of_check, c, str(job.device), backend) for c in checks]
    waiting = ThreadPoolExecutor(n_processes)
    try:
        if n_processes > 1:
            until = time.perf_counter() + CHECKS_S
            runs = [waiting.submit(in_a_process, c, str(job.device), backend, until).result for c in checks]
        for check, run in zip(checks, runs, strict=True):
            name, seconds = f"{check.__name__.removeprefix('check_')} by {backend}", None
            with job.part(name):
                seconds = run()
                job.check(name, {})
            if seconds is not None:
                # not how long it was waited for
                job.figures["seconds"][name] = round(seconds, 1)
    finally:
        # Ctrl-C begins no other
        waiting.shutdown(wait=False, cancel_futures=True)


def seconds_of_check(check: Check, device: str, backend: Backend) -> float:
    """What it takes. Raises what the check does."""
    start = time.perf_counter()
    check(device, backend)
    return time.perf_counter() - start


def in_a_process(check: Check, device: str, backend: Backend, until: float) -> float:
    """The same in a new process, which is killed once it is `until`. Raises RuntimeError with the error, or how the process ended."""
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=alone, args=(check, device, backend, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(max(until - time.perf_counter(), 0.1)):
            raise RuntimeError(f"not done within the {CHECKS_S:.0f} s of all checks")
        found = ours.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"its process ended with exit code {process.exitcode} and said nothing") from None
    finally:
        process.kill()
        process.join()
        ours.close()
    if isinstance(found, str):
        raise RuntimeError(found)
    return float(found)


def alone(check: Check, device: str, backend: Backend, result: Connection) -> None:
    """Of the new process: on this device and on one core. Sends the seconds, or what went wrong."""
    try:
        torch.set_num_threads(1)
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        result.send(seconds_of_check(check, device, backend))
    except Exception as error:
        traceback.print_exc()
        result.send(f"{type(error).__name__}: {error}")


def engines(job: Job) -> None:
    """PackedEngine on the device against ReferenceEngine on the CPU: all modes, sites, context mode, several units."""
    from tests.support.modes import EVERY

    n_cells, genes = (3, range(0, TINY.n_genes, 100)) if job.is_quick else (5, range(0, TINY.n_genes, 60))
    for name, edits in EDITS.items():
        with job.part(f"engine = reference, {name}"):
            # each has a model of its own, wherever the other one is moved
            ours, definition = (everything_of(twin(TINY, n_cells, genes, modes=EVERY, **edits)) for _ in range(2))
            found = results(PackedEngine(ours, Executor(job.device, batch_tokens=2000)))
            expected = results(ReferenceEngine(definition, Executor(CPU)))
            job.check(f"engine = reference, {name}", errors_of(found, expected))


def everything_of(screen: Screen) -> Screen:
    """Keeps embeddings and gene cosines too, and cuts the plan into several units."""
    layout = replace(screen.layout, keep_embeddings=True, keep_gene_cosine=True)
    return replace(screen, layout=layout, plan=replace(screen.plan, unit_rows=max(screen.plan.n_items // 3, 1)))


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
