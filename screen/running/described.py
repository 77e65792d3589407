"""A plan and a forecast in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from screen.cells.bank import SOURCE
from screen.running.workload import most_rows

if TYPE_CHECKING:
    from screen.engine.screen import Screen
    from screen.running.preflight import Forecast

MANY_ROWS, ROW_BYTES = 100_000_000, 45
"""A row of the table of genes takes 45 bytes in parquet (measured on the demo)."""


def described_plan(screen: Screen) -> list[str]:
    """Perturbations, cells, items, coverage and disk, before anything runs."""
    plan, coverage, layout = screen.plan, screen.plan.coverage, screen.layout
    n_pairs = len(screen.library) * screen.bank.n_cells
    classes = {
        "screened": coverage.screened_PS,
        "gene not expressed": coverage.absent_PS,
        "beyond the longest row": coverage.truncated_PS,
        "nothing left to predict from": coverage.emptied_PS,
    }
    read_out = (
        f"time points {list(screen.window.pred_tps)}"
        if SOURCE not in screen.window.pred_tps
        else "read out at the source"
    )
    lines = [f"{len(screen.library):,} perturbations x {screen.bank.n_cells:,} cells, {read_out}"]
    for name, tally in classes.items():
        n = int(tally.sum())
        if n or name == "screened":
            lines.append(f"  {n:>12,} of {n_pairs:,} pairs ({n / max(n_pairs, 1):.1%}) {name}")
    n_values = len(layout.pred_tps) * (len(screen.vocabulary) if layout.expression_scale else 0)
    size = plan.n_items * n_values * (2 if layout.dtype == "float16" else 4)
    lines.append(
        f"  {plan.n_items:,} edits in {plan.n_units:,} unit(s); changes take {size / 1e6:,.1f} MB on disk as {layout.dtype}"
    )
    n_needed = sum(screen.library.is_needed)
    if n_needed:
        share = coverage.screened_PS[np.array(screen.library.is_needed)].sum() / max(plan.n_items, 1)
        lines.append(
            f"  {n_needed:,} of the perturbations are single edits that the pairs are compared with: {share:.0%} of the edits"
        )
    n_null = sum(screen.library.is_null)
    if n_null:
        share = coverage.screened_PS[np.array(screen.library.is_null)].sum() / max(plan.n_items, 1)
        lines.append(
            f"  {n_null:,} of the perturbations are null ones to judge the others by: {share:.0%} of the edits "
            "(`null: {n: 0}` for none)"
        )
    if layout.has_counts:
        lines.append(f"  differential expression: up to {most_rows(screen):,} rows before `deg --top` and thresholds")
    return lines


def notes_of(screen: Screen) -> list[str]:
    """What the user should know of a plan."""
    n_rows, notes = most_rows(screen), list(screen.notes)
    if screen.layout.has_counts and n_rows > MANY_ROWS and screen.deg.top is None:
        size = n_rows * ROW_BYTES / 1e9
        notes.insert(
            0,
            f"{n_rows:,} rows take about {size:,.0f} GB and hours; "
            "deg: {top: N} writes the N genes of each group that change most",
        )
    return notes


def described_forecast(f: Forecast) -> list[str]:
    """Batches, work, memory, disk and time."""
    counted = "" if f.n_sampled == f.n_units else f" (counted on {f.n_sampled} of {f.n_units:,} units)"
    device = f", {f.device_bytes / 2**30:,.1f} GB on {f.executor['device']}" if f.device_bytes else ""
    return [
        f"  {f.n_batches:,} batches of up to {f.executor['batch_tokens']:,} tokens, {f.padded_share:.2%} padding, "
        f"{f.flops / 1e12:,.1f} TFLOP{counted}, {f.control_flops / max(f.flops, 1):.0%} of it controls, once per cell",
        f"  about {f.host_bytes / 2**30:,.1f} GB of memory{device}; {f.disk_bytes / 1e9:,.2f} GB on disk in about {f.n_files:,} files",
        f"  about {_duration(f.seconds)} on this machine ({f.executor['device']}, {f.executor['precision']}), "
        f"timed on a few items: {f.flops_per_s / 1e9:,.0f} GFLOP/s, {f.n_items / max(f.seconds, 1e-9):,.1f} edits/s",
    ]


def _duration(seconds: float) -> str:
    """'40 s', '12 min', '3.5 h' or '9 days'."""
    for unit, size, most in (("s", 1, 90), ("min", 60, 5400), ("h", 3600, 48 * 3600)):
        if seconds < most:
            return f"{seconds / size:.{1 if unit == 'h' else 0}f} {unit}"
    return f"{seconds / 86400:,.0f} days"
