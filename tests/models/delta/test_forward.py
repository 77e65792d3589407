"""Changes by the delta engine, in float64, are the plain model's: plain(edited) - plain(control)."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from screen.engine.executor import AnyPrecision, Executor
from screen.engine.packed import PackedEngine
from screen.engine.reference import ReferenceEngine
from screen.engine.resident import Resident
from screen.engine.screen import Screen
from screen.models.adapter import BatchRows
from screen.models.delta.forward import DeltaForward
from screen.models.delta.group import CellRow, Group
from screen.planning.batches import Batch, pack_controls, pack_unit
from tests.kernels.test_delta_kernels import needs_triton
from tests.kernels.test_kernels import python
from tests.support.delta_engine_cases import CHECKS, MOST, SEEDS, mixed_batches, worst
from tests.unit.engine.test_engine import quiet
from tests.unit.engine.test_nasty_screens import CPU, assert_same, nasty_screen

N_BATCHES = 10
"""Of a screen, evenly spread."""
DELTA64 = Executor(CPU, "delta64", batch_tokens=200)


def batches(screen: Screen) -> Iterator[Batch]:
    for number in range(screen.plan.n_units):
        for _, some in pack_unit(screen.lengths, screen.plan, number, DELTA64.batch_tokens):
            yield from some


def is_carried(model: DeltaForward, cell: CellRow, rows: BatchRows, b: int) -> bool:
    """Whether frames hold item b of a batch."""
    frames = model._frames(Group((cell,), torch.tensor([b]), torch.tensor([0])), rows)
    return all(bool(f.is_carried_B) for f in frames.values())


def worst_error(screen: Screen, at_once: bool) -> float:
    """Largest error of any number of a pooled change over the largest of that change, and of any token's embedding."""
    screen = screen.altered(layout=replace(screen.layout, keep_gene_cosine=True))
    model, exact = screen.packed(DELTA64), screen.adapter.in_double()
    assert isinstance(model, DeltaForward)
    model = replace(model, at_once=at_once)
    resident, worst = Resident(screen.rows, screen.library, screen.lengths, CPU), 0.0
    every = list(mixed_batches(screen) if at_once else batches(screen))
    for batch in every[:: math.ceil(len(every) / N_BATCHES)]:
        cells, index_B = np.unique(batch.cell_B, return_inverse=True)
        controls = [pack_controls(screen.lengths, cells[c : c + 1], 10**6)[0] for c in range(len(cells))]
        found = [model.control(resident.rows(b, np.zeros(1, int)), resident.own_lengths(b)) for b in controls]
        before = {t: torch.cat([readout.embedding_BD[t] for readout, _ in found]) for t in screen.window.pred_tps}
        shared, rows = [cell for _, (cell,) in found], resident.rows(batch, index_B)
        readout = model.predict(rows, before, shared).settled()
        for b in range(batch.n_items):
            # the others are float32
            if not is_carried(model, shared[index_B[b]], rows, b):
                continue
            cell, p = int(batch.cell_B[b]), screen.library.perturbations[int(batch.perturbation_B[b])]
            old = exact.predict(screen.rows.control(cell))
            new = exact.predict(screen.rows.edited(cell, p), keep_hidden=True)
            for t in screen.window.pred_tps:
                change_D = (new.embedding_BD[t] - old.embedding_BD[t])[0]
                ours_D = readout.embedding_BD[t][b] - before[t][index_B[b]]
                if torch.isfinite(old.embedding_BD[t]).all():
                    assert torch.equal(torch.isnan(change_D), torch.isnan(ours_D))
                    size = max(float(change_D.abs().nan_to_num().max()), 1e-6)
                    worst = max(worst, float((ours_D - change_D).abs().nan_to_num().max()) / size)
                n = min(new.hidden_BLD[t].shape[1], readout.hidden_BLD[t].shape[1])
                is_token_L = rows.row(t).ids_BL[b, :n] != 0
                off_LD = (readout.hidden_BLD[t][b, :n] - new.hidden_BLD[t][0, :n])[is_token_L]
                worst = max(worst, float(off_LD.abs().max()) if off_LD.numel() else 0.0)
    return worst


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**31), st.booleans())
def test_in_float64_changes_are_the_plain_models(seed: int, at_once: bool) -> None:
    screen = nasty_screen(seed)
    if screen is not None:
        assert worst_error(screen, at_once) <= 1e-9


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**31))
def test_everything_that_is_kept_is_the_references(seed: int) -> None:
    screen = nasty_screen(seed)
    if screen is None:
        return
    numbers = range(screen.plan.n_units)
    exact = list(ReferenceEngine(screen, Executor(CPU, "float64", n_lanes=1)).units(numbers, quiet))
    ours = list(PackedEngine(screen, DELTA64).units(numbers, quiet))
    assert_same(ours, exact)


@pytest.mark.parametrize("precision", ["delta32", "delta16"])
def test_bytes_do_not_depend_on_lanes_or_order(precision: str) -> None:
    screen = nasty_screen(5)
    assert screen is not None
    numbers = list(range(screen.plan.n_units))
    one, other = (
        list(PackedEngine(screen, Executor(CPU, precision, batch_tokens=200, n_lanes=n)).units(order, quiet))  # type: ignore[arg-type]
        for n, order in ((1, numbers), (3, numbers[::-1]))
    )
    for unit, again in zip(one, other[::-1], strict=True):
        for name, values in unit.columns.items():
            np.testing.assert_array_equal(again.columns[name], values, err_msg=name)


def test_what_cannot_be_carried_is_computed_packed_and_counted() -> None:
    screen = nasty_screen(0)
    assert screen is not None
    units = list(PackedEngine(screen, DELTA64).units(range(screen.plan.n_units), quiet))
    found = [unit.record["recomputed"] for unit in units if "recomputed" in unit.record]
    assert {reason for reasons in found for reason in reasons} == {"its row does not fit a frame"}
    resident, model, n_uncarried = Resident(screen.rows, screen.library, screen.lengths, CPU), screen.packed(DELTA64), 0
    assert isinstance(model, DeltaForward)
    for batch in batches(screen):
        for b in range(batch.n_items):
            one = batch.cell_B[b : b + 1]
            (control,) = pack_controls(screen.lengths, one, 10**6)
            _, (cell,) = model.control(resident.rows(control, np.zeros(1, int)), resident.own_lengths(control))
            rows = resident.rows(batch, np.zeros(batch.n_items, int))
            n_uncarried += not is_carried(model, cell, rows, b)
    assert sum(n for reasons in found for n in reasons.values()) == n_uncarried > 0


@pytest.mark.parametrize("precision", MOST)
def test_kernels_carry_many_cells_in_half_precision(precision: AnyPrecision) -> None:
    for seed in SEEDS.values():
        screen = nasty_screen(seed)
        assert screen is not None
        assert worst(screen, precision, "cpu", "torch") <= MOST[precision]


@needs_triton
def test_networks_by_interpreted_kernels_agree_with_float64() -> None:
    run = python("-m", "tests.support.delta_engine_cases", "cpu", "triton", TRITON_INTERPRET="1")
    assert run.returncode == 0, run.stdout + run.stderr[-4000:]
    assert run.stdout.count("passed") == len(CHECKS)
