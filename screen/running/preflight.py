"""Preflight: what a screen would cost, before anything runs."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from screen.cells.bank import SOURCE
from screen.config.screen_config import ScreenConfig
from screen.engine.batch import BatchComputer, float32_products
from screen.engine.choose import choose_executor
from screen.engine.executor import Executor
from screen.engine.lanes import default_lanes
from screen.engine.packed import BLOCKS_ALIVE, UNITS_AHEAD, PackedEngine
from screen.engine.precision import yardstick
from screen.engine.sample import sample
from screen.engine.screen import Screen
from screen.errors import CellError, ConfigError
from screen.machine import available_cores
from screen.models.delta.forward import DeltaForward
from screen.planning.batches import pack_controls, pack_unit
from screen.planning.layout import MOMENT_BYTES, SUMMARIES
from screen.planning.segments import Segments, has_moments
from screen.running.described import described_forecast, described_plan, notes_of
from screen.running.prepare import prepare
from screen.running.unscreened import nothing_to_screen, reasons
from screen.running.workload import batches_by_block, item_flops, most_rows, total_flops

SAMPLED_UNITS = 24
CALIBRATION_S = 2.0
TOKEN_BYTES = 9
"""Of a cell's own rows beside its control: an id, and whether it is pooled."""
PROCESS_BYTES = 500 * 2**20
"""Python with torch and the other libraries loaded (measured: 450-550 MB)."""
TABLES_BYTES, REPORT_BYTES = 100 * 2**20, 250 * 2**20
"""Of the tables, per thread that works on a part (97 MB, measured on two cores), and of the page with its figures (230 MB).

What screening took is not given back before.
"""


@dataclass(frozen=True)
class Forecast:
    """What a screen would take.

    n_batches, padded_share, flops  counted over `n_sampled` of the units, scaled up where these are not all of them
    control_flops                   of these, what unedited cells take: once per cell, however many edits it has
    flops_per_s, seconds            from running a few of its items on the machine at hand
    host_bytes, device_bytes        estimates; without a GPU everything is on the host
    """

    n_perturbations: int
    n_cells: int
    n_items: int
    n_units: int
    n_sampled: int
    n_batches: int
    padded_share: float
    tokens: int
    flops: float
    control_flops: float
    host_bytes: int
    device_bytes: int
    disk_bytes: int
    n_files: int
    flops_per_s: float
    seconds: float
    coverage: Mapping[str, int]
    executor: Mapping[str, Any]

    def json(self) -> dict[str, Any]:
        """For machines; the keys are a format."""
        return {
            "n_perturbations": self.n_perturbations,
            "n_cells": self.n_cells,
            "n_items": self.n_items,
            "n_units": self.n_units,
            "n_sampled": self.n_sampled,
            "n_batches": self.n_batches,
            "padded_share": self.padded_share,
            "tokens": self.tokens,
            "flops": self.flops,
            "control_flops": self.control_flops,
            "host_bytes": self.host_bytes,
            "device_bytes": self.device_bytes,
            "disk_bytes": self.disk_bytes,
            "n_files": self.n_files,
            "flops_per_s": self.flops_per_s,
            "seconds": self.seconds,
            "coverage": dict(self.coverage),
            "executor": dict(self.executor),
        }


def forecast(screen: Screen, executor: Executor) -> Forecast:
    """Packs a sample of units, counts their work, times a few items."""
    plan, coverage = screen.plan, screen.plan.coverage
    counted = _count(screen, executor)
    rate = _flops_per_s(screen, executor)
    host, device = _memory(screen, executor)
    classes = ("screened", "absent", "truncated", "emptied")
    return Forecast(
        n_perturbations=len(screen.library),
        n_cells=screen.bank.n_cells,
        n_items=plan.n_items,
        n_units=plan.n_units,
        n_sampled=counted.n_units,
        n_batches=round(counted.n_batches),
        padded_share=counted.padded_share,
        tokens=round(counted.tokens),
        flops=counted.flops,
        control_flops=counted.control_flops,
        host_bytes=host,
        device_bytes=device,
        disk_bytes=disk_bytes(screen) + h5ad_bytes(screen),
        n_files=n_files(screen) + screen.output.h5ad,
        flops_per_s=rate,
        seconds=counted.flops / rate if rate else 0.0,
        coverage={name: int(getattr(coverage, f"{name}_PS").sum()) for name in classes},
        executor={k: v for k, v in executor.record().items() if k != "finished"},
    )


@dataclass(frozen=True, repr=False)
class Preflight:
    """What a screen would do and cost; nothing has run but a few items, to be timed. It reads as `perturbscreen plan` does.

    lines       perturbations, cells, edits, work, memory, disk and time, in words
    notes       what the user should know
    unscreened  perturbations that were asked for and have no item, a sentence each
    """

    forecast: Forecast
    lines: tuple[str, ...]
    notes: tuple[str, ...]
    unscreened: tuple[str, ...]

    def json(self) -> dict[str, Any]:
        """For machines: what `plan --json` prints; the keys are its format."""
        return self.forecast.json() | {"notes": list(self.notes), "unscreened": list(self.unscreened)}

    def __repr__(self) -> str:
        said = [*(f"note: {x}" for x in self.notes), *(f"not screened: {x}" for x in self.unscreened)]
        return "\n".join([*self.lines, *said])


def preflight(config: ScreenConfig) -> Preflight:
    """Plans a screen and times a few of its items. Raises ScreenError."""
    if config.compute.engine == "reference":
        raise ConfigError("`plan` predicts the packed engine only; remove --engine reference (compute.engine)")
    screen = prepare(config)
    if screen.plan.n_items == 0:
        raise CellError(nothing_to_screen(screen))
    executor = choose_executor(config.compute, screen)
    found, notes, precision = forecast(screen, executor), notes_of(screen), executor.precision
    if precision != "float32":
        notes.append(
            f"`run` first tries {precision} against {yardstick(precision)} on a sample, and refuses it if they disagree"
        )
    lines = (*described_plan(screen), *described_forecast(found))
    return Preflight(found, lines, tuple(notes), tuple(reasons(screen, screen.unscreened())))


def disk_bytes(screen: Screen) -> int:
    """Bytes of the results of a screen in its store; metadata and observed counts aside."""
    plan, layout, n_genes = screen.plan, screen.layout, len(screen.vocabulary)
    segments = Segments.of(plan)
    per_gene = 4 * len(SUMMARIES) if layout.keeps_summaries else MOMENT_BYTES
    is_kept = layout.keeps_summaries or has_moments(segments, plan, layout)
    of_groups = segments.n_bytes(layout, n_genes, per_gene) if is_kept else 0
    return plan.n_items * layout.row_bytes(n_genes) + of_groups + screen.bank.n_cells * layout.control_bytes(n_genes)


def h5ad_bytes(screen: Screen) -> int:
    """Most bytes of the arrays of predictions.h5ad, where it is written: rows of one perturbation and cell_idx become one."""
    if not screen.output.h5ad:
        return 0
    layout, states = screen.layout, screen.bank.states
    has_observed = all(states[t].counts is not None for t in layout.pred_tps)
    per_gene = layout.has_counts * (2 + has_observed) + layout.keep_gene_cosine
    per_row = per_gene * len(screen.vocabulary) + layout.width * (1 + layout.keep_embeddings) + 1
    return 4 * int(screen.plan.is_screened_IT.sum()) * per_row


def n_files(screen: Screen) -> int:
    """Files of the results of a screen in its store; metadata and what is known of cells aside."""
    plan, layout, n_genes = screen.plan, screen.layout, len(screen.vocabulary)
    has = has_moments(Segments.of(plan), plan, layout)
    return plan.n_units * layout.files_per_unit(n_genes, has) + plan.n_blocks * layout.files_per_block(n_genes)


@dataclass(frozen=True)
class _Counted:
    n_units: int
    n_batches: float
    tokens: float
    padded_share: float
    flops: float
    control_flops: float


def _count(screen: Screen, executor: Executor) -> _Counted:
    """Batches, tokens and operations of all units, from a sample where there are many."""
    plan = screen.plan
    numbers = np.unique(np.linspace(0, plan.n_units - 1, min(plan.n_units, SAMPLED_UNITS)).astype(int)).tolist()
    n_batches, tokens, padded, flops, n_items = 0, 0, 0, 0.0, 0
    for number in numbers:
        rows = plan.unit(number)
        n_items += rows.stop - rows.start
        for _, batches in pack_unit(screen.lengths, plan, number, executor.batch_tokens, executor.is_delta):
            n_batches += len(batches)
            tokens += sum(b.n_tokens for b in batches)
            padded += sum(b.n_padded_tokens for b in batches)
            flops += sum(item_flops(screen, b) for b in batches)
    scale = plan.n_items / max(n_items, 1)
    controls = _control_flops(screen)
    return _Counted(
        len(numbers), n_batches * scale, tokens * scale, padded / max(tokens, 1), flops * scale + controls, controls
    )


def _control_flops(screen: Screen) -> float:
    """Operations of all controls, every cell once, at their own lengths."""
    max_len, states = screen.window.max_len, screen.bank.states
    length = {s: np.minimum(states[s].tokens.length_C, max_len).astype(float) for s in screen.lengths.states}
    target = {t: n + screen.rows.n_conditions(t) for t, n in length.items() if t != SOURCE}
    return float(np.sum(screen.adapter.cost.control(length[SOURCE], target)))


def _flops_per_s(screen: Screen, executor: Executor) -> float:
    """Operations per second of a few items, controls included, on the machine at hand."""
    if screen.plan.n_items == 0:
        return 0.0
    n_cells, rate = 2 * (executor.n_lanes or default_lanes(executor.device)), 0.0
    # the first calls into a library are slow
    list(PackedEngine(sample(screen, n_cells, 1), executor).units([0], lambda n, tokens, padded: None))
    for items_per_cell in (4, 16, 64, 256):
        small = sample(screen, n_cells, items_per_cell)
        engine = PackedEngine(small, executor)
        start = time.perf_counter()
        list(engine.units([0], lambda n, tokens, padded: None))
        elapsed_s = time.perf_counter() - start
        rate = total_flops(small, executor.batch_tokens, executor.is_delta) / elapsed_s
        if elapsed_s >= CALIBRATION_S or small.plan.n_items == screen.plan.n_items:
            break
    return rate


def _memory(screen: Screen, executor: Executor) -> tuple[int, int]:
    """(host bytes, device bytes) at the peak of a run, estimated."""
    plan, bank, cost = screen.plan, screen.bank, screen.adapter.cost
    n_lanes = executor.n_lanes or default_lanes(executor.device)
    tokens = sum(s.tokens.token_T.nbytes + s.tokens.offset_C1.nbytes for s in bank.states.values())
    counts = sum(s.counts.data.nbytes + s.counts.indices.nbytes for s in bank.states.values() if s.counts is not None)
    arrays = sum(x.nbytes for x in (plan.perturbation_I, plan.cell_I, plan.n_edited_I, plan.is_screened_IT))
    unit = min(plan.unit_rows, plan.n_items) * screen.layout.held_bytes(len(screen.vocabulary))
    host = PROCESS_BYTES + cost.weight_bytes() + 4 * tokens + counts + arrays + (UNITS_AHEAD + 3) * unit
    host += tables_bytes(screen)
    n_blocks = min(BLOCKS_ALIVE, plan.n_blocks * executor.n_parts)
    device = n_lanes * cost.working_bytes(executor.batch_tokens) + n_blocks * control_bytes(screen, executor)
    if executor.is_delta:
        # the head, and what checks it, is float64
        device += n_lanes * recorded_bytes(screen, executor) + 2 * cost.weight_bytes()
    if executor.device.type == "cpu":
        return host + device, 0
    # controls have a lane of their own
    return host, device + cost.working_bytes(executor.batch_tokens) + cost.weight_bytes() + 2 * tokens


def tables_bytes(screen: Screen) -> int:
    """Bytes of what follows screening: the tables, by as many threads as have a part, and the page."""
    # polars is not loaded before it is needed
    from screen.stats.parts import count_parts

    n_parts = count_parts(len(screen.library), most_rows(screen)) if screen.layout.has_counts else 1
    return min(available_cores(), n_parts) * TABLES_BYTES + screen.output.report * REPORT_BYTES


def control_bytes(screen: Screen, executor: Executor) -> int:
    """Bytes of the controls of a block of cells, or of the part of it that is held at once."""
    max_len, states = screen.window.max_len, screen.bank.states
    mean = {s: float(np.minimum(state.tokens.length_C, max_len).mean()) for s, state in states.items()}
    # where changes are carried items take over no activations: what they need of the network is recorded by their lane
    edits = () if executor.is_delta else screen.edits
    n_target = {t: n + screen.rows.n_conditions(t) for t, n in mean.items() if t != SOURCE}
    n_cells = min(-(-screen.plan.cells_per_block // executor.n_parts), screen.bank.n_cells)
    per_cell = float(screen.adapter.cost.shared_bytes(edits, mean[SOURCE], n_target))
    return int((per_cell + TOKEN_BYTES * sum((mean[SOURCE], *n_target.values()))) * n_cells)


def recorded_bytes(screen: Screen, executor: Executor) -> int:
    """Bytes that a lane keeps of the controls whose items it computes: measured on one cell, for the most tokens there are."""
    if not screen.plan.n_items:
        return 0
    one = sample(screen, 1, 1)
    computer = BatchComputer(one, executor)
    ((_, (batch,)),) = pack_unit(one.lengths, one.plan, 0, executor.batch_tokens, by_cell=True)
    (of_cell,) = pack_controls(one.lengths, batch.cell_B, executor.batch_tokens)
    with float32_products(executor), torch.inference_mode():
        computer.items(batch, computer.controls(of_cell))
    model = computer.model
    assert isinstance(model, DeltaForward)
    per_token = model.recorded_bytes / of_cell.n_tokens
    numbers = range(0, screen.plan.n_units, -(-screen.plan.n_units // SAMPLED_UNITS))
    some = (batches for _, batches in batches_by_block(screen, executor.batch_tokens, numbers, by_cell=True))
    most = max(b.n_tokens / b.n_items * (len(np.unique(b.cell_B)) if model.at_once else 1) for bs in some for b in bs)
    return int(per_token * most)
