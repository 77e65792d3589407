"""Batch: items that one forward pass reads; a unit's items -> batches under a token budget, almost without padding."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from screen.planning.plan import Plan
from screen.planning.row_lengths import NO_PERTURBATION, RowLengths

Ints = NDArray[np.int64]

MAX_PADDED = 0.03
"""Share of padded tokens up to which small groups of unequal shape are put into one batch."""
SMALL = 4
"""A group is small if it fills less than one SMALL-th of a batch."""
MAX_PADDED_CELLS, FEWEST_ITEMS = 0.15, 64
"""By cell: share of padded tokens up to which cells of unequal length share a batch, and items below which any do."""


@dataclass(frozen=True)
class Batch:
    """B items that one forward pass reads.

    item_B                        rows of the plan (of controls: the cells); cell_B and perturbation_B are theirs
    n_source, n_target            padded width of each state's edited row, condition tokens not counted, at least 1
    source_is_full, target_is_full  every row fills that width without any pad, so no key mask is needed
    n_padded_tokens               pads that only fill rows up to the width (not the holes that an edit leaves)
    """

    item_B: Ints
    cell_B: NDArray[np.int32]
    perturbation_B: NDArray[np.int32]
    n_source: int
    n_target: Mapping[int, int]
    source_is_full: bool
    target_is_full: Mapping[int, bool]
    n_padded_tokens: int

    @property
    def n_items(self) -> int:
        return len(self.item_B)

    @property
    def n_tokens(self) -> int:
        """Tokens over all items and states, pads included."""
        return self.n_items * (self.n_source + sum(self.n_target.values()))


def padded_share(batches: Iterable[Batch]) -> float:
    """Padded tokens over all tokens; 0 for no batch."""
    sizes = [(b.n_padded_tokens, b.n_tokens) for b in batches]
    return sum(p for p, _ in sizes) / max(sum(n for _, n in sizes), 1)


def pack(
    lengths: RowLengths,
    item_B: NDArray[np.integer],
    cell_B: NDArray[np.integer],
    perturbation_B: NDArray[np.integer],
    budget_tokens: int,
    by_cell: bool = False,
) -> list[Batch]:
    """Batches that hold each item once; a pure function of the arguments, whatever the order of the items.

    item_B, cell_B, perturbation_B  (B,): rows of the plan, of one unit and one block of cells, and their content
    budget_tokens                   most tokens a batch may have in its widest state; one longer item is a batch alone
    Items of one shape (all widths equal, full or not) share batches of near-equal size. A group that fills less than
    a quarter of a batch is joined to the next shape where at most 3 % of the tokens of all states become pads.
    `by_cell`: all items of a cell stand together, in one batch where they fit; cells of like length share batches, which
    then have at least FEWEST_ITEMS items where there are as many.
    """
    assert len(item_B) == len(cell_B) == len(perturbation_B)
    if len(item_B) == 0:
        return []
    rows = lengths.edited(cell_B, perturbation_B)
    length_BS = np.stack([length_B for length_B, _ in rows.values()], axis=1)
    is_full_BS = np.stack([is_full_B for _, is_full_B in rows.values()], axis=1)
    width_BS = np.maximum(length_BS, 1)
    by_shape = (*~is_full_BS.T[::-1], *width_BS.T[::-1])
    order = np.lexsort((item_B, cell_B, *(_widest(cell_B, width_BS).T[::-1] if by_cell else by_shape)))
    length_BS, is_full_BS, width_BS = length_BS[order], is_full_BS[order], width_BS[order]
    items, cells = item_B[order].astype(np.int64), cell_B[order].astype(np.int32)
    perturbations = perturbation_B[order].astype(np.int32)
    batches = []
    key_BK = cells[:, None] if by_cell else np.hstack([width_BS, is_full_BS])
    for part in _cuts(key_BK, length_BS, width_BS, budget_tokens, _is_alike if by_cell else _is_small):
        width_S, n_real = width_BS[part].max(0), int(length_BS[part].sum())
        is_full_S = (is_full_BS[part] & (length_BS[part] == width_S)).all(0).tolist()
        n_source, *n_target = width_S.tolist()
        batches.append(
            Batch(
                items[part],
                cells[part],
                perturbations[part],
                n_source,
                dict(zip(lengths.states[1:], n_target, strict=True)),
                is_full_S[0],
                dict(zip(lengths.states[1:], is_full_S[1:], strict=True)),
                (part.stop - part.start) * int(width_S.sum()) - n_real,
            )
        )
    return batches


def _cuts(
    key_BK: NDArray[np.integer], length_BS: Ints, width_BS: Ints, budget_tokens: int,
    joins: Callable[[int, int, float], bool],
) -> Iterator[slice]:  # fmt: skip
    """Consecutive slices of the sorted items, one per batch.

    Items of one key are a group. One that fits is put into the batch of the group before where `joins` says so, told how many
    items the batch has, how many it has room for, and the share of its tokens that would be padded.
    """
    start_G = [0, *(np.flatnonzero((key_BK[1:] != key_BK[:-1]).any(1)) + 1).tolist()]
    stop_G = [*start_G[1:], len(width_BS)]
    n_real_B1 = [0, *np.cumsum(length_BS.sum(1)).tolist()]
    first, last, width = 0, 0, [1] * width_BS.shape[1]
    for start, stop, width_S in zip(start_G, stop_G, np.maximum.reduceat(width_BS, start_G).tolist(), strict=True):
        joint = [max(pair) for pair in zip(width, width_S, strict=True)]
        n_tokens = (stop - first) * sum(joint)
        padded = 1 - (n_real_B1[stop] - n_real_B1[first]) / n_tokens
        fits = (stop - first) * max(joint) <= budget_tokens
        if first < last and fits and joins(last - first, max(1, budget_tokens // max(width)), padded):
            last, width = stop, joint
            continue
        yield from _near_equal(first, last, max(1, budget_tokens // max(width)))
        first, last, width = start, stop, width_S
    yield from _near_equal(first, last, max(1, budget_tokens // max(width)))


def _is_small(n_items: int, n_most: int, padded: float) -> bool:
    """Of shapes."""
    return SMALL * n_items < n_most and padded <= MAX_PADDED


def _is_alike(n_items: int, n_most: int, padded: float) -> bool:
    """Of cells."""
    return n_items < FEWEST_ITEMS or padded <= MAX_PADDED_CELLS


def _widest(cell_B: NDArray[np.integer], width_BS: Ints) -> Ints:
    """(B, S) the largest width of any item of the same cell."""
    cells, index_B = np.unique(cell_B, return_inverse=True)
    widest_CS = np.zeros((len(cells), width_BS.shape[1]), dtype=np.int64)
    np.maximum.at(widest_CS, index_B, width_BS)
    found: Ints = widest_CS[index_B]
    return found


def _near_equal(first: int, last: int, max_items: int) -> Iterator[slice]:
    n_parts = -(-(last - first) // max_items)
    bounds = [first + (last - first) * i // n_parts for i in range(n_parts)] + [last]
    yield from (slice(a, b) for a, b in pairwise(bounds))


def pack_controls(lengths: RowLengths, cell_C: NDArray[np.integer], budget_tokens: int) -> list[Batch]:
    """Batches of unedited cells; items are the cells themselves."""
    return pack(lengths, cell_C, cell_C, np.full(len(cell_C), NO_PERTURBATION), budget_tokens)


def pack_unit(
    lengths: RowLengths, plan: Plan, number: int, budget_tokens: int, by_cell: bool = False
) -> list[tuple[int, list[Batch]]]:
    """(block of cells, its batches) of a unit, in order. Items that edit other states never share a batch."""
    return [(block, parts[0]) for block, parts in pack_parts(lengths, plan, number, budget_tokens, by_cell)]


def pack_parts(
    lengths: RowLengths, plan: Plan, number: int, budget_tokens: int, by_cell: bool = False, n_parts: int = 1
) -> list[tuple[int, dict[int, list[Batch]]]]:
    """(block of cells, the unit's batches by part of the block) of a unit, in order.

    A part is an n-th of the block's cells, by number: no batch holds items of two, and the controls of a part need as much
    less memory.
    """
    packed = []
    for rows in plan.blocks(number):
        item_I, cell_I, perturbation_I = np.arange(rows.start, rows.stop), plan.cell_I[rows], plan.perturbation_I[rows]
        kind_I, part_I = lengths.kind_P[perturbation_I], plan.part_of(cell_I, n_parts)
        parts: dict[int, list[Batch]] = {}
        for part in np.unique(part_I).tolist():
            parts[part] = []
            for kind in np.unique(kind_I):
                at = (kind_I == kind) & (part_I == part)
                parts[part] += pack(lengths, item_I[at], cell_I[at], perturbation_I[at], budget_tokens, by_cell)
        packed.append((int(cell_I[0]) // plan.cells_per_block, parts))
    return packed
