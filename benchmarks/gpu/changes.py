"""Changes that are carried: how exact, how fast by mode, site and length of the list, and what keeps the device busy."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.checks import EDITS, TINY
from benchmarks.gpu.job import Job, say, twin
from screen import edits
from screen.engine.executor import AnyPrecision, Executor
from screen.engine.packed import PackedEngine
from screen.engine.precision import find_scales, pilot
from screen.engine.screen import Screen
from screen.models.delta.forward import DeltaForward
from screen.models.perturbgen.random import random_model, sizes_of
from screen.models.synthetic import SyntheticSizes

PRECISIONS: tuple[AnyPrecision, ...] = ("float32", "fp16x2", "delta16")
MODES = tuple(mode.name for mode in edits.TABLE if mode.parameter is None)
N_CELLS, LISTS = 48, (20, 100, 0)
"""Cells of the screens that are timed, and lengths of their lists of genes; 0: every gene of the model."""
MOST_ITEMS, QUICK_ITEMS, N_KERNELS = 20_000, 16, 12
QUICK_CASES = ("src mask, all genes", "tgt mask at two times, all genes")
N_EXACT = 8
"""Genes of the screens that are compared with float64 at the real size."""


def executor_of(screen: Screen, precision: AnyPrecision, job: Job) -> Executor:
    """As a run chooses it; scales of delta16 are found on the device."""
    one = Executor(job.device, precision, batch_tokens=job.batch_tokens)
    return replace(one, scales=find_scales(screen, one)) if precision == "delta16" else one


def engine_of(screen: Screen, precision: AnyPrecision, job: Job) -> PackedEngine:
    """Its changes carried for all cells of a batch at once, as a GPU does it, wherever this runs."""
    engine = PackedEngine(screen, executor_of(screen, precision, job))
    if isinstance(engine.computer.model, DeltaForward):
        engine.computer.model = replace(engine.computer.model, at_once=True)
    return engine


def changes(job: Job) -> None:
    """Exactness, then edits per second, then the profile."""
    exactness(job)
    speed(job)
    profiled(job)


def exactness(job: Job) -> None:
    """delta32 and delta16 against the plain model in float64 on the CPU, as a run's pilot does, by mode, site and time."""
    genes = range(0, TINY.n_genes, 100 if job.is_quick else 20)
    for name, edits_of in list(EDITS.items())[-1 if job.is_quick else 0 :]:
        for precision in ("delta32", "delta16"):
            with job.part(f"{precision} = float64, {name}"):
                screen = twin(TINY, 3 if job.is_quick else 8, genes, modes=MODES, **edits_of)
                agreement(job, f"{precision} = float64, {name}", screen, precision)
    for site in () if job.is_quick else ("src", "tgt"):
        with job.part(f"delta16 = float64, real size, {site}"):
            genes = range(0, job.sizes.n_genes, job.sizes.n_genes // N_EXACT)
            edits_of: dict[str, Any] = {"sites": (site,), "pert_tps": (1,) if site == "tgt" else ()}
            screen = twin(job.sizes, 8, genes, modes=MODES, **edits_of)
            agreement(job, f"delta16 = float64, real size, {site}", screen, "delta16")


def agreement(job: Job, name: str, screen: Screen, precision: AnyPrecision) -> None:
    """Records the pilot's figures as a check."""
    found = pilot(screen, executor_of(screen, precision, job))
    _, (median, p90) = found.worst
    job.figures.setdefault("changes", {}).setdefault("errors", {})[name] = found.figures()
    job.check(name, {"change, median": median, "change, 90 %": p90})


def cases(job: Job) -> dict[str, Callable[[], Screen]]:
    """Name -> what makes a screen: lists of genes, masked in the source; every mode at every site, at one time and at two."""
    one, two = (replace(job.sizes, n_times=n) for n in (1, 2))
    n_cells, models = 6 if job.is_quick else N_CELLS, {s: random_model(sizes_of(s)) for s in (one, two)}

    def screen(n_genes: int, sizes: SyntheticSizes = one, **edits_of: Any) -> Screen:
        step = sizes.n_genes // n_genes if n_genes else 1
        found = twin(sizes, n_cells, range(0, sizes.n_genes, step), models[sizes], **edits_of)
        return first_items(found, QUICK_ITEMS if job.is_quick else MOST_ITEMS)

    found = {f"src mask, {n or 'all'} genes": partial(screen, n) for n in LISTS}
    found |= {f"src {mode}, all genes": partial(screen, 0, modes=(mode,)) for mode in MODES[1:]}
    at_one: dict[str, Any] = {"sites": ("tgt",), "pert_tps": (1,)}
    found |= {f"tgt {mode} at one time, all genes": partial(screen, 0, modes=(mode,), **at_one) for mode in MODES}
    found["tgt mask at two times, all genes"] = partial(screen, 0, two, sites=("tgt",), pert_tps=(1, 2))
    return {name: found[name] for name in (QUICK_CASES if job.is_quick else found)}


def first_items(screen: Screen, n_most: int) -> Screen:
    """A screen's units, or as many of them as hold so many items; of the first unit, if that holds more, its first items."""
    plan = screen.plan
    n = min(plan.n_items, max(n_most // plan.unit_rows * plan.unit_rows, min(n_most, plan.unit_rows)))
    cut = replace(
        plan, perturbation_I=plan.perturbation_I[:n], cell_I=plan.cell_I[:n], n_edited_I=plan.n_edited_I[:n],
        is_screened_IT=plan.is_screened_IT[:n],
    )  # fmt: skip
    return screen.altered(plan=cut)


def seconds(engine: PackedEngine) -> tuple[float, int]:
    """(seconds of all units, controls and effects included, items that were computed otherwise)."""
    start = time.perf_counter()
    units = engine.units(range(engine.screen.plan.n_units), lambda *_: None)
    n_others = sum(sum(unit.record.get("recomputed", {}).values()) for unit in units)
    if engine.executor.device.type == "cuda":
        torch.cuda.synchronize(engine.executor.device)
    return time.perf_counter() - start, n_others


def speed(job: Job) -> None:
    """Edits per second of the engine, controls and effects included; the second of two runs."""
    found = job.figures.setdefault("changes", {}).setdefault("edits/s", {})
    for name, made in cases(job).items():
        screen = made()
        for precision in PRECISIONS:
            # the others are measured on the case that everything is compared on
            if precision != "delta16" and name != "src mask, all genes":
                continue
            with job.part(f"speed of {precision}, {name}"):
                engine, n = engine_of(screen, precision, job), screen.plan.n_items
                seconds(engine)
                taken, n_others = seconds(engine)
                found.setdefault(name, {})[precision] = {
                    "edits": n,
                    "edits/s": n / taken,
                    "computed otherwise": n_others,
                }
                say(f"{name:<36} {precision:<8} {n / taken:>10,.0f} edits/s of {n:,}; {n_others} computed otherwise")


def profiled(job: Job) -> None:
    """Which share of the time kernels run, and which take it: masks of all genes in the source. Not without a GPU."""
    if job.device.type != "cuda":
        say("no profile: kernels are those of a GPU")
        return
    found = job.figures.setdefault("changes", {}).setdefault("profile", {})
    screen = cases(job)["src mask, all genes"]()
    for precision in ("fp16x2", "delta16"):
        with job.part(f"profile of {precision}"):
            engine = engine_of(screen, precision, job)
            seconds(engine)
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as of_run:
                taken, _ = seconds(engine)
            time_of = {e.key: e.self_device_time_total / 1e6 for e in of_run.key_averages() if e.self_device_time_total}
            most, busy = sorted(time_of.items(), key=lambda x: -x[1])[:N_KERNELS], sum(time_of.values()) / taken
            found[precision] = {"seconds": taken, "busy": busy, "kernels": dict(most)}
            say(f"\n{precision}: kernels take {busy:.0%} of {taken:.2f} s, under the profiler; lanes may overlap")
            for key, spent in most:
                say(f"  {key[:70]:<70} {spent / sum(time_of.values()):>6.1%}")
