"""Kernels of differences against their definitions: torch on named cases, Triton in the interpreter of its own process."""

import dataclasses
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from screen_kernels import delta

from tests.kernels.test_kernels import python
from tests.support import delta_attention_cases as attention
from tests.support import delta_cases as rows_cases
from tests.support import delta_frame_cases as frames

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton has no wheel for this platform")
MODULES = {
    "tests.support.delta_cases": len(rows_cases.CHECKS + rows_cases.TRITON_CHECKS),
    "tests.support.delta_attention_cases": len(attention.CHECKS + attention.TRITON_CHECKS),
    "tests.support.delta_frame_cases": len(frames.CHECKS + frames.TRITON_CHECKS),
    "tests.support.delta_drawn": 3,
}


@pytest.mark.parametrize("check", rows_cases.CHECKS + attention.CHECKS, ids=lambda c: c.__name__.removeprefix("check_"))
def test_the_torch_backend_passes_every_named_case(check: Callable[[str, str], None]) -> None:
    check("cpu", "torch")


@needs_triton
@pytest.mark.parametrize("module", MODULES)
def test_the_triton_backend_passes_every_case_in_the_interpreter(module: str) -> None:
    run = python("-m", module, "cpu", "triton", TRITON_INTERPRET="1")
    assert run.returncode == 0, run.stdout + run.stderr[-4000:]
    assert run.stdout.count("passed") == MODULES[module]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.lists(st.integers(0, 4), max_size=6))
def test_rows_of_items_lie_one_behind_the_other_and_tiles_cover_them_once(
    length_C: list[int], cells: list[int]
) -> None:
    cell_B = [c % len(length_C) for c in cells]
    rows = delta.ragged_rows(rows_cases.starts(length_C), cell_B, "cpu", tile=16)
    covered, end = [], 0
    for b, (cell, of_item, of_cell) in enumerate(rows.spans()):
        assert cell == cell_B[b] and of_item.start == end
        end = of_item.stop
        assert end - of_item.start == of_cell.stop - of_cell.start == length_C[cell]
        assert rows.control_T[of_item].tolist() == list(range(of_cell.start, of_cell.stop))
        covered += [(b, row) for row in range(length_C[cell])]
    assert rows.n_rows == end
    tiles = [
        (b, row) for b, first in rows.tile_X2.tolist() for row in range(first, min(first + 16, length_C[cell_B[b]]))
    ]
    assert tiles == covered
    assert all(first < length_C[cell_B[b]] for b, first in rows.tile_X2.tolist())


@given(st.integers(0, 70), st.integers(1, 4), st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_even_rows_are_ragged_rows_of_one_length(n_rows: int, n_cells: int, cells: list[int]) -> None:
    cell_B = torch.tensor([c % n_cells for c in cells])
    even = delta.even_rows(cell_B, n_cells, n_rows, tile=16)
    ragged = delta.ragged_rows(rows_cases.starts([n_rows] * n_cells), cell_B.numpy(), "cpu", tile=16)
    for field in dataclasses.fields(delta.RaggedRows):
        ours, theirs = getattr(even, field.name), getattr(ragged, field.name)
        if field.name == "tile":
            assert ours == theirs
        else:
            assert ours.dtype == theirs.dtype, field.name
            assert torch.equal(ours, theirs), field.name


def test_rows_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="it must hold the start of every cell"):
        delta.ragged_rows([0, 4, 3], [0], "cpu")
    with pytest.raises(ValueError, match="cell_B holds 0 to 2; allowed: 0 to 1"):
        delta.ragged_rows([0, 4, 5], [0, 2], "cpu")
    with pytest.raises(ValueError, match="tile is 24; it must be a power of two"):
        delta.ragged_rows([0, 4], [0], "cpu", tile=24)


@pytest.mark.parametrize("scale", [0.5, 3.0, 2.0**17, float("nan"), -2.0, 0.0])
def test_a_scale_is_a_power_of_two(scale: float) -> None:
    with pytest.raises(ValueError, match="it must be a power of two from 1 to 65536"):
        delta.Scaled(torch.zeros(1), scale)


def test_what_does_not_fit_is_infinite() -> None:
    assert delta.scaled(torch.tensor([100.0, 1e-3]), 1024.0, torch.float16).unscaled().isinf().tolist() == [True, False]


def test_a_column_of_an_id_is_the_last_where_it_stands() -> None:
    control_CL = torch.tensor([[2, 6, 1, 4, 6, 0], [5, 0, 0, 0, 0, 0]], dtype=torch.int32)
    column_CV = delta.columns_by_id(control_CL, 8)
    assert column_CV.dtype == torch.int32
    assert column_CV.tolist() == [[-1, -1, 0, -1, 3, -1, 4, -1], [-1, -1, -1, -1, -1, 0, -1, -1]]
    # a MASK has a place in the table even where all ids are pads
    assert delta.columns_by_id(torch.zeros(1, 0, dtype=torch.int32), 1).tolist() == [[-1, -1]]


def test_the_last_of_several_tokens_stands_in_their_column() -> None:
    control_CL, edited_BW = torch.tensor([[10, 11]]), torch.tensor([[11, 10, 11]])
    counted_BW = torch.tensor([[True, True, False]])
    column_CV, cell_B = delta.columns_by_id(control_CL, 12), torch.zeros(1, dtype=torch.long)
    frame = delta.frame_rows(control_CL, column_CV, control_CL > 0, cell_B, edited_BW, counted_BW, 0)
    assert frame.column_BW.tolist() == [[1, 0, 1]]
    assert frame.ids_BF4.tolist() == [[[10, 0, 10, 1], [11, 1, 11, 2]]]
    assert frame.counted_BF2.tolist() == [[[True, True], [True, False]]]
    assert frame.is_carried_B.tolist() == [False]


def test_rows_that_make_no_frame_are_refused_by_name() -> None:
    control_CL, column_CV, counted_CL, cell_B, edited_BW, counted_BW, n = frames.CASES["masks"].inputs("cpu")
    with pytest.raises(ValueError, match=r"they must be \(C, L\), \(B, W\), these twice or once, \(C, V\), \(B,\)"):
        delta.frame_rows(control_CL, column_CV, counted_CL, cell_B[1:], edited_BW, counted_BW, n)
    with pytest.raises(ValueError, match="what is counted of each or of neither"):
        delta.frame_rows(control_CL, column_CV, counted_CL, cell_B, edited_BW, None, n)
    with pytest.raises(TypeError, match=r"what is counted is \[torch.bool, torch.int64\]; both must be torch.bool"):
        delta.frame_rows(control_CL, column_CV, counted_CL, cell_B, edited_BW, edited_BW.long(), n)


def test_wrong_arguments_are_refused_by_name() -> None:
    case = rows_cases.CASES["cells in any order"]
    rows = case.rows("cpu")
    unit_MD, deviation_M, weight_D, x, update = rows_cases.norm_inputs(case, torch.float16, "cpu")
    with pytest.raises(ValueError, match=r"they must be \(T, D\) twice, \(M,\), \(D,\)"):
        delta.norm_change_rows(rows, unit_MD, deviation_M[1:], weight_D, x, update, scale=1.0)
    with pytest.raises(ValueError, match='activation is "silu"; allowed: gelu, relu'):
        delta.activation_change_rows(rows, unit_MD, x, "silu", scale=1.0)
    with pytest.raises(ValueError, match="h, x have shapes"):
        delta.activation_change_rows(rows, unit_MD[:, 1:], x, scale=1.0)
    x_MD, before_M, after_T, d = rows_cases.pool_inputs(case, torch.float16, 0.2, "cpu")
    total_CD = delta.pool_total(rows.start_C1, x_MD, before_M)
    with pytest.raises(ValueError, match="total, before, after, d have shapes"):
        delta.pool_change_rows(rows, x_MD, total_CD[1:], before_M, after_T, d)
    with pytest.raises(TypeError, match=r"after_T torch.uint8; both must be torch.bool"):
        delta.pool_change_rows(rows, x_MD, total_CD, before_M, after_T.byte(), d)
    given = attention.batch(attention.MIXED, "cpu")
    *arguments, anew_T = given.arguments()
    with pytest.raises(ValueError, match=r"anew has shape \(1,\); it must be"):
        delta.attention_change_rows(*arguments, anew_T[:1], scale=1.0)
    with pytest.raises(TypeError, match=r"anew is torch.int64; it must be torch.bool"):
        delta.attention_change_rows(*arguments, anew_T.long(), scale=1.0)


def test_declared_bytes_are_those_of_the_arrays() -> None:
    case = rows_cases.Case([5, 3], [1, 0], 64)
    rows = case.rows("cpu")
    control = rows_cases.norm_inputs(case, torch.float16, "cpu")
    changed = delta.norm_change_rows(rows, *control, scale=64.0)
    arrays = [*control[:3], *(x.values for x in (*control[3:], changed)), rows.control_T]
    assert delta.norm_change_rows_bytes(8, 8, 64) == sum(a.nbytes for a in arrays)

    unit_MD, x = control[0], control[3]
    changed = delta.activation_change_rows(rows, unit_MD, x, scale=64.0)
    arrays = [unit_MD, x.values, changed.values, rows.control_T]
    assert delta.activation_change_rows_bytes(8, 8, 64) == sum(a.nbytes for a in arrays)

    x_MD, before_M, after_T, d = rows_cases.pool_inputs(case, torch.float16, 0.3, "cpu")
    total_CD = delta.pool_total(rows.start_C1, x_MD, before_M)
    pooled_BD = delta.pool_change_rows(rows, x_MD, total_CD, before_M, after_T, d)
    n_counted, n_moved = int(after_T.sum()), int((before_M[rows.control_T] != after_T).sum())
    moved = (
        n_counted * d.values[0].nbytes
        + n_moved * x_MD[0].nbytes
        + sum(
            a.nbytes
            for a in (total_CD, pooled_BD, before_M, after_T, rows.cell_B, rows.start_B1[1:], rows.start_C1[1:])
        )
    )
    assert delta.pool_change_rows_bytes(8, n_counted, n_moved, 2, 2, 64) == moved

    *rows_in, n_slots = frames.Case([[2, 10, 11], [4, 5, 6]], [(0, [2, 20, 10, 11]), (1, [4, 5, 6, 7])], 3).inputs(
        "cpu"
    )
    frame = delta.frame_rows(*rows_in, n_slots)
    moved = sum(x.nbytes for x in (*rows_in[:1], *rows_in[2:], *vars(frame).values()))
    # one of them joins and two move on; one joins
    n_looked_up = 3 + 1
    assert delta.frame_rows_bytes(n_looked_up, 2, 2, 3, 4, n_slots) == moved + n_looked_up * rows_in[1].itemsize

    given = attention.batch(attention.Case((5, 3), (7, 2), (1, 0)), "cpu")
    changed = delta.attention_change_rows(*given.arguments(), scale=64.0)
    c = given.control
    arrays = [c.query_MI, c.key_NI, c.value_NI, c.out_MI, c.log_sum_MH, c.keep_N, given.keep_U, changed.values]
    moved = sum(a.nbytes for a in arrays) + sum(x.values.numel() * 2 for x in (given.dq, given.dk, given.dv))
    assert delta.attention_change_rows_bytes(8, 9, 8, 9, 32, 2) == moved + 2 * given.anew_T.nbytes


def test_declared_flops_grow_with_the_numbers_worked_on() -> None:
    assert delta.norm_change_rows_flops(7, 100) == 14 * 700
    assert [delta.activation_change_rows_flops(7, 100, a) for a in ("gelu", "relu")] == [33600, 4900]
    assert delta.pool_change_rows_flops(30, 2, 2, 64) == (60 + 2 + 6) * 64
    pairs = np.dot([5, 3], [7, 2])
    assert delta.attention_change_rows_flops(int(pairs), 32, 2) == pairs * (2 * 32 * 5 + 40)
