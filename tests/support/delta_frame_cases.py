"""Checks of `frame_rows` against its definition, integer for integer.

`TRITON_INTERPRET=1 python -m tests.support.delta_frame_cases cpu triton` in Triton's interpreter, `cuda triton` on a GPU node.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from screen_kernels import MASK, PAD
from screen_kernels.delta import Frame, columns_by_id, frame_rows, frame_rows_reference
from torch import Tensor

from tests.support.delta_cases import SENTINEL, assert_guards, guarded, run_checks

Inputs = tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor, Tensor | None, int]


@dataclass(frozen=True)
class Case:
    """Ids of every cell's row, and of every item's, with its cell; ids of cells and of items may be of two kinds."""

    control: Sequence[Sequence[int]]
    items: Sequence[tuple[int, Sequence[int]]]
    n_slots: int = 2
    kinds: tuple[torch.dtype, torch.dtype] = (torch.int32, torch.int32)
    counts: bool = True
    seed: int = 0

    def inputs(self, device: str) -> Inputs:
        """The arguments of `frame_rows`; what counts is drawn, pads too."""
        draw = torch.Generator().manual_seed(self.seed)
        control_CL = rows_of(self.control, self.kinds[0])
        edited_BW = rows_of([ids for _, ids in self.items], self.kinds[1])
        highest = max(int(x.max()) if x.numel() else PAD for x in (control_CL, edited_BW))
        counted_CL, counted_BW = (torch.rand(x.shape, generator=draw) < 0.6 for x in (control_CL, edited_BW))
        cell_B = torch.tensor([c for c, _ in self.items], dtype=torch.long)
        rows = [control_CL, columns_by_id(control_CL, highest + 1), counted_CL, cell_B, edited_BW, counted_BW]
        control_CL, column_CV, counted_CL, cell_B, edited_BW, counted_BW = (x.to(device) for x in rows)
        if not self.counts:
            return control_CL, column_CV, None, cell_B, edited_BW, None, self.n_slots
        return control_CL, column_CV, counted_CL, cell_B, edited_BW, counted_BW, self.n_slots


def rows_of(rows: Sequence[Sequence[int]], kind: torch.dtype) -> Tensor:
    """Filled up with pads."""
    width = max((len(row) for row in rows), default=3)
    return torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows], dtype=kind).reshape(len(rows), width)


def shuffled(n: int, seed: int) -> list[int]:
    """Ids from 10 on, in any order."""
    order: list[int] = (torch.randperm(n, generator=torch.Generator().manual_seed(seed)) + 10).tolist()
    return order


ROW = [2, 10, 11, 12, 13, 3]
LONG = shuffled(2100, 0)
WIDE = (torch.int64, torch.int64)
CASES = {
    "one token stays": Case([[10]], [(0, [10])], 0),
    "one token, of another id": Case([[10]], [(0, [11])], 0),
    "one token leaves": Case([[10]], [(0, [PAD])], 0),
    "cells and items without columns": Case([[]], [(0, []), (0, [])], 0),
    "a cell without columns, with a slot": Case([[]], [(0, [10]), (0, [PAD])], 1),
    "a cell without columns or slots": Case([[]], [(0, [10]), (0, [PAD])], 0),
    "rows of pads": Case([[PAD] * 4, ROW], [(0, [PAD] * 4), (0, [10, PAD]), (1, [PAD] * 4)]),
    "several genes join": Case([ROW], [(0, [2, 20, 21, 22, 10, 11, 12, 13, 3])], 3),
    "one gene too many joins": Case([ROW], [(0, [2, 20, 21, 22, 10, 11, 12, 13, 3])], 2),
    "many join, at free places and in slots": Case([ROW], [(0, [20, 21, 22, 23, 24, 25, 26, 27, 10])], 1),
    "a delete moves all": Case([ROW], [(0, [10, 11, 12, 13, 3]), (0, [2, 11, 12, 13, 3])]),
    "overexpression": Case([ROW], [(0, [2, 13, 10, 11, 12, 3]), (0, [2, 20, 10, 11, 12, 13])]),
    "a gene is repeated": Case([ROW], [(0, [2, 11, 10, 11, 12, 3]), (0, [2, 10, 10, 10, 10, 10])]),
    "a new gene is repeated": Case([ROW], [(0, [2, 20, 20, 20, 13, 3, 20])]),
    "the cell repeats a gene": Case([[10, 11, 10, 12, 10]], [(0, [10, 11, 10, 12, 10]), (0, [11, 10, 12, 10])]),
    "masks": Case([ROW], [(0, [2, MASK, MASK, 12, 13, 3]), (0, [MASK] * 6), (0, [2, 10, 11, 12, 13, 3, MASK])]),
    "masks in the cell": Case([[2, MASK, 11, MASK]], [(0, [2, MASK, 11, MASK]), (0, [MASK, 2, MASK, 11])]),
    "holes": Case([[2, PAD, 11, 12]], [(0, [2, 11, PAD, 12]), (0, [PAD, 2, 20, 11])]),
    "shorter than the cell": Case([ROW], [(0, [2, 13]), (0, [3])]),
    "longer than the cell": Case([ROW], [(0, [*ROW, PAD, PAD, PAD]), (0, [2, 20, *ROW[1:], 21, PAD])]),
    "cells in any order": Case(
        [ROW, [20, 10], [2, 30, 31, 3]],
        [(2, [2, 31, 30, 3]), (0, [2, MASK, 11, 12, 13, 3]), (2, [2, 30, 31, 3]), (1, [10, 20, 11]), (0, ROW)],
    ),
    "no item": Case([ROW], []),
    "no cell": Case([], []),
    "ids of 8 bytes": Case([ROW], [(0, [2, 20, 13, 11])], kinds=WIDE),
    "items of 8 bytes": Case([ROW], [(0, [2, 20, 13, 11])], kinds=(torch.int32, torch.int64)),
    "nothing counts": Case([ROW], [(0, [2, 20, 13, 11])], counts=False),
    "longer than a chunk": Case(
        [LONG, LONG[:1030]], [(0, [5, 6, *LONG[:-1]]), (1, LONG[3:1100]), (0, shuffled(2110, 1))], 4
    ),
}


def assert_same(ours: Frame, exact: Frame, what: str) -> None:
    for f in fields(Frame):
        here, there = getattr(ours, f.name), getattr(exact, f.name)
        assert here.dtype == there.dtype, f"{what}: {f.name} is {here.dtype}, not {there.dtype}"
        assert torch.equal(here, there), f"{what}: {f.name} is\n{here.tolist()}, not\n{there.tolist()}"


def check_named_frames(device: str, backend: str) -> None:
    for name, case in CASES.items():
        inputs = case.inputs(device)
        assert_same(frame_rows(*inputs, backend=backend), frame_rows_reference(*inputs), name)


def check_frames_write_nothing_else(device: str, backend: str) -> None:
    """Chunks of 4 columns, so that rows have several; memory for the stages starts as what columns could be."""
    from screen_kernels.delta import _frame_triton

    for name, case in CASES.items():
        *inputs, n_slots = case.inputs(device)
        exact = frame_rows_reference(*inputs, n_slots)
        buffers = []

        def output(like: Tensor, buffers: list[Tensor] = buffers) -> Tensor:
            kind = torch.int8 if like.dtype == torch.bool else like.dtype
            values, buffer = guarded(like.shape, kind, device)
            buffers.append(buffer)
            return values.view(like.dtype)

        ours = Frame(*(output(getattr(exact, f.name)) for f in fields(Frame)))
        last_BF, buffer = guarded(exact.ids_BF4.shape[:2], torch.int32, device)
        last_BF.copy_(torch.arange(last_BF.numel(), device=device).reshape(last_BF.shape) % 5)
        _frame_triton.launch(*inputs, last_BF, ours, chunk=4 if last_BF.shape[1] < 99 else 256)
        assert_same(ours, exact, name)
        for b in (*buffers, buffer):
            assert_guards(b, name)
        assert SENTINEL not in ours.is_carried_B.view(torch.int8)


CHECKS = (check_named_frames,)
TRITON_CHECKS = (check_frames_write_nothing_else,)

if __name__ == "__main__":
    torch.set_num_threads(1)
    device, backend = sys.argv[1:3]
    run_checks(CHECKS + (TRITON_CHECKS if backend == "triton" else ()), device, backend)
