"""Rank shift: deletion minus padding of the same gene, the part of a deletion that is only everybody moving up a rank."""

from typing import TYPE_CHECKING, Any

import numpy as np

from screen.edits import DELETE, PAD, parse
from screen.report.numbers import rounded

if TYPE_CHECKING:
    from screen.report.details import Changes
    from screen.report.names import ScreenNames

N_GENES = 10
"""That change most by it."""


def rank_shifts(changes: "Changes", names: "ScreenNames") -> dict[str, Any]:
    """Of every shown deletion whose padding is shown as well (same gene, site, stratum, time): strengths and what differs.

    deleted, padded, difference  root mean square change over genes
    """
    n_each = len(names.strata) * len(names.times)
    place = {g: i for i, g in enumerate(changes.group_N.tolist())}
    number = {(names.targets[p], names.edits[names.edit_P[p]]): p for p in range(len(names.ids))}
    found: dict[str, Any] = {"group": [], "deleted": [], "padded": [], "difference": [], "gene": [], "change": []}
    for group, at in place.items():
        p, rest = divmod(group, n_each)
        site, _, mode = names.edits[names.edit_P[p]].partition(":")
        twin = number.get((names.targets[p], f"{site}:{PAD.name}")) if parse(mode).mode is DELETE else None
        there = None if twin is None else place.get(twin * n_each + rest)
        if there is None:
            continue
        deleted_G, padded_G = changes.change_NG[at].astype(float), changes.change_NG[there].astype(float)
        known = np.isfinite(deleted_G) & np.isfinite(padded_G)
        change_G = np.where(known, deleted_G - padded_G, 0.0)
        gene_K = np.argsort(-np.abs(change_G), kind="stable")[:N_GENES]
        found["group"].append(group)
        for name, values_G in (("deleted", deleted_G), ("padded", padded_G), ("difference", change_G)):
            found[name].append(
                rounded(np.sqrt(np.square(values_G[known]).mean()) if known.any() else np.array(np.nan), 3)
            )
        found["gene"].append(gene_K.tolist())
        found["change"].append(rounded(change_G[gene_K], 3))
    return found
