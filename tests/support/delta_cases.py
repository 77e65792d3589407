"""Checks of the row kernels of differences against their definitions, for any device and backend.

Needs torch, numpy and screen_kernels only: `python -m tests.support.delta_cases cuda triton` on a bare GPU node,
`TRITON_INTERPRET=1 python -m tests.support.delta_cases cpu triton` in Triton's interpreter.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from screen_kernels.delta import (
    RaggedRows,
    Scaled,
    activation_change_rows,
    activation_change_rows_reference,
    norm_change_rows,
    norm_change_rows_reference,
    norm_control,
    pool_change_rows,
    pool_change_rows_reference,
    pool_total,
    ragged_rows,
    scaled,
)
from torch import Tensor

SENTINEL = 77
KINDS = (torch.float16, torch.float32)


@dataclass(frozen=True)
class Case:
    """Lengths of cells, the cell of every item, the width, and how large differences are."""

    length_C: Sequence[int]
    cell_B: Sequence[int]
    width: int = 48
    size: float = 0.01
    seed: int = 0

    def rows(self, device: str, tile: int = 16) -> RaggedRows:
        return ragged_rows(starts(self.length_C), self.cell_B, device, tile)

    def draw(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    @property
    def n_control(self) -> int:
        return sum(self.length_C)


def starts(length_C: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(length_C)]).astype(np.int64)


CASES = {
    "one row": Case([1], [0]),
    "one cell": Case([9], [0, 0]),
    "cells in any order": Case([4, 6, 1, 3], [3, 1, 3, 0, 2, 1], seed=1),
    "a cell without rows": Case([4, 0, 6], [1, 2, 1, 0], seed=2),
    "the width of the published model": Case([2, 4], [1, 0], 768, seed=3),
    "a width that no power of two divides": Case([3, 8], [1, 0, 1], 100, seed=4),
    "large differences": Case([12, 5], [0, 1, 1], 64, 2.0, 5),
    "tiny differences": Case([12, 5], [0, 1, 1], 64, 2e-5, 6),
    "no item": Case([3], []),
}

POOL_CASES = CASES | {
    "as many rows as a step": Case([32, 64, 31], [2, 1, 0], seed=8),
    "longest rows": Case([130, 2], [1, 0, 0], 150, seed=9),
}


def stored(shape: Sequence[int], size: float, draw: torch.Generator, kind: torch.dtype, device: str) -> Scaled:
    """Differences of a size, as memory keeps them."""
    d = torch.randn(*shape, generator=draw, dtype=torch.float64) * size
    return on(scaled(d, 256.0 if kind == torch.float16 else 1.0, kind), device)


def on(x: Scaled, device: str) -> Scaled:
    return Scaled(x.values.to(device), x.scale)


def double(x: Scaled | None) -> Scaled | None:
    return None if x is None else Scaled(x.values.double(), x.scale)


def unused(rows: RaggedRows, n_control: int) -> Tensor:
    """Rows of the control that no item has."""
    mask = torch.ones(n_control, dtype=torch.bool)
    mask[rows.control_T.cpu()] = False
    return mask


def assert_close(ours: Scaled, plain: Tensor, exact: Tensor, what: str, floor: float = 0.0) -> None:
    """At most twice the worst error of the definition in float32, a floor, and one unit in the last place stored."""
    assert ours.values.shape == exact.shape, f"{what}: shape {tuple(ours.values.shape)} is not {tuple(exact.shape)}"
    if not exact.numel():
        return
    ours_double, exact = ours.unscaled().double().cpu(), exact.double().cpu()
    assert bool(exact.isfinite().all()), f"{what}: the definition is not finite"
    kind = torch.finfo(ours.values.dtype)
    last_place = kind.eps * exact.abs() + kind.smallest_normal * kind.eps / ours.scale
    worst = float((plain.double().cpu() - exact).abs().max())
    over = (ours_double - exact).abs() - last_place
    REPORT[what.split(",")[0]] = max(
        REPORT.get(what.split(",")[0], 0.0), float(over.max() / (2 * worst + floor + 1e-300))
    )
    # not (a <= b): NaN is wrong
    wrong = ~(over <= 2 * worst + floor)
    assert not bool(wrong.any()), (
        f"{what}: error over rounding {float(over.nan_to_num(9e9).max()):.3g}, allowed {2 * worst:.3g} + {floor:.3g}"
    )


REPORT: dict[str, float] = {}
"""Check -> the worst error as a share of what is allowed; 1 would fail."""


def guarded(shape: Sequence[int], kind: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """An output full of sentinels between two rows of them, and the whole buffer."""
    buffer = torch.full((shape[0] + 2, *shape[1:]), SENTINEL, dtype=kind, device=device)
    return buffer[1:-1], buffer


def assert_guards(buffer: Tensor, what: str) -> None:
    assert bool((buffer[[0, -1]] == SENTINEL).all()), f"{what}: the kernel wrote outside its output"


def norm_inputs(case: Case, kind: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor, Scaled, Scaled]:
    """(unit, deviation, weight, x, update); the control of rows that no item has is NaN."""
    draw, rows = case.draw(), case.rows("cpu")
    x_MD = torch.randn(case.n_control, case.width, generator=draw, dtype=torch.float64) * 2 + 0.3
    control = norm_control(x_MD[None], 1e-5)
    unit_MD, deviation_M = control.unit[0].to(kind), control.deviation[0, :, 0].float()
    unit_MD[unused(rows, case.n_control)], deviation_M[unused(rows, case.n_control)] = torch.nan, torch.nan
    weight_D = torch.randn(case.width, generator=draw) + 1
    x, update = (stored((rows.n_rows, case.width), s * case.size, draw, kind, device) for s in (1, 3))
    return unit_MD.to(device), deviation_M.to(device), weight_D.to(device), x, update


def check_norm(device: str, backend: str) -> None:
    for name, case in CASES.items():
        for kind, has_update in ((torch.float16, True), (torch.float32, True), (torch.float32, False)):
            rows = case.rows(device)
            *control, x, update = norm_inputs(case, kind, device)
            update = update if has_update else None
            scale = 256.0 if kind == torch.float16 else 1.0
            ours = norm_change_rows(rows, *control, x, update, scale=scale, dtype=kind, backend=backend)
            plain = norm_change_rows_reference(rows, *control, x, update)
            exact = norm_change_rows_reference(rows, *(t.double() for t in control), double(x), double(update))
            assert ours.values.dtype == kind and ours.scale == scale and exact.dtype == torch.float64
            assert_close(ours, plain, exact, f"norm {kind}, {name}")


def check_norm_of_no_change_is_none(device: str, backend: str) -> None:
    case = CASES["cells in any order"]
    rows, (*control, x, _) = case.rows(device), norm_inputs(case, torch.float16, device)
    nothing = Scaled(torch.zeros_like(x.values), 64.0)
    ours = norm_change_rows(rows, *control, nothing, nothing, scale=64.0, backend=backend)
    assert not bool(ours.values.any())


def check_activations(device: str, backend: str) -> None:
    for name, case in CASES.items():
        for kind, function in ((torch.float16, "gelu"), (torch.float32, "gelu"), (torch.float16, "relu")):
            rows, draw = case.rows(device), case.draw()
            h_MD = (torch.randn(case.n_control, case.width, generator=draw) * 2).to(kind)
            h_MD[unused(case.rows("cpu"), case.n_control)] = torch.nan
            x = stored((rows.n_rows, case.width), case.size, draw, kind, device)
            h_MD, scale = h_MD.to(device), 256.0 if kind == torch.float16 else 1.0
            ours = activation_change_rows(rows, h_MD, x, function, scale=scale, dtype=kind, backend=backend)
            plain = activation_change_rows_reference(rows, h_MD, x, function)
            exact = activation_change_rows_reference(rows, h_MD.double(), double(x), function)
            assert ours.values.dtype == kind and ours.scale == scale
            assert_close(ours, plain, exact, f"{function} {kind}, {name}")


def check_gelu_on_both_sides_of_small(device: str, backend: str) -> None:
    """Derivatives and differences meet, in the tails as well."""
    h_L = torch.linspace(-9, 9, 64, device=device)
    d_T = torch.tensor([0.0, 1e-6, 0.0499, 0.05, 0.0501, 3.0], device=device)
    rows = ragged_rows([0, 1], [0] * 12, device)
    x = Scaled(torch.cat([d_T, -d_T])[:, None].expand(-1, 64).contiguous())
    ours = activation_change_rows(rows, h_L[None], x, scale=1.0, dtype=torch.float32, backend=backend)
    plain, exact = (
        activation_change_rows_reference(rows, h, y) for h, y in ((h_L[None], x), (h_L[None].double(), double(x)))
    )
    for t in range(len(exact)):
        assert_close(
            Scaled(ours.values[t]), plain[t], exact[t], "gelu around small", floor=EPS * float(plain[t].abs().max())
        )


EPS, DOUBLE_EPS = (torch.finfo(t).eps for t in (torch.float32, torch.float64))


def pool_inputs(case: Case, kind: torch.dtype, chance: float, device: str) -> tuple[Tensor, Tensor, Tensor, Scaled]:
    """(x, before, after, d): independent masks, with NaN in x where nothing is to be read, and in d where no row counts after."""
    draw, rows = case.draw(), case.rows("cpu")
    x_MD = torch.randn(case.n_control, case.width, generator=draw) * 2 + 0.3
    before_M = torch.rand(case.n_control, generator=draw) < 0.7
    after_T = before_M[rows.control_T] ^ (torch.rand(rows.n_rows, generator=draw) < chance)
    d = stored((rows.n_rows, case.width), case.size, draw, kind, "cpu")
    d.values[~after_T] = torch.nan
    # rows that no item has come or leave in none
    read = before_M.clone()
    read[rows.control_T[after_T]] = True
    x_MD[~read] = torch.nan
    return x_MD.to(device), before_M.to(device), after_T.to(device), on(d, device)


def check_pool(device: str, backend: str) -> None:
    for name, case in POOL_CASES.items():
        for kind, chance in ((torch.float16, 0.0), (torch.float16, 0.2), (torch.float32, 1.0)):
            check_one_pool(case, kind, chance, name, device, backend)


def check_one_pool(case: Case, kind: torch.dtype, chance: float, name: str, device: str, backend: str) -> None:
    rows = case.rows(device)
    x_MD, before_M, after_T, d = pool_inputs(case, kind, chance, device)
    total_CD = pool_total(rows.start_C1, x_MD, before_M)
    for change in (d, None) if chance == 1.0 else (d,):
        ours = pool_change_rows(rows, x_MD, total_CD, before_M, after_T, change, backend)
        exact = pool_change_rows_reference(rows, x_MD.double(), before_M, after_T, double(change))
        assert ours.dtype == exact.dtype == torch.float64
        assert_pooled(ours, exact, (rows, x_MD, before_M, after_T, change), f"pool {kind}, {name}, {chance}")


def check_drawn(case: Case, device: str, backend: str) -> None:
    """All of them; of few numbers the errors are a matter of luck: also allowed is rounding of the largest result."""
    rows, kind = case.rows(device), torch.float32
    *control, x, update = norm_inputs(case, kind, device)
    exact = norm_change_rows_reference(rows, *(t.double() for t in control), double(x), double(update))
    floor = EPS * float(exact.abs().max()) if exact.numel() else 0.0
    ours = norm_change_rows(rows, *control, x, update, scale=1.0, dtype=kind, backend=backend)
    assert_close(ours, norm_change_rows_reference(rows, *control, x, update), exact, "drawn norm", floor)
    exact = activation_change_rows_reference(rows, control[0].double(), double(x))
    ours = activation_change_rows(rows, control[0], x, scale=1.0, dtype=kind, backend=backend)
    floor = EPS * float(exact.abs().max()) if exact.numel() else 0.0
    assert_close(ours, activation_change_rows_reference(rows, control[0], x), exact, "drawn gelu", floor)
    check_one_pool(case, torch.float16, 0.3, "drawn", device, backend)


def assert_pooled(
    ours: Tensor, exact: Tensor, inputs: tuple[RaggedRows, Tensor, Tensor, Tensor, Scaled | None], what: str
) -> None:
    """Within the bound of adding n numbers one by one: n rounding units of the sum of their sizes. NaN in the same places."""
    rows, x_MD, before_M, after_T, d = inputs
    d_TD = torch.zeros(()) if d is None else d.unscaled().double().abs()
    was, now = before_M[rows.control_T][:, None], after_T[:, None]
    size_TD = torch.where(was != now, x_MD[rows.control_T].double().abs(), 0.0) + torch.where(now, d_TD, 0.0)
    before_TD = torch.where(was, x_MD[rows.control_T].double().abs(), 0.0)
    for b, (_, of_item, _) in enumerate(rows.spans()):
        n_strand = 2 * -(-(of_item.stop - of_item.start) // 32)
        n_after = max(int(after_T[of_item].sum()), 1)
        limit_D = n_strand * EPS / 2 * size_TD[of_item].sum(0) / n_after
        limit_D += len(size_TD[of_item]) * DOUBLE_EPS * (size_TD + before_TD)[of_item].sum(0) / n_after
        is_fine = ((ours[b] - exact[b]).abs() <= limit_D) | (ours[b].isnan() & ~exact[b].isfinite())
        assert bool(is_fine.all()), f"{what}: item {b} differs by {float((ours[b] - exact[b]).abs().max()):.3g}"


def check_row_kernels_of_changes_write_nothing_else(device: str, backend: str) -> None:
    from screen_kernels.delta import _activation_triton, _norm_triton, _pool_triton

    for case in (CASES["cells in any order"], CASES["a width that no power of two divides"]):
        rows, shape = case.rows(device), (case.rows("cpu").n_rows, case.width)
        inputs = norm_inputs(case, torch.float16, device)
        values, buffer = guarded(shape, torch.float16, device)
        _norm_triton.launch(rows, *inputs, Scaled(values, 256.0))
        assert_guards(buffer, "norm")
        assert torch.equal(values, norm_change_rows(rows, *inputs, scale=256.0, backend=backend).values)
        values, buffer = guarded(shape, torch.float16, device)
        _activation_triton.launch(rows, inputs[0], inputs[3], "gelu", Scaled(values, 256.0))
        assert_guards(buffer, "activation")
        assert torch.equal(
            values, activation_change_rows(rows, inputs[0], inputs[3], scale=256.0, backend=backend).values
        )
        x_MD, before_M, after_T, d = pool_inputs(case, torch.float16, 0.2, device)
        total_CD = pool_total(rows.start_C1, x_MD, before_M)
        change_BD, buffer = guarded((len(case.cell_B), case.width), torch.float64, device)
        _pool_triton.launch(rows, x_MD, total_CD, before_M, after_T, d, change_BD)
        assert_guards(buffer, "pool")
        again = pool_change_rows(rows, x_MD, total_CD, before_M, after_T, d, backend)
        assert torch.equal(change_BD.nan_to_num(), again.nan_to_num())


CHECKS: tuple[Callable[[str, str], None], ...] = (
    check_norm,
    check_norm_of_no_change_is_none,
    check_activations,
    check_gelu_on_both_sides_of_small,
    check_pool,
)
TRITON_CHECKS: tuple[Callable[[str, str], None], ...] = (check_row_kernels_of_changes_write_nothing_else,)


def run_checks(checks: Sequence[Callable[[str, str], None]], device: str, backend: str) -> None:
    """One line each. Infinities are part of what kernels compute with, so numpy need not warn of them."""
    with np.errstate(all="ignore"):
        for check in checks:
            start = time.perf_counter()
            check(device, backend)
            sys.stdout.write(
                f"{check.__name__} on {device} by {backend}: passed, {time.perf_counter() - start:.1f} s\n"
            )
    for name, share in REPORT.items():
        sys.stdout.write(f"  {name}: worst error {share:.2f} of what is allowed\n")


if __name__ == "__main__":
    device, backend = sys.argv[1:3]
    run_checks(CHECKS + (TRITON_CHECKS if backend == "triton" else ()), device, backend)
