"""What this benchmark is meant to reach on one H100, beside what it measured. No target changes the exit code."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.changes import ALL_GENES, BOTH_TIMES
from benchmarks.gpu.job import Job, say

RATIO = "delta16 over upstream-shaped float32 at 1,233"


@dataclass(frozen=True)
class Target:
    """One figure: where it stands among the figures, and what it should be."""

    name: str
    wanted: float
    unit: str
    path: tuple[str, ...]
    is_most: bool = False

    @property
    def aim(self) -> str:
        """What is wanted, in words."""
        return f"{'at most' if self.is_most else 'at least'} {number(self.wanted, self.unit)}"

    def is_reached(self, measured: float) -> bool:
        """Whether a figure is what it should be."""
        return measured <= self.wanted if self.is_most else measured >= self.wanted


def of_case(name: str, wanted: float) -> Target:
    """Edits per second of delta16 in one case of `changes`."""
    return Target(f"delta16, {name}", wanted, "edits/s", ("changes", "edits/s", name, "delta16", "edits/s"))


def of_kernels(precision: str, wanted: float) -> Target:
    """Share of the time in which kernels run."""
    return Target(f"kernels busy, {precision}", wanted, "%", ("changes", "profile", precision, "busy"))


TARGETS = (
    of_case(ALL_GENES, 8_000),
    of_case("src delete, all genes", 5_000),
    of_case("src overexpress, all genes", 5_000),
    of_case("tgt mask at one time, all genes", 5_000),
    of_case(BOTH_TIMES, 3_500),
    of_case("src mask, 20 genes", 2_500),
    of_kernels("delta16", 0.90),
    of_kernels("fp16x2", 0.85),
    Target(RATIO, 120, "times", (RATIO,)),
    Target("demo, warm, from plan to last table", 10, "s", ("demo", "warm", "plan to tables s"), is_most=True),
    Target("every part of this command", 300, "s", ("seconds of all parts",), is_most=True),
)


def compared(job: Job) -> None:
    """Records delta16's edits per second over those of the upstream-shaped loop, if both were measured."""
    ours = figure(job.figures, ("changes", "edits/s", ALL_GENES, "delta16", "edits/s"))
    theirs = figure(job.figures, ("upstream-shaped, edits/s", "float32, 1233"))
    if ours is not None and theirs is not None:
        job.figures[RATIO] = ours / theirs
        say(f"\n{RATIO}: {ours / theirs:,.0f} times ({ours:,.0f} against {theirs:,.1f} edits/s)")


def figure(figures: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    """A figure by the keys that lead to it; None if it is not there."""
    found: Any = figures
    for key in path:
        if key not in found:
            return None
        found = found[key]
    return float(found)


def number(x: float, unit: str) -> str:
    """A figure in its unit."""
    return f"{x:.0%}" if unit == "%" else f"{x:,.{1 if unit == 's' else 0}f} {unit}"


def targets(job: Job) -> None:
    """A line for each: measured against wanted. On a CPU, and with --quick, nothing is compared."""
    is_compared, found = job.device.type == "cuda" and not job.is_quick, []
    say("\ntarget on one H100: measured against wanted")
    for target in TARGETS:
        measured = figure(job.figures, target.path) if is_compared else None
        verdict = "not measured" if measured is None else "reached" if target.is_reached(measured) else "not reached"
        found.append({"target": target.name, "wanted": target.aim, "measured": measured, "verdict": verdict})
        of = "-" if measured is None else number(measured, target.unit)
        say(f"{target.name}: {of} against {target.aim}: {verdict}")
    job.figures["targets"] = found
