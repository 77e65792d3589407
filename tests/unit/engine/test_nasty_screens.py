"""Packed equals reference on screens made to hurt: empty, repeated and holed rows, odd time points, every kind of model."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from screen.bench.synthetic import synthetic_screen
from screen.cells.bank import Ragged, State, TokenBank
from screen.config.sections import OutputConfig
from screen.engine.executor import Executor
from screen.engine.packed import PackedEngine
from screen.engine.precision import pilot
from screen.engine.reference import ReferenceEngine
from screen.engine.rows import RowBuilder
from screen.engine.screen import Screen
from screen.engine.unit import Unit
from screen.errors import PredictionError
from screen.models.perturbgen.adapter import ATTENTION_CHOICES, PerturbGenAdapter
from screen.models.perturbgen.network.model import PerturbGen
from screen.models.perturbgen.random import random_model, sizes_of
from screen.models.synthetic import SyntheticSizes, synthetic_vocabulary
from screen.planning.index import BankIndex
from screen.planning.layout import Layout
from screen.planning.perturbations import Library, make_library, make_perturbation
from screen.planning.plan import order
from screen.planning.selection import select_items
from screen.planning.window import Window
from tests.support.modes import EVERY
from tests.unit.engine.test_engine import quiet

CPU = torch.device("cpu")
N_GENES, MAX_LEN, CONDITION_IDS = 60, 30, (64, 65, 66)
SIZES = SyntheticSizes(
    width=32, n_heads=2, encoder_head_width=16, head_width=8, n_encoder_blocks=2, n_blocks=2, n_genes=N_GENES,
    n_source_tokens=400, max_len=MAX_LEN, n_times=3,
)  # fmt: skip
VOCABULARY = synthetic_vocabulary(SIZES)
FIRST = ("mask", "pad", "delete", "overexpress")


@cache
def model_of(kind: str, position: Any, loss: Any, activation: Any, predicts: bool) -> PerturbGen:
    sizes = sizes_of(SIZES)
    encoder = replace(sizes.encoder, chained=kind == "chained")
    if kind == "Transformer_encoder":
        encoder = replace(encoder, kind="Transformer_encoder", feed_forward_width=48)
    levels = 0 if loss in (None, "mse") else 1
    changed = replace(
        sizes, encoder=encoder, position_mode=position, loss_mode=loss, count_activation=activation,
        predicts_size_factor=predicts, dispersion_levels=levels,
    )  # fmt: skip
    return random_model(changed)


def nasty_row(rng: np.random.Generator, token_G: np.ndarray) -> np.ndarray:
    """Empty, short, full or over-long; now and then with repeats, a hole, special ids."""
    n = int(rng.choice([0, 0, 1, 2, 5, 20, 29, 30, 31, 45]))
    row = rng.permutation(token_G)[:n].tolist()
    if n and rng.random() < 0.3:
        row += rng.choice(row, 3).tolist()
    for place, value, chance in ((1, 0, 0.3), (0, 2, 0.2), (2, 1, 0.2)):
        if n > 5 and rng.random() < chance:
            row[place] = value
    return np.array(row, dtype=np.int32)


def nasty_library(rng: np.random.Generator, pred_tps: tuple[int, ...], excludes_source: bool) -> Library:
    edits, more = [], rng.spawn(1)[0]
    sites: list[tuple[Any, ...]] = [("tgt",)] if excludes_source else [("src",), ("tgt",), ("src", "tgt")]
    for mode in EVERY:
        # those of the pinned examples draw what they drew when they were found
        draw = rng if mode in FIRST else more
        for site in sites:
            genes = draw.permutation(N_GENES)[: int(draw.choice([1, 1, 2, 3, 17, 31]))].tolist()
            tps = draw.permutation(pred_tps)[: draw.integers(1, len(pred_tps) + 1)].tolist() if "tgt" in site else ()
            edits.append(make_perturbation(genes, mode, site, tps, VOCABULARY))  # type: ignore[arg-type]
    return make_library([(edits, False)])


def nasty_screen(seed: int) -> Screen | None:
    """A random screen, the same for the same seed; None where nothing can be screened."""
    rng = np.random.default_rng(seed)
    n_cells = int(rng.integers(2, 7))
    pred_tps = [(1,), (2,), (1, 2), (2, 1), (1, 2, 3), (3, 1)][rng.integers(6)]
    context_mode = bool(rng.random() < 0.4)
    context_tps = [pred_tps, (1, 2, 3), (2,)][rng.integers(3)] if context_mode else ()
    loss = ["zinb", "nb", "mse", None][rng.choice(4, p=[0.5, 0.2, 0.2, 0.1])]
    predicts = bool(rng.random() < 0.3) and loss in ("zinb", "nb")
    positions = ("comb_sin", "time_pos_sin", "sin_learnt", "time_pos_learnt")
    kind = ("scmaskgit", "Transformer_encoder", "chained")[rng.integers(3)]
    model = model_of(kind, positions[rng.integers(4)], loss, ("softmax", "softplus")[rng.integers(2)], predicts)
    states = {}
    for s in range(4):
        token_G = VOCABULARY.source_token_G if s == 0 else VOCABULARY.target_token_G
        size_factor = None if s == 0 else rng.lognormal(8, 0.4, n_cells).astype(np.float32)
        rows = Ragged.from_rows([nasty_row(rng, token_G) for _ in range(n_cells)])
        states[s] = State(rows, np.arange(n_cells), size_factor_C=size_factor)
    bank = TokenBank(states, tuple(f"cell{i}" for i in range(n_cells)))
    window, excludes_source = Window(pred_tps, context_tps, MAX_LEN, bool(rng.random() < 0.3)), rng.random() < 0.15
    library, n_conditions = nasty_library(rng, pred_tps, excludes_source), int(rng.choice([0, 0, 1, 2]))
    chosen = (0,) if rng.random() < 0.4 else (0, *CONDITION_IDS) if rng.random() < 0.3 else CONDITION_IDS
    conditions = {t: rng.choice(chosen, (n_cells, n_conditions)) for t in sorted({*pred_tps, *context_tps})}
    factor: Any = "predicted" if predicts else ("observed", "none")[rng.integers(2)]
    adapter = PerturbGenAdapter(
        model, pred_tps, context_tps, context_mode, ("expected", "mu")[rng.integers(2)], factor,
        bool(rng.random() < 0.85), CONDITION_IDS if n_conditions else (),
    )  # fmt: skip
    scale = adapter.schema.expression_scale
    layout = Layout(pred_tps, 32, scale, "float32", True, bool(rng.random() < 0.5))
    index = BankIndex(bank, VOCABULARY, MAX_LEN)
    selection = select_items(library, index, window, np.zeros(n_cells, np.int64), ["all"])
    if selection.n_items == 0:
        return None
    plan = order(selection, unit_rows=int(rng.choice([7, 33, 1000])), cells_per_block=int(rng.choice([1, 3, 50])))
    rows = RowBuilder(bank, VOCABULARY, window, conditions, bool(excludes_source), adapter.condition_ids)
    return Screen(OutputConfig(), VOCABULARY, bank, index, library, plan, window, adapter, rows, layout)


def assert_near(ours: np.ndarray, exact: np.ndarray, name: str) -> None:
    """Integers exactly; NaN at the same places; deltas 1e-5, everything else 1e-5 of its scale."""
    assert (ours.dtype, ours.shape) == (exact.dtype, exact.shape), name
    if ours.dtype.kind in "ib":
        np.testing.assert_array_equal(ours, exact, err_msg=name)
        return
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(exact), err_msg=name)
    scale = 1.0 if "delta" in name else max(float(np.abs(np.nan_to_num(exact)).max(initial=0)), 1e-3)
    error = np.abs(np.nan_to_num(ours.astype(float) - exact)).max(initial=0)
    assert error <= 1e-5 * scale, name


def controls_of(units: list[Unit]) -> dict[int, dict[str, Any]]:
    return {
        int(c): {name: x[i] for name, x in columns.items()}
        for u in units
        for cells, columns in u.controls
        for i, c in enumerate(cells)
    }


def assert_same(ours: list[Unit], exact: list[Unit]) -> None:
    """Everything that is kept of items and of controls is near."""
    for one, two in zip(exact, ours, strict=True):
        assert set(one.columns) == set(two.columns)
        for name, values in one.columns.items():
            assert_near(two.columns[name], values, name)
    theirs, found = controls_of(exact), controls_of(ours)
    assert set(theirs) == set(found)
    for cell, columns in found.items():
        for name, values in columns.items():
            assert_near(np.asarray(values), np.asarray(theirs[cell][name]), name)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**31))
@example(40)
@example(46)
@example(79)
def test_packed_equals_reference_on_nasty_screens(seed: int) -> None:
    screen = nasty_screen(seed)
    if screen is None:
        return
    numbers = range(screen.plan.n_units)
    exact = list(ReferenceEngine(screen, Executor(CPU, n_lanes=1)).units(numbers, quiet))
    for executor in (
        Executor(CPU, batch_tokens=1),
        Executor(CPU, cpu_products="onednn", attention_from=dict.fromkeys(ATTENTION_CHOICES.values(), 1)),
    ):
        ours = list(PackedEngine(screen, executor).units(numbers, quiet))
        assert_same(ours, exact)


def wild(weight: float) -> PerturbGen:
    """A model whose feed-forward overflows float16 if `weight` is large, and says the same in float32."""
    model = random_model(sizes_of(SIZES))
    block: Any = model.decoder_block[0]
    with torch.no_grad():
        block.feed_forward.fc1.weight *= weight
        block.feed_forward.fc1.bias *= weight
        block.feed_forward.fc2.weight /= weight
    return model


def test_a_precision_that_overflows_does_not_pass_its_pilot() -> None:
    for weight, passes in ((1.0, True), (1e6, False)):
        screen = synthetic_screen(SIZES, 4, modes=("mask",), model=wild(weight))
        found = pilot(screen, Executor(CPU, precision="fp16x2"))
        assert found.is_close == passes


def test_units_that_were_whole_are_handed_over_before_an_error() -> None:
    sizes = replace(SIZES, n_times=1, n_genes=200)
    model: Any = random_model(sizes_of(sizes))
    screen = synthetic_screen(sizes, 6, modes=("mask",), model=model)
    selection = select_items(screen.library, screen.index, screen.window, np.zeros(6, np.int64), ["all"])
    screen = replace(screen, plan=order(selection, unit_rows=10, cells_per_block=3))
    rows = screen.bank.states[1].tokens
    first_block = {int(t) for c in range(3) for t in rows[c][:MAX_LEN]}
    # a gene that the first block's cells do not show makes the second block's controls NaN
    gene = next(int(t) for t in rows[3][:MAX_LEN] if int(t) not in first_block)
    with torch.no_grad():
        model.token_embedding.weight[gene] = torch.nan
    n_whole = int(np.flatnonzero(screen.plan.cell_I >= 3)[0]) // 10
    handed: list[int] = []
    with pytest.raises(PredictionError, match="control"):
        handed.extend(u.number for u in PackedEngine(screen, Executor(CPU)).units(range(screen.plan.n_units), quiet))
    assert n_whole > 1
    assert handed == list(range(n_whole))
