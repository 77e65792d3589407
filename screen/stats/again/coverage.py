"""Coverage of other strata: counted from the items there are, and, of the cells without one, from what is known of them.

A store says of each cell whether an edit was screened in it, and of each stratum of its `run` why it was not, and in how many
cells. So the reasons are known for a group of cells wherever those strata leave no choice.
"""

import numpy as np
from numpy.typing import NDArray

from screen.planning.selection import Coverage
from screen.stats.groups import Strata
from screen.store.reader import StoreReader

UNKNOWN = -1
"""A number of cells that the store does not tell."""
ITEMS_AT_ONCE = 2**20
Ints = NDArray[np.int64]


def coverage_of(store: StoreReader, asked: Strata, first: Coverage, first_strata: Strata) -> Coverage:
    """What became of the cells of other strata; `first` is what became of those of `first_strata`, for which it was counted.

    Cells and screened cells are exact. `absent`, `truncated` and `emptied` are UNKNOWN where a stratum of `first` lacks items
    for more than one reason, and only some of the cells that lack one are in the group.
    """
    n_SZ = _crossed(first_strata.stratum_C, asked.stratum_C, len(first.stratum), len(asked.name_S))
    screened_PSZ = _screened(store, first_strata, asked)
    left_PSZ = n_SZ - screened_PSZ
    reasons = {name: getattr(first, f"{name}_PS") for name in ("absent", "truncated", "emptied")}
    all_left_PS = sum(reasons.values())
    tallies = {name: _of_reason(left_PSZ, tally_PS, all_left_PS) for name, tally_PS in reasons.items()}
    return Coverage(
        asked.name_S, asked.n_cells_S, screened_PSZ.sum(1), tallies["absent"], tallies["truncated"], tallies["emptied"]
    )


def _of_reason(left_PSZ: Ints, tally_PS: Ints, all_left_PS: Ints) -> Ints:
    """(P, Z) cells without an item for one reason."""
    tally_PS1, all_PS1 = tally_PS[..., None], all_left_PS[..., None]
    has_all = left_PSZ == all_PS1
    is_the_only = tally_PS1 == all_PS1
    is_known = (left_PSZ == 0) | has_all | is_the_only | (tally_PS1 == 0)
    found_PSZ = np.where(is_the_only, left_PSZ, np.where(has_all & (left_PSZ > 0), tally_PS1, 0))
    return np.where(is_known.all(1), found_PSZ.sum(1), UNKNOWN)


def _crossed(first_C: Ints, asked_C: Ints, n_first: int, n_asked: int) -> Ints:
    """(S, Z) cells of both."""
    both = (first_C >= 0) & (asked_C >= 0)
    key_C = first_C[both] * n_asked + asked_C[both]
    return np.bincount(key_C, minlength=n_first * n_asked).reshape(n_first, n_asked)


def _screened(store: StoreReader, first: Strata, asked: Strata) -> Ints:
    """(P, S, Z) cells with an item, some items at a time."""
    n_S, n_Z = len(first.name_S), len(asked.name_S)
    parts = []
    for block in store.blocks:
        count = np.zeros(block.n_perturbations * n_S * n_Z, dtype=np.int64)
        for start in range(0, block.n_items, ITEMS_AT_ONCE):
            rows = slice(start, min(start + ITEMS_AT_ONCE, block.n_items))
            p_I, cell_I = (block.read(f"items/{name}", rows).astype(np.int64) for name in ("perturbation", "cell"))
            s_I, z_I = first.stratum_C[cell_I], asked.stratum_C[cell_I]
            both = (s_I >= 0) & (z_I >= 0)
            count += np.bincount((p_I[both] * n_S + s_I[both]) * n_Z + z_I[both], minlength=len(count))
        parts.append(count.reshape(block.n_perturbations, n_S, n_Z))
    return np.concatenate(parts)
