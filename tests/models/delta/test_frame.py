"""A frame holds the edited rows, id for id and place for place, whatever the rows are."""

from random import Random

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from screen_kernels import MASK, PAD, edit_row_reference
from screen_kernels.delta import Frame
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from screen.models.delta.frame import frame_of
from tests.support.modes import EVERY

GENES = range(4, 30)


@st.composite
def rows(draw: st.DrawFn, unique: bool) -> tuple[torch.Tensor, torch.Tensor, int]:
    """(a cell's row, what some edits make of it, slots)."""
    width = draw(st.integers(1, 14))
    ids = draw(st.lists(st.sampled_from([*GENES]), max_size=width, unique=unique))
    if draw(st.booleans()):
        ids = [2, *ids, 3][:width]
    row = torch.tensor([*ids, *[PAD] * (width - len(ids))], dtype=torch.int32)
    edited, most = [], 0
    for _ in range(draw(st.integers(1, 4))):
        mode, site = draw(st.sampled_from(EVERY)), draw(st.sampled_from(["src", "tgt"]))
        genes = draw(st.lists(st.sampled_from([*GENES]), min_size=1, max_size=3, unique=True))
        most = max(most, len(genes))
        edited.append(edit_row_reference(row, genes, mode, site))
    return row, torch.stack(edited), most


def framed(row_L: torch.Tensor, edited_BW: torch.Tensor, n_slots: int) -> Frame:
    """Of items of one cell."""
    cell_B = torch.zeros(len(edited_BW), dtype=torch.long)
    return frame_of(row_L[None], row_L[None] > 3, cell_B, edited_BW, edited_BW > 3, n_slots)


def edited_ids(frame: Frame) -> torch.Tensor:
    """(B, W) the edited rows, read back from the frame."""
    found = frame.ids_BF4[..., 2].gather(1, frame.column_BW.clamp_min(0))
    return torch.where(frame.column_BW >= 0, found, PAD)


@settings(max_examples=300, deadline=None)
@given(rows(unique=True))
def test_a_frame_of_rows_without_repeats_reads_back_as_the_edited_rows(
    case: tuple[torch.Tensor, torch.Tensor, int],
) -> None:
    row, edited, n_slots = case
    counted = edited > 3
    frame = framed(row, edited, n_slots)
    assert frame.is_carried_B.all()
    assert torch.equal(edited_ids(frame), edited.long())
    # keys and counted columns are the tokens, each at its place
    assert torch.equal(frame.keep_BF2[..., 1].sum(1), (edited != PAD).sum(1))
    assert torch.equal(frame.counted_BF2[..., 1].sum(1), counted.sum(1))
    assert torch.equal(frame.keep_BF2[..., 0].sum(1), (row != PAD).sum().expand(len(edited)))
    at = frame.column_BW >= 0
    places = frame.ids_BF4[..., 3].gather(1, frame.column_BW.clamp_min(0))
    assert torch.equal(places[at], torch.arange(edited.shape[1]).expand_as(at)[at])


@settings(max_examples=300, deadline=None)
@given(rows(unique=False), st.integers(0, 3))
def test_a_frame_says_which_rows_it_does_not_hold(case: tuple[torch.Tensor, torch.Tensor, int], n_slots: int) -> None:
    row, edited, _ = case
    frame = framed(row, edited, n_slots)
    is_held = [
        torch.equal(ids, there.long()) and int(keep.sum()) == int((there != PAD).sum())
        for ids, there, keep in zip(edited_ids(frame), edited, frame.keep_BF2[..., 1], strict=True)
    ]
    assert frame.is_carried_B.tolist() == is_held


@settings(max_examples=200, deadline=None)
@given(st.lists(rows(unique=True), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_items_of_several_cells_are_framed_as_each_by_itself(
    cases: list[tuple[torch.Tensor, torch.Tensor, int]], random: Random
) -> None:
    n_slots = max(n for _, _, n in cases)
    control = pad_sequence([row for row, _, _ in cases], batch_first=True)
    items = [(c, ids) for c, (_, edited, _) in enumerate(cases) for ids in edited]
    random.shuffle(items)
    cell_B, edited = torch.tensor([c for c, _ in items]), pad_sequence([ids for _, ids in items], batch_first=True)
    frame = frame_of(control, control > 3, cell_B, edited, edited > 3, n_slots)
    assert frame.is_carried_B.all()
    assert torch.equal(edited_ids(frame), edited.long())
    assert torch.equal(frame.keep_BF2[..., 0].sum(1), (control != PAD).sum(1)[cell_B])
    assert torch.equal(frame.keep_BF2[..., 1].sum(1), (edited != PAD).sum(1))
    assert torch.equal(frame.counted_BF2.sum(1), torch.stack([(control > 3).sum(1)[cell_B], (edited > 3).sum(1)], 1))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(rows(unique=False), min_size=1, max_size=4), st.integers(0, 3), st.integers(0, 2), st.integers(0, 2**31)
)
def test_a_state_that_nobody_edits_has_the_frame_of_rows_as_they_are(
    cases: list[tuple[torch.Tensor, torch.Tensor, int]], n_more: int, n_slots: int, seed: int
) -> None:
    control = pad_sequence([row for row, _, _ in cases], batch_first=True)
    cell_B = torch.randint(len(cases), (5,), generator=torch.Generator().manual_seed(seed))
    edited = F.pad(control[cell_B], (0, n_more))
    # pooling may leave out the genes that are edited elsewhere
    counted = (edited > 3) & (edited != 7)
    frame = frame_of(control, control > 3, cell_B, edited, counted, n_slots)
    assert frame.is_carried_B.all()
    place, length = torch.arange(control.shape[1]), control.shape[1]
    for x in (frame.ids_BF4[..., :2], frame.ids_BF4[..., 2:]):
        assert torch.equal(x[..., 0], F.pad(control[cell_B], (0, n_slots), value=MASK).long())
        assert torch.equal(x[..., 1], F.pad(place, (0, n_slots)).expand(5, -1))
    is_token = F.pad(control[cell_B] != PAD, (0, n_slots))
    assert torch.equal(frame.keep_BF2, torch.stack([is_token, is_token], -1))
    before, after = (F.pad(x, (0, n_slots)) for x in ((control > 3)[cell_B], counted[:, :length]))
    assert torch.equal(frame.counted_BF2, torch.stack([before, after], -1))
    assert torch.equal(frame.column_BW, F.pad(torch.where(control[cell_B] != PAD, place, -1), (0, n_more), value=-1))


def test_a_mask_stays_in_its_column_and_a_moved_gene_keeps_its_own() -> None:
    row = torch.tensor([2, 10, 11, 12, 3], dtype=torch.int32)
    masked = edit_row_reference(row, [11], "mask", "src")
    moved = edit_row_reference(row, [12], "overexpress", "src")
    absent = edit_row_reference(row, [20], "overexpress", "src")
    frame = framed(row, torch.stack([masked, moved, absent]), 1)
    assert frame.column_BW.tolist() == [[0, 1, 2, 3, 4], [0, 3, 1, 2, 4], [0, 5, 1, 2, 3]]
    # the row is full: what an absent gene pushes out leaves
    assert frame.keep_BF2[2].tolist() == [[True, True]] * 4 + [[True, False], [False, True]]
    assert frame.ids_BF4[0, 2].tolist() == [11, 2, 1, 2]


def test_a_row_that_nothing_edits_is_its_own_frame() -> None:
    row = torch.tensor([2, 10, 0, 12], dtype=torch.int32)
    frame = framed(row, row[None], 0)
    assert torch.equal(frame.ids_BF4[..., :2], frame.ids_BF4[..., 2:])
    assert torch.equal(frame.keep_BF2[..., 0], frame.keep_BF2[..., 1])
    assert torch.equal(frame.counted_BF2[..., 0], frame.counted_BF2[..., 1])
    assert np.array_equal(edited_ids(frame)[0], row)
