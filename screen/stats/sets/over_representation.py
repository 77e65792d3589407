"""Over-representation: gene sets that a query of genes holds more of than a draw from the background would.

Fisher's exact test, one-sided. It takes genes as independent, which those of one pathway are not: p-values rank sets, and say
nothing of whether another perturbation would do the same (`screen.stats.sets.set_null` does).
"""

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screen.stats.enrich import N_GENES_SHOWN, OVERLAP
from screen.stats.sets.gene_sets import GeneSets

Bools = NDArray[np.bool_]
Counts = NDArray[np.int64]
Values = NDArray[np.float64]
PAIRS_AT_ONCE = 4096


def upper_tail(n_overlap: Counts, n_set: Counts, n_query: Counts, n_background: Counts) -> Values:
    """P(X >= n_overlap), hypergeometric, of many draws at once (N,): equal draws are computed once.

    Terms are added outwards from the overlap, where each is smaller than the one before; below the mode, those of the lower tail.
    """
    number = np.zeros(len(n_overlap), dtype=np.int64)
    for part in (n_background, n_query, n_set, n_overlap):
        number = number * (int(part.max(initial=0)) + 1) + part
    _, first, place = np.unique(number, return_index=True, return_inverse=True)
    k, inside, drawn, total = (x[first].astype(np.float64) for x in (n_overlap, n_set, n_query, n_background))
    is_upper = k > np.floor((inside + 1) * (drawn + 1) / (total + 2))
    found = np.empty(len(k))
    upper = [x[is_upper] for x in (k, inside, drawn, total)]
    found[is_upper] = _pmf(*upper) * _terms(1, *upper)
    lower = [x[~is_upper] for x in (k - 1, inside, drawn, total)]
    found[~is_upper] = 1 - _pmf(*lower) * _terms(-1, *lower)
    return np.asarray(np.clip(found, 0, 1)[place.reshape(-1)])


def _pmf(k: Values, inside: Values, drawn: Values, total: Values) -> Values:
    """P(X = k); 0 where k is impossible."""
    from scipy.special import gammaln

    def choose(n: Values, m: Values) -> Values:
        return np.asarray(gammaln(n + 1) - gammaln(m + 1) - gammaln(n - m + 1))

    is_possible = (k >= np.maximum(0, inside + drawn - total)) & (k <= np.minimum(inside, drawn))
    at = np.where(is_possible, k, np.maximum(0, inside + drawn - total))
    log_p = choose(inside, at) + choose(total - inside, drawn - at) - choose(total, drawn)
    return np.where(is_possible, np.exp(log_p), 0.0)


def _terms(step: int, k: Values, inside: Values, drawn: Values, total: Values) -> Values:
    """P(X = k), P(X = k + step) and so on over P(X = k), added up."""
    added = np.ones(len(k))
    at, term = np.arange(len(k)), np.ones(len(k))
    while len(at):
        others = total - inside - drawn + k
        # nothing beyond what is possible: both factors negative would give a term again
        up, down = np.maximum(inside - k, 0) * np.maximum(drawn - k, 0), np.maximum(k, 0) * np.maximum(others, 0)
        divisor = (k + 1) * (others + 1) if step > 0 else (inside - k + 1) * (drawn - k + 1)
        term = term * (up if step > 0 else down) / np.where(divisor > 0, divisor, np.inf)
        added[at] += term
        goes_on = term > 1e-17 * added[at]
        at, term = at[goes_on], term[goes_on]
        k, inside, drawn, total = (x[goes_on] for x in (k + step, inside, drawn, total))
    return added


def over_represented(
    query_NG: Bools, n_set_NS: Counts, n_background_N: Counts, sets: GeneSets, max_fdr: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[str, Any]]:
    """(query, set, what is told of each pair) of pairs up to a false discovery rate over all sets of a query, best first.

    Queries hold genes of their backgrounds only; n_set_NS counts the genes of each set that the background of a query has.
    """
    overlap_NS = query_NG.astype(np.float32) @ sets.member_GS
    query, member = np.nonzero(overlap_NS > 0)
    n_overlap, n_set = overlap_NS[query, member].astype(np.int64), n_set_NS[query, member].astype(np.int64)
    n_query = query_NG.sum(1)[query]
    p = upper_tail(n_overlap, n_set, n_query, n_background_N[query])
    # without a common gene p is 1; those beyond the limit cannot lower the rate of one within
    kept = np.flatnonzero(p <= max_fdr)
    kept = kept[np.lexsort([member[kept], p[kept], query[kept]])]
    fdr = stepped_up(p[kept], query[kept], len(sets))
    kept, fdr = kept[fdr <= max_fdr], fdr[fdr <= max_fdr]
    query, member, n_overlap, n_set, n_query = (x[kept] for x in (query, member, n_overlap, n_set, n_query))
    n_background, a = n_background_N[query], n_overlap.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        odds = a * (n_background - a - (n_set - a) - (n_query - a)) / ((n_set - a) * (n_query - a))
    told = {
        "n_overlap": n_overlap, "n_set": n_set, "n_query": n_query, "n_background": n_background, "odds_ratio": odds,
        "p_value": p[kept], "fdr": fdr,
    }  # fmt: skip
    return query, member, told


def stepped_up(p: Values, family: NDArray[np.integer], n_tests: int) -> Values:
    """Benjamini and Hochberg's rates of p-values sorted by family, then p; each family has n_tests, the others larger."""
    if not len(p):
        return p
    first = np.flatnonzero(np.diff(family, prepend=family[0] - 1))
    rank = np.arange(len(p)) - np.repeat(first, np.diff(first, append=len(p))) + 1
    rate = np.minimum(p * n_tests / rank, 1.0)
    # the least from here to the end of the family; whole numbers keep families apart and lose nothing
    order = np.argsort(rate, kind="stable")
    place = np.empty(len(p), dtype=np.int64)
    place[order] = np.arange(len(p))
    start = len(p) * np.cumsum(rank == 1)
    least = np.minimum.accumulate((place + start)[::-1])[::-1] - start
    return np.asarray(rate[order][least])


def overlaps(
    query_NG: Bools,
    n_set_NS: Counts,
    n_background_N: Counts,
    sets: GeneSets,
    symbol_G: NDArray[np.object_],
    max_fdr: float,
) -> tuple[Counts, pl.DataFrame]:
    """(query of each row, OVERLAP): the pairs of `over_represented` by name, with the genes in common."""
    query, member, told = over_represented(query_NG, n_set_NS, n_background_N, sets, max_fdr)
    columns: dict[str, Any] = {
        "collection": np.array(sets.collection_S, dtype=np.object_)[member],
        "gene_set": np.array(sets.name_S, dtype=np.object_)[member],
        **told,
        "genes": _in_common(query_NG, query, sets, member, symbol_G),
    }
    return query, pl.DataFrame({k: pl.Series(k, columns[k], dtype=v) for k, v in OVERLAP.items()})


def _in_common(
    query_NG: Bools, query: Counts, sets: GeneSets, member: Counts, symbol_G: NDArray[np.object_]
) -> pl.Series:
    """The first N_GENES_SHOWN symbols of each pair, in the model's order."""
    import pyarrow as pa

    found, n_found = [np.empty(0, np.int64)], [np.zeros(1, np.int64)]
    for some in range(0, len(query), PAIRS_AT_ONCE):
        pairs = slice(some, some + PAIRS_AT_ONCE)
        pair, gene = np.nonzero(query_NG[query[pairs]] & sets.member_SG[member[pairs]])
        n = np.bincount(pair, minlength=len(query[pairs]))
        is_shown = np.arange(len(pair)) - np.repeat(np.cumsum(n) - n, n) < N_GENES_SHOWN
        found.append(gene[is_shown])
        n_found.append(np.minimum(n, N_GENES_SHOWN))
    symbols = pa.array(symbol_G.tolist(), pa.large_string()).take(pa.array(np.concatenate(found)))
    listed = pa.LargeListArray.from_arrays(pa.array(np.cumsum(np.concatenate(n_found))), symbols)
    return pl.Series(pl.from_arrow(listed))
