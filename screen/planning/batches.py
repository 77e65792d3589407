"""Batch: items that one forward pass reads; a unit's items -> batches under a token budget, almost without padding."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from screen.planning.plan import Plan
from screen.planning.row_lengths import NO_PERTURBATION, RowLengths

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MAX_PADDED = 0.03
"""Share of padded tokens up to which small groups of unequal shape are put into one batch."""
SMALL = 4
"""A group is small if it fills less than one SMALL-th of a batch."""


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
) -> list[Batch]:
    """Batches that hold each item once; a pure function of the arguments, whatever the order of the items.

    item_B, cell_B, perturbation_B  (B,): rows of the plan, of one unit and one block of cells, and their content
    budget_tokens                   most tokens a batch may have in its widest state; one longer item is a batch alone
    Items of one shape (all widths equal, full or not) share batches of near-equal size. A group that fills less than
    a quarter of a batch is joined to the next shape where at most 3 % of the tokens of all states become pads.
    """
    assert len(item_B) == len(cell_B) == len(perturbation_B)
    if len(item_B) == 0:
        return []
    rows = lengths.edited(cell_B, perturbation_B)
    length_BS = np.stack([length_B for length_B, _ in rows.values()], axis=1)
    is_full_BS = np.stack([is_full_B for _, is_full_B in rows.values()], axis=1)
    width_BS = np.maximum(length_BS, 1)
    order = np.lexsort((item_B, cell_B, *~is_full_BS.T[::-1], *width_BS.T[::-1]))
    length_BS, is_full_BS, width_BS = length_BS[order], is_full_BS[order], width_BS[order]
    items, cells = item_B[order].astype(np.int64), cell_B[order].astype(np.int32)
    perturbations = perturbation_B[order].astype(np.int32)
    batches = []
    for part in _cuts(length_BS, is_full_BS, width_BS, budget_tokens):
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


def _cuts(length_BS: Ints, is_full_BS: Bools, width_BS: Ints, budget_tokens: int) -> Iterator[slice]:
    """Consecutive slices of the sorted items, one per batch."""
    differs_B = (width_BS[1:] != width_BS[:-1]).any(1) | (is_full_BS[1:] != is_full_BS[:-1]).any(1)
    start_G = [0, *(np.flatnonzero(differs_B) + 1).tolist()]
    stop_G = [*start_G[1:], len(width_BS)]
    n_real_B1 = [0, *np.cumsum(length_BS.sum(1)).tolist()]
    first, last, width = 0, 0, [1]
    for start, stop, width_S in zip(start_G, stop_G, width_BS[start_G].tolist(), strict=True):
        joint = [max(pair) for pair in zip(width, width_S, strict=True)] if first < last else width_S
        n_tokens = (stop - first) * sum(joint)
        is_small = first < last and SMALL * (last - first) < max(1, budget_tokens // max(width))
        can_join = (stop - first) * max(joint) <= budget_tokens
        if is_small and can_join and n_tokens - (n_real_B1[stop] - n_real_B1[first]) <= MAX_PADDED * n_tokens:
            last, width = stop, joint
            continue
        yield from _near_equal(first, last, max(1, budget_tokens // max(width)))
        first, last, width = start, stop, width_S
    yield from _near_equal(first, last, max(1, budget_tokens // max(width)))


def _near_equal(first: int, last: int, max_items: int) -> Iterator[slice]:
    n_parts = -(-(last - first) // max_items)
    bounds = [first + (last - first) * i // n_parts for i in range(n_parts)] + [last]
    yield from (slice(a, b) for a, b in pairwise(bounds))


def pack_controls(lengths: RowLengths, cell_C: NDArray[np.integer], budget_tokens: int) -> list[Batch]:
    """Batches of unedited cells; items are the cells themselves."""
    return pack(lengths, cell_C, cell_C, np.full(len(cell_C), NO_PERTURBATION), budget_tokens)


def pack_unit(lengths: RowLengths, plan: Plan, number: int, budget_tokens: int) -> list[tuple[int, list[Batch]]]:
    """(block of cells, its batches) of a unit, in order. Items that edit other states never share a batch."""
    packed: list[tuple[int, list[Batch]]] = []
    for rows in plan.blocks(number):
        item_I, cell_I, perturbation_I = np.arange(rows.start, rows.stop), plan.cell_I[rows], plan.perturbation_I[rows]
        kind_I = lengths.kind_P[perturbation_I]
        batches = []
        for kind in np.unique(kind_I):
            at = kind_I == kind
            batches += pack(lengths, item_I[at], cell_I[at], perturbation_I[at], budget_tokens)
        packed.append((int(cell_I[0]) // plan.cells_per_block, batches))
    return packed
