"""The packed engine equals the reference engine on random screens, whatever the budget, the lanes or the order."""

import gc
import itertools
import resource
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from screen.bench.synthetic import synthetic_screen
from screen.engine.executor import Executor
from screen.engine.packed import PackedEngine
from screen.engine.reference import ReferenceEngine
from screen.engine.sample import sample
from screen.engine.screen import Screen
from screen.engine.unit import Unit
from screen.models.perturbgen.adapter import ATTENTION_CHOICES
from screen.models.perturbgen.random import random_model, sizes_of
from screen.models.synthetic import SyntheticSizes
from screen.planning.plan import order
from screen.planning.selection import select_items
from screen.running.configuration import load_config
from screen.running.prepare import prepare
from tests.support.golden import scale_error
from tests.support.long import some_long
from tests.support.modes import EVERY
from tests.support.places import ROOT

CPU = torch.device("cpu")
SIZES = SyntheticSizes(
    width=32, n_heads=2, encoder_head_width=16, head_width=8, n_encoder_blocks=2, n_blocks=2, n_genes=60,
    n_source_tokens=400, max_len=50, n_times=2,
)  # fmt: skip
MODEL = random_model(sizes_of(SIZES))
N_CELLS = 5


def screen_of(
    modes: Any, sites: Any, pert_tps: Any, context_mode: bool, unit_rows: int, cells_per_block: int
) -> Screen:
    """A small random screen that stores everything in float32."""
    screen = synthetic_screen(
        SIZES,
        N_CELLS,
        modes=modes,
        sites=sites,
        pert_tps=pert_tps,
        context_mode=context_mode,
        genes=range(0, 60, 7),
        model=MODEL,
    )
    layout = replace(screen.layout, dtype="float32", keep_embeddings=True, keep_gene_cosine=True)
    selection = select_items(screen.library, screen.index, screen.window, np.zeros(N_CELLS, int), ["all"])
    return replace(screen, layout=layout, plan=order(selection, unit_rows=unit_rows, cells_per_block=cells_per_block))


def quiet(n_items: int, n_tokens: int, n_padded: int) -> None:
    """No progress."""


def all_units(engine: Any, screen: Screen, numbers: Any = None) -> dict[int, Unit]:
    return {u.number: u for u in engine.units(range(screen.plan.n_units) if numbers is None else numbers, quiet)}


def assert_close(one: Unit, two: Unit) -> None:
    """Ranks exactly; deltas 3e-6 rms and 1e-5 at worst in log units; everything else 1e-5 of its scale."""
    assert set(one.columns) == set(two.columns)
    for name, exact in one.columns.items():
        ours = two.columns[name]
        assert (ours.dtype, ours.shape) == (exact.dtype, exact.shape)
        if name in ("items/rank", "items/length"):
            np.testing.assert_array_equal(ours, exact, err_msg=name)
        elif name.startswith("delta") or "rms_delta" in name:
            assert np.abs(ours - exact).max() <= 1e-5, name
            assert np.sqrt(np.mean((ours - exact) ** 2)) <= 3e-6, name
        else:
            assert scale_error(ours, exact) <= 1e-5, name


def assert_same(one: dict[int, Unit], two: dict[int, Unit]) -> None:
    """Every byte of every column and every control."""
    assert set(one) == set(two)
    for number, unit in one.items():
        for name, exact in unit.columns.items():
            np.testing.assert_array_equal(two[number].columns[name], exact, err_msg=name)


CASES = list(
    itertools.product(
        [("mask",), ("pad", "delete"), ("overexpress",), EVERY],
        [(("src",), ()), (("tgt",), (1,)), (("tgt",), (1, 2)), (("src", "tgt"), (2,))],
        [False, True],
    )
)


@pytest.mark.parametrize("case", some_long(CASES, every=5), ids=str)
def test_packed_equals_reference(case: Any) -> None:
    modes, where, context_mode = case
    screen = screen_of(modes, *where, context_mode, 10_000, 4)
    (exact,) = ReferenceEngine(screen, Executor(CPU)).units([0], quiet)
    for executor in (
        Executor(CPU, batch_tokens=1),
        Executor(
            CPU, cpu_products="onednn", attention_from=dict.fromkeys(ATTENTION_CHOICES.values(), 1), batch_tokens=120
        ),
        Executor(CPU, cpu_products="onednn", attention_from=dict.fromkeys(ATTENTION_CHOICES.values(), 40)),
    ):
        (packed,) = PackedEngine(screen, executor).units([0], quiet)
        assert_close(exact, packed)
        for (cell_C, before), (again_C, columns) in zip(exact.controls, packed.controls, strict=True):
            np.testing.assert_array_equal(again_C, cell_C)
            for name, values in columns.items():
                assert scale_error(values, before[name]) <= 1e-5, name


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(20, 300), st.integers(1, 8), st.integers(1, 400), st.permutations(range(3)), st.integers(1, 3),
    st.sampled_from([1, 2, 4]), st.sampled_from(["float32", "delta16"]),
)  # fmt: skip
def test_bytes_depend_on_the_executor_record_alone(
    unit_rows: int, cells_per_block: int, budget: int, start: list[int], n_lanes: int, n_parts: int, precision: Any
) -> None:
    screen = screen_of(("mask", "overexpress"), ("src",), (), False, unit_rows, cells_per_block)
    executor = Executor(CPU, precision, batch_tokens=budget, n_lanes=n_lanes, n_parts=n_parts)
    whole = all_units(PackedEngine(screen, executor), screen)
    first = [n for n in start if n < screen.plan.n_units]
    numbers = [*first, *(n for n in range(screen.plan.n_units) if n not in first)]
    again = all_units(PackedEngine(screen, replace(executor, n_lanes=2), has_control_lane=True), screen, numbers)
    assert_same(whole, again)


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(20, 300), st.integers(1, 8), st.integers(2, 9), st.sampled_from(["float32", "delta32"]))
def test_blocks_in_parts_are_the_same_screen_with_fewer_controls_at_once(
    unit_rows: int, cells_per_block: int, n_parts: int, precision: Any
) -> None:
    screen = screen_of(("mask", "delete"), ("src",), (), False, unit_rows, cells_per_block)
    executor = Executor(CPU, precision, batch_tokens=200)
    whole = all_units(PackedEngine(screen, executor), screen)
    engine, n_cells_of = PackedEngine(screen, replace(executor, n_parts=n_parts)), list[int]()
    compute = engine.computer.items

    def items(batch: Any, control: Any) -> Any:
        n_cells_of.append(len(control.cell_C))
        return compute(batch, control)

    engine.computer.items = items  # type: ignore[method-assign]
    parts = all_units(engine, screen)
    assert max(n_cells_of) <= -(-cells_per_block // n_parts)
    for number, unit in whole.items():
        assert_close(unit, parts[number])
        assert [cells.tolist() for cells, _ in unit.controls] == [cells.tolist() for cells, _ in parts[number].controls]
        for (_, before), (_, columns) in zip(unit.controls, parts[number].controls, strict=True):
            for name, values in columns.items():
                assert scale_error(values, before[name]) <= 1e-5, name


def test_every_control_is_computed_once_per_run_of_its_block() -> None:
    screen = screen_of(("mask", "overexpress"), ("src",), (), False, 20, 3)
    units = all_units(PackedEngine(screen, Executor(CPU)), screen)
    cells = [c for n in sorted(units) for cell_C, _ in units[n].controls for c in cell_C.tolist()]
    assert cells == list(range(N_CELLS))


def test_an_edit_that_reaches_no_prediction_changes_nothing_at_all() -> None:
    screen = screen_of(("mask",), ("tgt",), (1,), False, 10_000, 4)
    (unit,) = PackedEngine(screen, Executor(CPU)).units([0], quiet)
    assert not unit.columns["delta/t2"].any()
    assert (unit.columns["items/embedding_cosine_t2"] == 1).all()
    assert unit.columns["delta/t1"].any()


def test_the_engines_agree_on_the_demo() -> None:
    demo = ROOT / "configs" / "demo.yaml"
    screen = sample(prepare(load_config(demo)), 3, 12)
    screen = screen.altered(layout=replace(screen.layout, dtype="float32", keep_embeddings=True))
    (exact,) = ReferenceEngine(screen, Executor(CPU)).units([0], quiet)
    (packed,) = PackedEngine(
        screen, Executor(CPU, cpu_products="onednn", attention_from=dict.fromkeys(ATTENTION_CHOICES.values(), 1))
    ).units([0], quiet)
    assert len(exact.columns["items/rank"]) == 36
    assert_close(exact, packed)


def test_an_engine_that_was_left_can_be_used_again() -> None:
    screen, found = screen_of(("mask", "delete"), ("src",), (), False, 20, 2), list[dict[int, Unit]]()
    engine = PackedEngine(screen, Executor(CPU, n_lanes=1))
    left = engine.units(range(screen.plan.n_units), quiet)
    next(left)
    left.close()
    again = threading.Thread(target=lambda: found.append(all_units(engine, screen)), daemon=True)
    again.start()
    again.join(120)
    assert not again.is_alive()
    assert_same(found[0], all_units(PackedEngine(screen, Executor(CPU)), screen))


@pytest.mark.parametrize("has_control_lane", [False, True])
def test_progress_counts_no_item_twice_where_controls_run_out_of_memory(has_control_lane: bool) -> None:
    screen, counts, calls = screen_of(("mask",), ("src",), (), False, 10_000, 2), list[int](), itertools.count()
    engine = PackedEngine(screen, Executor(CPU, batch_tokens=200, n_lanes=1), has_control_lane)
    compute = engine.computer.control_columns

    def control_columns(control: Any) -> Any:
        # of the second block, when the items of the first are on their way
        if next(calls) == 1:
            raise MemoryError("no room")
        return compute(control)

    engine.computer.control_columns = control_columns  # type: ignore[method-assign]
    (unit,) = engine.units([0], lambda n_items, *_: counts.append(n_items))
    assert unit.record["parts_per_block"] == 2
    assert sum(counts) <= screen.plan.n_items
    (whole,) = PackedEngine(screen, Executor(CPU)).units([0], quiet)
    assert_close(whole, unit)


@pytest.mark.parametrize("has_control_lane", [False, True])
@pytest.mark.parametrize(("precision", "unit_rows"), [("float32", 10_000), ("float32", 12), ("delta32", 12)])
def test_a_lower_rung_has_the_room_of_the_attempt_before(
    precision: Any, unit_rows: int, has_control_lane: bool
) -> None:
    screen, held, alive = screen_of(("mask", "delete"), ("src",), (), False, unit_rows, 2), list[Any](), list[int]()
    executor = Executor(CPU, precision, batch_tokens=400, n_lanes=2)
    engine = PackedEngine(screen, executor, has_control_lane)
    compute_controls, compute = engine.computer.controls, engine.computer.items

    def n_alive() -> int:
        return sum(x() is not None for n_parts, x in held if n_parts < engine.executor.n_parts)

    def controls(batch: Any) -> Any:
        # whatever of the attempts before is still held when controls are computed again; a lane that is done lets go in a moment
        until = time.monotonic() + 0.3
        while n_alive() and time.monotonic() < until:
            time.sleep(0.01)
        alive.append(n_alive())
        control = compute_controls(batch)
        held.extend(
            (engine.executor.n_parts, weakref.ref(x)) for x in (*control.embedding_CD.values(), *control.shared_C)
        )
        return control

    def items(batch: Any, control: Any) -> Any:
        columns = compute(batch, control)
        if engine.executor.n_parts < 4:
            raise MemoryError("no room")
        return columns

    engine.computer.controls = controls  # type: ignore[method-assign]
    engine.computer.items = items  # type: ignore[method-assign]
    gc.disable()
    try:
        units = all_units(engine, screen)
    finally:
        gc.enable()
    # the unit ahead fails beside the first
    assert {u.record["parts_per_block"] for u in units.values()} == {4}
    assert sum(n_parts < 4 for n_parts, _ in held) > 2
    assert not any(alive)
    for number, whole in all_units(PackedEngine(screen, Executor(CPU, precision)), screen).items():
        assert_close(whole, units[number])


def test_controls_beside_those_that_had_no_room_are_let_go() -> None:
    screen, held, alive = screen_of(("mask",), ("src",), (), False, 10_000, 2), list[Any](), list[int]()
    engine = PackedEngine(screen, Executor(CPU, batch_tokens=100, n_lanes=1))
    compute = engine.computer.controls

    def controls(batch: Any) -> Any:
        if engine.executor.n_parts > 1:
            alive.append(sum(x() is not None for x in held))
            return compute(batch)
        if held:
            # of the second cell of a block
            raise MemoryError("no room")
        control = compute(batch)
        held.extend(weakref.ref(x) for x in control.shared_C)
        return control

    engine.computer.controls = controls  # type: ignore[method-assign]
    gc.disable()
    try:
        (unit,) = engine.units([0], quiet)
    finally:
        gc.enable()
    assert unit.record["parts_per_block"] == 2
    assert held
    assert not any(alive)


OUT_OF_MEMORY = """
import resource, sys
import numpy as np, torch
from dataclasses import replace
from screen.engine.executor import Executor
from screen.engine.packed import PackedEngine
from screen.engine.sample import sample
from screen.running.configuration import load_config
from screen.bench.synthetic import synthetic_screen
from screen.models.synthetic import SyntheticSizes

sizes = SyntheticSizes(width=256, n_heads=4, encoder_head_width=64, head_width=64, n_encoder_blocks=1, n_blocks=1,
    n_genes=500, n_source_tokens=600, max_len=400)
screen = synthetic_screen(sizes, 4, modes=("mask",), genes=range(0, 500, 5))
executor = Executor(torch.device("cpu"), batch_tokens=256, n_lanes=1)
quiet = lambda *counted: None
(small,) = PackedEngine(screen, executor).units([0], quiet)
engine = PackedEngine(screen, replace(executor, batch_tokens=2**16))
in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
resource.setrlimit(resource.RLIMIT_AS, (in_use + 160 * 2**20, hard))
(unit,) = engine.units([0], quiet)
# what is compared below has room
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
assert unit.record["batch_tokens"] < 2**16, unit.record
assert unit.record["batch_tokens"] * unit.record["parts_per_block"] == 2**16, unit.record
assert engine.executor.batch_tokens == unit.record["batch_tokens"]
assert np.abs(unit.columns["delta/t1"].astype(float) - small.columns["delta/t1"]).max() / 4096 < 1e-5
lower = replace(executor, batch_tokens=unit.record["batch_tokens"], n_parts=unit.record["parts_per_block"])
(same,) = PackedEngine(screen, lower).units([0], quiet)
assert all(np.array_equal(same.columns[name], x) for name, x in unit.columns.items())
print("RUNG", unit.record["batch_tokens"])
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="limits its own address space through Linux's interfaces"
)
def test_running_out_of_memory_repeats_the_unit_with_smaller_batches() -> None:
    assert resource.RLIMIT_AS
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "RUNG" in done.stdout
