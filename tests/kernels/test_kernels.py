"""Every backend against its definition: torch on any input, Triton in the interpreter of a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from itertools import chain, repeat
from types import SimpleNamespace

import numpy as np
import pytest
import screen_kernels as kernels
import torch
from hypothesis import given
from hypothesis import strategies as st
from screen_kernels import backend as backends

from screen.edits import Site
from tests.support import kernel_cases
from tests.support.modes import CODES, CODES_OF_MODE
from tests.support.places import ROOT

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton has no wheel for this platform")


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter, warnings being errors there too."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment | variables)


@pytest.mark.parametrize("check", kernel_cases.CHECKS, ids=lambda c: c.__name__.removeprefix("check_"))
def test_the_torch_backend_passes_every_named_case(check: Callable[[str, str], None]) -> None:
    check("cpu", "torch")


@needs_triton
@pytest.mark.parametrize("extent", ["brief", pytest.param("whole", marks=pytest.mark.long)])
def test_the_triton_backend_passes_every_case_in_the_interpreter(extent: str) -> None:
    run = python("-m", kernel_cases.__name__, "cpu", "triton", extent, TRITON_INTERPRET="1")
    assert run.returncode == 0, run.stdout + run.stderr[-4000:]
    assert run.stdout.count("passed") == len(kernel_cases.CHECKS + kernel_cases.TRITON_CHECKS)


def test_in_brief_the_named_cases_meet_every_mode_with_every_choice_of_genes() -> None:
    met, whole = set(), set()
    for seed, case in enumerate(kernel_cases.EDIT_CASES.values()):
        for n_items, pairs in ((16, met), (None, whole)):
            batch = kernel_cases.edit_batch(case, seed, n_items)
            # by what a choice holds: whether an item has genes, and whether its row holds the first
            n_genes_B = (batch.gene_BK >= 0).sum(1)
            rows = batch.rows
            token_B = [rows.token_T[rows.start_C[c] : rows.start_C[c] + rows.length_C[c]] for c in batch.cell_B]
            there_B = [bool((t == g).any()) for t, g in zip(token_B, batch.gene_BK[:, 0], strict=True)]
            pairs.update(zip(batch.mode_B.tolist(), (n_genes_B > 0).tolist(), there_B, strict=True))
    assert met == whole


rows_with_pads = st.lists(st.one_of(st.just(0), st.integers(0, 12)), max_size=20)
rows_of_ids = st.lists(rows_with_pads | st.lists(st.integers(3, 12), max_size=20), min_size=1, max_size=4)


@pytest.mark.parametrize("codes", [*CODES_OF_MODE, CODES], ids=[*kernels.MODES, "all"])
@given(rows_of_ids, st.data(), st.sampled_from(["src", "tgt"]), st.integers(0, 24), st.integers(0, 24))
def test_torch_edits_any_rows_as_the_definition_does(
    codes: tuple[tuple[int, int], ...],
    rows: list[list[int]],
    data: st.DataObject,
    site: Site,
    width: int,
    out_width: int,
) -> None:
    edits = st.tuples(st.integers(0, 3), st.sampled_from(codes), st.lists(st.integers(1, 14), max_size=7))
    items = data.draw(st.lists(edits, max_size=6))
    offset_C1 = np.cumsum([0, *map(len, rows)])
    aligned = kernels.align_rows(np.array([*chain(*rows)], dtype=np.int32), offset_C1, "cpu")
    gene_BK = torch.full((len(items), max((len(g) for _, _, g in items), default=0)), -1, dtype=torch.int32)
    for b, (_, _, genes) in enumerate(items):
        gene_BK[b, : len(genes)] = torch.tensor(genes)
    cell_B = torch.tensor([cell % len(rows) for cell, _, _ in items], dtype=torch.int64)
    mode_B = torch.tensor([code for _, (code, _), _ in items], dtype=torch.int8)
    parameter_B = torch.tensor([value for _, (_, value), _ in items], dtype=torch.int32)
    arguments = aligned, cell_B, gene_BK, mode_B, parameter_B
    where = {"site": site, "width": width, "out_width": out_width}
    expected = kernels.edit_tokens_reference(*arguments, **where)
    kernel_cases.assert_same_edits(kernels.edit_tokens(*arguments, **where), expected, str(where))


def test_torch_edits_with_hundreds_of_genes() -> None:
    rng = np.random.default_rng(5)
    rows = [rng.integers(0, 900, n) for n in (350, 40, 0, 400)]
    aligned = kernels.align_rows(np.concatenate(rows), np.cumsum([0, *map(len, rows)]), "cpu")
    n_items = 4 * len(CODES)
    gene_BK = torch.from_numpy(rng.integers(1, 900, (n_items, 300)).astype(np.int32))
    for b in range(n_items):
        gene_BK[b, 300 - 70 * (b % 5) :] = -1
    cell_B, edit_B = torch.arange(n_items) % 4, [CODES[b // 4] for b in range(n_items)]
    mode_B = torch.tensor([code for code, _ in edit_B], dtype=torch.int8)
    parameter_B = torch.tensor([value for _, value in edit_B], dtype=torch.int32)
    for width in (380, 100):
        where = {"site": "src", "width": width, "out_width": 384}
        arguments = aligned, cell_B, gene_BK, mode_B, parameter_B
        expected = kernels.edit_tokens_reference(*arguments, **where)
        kernel_cases.assert_same_edits(kernels.edit_tokens(*arguments, **where), expected, str(where))


@given(rows_of_ids, st.integers(0, 5))
def test_aligned_rows_start_at_multiples_of_eight_and_end_in_pads(rows: list[list[int]], n_before: int) -> None:
    token_T = np.array([*repeat(99, n_before), *chain(*rows)], dtype=np.uint16)
    token_T.flags.writeable = False
    offset_C1 = np.cumsum([n_before, *map(len, rows)])
    aligned = kernels.align_rows(token_T, offset_C1, "cpu")
    token_T = aligned.token_T.clone()
    for row, start, length in zip(rows, aligned.start_C.tolist(), aligned.length_C.tolist(), strict=True):
        assert start % 8 == 0
        assert token_T[start : start + length].tolist() == row
        token_T[start : start + length] = 0
    assert not token_T.any()
    assert len(token_T) >= start + length + 8 and len(token_T) % 8 == 0
    assert aligned.longest == max(map(len, rows))
    assert [a.dtype for a in (token_T, aligned.start_C, aligned.length_C)] == [torch.int32, torch.int64, torch.int32]


def test_no_rows_can_be_aligned() -> None:
    aligned = kernels.align_rows(np.zeros(0, np.int32), np.zeros(1, np.int64), "cpu")
    assert len(aligned.start_C) == 0 and aligned.longest == 0


def test_a_request_wins_and_the_device_decides_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.zeros(1), SimpleNamespace(is_cuda=True)
    assert kernels.choose(cpu) == "torch"
    assert kernels.choose(cpu, "triton") == "triton"
    for is_found, expected in ((True, "triton"), (False, "torch")):
        monkeypatch.setattr(backends, "has_triton", lambda found=is_found: found)
        assert kernels.choose(cuda) == expected
        assert kernels.choose(cuda, "torch") == "torch"
    with pytest.raises(ValueError, match='backend is "cuda"; allowed: triton, torch'):
        kernels.choose(cpu, "cuda")


def test_wrong_arguments_are_refused_by_name() -> None:
    batch = kernel_cases.edit_batch(kernel_cases.EDIT_CASES["one gene, src"], 0)
    rows, cell_B, gene_BK, mode_B, parameter_B = batch.arguments("cpu")
    where = {"width": 16, "out_width": 16}
    with pytest.raises(ValueError, match='site is "source"; allowed: src, tgt'):
        kernels.edit_tokens(rows, cell_B, gene_BK, mode_B, site="source", **where)
    with pytest.raises(ValueError, match=r"they must be \(B,\), \(B, K\), \(B,\)"):
        kernels.edit_tokens(rows, cell_B[:-1], gene_BK, mode_B, site="src", **where)
    with pytest.raises(ValueError, match='17 genes per item; the kernel takes 16; say backend="torch"'):
        kernels.edit_tokens(rows, cell_B, gene_BK.repeat(1, 17), mode_B, site="src", **where, backend="triton")
    with pytest.raises(ValueError, match=r"parameter_B has shape .* it must be \(B,\)"):
        kernels.edit_tokens(rows, cell_B, gene_BK, mode_B, parameter_B[:-1], site="src", **where)
    for edit in (kernels.edit_tokens, kernels.edit_tokens_reference):
        with pytest.raises(ValueError, match=rf"mode_B holds .*; allowed: 0 to {len(kernels.MODES) - 1}, .*'mask'"):
            edit(rows, cell_B, gene_BK, mode_B + len(kernels.MODES), site="src", **where)
    hidden_BLD, counted_BL, control_CD, control_B = kernel_cases.pool_inputs((2, 3, 8), torch.float32, "cpu")
    with pytest.raises(ValueError, match="hidden_BLD, counted_BL, control_CD, control_B have shapes"):
        kernels.pool_shift(hidden_BLD, counted_BL, control_CD[:, :4], control_B)
    with pytest.raises(TypeError, match=r"counted_BL is torch.int64; it must be torch.bool"):
        kernels.pool_shift(hidden_BLD, counted_BL.long(), control_CD, control_B)
    x_TD, update_TD, weight_D, bias_D = kernel_cases.norm_inputs((2, 8), "cpu")
    with pytest.raises(ValueError, match="x, update, weight, bias have shapes"):
        kernels.add_norm(x_TD, update_TD[:1], weight_D, bias_D)
    with pytest.raises(ValueError, match='activation is "relu"; allowed: none, gelu'):
        kernels.split_half(x_TD, "relu")


def test_declared_bytes_are_those_of_the_arrays() -> None:
    batch = kernel_cases.edit_batch(kernel_cases.EDIT_CASES["one gene, src"], 0)
    arguments = batch.arguments("cpu")
    edited = kernels.edit_tokens(*arguments, site="src", width=40, out_width=48)
    moved = sum(a.nbytes for a in (*arguments[1:], edited.ids_BL, edited.keep_BL, edited.length_B))
    moved += len(batch.cell_B) * (8 + 4) + 123 * 4
    assert kernels.edit_tokens_bytes(123, len(batch.cell_B), 48, 1) == moved

    hidden_BLD, counted_BL, control_CD, control_B = kernel_cases.pool_inputs((3, 20, 64), torch.float16, "cpu")
    results = kernels.pool_shift(hidden_BLD, counted_BL, control_CD, control_B)
    n_counted = int(counted_BL.sum())
    moved = n_counted * hidden_BLD[0, 0].nbytes + control_CD[:3].nbytes
    moved += sum(a.nbytes for a in (counted_BL, control_B, *results))
    assert kernels.pool_shift_bytes(n_counted, 3, 20, 64, 2) == moved

    inputs = kernel_cases.norm_inputs((7, 100), "cpu")
    moved = sum(a.nbytes for a in (*inputs, kernels.add_norm(*inputs)))
    assert kernels.add_norm_bytes(7, 100) == moved
    assert kernels.split_half_bytes(7, 100) == inputs[0].nbytes + kernels.split_half(inputs[0]).nbytes


def test_declared_flops_grow_with_the_numbers_worked_on() -> None:
    assert kernels.pool_shift_flops(30, 2, 64) == 30 * 64 + 2 * 7 * 64
    assert kernels.add_norm_flops(7, 100) == 8 * 700
    assert [kernels.split_half_flops(7, 100, a) for a in ("none", "gelu")] == [700, 6 * 700]


def test_everything_runs_where_triton_is_not_installed() -> None:
    without = "import sys; sys.modules['triton'] = None; from tests.support import kernel_cases as cases"
    run = python("-c", f"{without}; cases.main('cpu', 'torch')")
    assert run.returncode == 0, run.stderr[-4000:]


def test_importing_the_package_does_not_import_triton() -> None:
    run = python("-c", "import sys, screen_kernels; assert 'triton' not in sys.modules")
    assert run.returncode == 0, run.stderr[-4000:]
