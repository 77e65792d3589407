"""Modules: groups of perturbations that change the same genes, in the same or in the opposite direction.

Average linkage of 1 - |cosine| without everybody's response. The tree is cut where the average |cosine| between two branches
is what 1 of 1,000 pairs of null perturbations have, or 0.5 if that is more: perturbations of one module are more alike than
chance makes any two, and share at least as much of their direction as they do not. Without null perturbations the pairs are
all those there are, of which modules are few. Branches of fewer than 3 are no module: their members are in the table of neighbours.
"""

from typing import Any

import numpy as np
import polars as pl

from screen.stats.deg import Names
from screen.stats.relations.kinds import WHICH, Integers, Values, typed
from screen.stats.relations.similarity import Changes, _most

LEAST_COSINE, SHARE_OF_PAIRS, FEWEST_MEMBERS, FEWEST_NULLS = 0.5, 0.001, 3, 20
MODULES_SCHEMA: dict[str, Any] = {k: v for k, v in WHICH.items() if k != "is_null"} | {
    "module": pl.Int32, "n_members": pl.Int32, "sign": pl.Int8, "member_cosine": pl.Float32, "threshold": pl.Float32,
    "top_up": pl.List(pl.String), "top_down": pl.List(pl.String),
}  # fmt: skip
"""Of `relations/modules.parquet`: a row per member, largest module first (1), members by |member_cosine|.

sign              1, or -1 for members that do the opposite of most
member_cosine     mean cosine to the other members, each taken with its sign
threshold         the |cosine| at which the tree was cut
top_up, top_down  the genes that the module moves most, of the mean of its members' directions with their signs; the same in all rows
"""


def modules(changes: Changes, names: Names) -> pl.DataFrame:
    """MODULES_SCHEMA of one kind."""
    at_M = np.flatnonzero(changes.is_asked_N)
    cosine_MM, least = changes.cosine_NN[np.ix_(at_M, at_M)], threshold(changes)
    table, parts = changes.kind.table[at_M], []
    size_N1 = np.sqrt(np.square(changes.specific_NG).sum(1, keepdims=True))
    unit_NG = changes.specific_NG / np.where(size_N1 > 0, size_N1, 1)
    for number, member_K in enumerate(clusters(cosine_MM, least), start=1):
        cosine_KK = cosine_MM[np.ix_(member_K, member_K)]
        sign_K = signs(cosine_KK)
        mean_K = ((cosine_KK * np.outer(sign_K, sign_K)).sum(1) - np.diag(cosine_KK)) / (len(member_K) - 1)
        order_K = np.argsort(-mean_K, kind="stable")
        direction_G = sign_K @ unit_NG[at_M[member_K]]
        columns: dict[str, Any] = table[member_K[order_K]].select(*(c for c in MODULES_SCHEMA if c in WHICH)).to_dict()
        up, down = _most(direction_G, names.feature_symbol), _most(-direction_G, names.feature_symbol)
        columns |= {name: [value] * len(member_K) for name, value in (
            ("module", number), ("n_members", len(member_K)), ("threshold", least), ("top_up", up), ("top_down", down),
        )}  # fmt: skip
        parts.append(typed(columns | {"sign": sign_K[order_K], "member_cosine": mean_K[order_K]}, MODULES_SCHEMA))
    return pl.concat([pl.DataFrame(schema=MODULES_SCHEMA), *parts])


def threshold(changes: Changes) -> float:
    """The |cosine| at which the tree of a kind is cut."""
    is_null_N = changes.kind.is_null_N
    chosen = is_null_N if is_null_N.sum() >= FEWEST_NULLS else np.ones(len(is_null_N), dtype=bool)
    size_NN = np.abs(changes.cosine_NN[np.ix_(chosen, chosen)])
    pairs = size_NN[np.triu_indices(len(size_NN), 1)]
    return max(LEAST_COSINE, float(np.quantile(pairs, 1 - SHARE_OF_PAIRS))) if len(pairs) else LEAST_COSINE


def clusters(cosine_MM: Values, least: float) -> list[Integers]:
    """Members of the branches of FEWEST_MEMBERS or more, largest first, of ties the one whose first member comes first."""
    if len(cosine_MM) < FEWEST_MEMBERS:
        return []
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    distance_MM = np.clip(1 - np.abs(cosine_MM), 0, 1)
    np.fill_diagonal(distance_MM, 0)
    tree = linkage(squareform((distance_MM + distance_MM.T) / 2, checks=False), "average")
    label_M = fcluster(tree, t=1 - least, criterion="distance")
    found = [np.flatnonzero(label_M == label) for label in np.unique(label_M)]
    return sorted((m for m in found if len(m) >= FEWEST_MEMBERS), key=lambda m: (-len(m), int(m[0])))


def signs(cosine_KK: Values) -> Values:
    """1 or -1 for each member: sides of the first eigenvector of the cosines; most, of ties the first, are at 1."""
    sign_K = np.where(np.linalg.eigh(cosine_KK)[1][:, -1] < 0, -1.0, 1.0)
    balance = float(sign_K.sum())
    return sign_K if balance > 0 or (balance == 0 and sign_K[0] > 0) else -sign_K
