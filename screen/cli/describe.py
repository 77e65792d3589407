"""What a person reads: plans, forecasts, results, status and benchmarks, in words and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from screen.cells.bank import SOURCE

if TYPE_CHECKING:
    from pathlib import Path

    from screen.bench.measure import Measured, Wanted
    from screen.cli.terminal import Console
    from screen.engine.screen import Screen
    from screen.running.preflight import Forecast
    from screen.store.audit import BlockStatus

MANY_ROWS, ROW_BYTES = 100_000_000, 45
"""A row of deg/ takes 45 bytes in parquet (measured on the demo)."""


def describe_plan(screen: Screen, console: Console) -> None:
    """Perturbations, cells, items, coverage and disk, before anything runs; then every note."""
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
    console.say(f"{len(screen.library):,} perturbations x {screen.bank.n_cells:,} cells, {read_out}")
    for name, tally in classes.items():
        n = int(tally.sum())
        if n or name == "screened":
            console.say(f"  {n:>12,} of {n_pairs:,} pairs ({n / max(n_pairs, 1):.1%}) {name}")
    n_values = len(layout.pred_tps) * (len(screen.vocabulary) if layout.expression_scale else 0)
    size = plan.n_items * n_values * (2 if layout.dtype == "float16" else 4)
    console.say(
        f"  {plan.n_items:,} edits in {plan.n_units:,} unit(s); changes take {size / 1e6:,.1f} MB on disk as {layout.dtype}"
    )
    n_null = sum(screen.library.is_null)
    if n_null:
        share = coverage.screened_PS[np.array(screen.library.is_null)].sum() / max(plan.n_items, 1)
        console.say(
            f"  {n_null:,} of the perturbations are null ones to judge the others by: {share:.0%} of the edits "
            "(`null: {n: 0}` for none)"
        )
    n_table_rows = len(screen.library) * len(screen.vocabulary) * len(coverage.stratum) * len(layout.pred_tps)
    if layout.has_counts:
        console.say(f"  differential expression: up to {n_table_rows:,} rows before deg.top and thresholds")
    if layout.has_counts and n_table_rows > MANY_ROWS and screen.deg.top is None:
        console.note(
            f"{n_table_rows:,} rows take about {n_table_rows * ROW_BYTES / 1e9:,.0f} GB and hours; "
            "deg: {top: N} writes the N genes of each group that change most"
        )
    for note in screen.notes:
        console.note(note)


def describe_forecast(f: Forecast, console: Console) -> None:
    """Batches, work, memory, disk and time, as `plan` predicts them."""
    counted = "" if f.n_sampled == f.n_units else f" (counted on {f.n_sampled} of {f.n_units:,} units)"
    console.say(
        f"  {f.n_batches:,} batches of up to {f.executor['batch_tokens']:,} tokens, {f.padded_share:.2%} padding, "
        f"{f.flops / 1e12:,.1f} TFLOP{counted}"
    )
    device = f", {f.device_bytes / 2**30:,.1f} GB on {f.executor['device']}" if f.device_bytes else ""
    console.say(
        f"  about {f.host_bytes / 2**30:,.1f} GB of memory{device}; {f.disk_bytes / 1e9:,.2f} GB on disk in about {f.n_files:,} files"
    )
    console.say(
        f"  about {_duration(f.seconds)} on this machine ({f.executor['device']}, {f.executor['precision']}), "
        f"timed on a few items: {f.flops_per_s / 1e9:,.0f} GFLOP/s, {f.n_items / max(f.seconds, 1e-9):,.1f} edits/s"
    )


def _duration(seconds: float) -> str:
    """'40 s', '12 min', '3.5 h' or '9 days'."""
    for unit, size, most in (("s", 1, 90), ("min", 60, 5400), ("h", 3600, 48 * 3600)):
        if seconds < most:
            return f"{seconds / size:.{1 if unit == 'h' else 0}f} {unit}"
    return f"{seconds / 86400:,.0f} days"


def describe_files(directory: Path, has_counts: bool, has_sets: bool, console: Console) -> None:
    """What was written where."""
    written = "screen.zarr, hits.parquet" + (", deg/part-*.parquet" if has_counts else "")
    written += ", enrichment/*.parquet" if has_sets else ""
    console.say(f"{directory}: {written}, coverage.parquet, provenance.json")


def describe_status(path: Path, provenance: Mapping[str, Any], blocks: Sequence[BlockStatus], console: Console) -> None:
    """Units and edits done per library block, and who computed them."""
    console.say(f"{path}, created {provenance['created']} by perturbscreen {provenance['perturbscreen']}")
    for b in blocks:
        state = "complete" if b.n_done == b.n_units else "unfinished"
        console.say(
            f"library block {b.number}: {state}, {b.n_done:,} of {b.n_units:,} units, {b.n_items_done:,} of {b.n_items:,} "
            f"edits, {b.n_perturbations:,} perturbations"
        )
        for executor, n in b.executors.items():
            console.say(f"  {n:,} unit(s) by {executor}")
        for reason, n in b.recomputed.items():
            console.say(f"  {n:,} edit(s) by the packed engine in float32: {reason}")


def describe_unscreened(unscreened: Sequence[str], console: Console) -> None:
    """What was asked for and has no item, with the reason."""
    for sentence in unscreened[:20]:
        console.error(f"not screened: {sentence}")
    if unscreened:
        console.error(f"{len(unscreened)} requested perturbation(s) not screened; everything else is unaffected")


def describe_bench(wanted: Wanted, m: Measured, console: Console) -> None:
    """What a person reads."""
    p, is_cpu = m.projection, m.executor["device"] == "cpu"
    rows = {
        "device": f"{m.executor['device']}, {m.n_lanes} lanes, {wanted.precision}, {m.executor['batch_tokens']:,} tokens per batch",
        "screen": f"{m.n_edits:,} edits of {m.n_cells:,} cells in {m.n_units:,} unit(s), {wanted.site} {', '.join(wanted.modes)}",
        "edits/s": f"{m.edits_per_s:,.2f} (median of {len(m.units_s)} run(s); {m.gflop_per_edit:.2f} GFLOP each, controls included)",
        "tokens/s": f"{m.tokens_per_s:,.0f}, {m.padding_share:.1%} padding",
        "TFLOP/s": f"{m.tflops:.3g} of {m.ceiling_tflops:.3g} that the same products reach alone: {m.share_of_ceiling:.0%}",
        "outside the model": f"{m.outside_model_share:.1%} of the time (packing, edits, effects, copies)",
        "peak memory": f"{m.peak_memory_bytes / 1e9:.2f} GB",
        "projection": f"{p.n_edits:,} edits ({p.n_genes:,} genes x {p.n_cells:,} cells), {p.mean_gflop_per_edit:.2f} GFLOP each on "
        f"average: {p.device_hours:,.1f} device-hours at this rate (not run; storing not included)",
    }
    for name, text in rows.items():
        console.say(f"{name:<18} {text}")
    if is_cpu and m.busy_share < 0.8:
        console.note(f"lanes used {m.busy_share:.0%} of their cores: others run here, or there was too little to do")
    if wanted.precision != "float32" and is_cpu:
        console.note(f"{wanted.precision} is emulated on a CPU: these speeds say nothing of a GPU")
