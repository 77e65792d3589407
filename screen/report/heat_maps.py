"""Heat maps: of every edit, stratum and time point the strongest shown perturbations against the genes that they change."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from screen.report.numbers import rounded
from screen.results.views import clustered

if TYPE_CHECKING:
    from screen.report.details import Changes
    from screen.report.names import ScreenNames

N_PERTURBATIONS, N_GENES, MOST_MAPS = 30, 40, 60


def heat_maps(changes: "Changes", names: "ScreenNames", rank_of: dict[int, int]) -> list[dict[str, Any]]:
    """Of each edit, stratum and time point: perturbations and genes (numbers) in the order of a clustering, and changes.

    rank_of  group -> strength_rank; groups without are left out. At most MOST_MAPS maps, those with most perturbations first.
    Genes are those with the largest root mean square change over the map's perturbations.
    """
    n_each = len(names.strata) * len(names.times)
    of_kind: dict[tuple[int, int], list[int]] = {}
    for at, group in enumerate(changes.group_N.tolist()):
        if group in rank_of:
            of_kind.setdefault((int(names.edit_P[group // n_each]), group % n_each), []).append(at)
    kinds = sorted(of_kind, key=lambda kind: (-len(of_kind[kind]), kind))[:MOST_MAPS]
    found = []
    for edit, place in sorted(kinds):
        at_P = sorted(of_kind[edit, place], key=lambda at: rank_of[int(changes.group_N[at])])[:N_PERTURBATIONS]
        stratum, time = divmod(place, len(names.times))
        found.append({"edit": edit, "stratum": stratum, "time": time} | _map(changes, np.array(at_P), n_each))
    return found


def _map(changes: "Changes", at_P: NDArray[np.int64], n_each: int) -> dict[str, Any]:
    change_PG = changes.change_NG[at_P].astype(np.float64)
    square_G = np.square(np.nan_to_num(change_PG)).sum(0)
    gene_G = np.argsort(-square_G, kind="stable")[:N_GENES]
    gene_G = gene_G[square_G[gene_G] > 0]
    value_PG = change_PG[:, gene_G]
    order_P, order_G = clustered(value_PG), clustered(value_PG.T)
    return {
        "perturbation": (changes.group_N[at_P[order_P]] // n_each).tolist(),
        "gene": gene_G[order_G].tolist(),
        "change": rounded(value_PG[np.ix_(order_P, order_G)], 3),
    }
