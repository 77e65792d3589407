"""Kernels of differences on batches that hypothesis draws: `TRITON_INTERPRET=1 python -m tests.support.delta_drawn cpu triton`."""

import sys

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from screen_kernels import MASK, PAD
from screen_kernels.delta import frame_rows, frame_rows_reference

from tests.support import delta_attention_cases as attention
from tests.support import delta_cases as rows
from tests.support import delta_frame_cases as frames

CHANCES = st.sampled_from([0.0, 0.3, 1.0])
CHANGES = st.lists(st.sampled_from("qkv"), unique=True).map("".join)


@st.composite
def attention_cases(draw: st.DrawFn) -> attention.Case:
    """Cells of any sizes, one key being the fewest; items of them in any order."""
    sizes = draw(st.lists(st.tuples(st.integers(0, 18), st.integers(1, 18)), min_size=1, max_size=3))
    cell_B = draw(st.lists(st.integers(0, len(sizes) - 1), max_size=3))
    n_rows_C, n_keys_C = zip(*sizes, strict=True)
    n_heads, width = draw(st.sampled_from([(1, 16), (2, 8), (3, 4), (1, 20)]))
    chances = (draw(CHANCES), draw(CHANCES), draw(CHANCES))
    case = attention.Case(n_rows_C, n_keys_C, tuple(cell_B), n_heads, width, draw(CHANGES), *chances)
    return attention.full(attention.replace(case, seed=draw(st.integers(0, 99))))


@st.composite
def row_cases(draw: st.DrawFn) -> rows.Case:
    length_C = draw(st.lists(st.integers(0, 9), min_size=1, max_size=3))
    cell_B = draw(st.lists(st.integers(0, len(length_C) - 1), max_size=3))
    return rows.Case(length_C, cell_B, draw(st.sampled_from([8, 24])), seed=draw(st.integers(0, 99)))


@st.composite
def frame_cases(draw: st.DrawFn) -> frames.Case:
    """Rows of any ids, pads, masks and repeats among them; items that are edits of their cells' rows, or any."""
    row = st.lists(st.sampled_from([PAD, MASK, *range(4, 14)]), max_size=7)
    control = draw(st.lists(row, min_size=1, max_size=3))
    items = []
    for c in draw(st.lists(st.integers(0, len(control) - 1), max_size=4)):
        ids = list(control[c]) if draw(st.booleans()) else draw(row)
        for _ in range(draw(st.integers(0, 3))):
            ids.insert(draw(st.integers(0, len(ids))), draw(st.integers(4, 20)))
        n_cut = draw(st.integers(0, 2))
        items.append((c, ids[n_cut:]))
    kind = st.sampled_from([torch.int32, torch.int64])
    kinds, n_slots = (draw(kind), draw(kind)), draw(st.integers(0, 3))
    return frames.Case(control, items, n_slots, kinds, draw(st.booleans()), draw(st.integers(0, 99)))


def drawn(n_examples: int) -> settings:
    return settings(
        max_examples=n_examples, deadline=None, derandomize=True, database=None, suppress_health_check=[*HealthCheck]
    )


def check_drawn_attention(device: str, backend: str) -> None:
    @drawn(30)
    @given(attention_cases())
    def check(case: attention.Case) -> None:
        attention.check_drawn(case, device, backend)

    check()


def check_drawn_rows(device: str, backend: str) -> None:
    @drawn(15)
    @given(row_cases())
    def check(case: rows.Case) -> None:
        rows.check_drawn(case, device, backend)

    check()


def check_drawn_frames(device: str, backend: str) -> None:
    @drawn(100)
    @given(frame_cases())
    def check(case: frames.Case) -> None:
        inputs = case.inputs(device)
        frames.assert_same(frame_rows(*inputs, backend=backend), frame_rows_reference(*inputs), str(case))

    check()


CHECKS = (check_drawn_attention, check_drawn_rows, check_drawn_frames)

if __name__ == "__main__":
    torch.set_num_threads(1)
    rows.run_checks(CHECKS, *sys.argv[1:3])
