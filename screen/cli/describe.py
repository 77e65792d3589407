"""What a person reads of status and benchmarks, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from screen.bench.measure import Measured, Wanted
    from screen.cli.terminal import Console
    from screen.store.audit import BlockStatus


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


def describe_unscreened(unscreened: Sequence[str], console: Console, is_allowed: bool) -> None:
    """What was asked for and has no item, with the reason: notes where the user allows it, else errors."""
    tell = console.note if is_allowed else console.error
    for sentence in unscreened[:20]:
        tell(f"not screened: {sentence}")
    if unscreened:
        tell(f"{len(unscreened)} requested perturbation(s) not screened; everything else is unaffected")


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
