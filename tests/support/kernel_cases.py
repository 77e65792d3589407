"""Checks of every kernel against its definition, on named adversarial inputs, for any device and backend.

Needs torch, numpy, screen_kernels and screen.edits only: `python -m tests.support.kernel_cases cuda triton` runs all on
a bare GPU node, `TRITON_INTERPRET=1 python -m tests.support.kernel_cases cpu triton` in Triton's interpreter.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from screen_kernels import (
    AlignedRows,
    EditedRows,
    add_norm,
    add_norm_reference,
    align_rows,
    edit_tokens,
    edit_tokens_reference,
    pool_shift,
    pool_shift_reference,
    split_half,
    split_half_reference,
)
from screen_kernels.edit_tokens import EOS
from torch import Tensor

from screen.edits import Site
from tests.support.modes import CODES_OF_MODE

SENTINEL = 77
N_RANDOM = 60


@dataclass(frozen=True)
class EditCase:
    """Rows of given lengths, how they are cut and written, and the most genes of an item."""

    lengths: Sequence[int]
    width: int
    out_width: int
    n_genes: int
    site: Site = "src"


EDIT_CASES = {
    "empty and single-token rows": EditCase((0, 1, 2), 16, 16, 2),
    "one gene, src": EditCase((3, 31, 17), 40, 48, 1),
    "one gene, tgt": EditCase((3, 31, 17), 40, 48, 1, "tgt"),
    "full rows, src": EditCase((24, 23, 60), 24, 32, 2),
    "full rows, tgt": EditCase((24, 23, 60), 24, 32, 2, "tgt"),
    "written shorter than the rows": EditCase((50, 20, 7), 50, 16, 3),
    "written wider than the cut": EditCase((50, 9), 20, 64, 3, "tgt"),
    "widths that 16 does not divide": EditCase((29, 13, 8), 29, 37, 4),
    "more genes than the row has room": EditCase((5, 2, 0), 3, 11, 5),
    "as many genes as the row has room": EditCase((5, 4), 4, 9, 4, "tgt"),
    "five genes, neighbours among them": EditCase((12, 30), 32, 32, 5),
    "exactly one chunk": EditCase((512, 511, 513), 513, 512, 2),
    "two chunks": EditCase((900, 513), 1024, 1000, 3, "tgt"),
    "4,096 tokens": EditCase((4096,), 4096, 4096, 1),
    "4,096 tokens and one more": EditCase((4095, 4100), 4096, 4112, 2, "tgt"),
}


def ragged(lengths: Sequence[int], rng: np.random.Generator) -> tuple[list[list[int]], AlignedRows]:
    """Rows of unique genes in random order, some between <cls> and <eos>, as lists and aligned on the CPU."""
    rows = [(rng.permutation(max(2 * n, 8))[:n] + EOS + 1).tolist() for n in lengths]
    rows = [[2, *row[1:-1], EOS] if len(row) > 1 and rng.random() < 0.5 else row for row in rows]
    offset_C1 = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64)
    return rows, align_rows(np.concatenate([*map(np.asarray, rows), []]).astype(np.int32), offset_C1, "cpu")


def gene_choices(row: list[int], n_genes: int, rng: np.random.Generator) -> list[list[int]]:
    """None, the first, the last, an absent one, neighbours, a random mixture: at most n_genes, each once."""
    row = [token for token in row if token > EOS]
    absent = [max(row, default=9) + 5, max(row, default=9) + 1]
    mixture = [row[int(i)] for i in rng.permutation(len(row))[: max(n_genes - 1, 1)]]
    middle = len(row) // 2
    choices = [[], row[:1], row[-1:], absent[:1], row[middle : middle + n_genes][::-1], mixture + absent, row[:n_genes]]
    return [genes[:n_genes] for genes in choices]


@dataclass(frozen=True)
class EditBatch:
    """The arguments of one call on the CPU."""

    rows: AlignedRows
    cell_B: Tensor
    gene_BK: Tensor
    mode_B: Tensor
    parameter_B: Tensor
    case: EditCase

    def arguments(self, device: str) -> tuple[AlignedRows, Tensor, Tensor, Tensor, Tensor]:
        """The same on a device."""
        rows = AlignedRows(*(a.to(device) for a in (self.rows.token_T, self.rows.start_C, self.rows.length_C)))
        tensors = self.cell_B, self.gene_BK, self.mode_B, self.parameter_B
        return rows, *(x.to(device) for x in tensors)  # type: ignore[return-value]

    def expected(self) -> EditedRows:
        """What the definition says."""
        where = {"site": self.case.site, "width": self.case.width, "out_width": self.case.out_width}
        return edit_tokens_reference(*self.arguments("cpu"), **where)


def edit_batch(case: EditCase, seed: int, n_items: int | None = None) -> EditBatch:
    """Modes x choices of genes x rows, shuffled so that modes mix: n_items of them, or as many as stay quick.

    Every mode with every choice comes before any comes again with another row.
    """
    rng = np.random.default_rng(seed)
    rows, aligned = ragged(case.lengths, rng)
    items, kinds = [], []
    for cell, row in enumerate(rows):
        for choice, genes in enumerate(gene_choices(row, case.n_genes, rng)):
            for mode, codes in enumerate(CODES_OF_MODE):
                items.append((cell, codes[int(rng.integers(len(codes)))], genes))
                kinds.append((mode, choice))
    n_items = (16 if max(case.lengths) > 600 else 44) if n_items is None else n_items
    order, met = rng.permutation(len(items)).tolist(), Counter[tuple[int, int]]()
    nth = {}
    for i in order:
        nth[i] = met[kinds[i]]
        met[kinds[i]] += 1
    items = [items[i] for i in sorted(order, key=nth.__getitem__)[:n_items]]
    gene_BK = torch.full((len(items), case.n_genes), -1, dtype=torch.int32)
    for b, (_, _, genes) in enumerate(items):
        gene_BK[b, : len(genes)] = torch.tensor(genes)
    cell_B = torch.tensor([i[0] for i in items], dtype=torch.int64)
    mode_B = torch.tensor([i[1][0] for i in items], dtype=torch.int8)
    parameter_B = torch.tensor([i[1][1] for i in items], dtype=torch.int32)
    return EditBatch(aligned, cell_B, gene_BK, mode_B, parameter_B, case)


def assert_same_edits(ours: EditedRows, expected: EditedRows, what: str) -> None:
    for name in ("ids_BL", "keep_BL", "length_B"):
        a, b = getattr(ours, name).cpu(), getattr(expected, name)
        assert a.dtype == b.dtype and a.shape == b.shape, f"{what}: {name} is {a.dtype} {tuple(a.shape)}"
        wrong = (a != b).nonzero()[:, 0].unique().tolist()
        assert not wrong, f"{what}: {name} differs in items {wrong[:5]}: {a[wrong[0]]} is not {b[wrong[0]]}"


def guarded(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """An output full of sentinels between two rows of them, and the whole buffer."""
    buffer = torch.full((shape[0] + 2, *shape[1:]), SENTINEL, dtype=dtype, device=device)
    return buffer[1:-1], buffer


def assert_guards(buffers: Sequence[Tensor], what: str) -> None:
    for n, buffer in enumerate(buffers):
        guards = torch.stack([buffer[0], buffer[-1]])
        assert bool((guards == SENTINEL).all()), f"{what}: the kernel wrote outside output {n}"


def check_edit_tokens(device: str, backend: str, is_brief: bool = False) -> None:
    """In brief each case meets other modes with other choices of genes, and all of them together meet every pair."""
    for seed, (name, case) in enumerate(EDIT_CASES.items()):
        batch = edit_batch(case, seed, 16 if is_brief else None)
        where = {"site": case.site, "width": case.width, "out_width": case.out_width}
        edited = edit_tokens(*batch.arguments(device), **where, backend=backend)
        assert_same_edits(edited, batch.expected(), name)


def check_edit_tokens_on_random_rows(device: str, backend: str, is_brief: bool = False) -> None:
    rng = np.random.default_rng(20)
    for seed in range(N_RANDOM // 3 if is_brief else N_RANDOM):
        lengths = rng.integers(0, 70, size=3).tolist()
        width, out_width = int(rng.integers(1, 80)), int(rng.integers(1, 80))
        case = EditCase(lengths, width, out_width, int(rng.integers(1, 8)), "src" if seed % 2 else "tgt")
        batch = edit_batch(case, seed, n_items=4)
        where = {"site": case.site, "width": width, "out_width": out_width}
        edited = edit_tokens(*batch.arguments(device), **where, backend=backend)
        assert_same_edits(edited, batch.expected(), f"random case {seed}: {case}")


def check_edit_tokens_accepts_an_empty_batch(device: str, backend: str) -> None:
    batch = edit_batch(EDIT_CASES["one gene, src"], 0, n_items=0)
    edited = edit_tokens(*batch.arguments(device), site="src", width=40, out_width=48, backend=backend)
    assert_same_edits(edited, batch.expected(), "empty batch")


def check_edit_tokens_writes_nothing_else(device: str, backend: str) -> None:
    from screen_kernels import _edit_tokens_triton

    for seed, name in enumerate(("widths that 16 does not divide", "two chunks", "full rows, src")):
        batch = edit_batch(EDIT_CASES[name], seed, n_items=12)
        n_items, out_width = len(batch.cell_B), batch.case.out_width
        ids_BL, ids = guarded((n_items, out_width), torch.int32, device)
        keep_BL, keep = guarded((n_items, out_width), torch.int8, device)
        length_B, length = guarded((n_items,), torch.int32, device)
        edited = EditedRows(ids_BL, keep_BL.view(torch.bool), length_B)
        _edit_tokens_triton.launch(*batch.arguments(device), batch.case.site, batch.case.width, edited)
        assert_guards((ids, keep, length), name)
        assert_same_edits(edited, batch.expected(), name)


def worst(ours: Tensor, exact: Tensor, what: str) -> float:
    """The largest error; NaN must be where it belongs."""
    ours, exact = ours.cpu().double(), exact.cpu()
    assert ours.shape == exact.shape, f"{what}: shape {tuple(ours.shape)} is not {tuple(exact.shape)}"
    assert torch.equal(ours.isnan(), exact.isnan()), f"{what}: NaN is not where the definition has it"
    return float((ours - exact).abs().nan_to_num().max()) if exact.numel() else 0.0


def assert_as_close_as_torch(ours: Tensor, plain: Tensor, exact: Tensor, what: str, scale: float = 0.0) -> None:
    """At most twice the error of plain float32 torch, and one unit in the last place of the largest value or scale."""
    scale = max(scale, float(exact.abs().nan_to_num().max()) if exact.numel() else 0.0)
    limit = 2 * worst(plain, exact, what) + torch.finfo(torch.float32).eps * scale
    error = worst(ours, exact, what)
    assert error <= limit, f"{what}: error {error:.3g}, allowed {limit:.3g}"


POOL_CASES = {
    "one item": (1, 40, 768),
    "three items": (3, 33, 768),
    "one position": (2, 1, 64),
    "no position": (2, 0, 64),
    "narrow and long": (5, 130, 64),
    "a width that no power of two divides": (4, 37, 100),
    "a long item": (2, 400, 768),
    "no item": (0, 5, 64),
}


def pool_inputs(shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states with NaN wherever nothing counts; a fully masked item where there are several."""
    n_items, n_places, width = shape
    draw = torch.Generator().manual_seed(n_items * 1000 + n_places)
    hidden_BLD = torch.randn(shape, generator=draw) * 2 + 0.3
    counted_BL = torch.rand(n_items, n_places, generator=draw) < 0.7
    counted_BL[1:2] = False
    hidden_BLD[~counted_BL] = float("nan")
    control_CD = torch.randn(n_items + 2, width, generator=draw) + 0.3
    control_B = torch.arange(n_items).flip(0) + 1
    return hidden_BLD.to(device, dtype), counted_BL.to(device), control_CD.to(device), control_B.to(device)


def check_pool_shift(device: str, backend: str) -> None:
    for name, shape in POOL_CASES.items():
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            hidden_BLD, *others = pool_inputs(shape, dtype, device)
            exact = pool_shift_reference(hidden_BLD.double(), *others)
            plain = pool_shift_reference(hidden_BLD, *others)
            ours = pool_shift(hidden_BLD, *others, backend=backend)
            assert ours[0].dtype == ours[1].dtype == torch.float32
            assert_as_close_as_torch(ours[0], plain[0], exact[0], f"pool_shift pooled, {name}, {dtype}")
            # A cosine is a sum of parts of 1, so 1 is its scale even where they cancel.
            assert_as_close_as_torch(ours[1], plain[1], exact[1], f"pool_shift cosine, {name}, {dtype}", scale=1.0)


def check_pool_shift_of_nothing_and_nan(device: str, backend: str) -> None:
    hidden_BLD = torch.ones(3, 6, 64, device=device)
    hidden_BLD[1] = 0
    counted_BL = torch.ones(3, 6, dtype=torch.bool, device=device)
    control_CD = torch.ones(2, 64, device=device)
    control_CD[1, 5] = float("nan")
    control_B = torch.tensor([0, 0, 1], device=device)
    pooled_BD, cosine_B = pool_shift(hidden_BLD, counted_BL, control_CD, control_B, backend)
    assert pooled_BD[:, 0].tolist() == [1, 0, 1]
    assert abs(float(cosine_B[0]) - 1) <= torch.finfo(torch.float32).eps, "a control's own direction has cosine 1"
    assert float(cosine_B[1]) == 0, "a mean of zeros has cosine 0"
    assert bool(cosine_B[2].isnan()), "NaN in the control reaches the cosine"


def check_pool_shift_writes_nothing_else(device: str, backend: str) -> None:
    from screen_kernels import _pool_shift_triton

    for name in ("three items", "a width that no power of two divides"):
        inputs = pool_inputs(POOL_CASES[name], torch.float32, device)
        pooled_BD, pooled = guarded((len(inputs[0]), inputs[0].shape[2]), torch.float32, device)
        cosine_B, cosine = guarded((len(inputs[0]),), torch.float32, device)
        _pool_shift_triton.launch(*inputs, pooled_BD, cosine_B)
        assert_guards((pooled, cosine), name)
        assert torch.equal(pooled_BD.nan_to_num(), pool_shift(*inputs, backend=backend)[0].nan_to_num())


ROW_SHAPES = {
    "768": (9, 768),
    "not a power of two": (7, 100),
    "leading axes": (2, 3, 64),
    "one": (1, 5),
    "none": (0, 8),
}


def norm_inputs(shape: tuple[int, ...], device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(len(shape) + shape[-1])
    wide = [torch.randn(shape, generator=draw) * scale + 0.5 for scale in (1, 3)]
    narrow = [torch.randn(shape[-1:], generator=draw) + 1 for _ in range(2)]
    return tuple(t.to(device) for t in (*wide, *narrow))  # type: ignore[return-value]


def check_add_norm(device: str, backend: str) -> None:
    for name, shape in ROW_SHAPES.items():
        inputs = norm_inputs(shape, device)
        exact = add_norm_reference(*(t.double() for t in inputs))
        plain = add_norm_reference(*inputs)
        assert_as_close_as_torch(add_norm(*inputs, backend=backend), plain, exact, f"add_norm, {name}")


def check_split_half(device: str, backend: str) -> None:
    edges = torch.tensor([[0.0, -0.0, 1e-8, -6e-5, 1 / 3, -2049.5, 60000.0, 65519.0]], device=device)
    assert torch.equal(split_half(edges, "none", backend), split_half_reference(edges)), "split_half of extreme values"
    for name, shape in ROW_SHAPES.items():
        x_TD = norm_inputs(shape, device)[1]
        halves = split_half(x_TD, "none", backend)
        assert halves.dtype == torch.float16
        assert torch.equal(halves, split_half_reference(x_TD)), f"split_half, {name}: not the definition's halves"
        ours, plain = split_half(x_TD, "gelu", backend), split_half_reference(x_TD, "gelu")
        ours, plain = (sum(p.double().chunk(2, dim=-1)) for p in (ours, plain))
        exact = torch.nn.functional.gelu(x_TD.double())
        assert_as_close_as_torch(ours, plain, exact, f"split_half gelu, {name}")


def check_inputs_of_any_stride(device: str, backend: str) -> None:
    hidden_BLD, counted_BL, control_CD, control_B = pool_inputs((3, 8, 64), torch.float32, device)
    turned = hidden_BLD.transpose(1, 2).contiguous().transpose(1, 2)
    for a, b in zip(
        pool_shift(turned, counted_BL.t().contiguous().t(), control_CD, control_B.repeat_interleave(2)[::2], backend),
        pool_shift(hidden_BLD, counted_BL, control_CD, control_B, backend),
        strict=True,
    ):
        assert torch.equal(a.nan_to_num(), b.nan_to_num()), "pool_shift depends on strides"
    x_TD, update_TD, weight_D, bias_D = norm_inputs((7, 100), device)
    turned = x_TD.t().contiguous().t()
    a, b = (add_norm(x, update_TD, weight_D, bias_D, 1e-5, backend) for x in (turned, x_TD))
    assert torch.equal(a, b), "add_norm depends on strides"
    a, b = (split_half(x, "none", backend) for x in (turned, x_TD))
    assert torch.equal(a, b), "split_half depends on strides"


def check_row_kernels_write_nothing_else(device: str, backend: str) -> None:
    from screen_kernels import _add_norm_triton, _split_half_triton

    for n_rows, width in ((9, 768), (7, 100)):
        inputs = norm_inputs((n_rows, width), device)
        normed_TD, normed = guarded((n_rows, width), torch.float32, device)
        _add_norm_triton.launch(*inputs, 1e-5, normed_TD)
        assert_guards((normed,), f"add_norm, width {width}")
        assert torch.equal(normed_TD, add_norm(*inputs, backend=backend))
        half_T2D, half = guarded((n_rows, 2 * width), torch.float16, device)
        _split_half_triton.launch(inputs[0], "none", half_T2D)
        assert_guards((half,), f"split_half, width {width}")
        assert torch.equal(half_T2D, split_half_reference(inputs[0]))


CHECKS: tuple[Callable[[str, str], None], ...] = (
    check_edit_tokens,
    check_edit_tokens_on_random_rows,
    check_edit_tokens_accepts_an_empty_batch,
    check_pool_shift,
    check_pool_shift_of_nothing_and_nan,
    check_add_norm,
    check_split_half,
    check_inputs_of_any_stride,
)
TRITON_CHECKS: tuple[Callable[[str, str], None], ...] = (
    check_edit_tokens_writes_nothing_else,
    check_pool_shift_writes_nothing_else,
    check_row_kernels_write_nothing_else,
)
BRIEF_CHECKS = (check_edit_tokens, check_edit_tokens_on_random_rows)


def main(device: str, backend: str, extent: str = "whole") -> None:
    """Runs every check; one line each. In brief where time is short: what takes longest in the interpreter has fewer items."""
    for check in CHECKS + (TRITON_CHECKS if backend == "triton" else ()):
        start = time.perf_counter()
        if extent == "brief" and check in BRIEF_CHECKS:
            check = partial(check, is_brief=True)
        check(device, backend)
        name = getattr(check, "func", check).__name__
        sys.stdout.write(f"{name} on {device} by {backend}: passed, {time.perf_counter() - start:.1f} s\n")


if __name__ == "__main__":
    main(*sys.argv[1:4])
