"""Changes that are carried: how exact, how fast by mode, site and length of the list, and what keeps the device busy."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.checks import CPU, EDITS, TINY
from benchmarks.gpu.job import Job, say, twin
from screen import edits
from screen.engine.executor import DELTA, AnyPrecision, Executor
from screen.engine.packed import PackedEngine
from screen.engine.precision import agreement, changes_by_group, find_scales
from screen.engine.reference import ReferenceEngine
from screen.engine.sample import sample
from screen.engine.screen import Screen
from screen.models.delta.forward import DeltaForward
from screen.models.perturbgen.random import random_model, sizes_of
from screen.models.synthetic import SyntheticSizes

PRECISIONS: tuple[AnyPrecision, ...] = ("float32", "fp16x2", "delta16")
MODES = tuple(mode.name for mode in edits.TABLE if mode.parameter is None)
LISTS = (20, 100, 0)
"""Lengths of the lists of genes; 0: every gene of the model."""
TIMED_S, WARM_ITEMS, MOST_ITEMS, QUICK_ITEMS = 1.0, 1_500, 20_000, 16
"""A run that is timed takes about so long, however fast it is: the pace of a few edits says of how many, at most so many."""
MIN_CELLS, MOST_CELLS = 8, 1_000
PROFILED_ITEMS, N_KERNELS = 4_000, 12
ALL_GENES, BOTH_TIMES = "src mask, all genes", "tgt mask at two times, all genes"
QUICK_CASES = (ALL_GENES, BOTH_TIMES)
EXACT_CELLS, N_EXACT, QUICK_EXACT, EVERY_NTH = 8, 8, 4, 5
"""Cells, and edits of each, of every mode and site that is compared with float64, which the CPU computes; which genes."""
TINY_EXACT: tuple[AnyPrecision, ...] = ("delta32", "delta16")


def executor_of(screen: Screen, precision: AnyPrecision, job: Job) -> Executor:
    """As a run chooses it; scales of delta16 are found on the device."""
    one = Executor(job.device, precision, batch_tokens=job.batch_tokens)
    return replace(one, scales=find_scales(screen, one)) if precision == "delta16" else one


def engine_of(screen: Screen, executor: Executor) -> PackedEngine:
    """Its changes carried for all cells of a batch at once, as a GPU does it, wherever this runs."""
    engine = PackedEngine(screen, executor)
    if isinstance(engine.computer.model, DeltaForward):
        engine.computer.model = replace(engine.computer.model, at_once=True)
    return engine


def changes(job: Job) -> None:
    """Exactness, then edits per second, then the profile."""
    exactness(job)
    speed(job)
    profiled(job)


def exactness(job: Job) -> None:
    """Against the plain model in float64 on the CPU, by mode, site and time: tiny models at every site, then the real size."""
    n_cells = 3 if job.is_quick else EXACT_CELLS
    for name, edits_of in list(EDITS.items())[-1 if job.is_quick else 0 :]:
        screen = twin(TINY, n_cells, range(0, TINY.n_genes, EVERY_NTH), modes=MODES, **edits_of)
        against_float64(job, f"tiny model, {name}", screen, TINY_EXACT)
    sites: dict[str, dict[str, Any]] = {"src": {"sites": ("src",)}, "tgt": {"sites": ("tgt",), "pert_tps": (1,)}}
    for site, edits_of in list(sites.items())[: 1 if job.is_quick else None]:
        screen = twin(job.sizes, n_cells, range(0, job.sizes.n_genes, EVERY_NTH), modes=MODES, **edits_of)
        against_float64(job, f"real size, {site}", screen, PRECISIONS)


def against_float64(job: Job, name: str, screen: Screen, precisions: Sequence[AnyPrecision]) -> None:
    """Rms error of a change over its rms, median and 90 %, in every precision; of those that carry changes it is checked."""
    n_each = QUICK_EXACT if job.is_quick else N_EXACT
    few, exact = (
        sample(screen, screen.bank.n_cells, len(MODES) * n_each, is_even=True),
        dict[str, NDArray[np.float64]](),
    )
    with job.part(f"float64, {name}"):
        exact |= changes_by_group(few, ReferenceEngine(few, Executor(CPU, "float64")))
    if not exact:
        # which is said already
        return
    found = job.figures.setdefault("changes", {}).setdefault("errors against float64", {}).setdefault(name, {})
    found["edits"] = {group: len(x) for group, x in exact.items()}
    for precision in precisions:
        with job.part(checked := f"{precision} = float64, {name}"):
            agreed = agreement(
                precision, exact, changes_by_group(few, engine_of(few, executor_of(few, precision, job)))
            )
            found[precision] = {
                group: {"median": median, "90 %": p90} for group, (median, p90) in agreed.by_group.items()
            }
            if precision in DELTA:
                _, (median, p90) = agreed.worst
                job.check(checked, {"change, median": median, "change, 90 %": p90})
    say(f"\n{f'errors of the change, {name}: edits':<80}" + "".join(f"{p:>20}" for p in precisions))
    for group, n in found["edits"].items():
        errors = (found.get(p, {}).get(group) for p in precisions)
        said = ("-" if e is None else f"{e['median']:.2g} / {e['90 %']:.2g}" for e in errors)
        say(f"{group:<70}{n:>10}" + "".join(f"{e:>20}" for e in said))


def cases(job: Job) -> dict[str, Callable[[int], Screen]]:
    """Name -> what makes a screen of about so many edits: lists of genes; every mode at every site, at one time and at two."""
    one, two = (replace(job.sizes, n_times=n) for n in (1, 2))
    models = {s: random_model(sizes_of(s)) for s in (one, two)}

    def screen(n_genes: int, n_items: int, sizes: SyntheticSizes = one, **edits_of: Any) -> Screen:
        genes = range(0, sizes.n_genes, sizes.n_genes // n_genes if n_genes else 1)
        few = twin(sizes, MIN_CELLS, genes, models[sizes], **edits_of)
        n_cells = min(max(round(n_items * MIN_CELLS / few.plan.n_items), MIN_CELLS), MOST_CELLS)
        return first_items(twin(sizes, n_cells, genes, models[sizes], **edits_of), n_items)

    found = {f"src mask, {n or 'all'} genes": partial(screen, n) for n in LISTS}
    found |= {f"src {mode}, all genes": partial(screen, 0, modes=(mode,)) for mode in MODES[1:]}
    at_one: dict[str, Any] = {"sites": ("tgt",), "pert_tps": (1,)}
    found |= {f"tgt {mode} at one time, all genes": partial(screen, 0, modes=(mode,), **at_one) for mode in MODES}
    found[BOTH_TIMES] = partial(screen, 0, sizes=two, sites=("tgt",), pert_tps=(1, 2))
    return {name: found[name] for name in (QUICK_CASES if job.is_quick else found)}


def first_items(screen: Screen, n_most: int) -> Screen:
    """A screen of its first items, so many at most."""
    plan = screen.plan
    return screen.altered(plan=replace(plan.only(np.arange(min(plan.n_items, n_most))), unit_rows=plan.unit_rows))


def seconds(engine: PackedEngine) -> tuple[float, int]:
    """(seconds of all units, controls and effects included, items that were computed otherwise)."""
    start = time.perf_counter()
    units = engine.units(range(engine.screen.plan.n_units), lambda *_: None)
    n_others = sum(sum(unit.record.get("recomputed", {}).values()) for unit in units)
    if engine.executor.device.type == "cuda":
        torch.cuda.synchronize(engine.executor.device)
    return time.perf_counter() - start, n_others


def speed(job: Job) -> None:
    """Edits per second of the engine, controls and effects included, and which share was computed otherwise."""
    found = job.figures.setdefault("changes", {}).setdefault("edits/s", {})
    for name, made in cases(job).items():
        for precision in PRECISIONS:
            # the others are measured on the case that everything is compared on
            if precision != "delta16" and name != ALL_GENES:
                continue
            with job.part(f"speed of {precision}, {name}"):
                n, taken, n_others = timed(made, precision, job)
                rate, share = n / taken, n_others / n
                figures = {"edits": n, "seconds": taken, "edits/s": rate}
                figures |= {"computed otherwise": n_others, "share computed otherwise": share}
                found.setdefault(name, {})[precision] = figures
                say(f"{name:<36} {precision:<8} {rate:>10,.0f} edits/s of {n:,}; {share:.2%} computed otherwise")


def timed(made: Callable[[int], Screen], precision: AnyPrecision, job: Job) -> tuple[int, float, int]:
    """(edits, seconds, edits that were computed otherwise) of as many edits as take about TIMED_S, the second of two runs."""
    screen = made(QUICK_ITEMS if job.is_quick else WARM_ITEMS)
    executor = executor_of(screen, precision, job)
    taken, n_others = second_run(engine_of(screen, executor))
    n_items = round(min(TIMED_S * screen.plan.n_items / taken, MOST_ITEMS))
    if not job.is_quick and n_items > screen.plan.n_items:
        screen = made(n_items)
        taken, n_others = second_run(engine_of(screen, executor))
    return screen.plan.n_items, taken, n_others


def second_run(engine: PackedEngine) -> tuple[float, int]:
    """What `seconds` gives once kernels are compiled for these shapes, and memory is taken."""
    seconds(engine)
    return seconds(engine)


def profiled(job: Job) -> None:
    """Which share of the time kernels run, and which take it: masks of all genes in the source. Not without a GPU."""
    if job.device.type != "cuda":
        say("no profile: kernels are those of a GPU")
        return
    found = job.figures.setdefault("changes", {}).setdefault("profile", {})
    screen = cases(job)[ALL_GENES](QUICK_ITEMS if job.is_quick else PROFILED_ITEMS)
    for precision in ("fp16x2", "delta16"):
        with job.part(f"profile of {precision}"):
            engine = engine_of(screen, executor_of(screen, precision, job))
            seconds(engine)
            # hearing of the CPU's calls too would slow the host down, and count every kernel twice
            with profile(activities=[ProfilerActivity.CUDA]) as of_run:
                taken, _ = seconds(engine)
            busy_s, time_of = kernel_seconds(of_run.events())
            busy = busy_s / taken
            most = time_of.most_common(N_KERNELS)
            found[precision] = {"seconds": taken, "busy": busy, "kernels": dict(most)}
            say(
                f"\n{precision}: kernels run for {busy:.0%} of {taken:.2f} s, under the profiler; shares of their time:"
            )
            for key, spent in most:
                say(f"  {key[:70]:<70} {spent / time_of.total():>6.1%}")


def kernel_seconds(events: Iterable[Any]) -> tuple[float, Counter[str]]:
    """(seconds in which at least one kernel ran, kernel -> seconds) of a profiler's events; copies are no kernels."""
    ran = [e for e in events if e.device_type == DeviceType.CUDA and not e.name.startswith(("Memcpy", "Memset"))]
    time_of = Counter[str]()
    for e in ran:
        time_of[e.name] += e.time_range.elapsed_us() / 1e6
    return union([(e.time_range.start, e.time_range.end) for e in ran]) / 1e6, time_of


def union(spans: Sequence[tuple[float, float]]) -> float:
    """How long at least one of the spans (start, end) lasts: kernels of several lanes run at once."""
    total, until = 0.0, -math.inf
    for start, end in sorted(spans):
        total += max(end - max(start, until), 0.0)
        until = max(until, end)
    return total
