"""GeneChoice: which genes the demo's model knows, decided on training cells alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from demo.cells import CONTROL, STIMULATED, Floats, Ints, Strings, cp10k
from demo.named_genes import RENAMED, REQUIRED

N_GENES = 1_500
N_RESPONSE = 400
N_TYPE = 400
N_VARIABLE = 200
SEEN = 0.05  # of the cells of some type
SEEN_IF_NAMED = 0.01
VARIANCE_FLOOR = 0.05  # keeps nearly silent genes from winning on a tiny spread


@dataclass(frozen=True)
class Matched:
    """Columns of the raw file that have an Ensembl ID, with their present and former symbol."""

    column: Ints
    ensembl_id: Strings
    symbol: Strings
    alias: Strings
    n_renamed: int
    n_dropped: int


def match_symbols(symbols: Sequence[str], ensembl_ids: Mapping[str, Sequence[str]]) -> Matched:
    """Pair the file's symbols with Ensembl IDs, through `RENAMED` where a symbol is out of date.

    A symbol with several IDs takes the lowest: the others are copies on the Y chromosome or readthroughs of later date.
    """
    present = set(symbols)
    rows = []
    for column, old in enumerate(symbols):
        new = old if old in ensembl_ids else RENAMED.get(old, "")
        if new in ensembl_ids and (new == old or new not in present):
            rows.append((column, min(ensembl_ids[new]), new, old if new != old else ""))
    columns, ids, names, aliases = zip(*rows, strict=True)
    n_renamed = sum(alias != "" for alias in aliases)
    return Matched(
        np.array(columns), np.array(ids), np.array(names), np.array(aliases), n_renamed, len(symbols) - len(rows)
    )


@dataclass(frozen=True)
class _Moments:
    """Mean and variance of log1p CP10K, and detection, of one group of cells."""

    mean_G: Floats
    variance_G: Floats
    detection_G: Floats


def _moments(log_CG: Any, keep: npt.NDArray[np.bool_]) -> _Moments:
    part = log_CG[keep]
    mean_G = np.asarray(part.mean(axis=0)).ravel()
    square_G = np.asarray(part.multiply(part).mean(axis=0)).ravel()
    return _Moments(mean_G, square_G - mean_G**2, np.asarray((part > 0).mean(axis=0)).ravel())


def _contrast(one: _Moments, other: _Moments) -> Floats:
    """Difference of means over the spread within both groups."""
    return (one.mean_G - other.mean_G) / np.sqrt((one.variance_G + other.variance_G) / 2 + VARIANCE_FLOOR)


def _best(score_G: Floats, allowed_G: npt.NDArray[np.bool_], n: int) -> list[int]:
    order = np.argsort(-np.where(allowed_G, score_G, -np.inf), kind="stable")
    return [int(column) for column in order[:n]]


def choose_genes(
    counts_CG: Any, symbols: Strings, cell_type: Strings, condition: Strings
) -> tuple[Ints, dict[str, int]]:
    """Columns of the chosen genes, ascending, and how many each reason brought in.

    Pass training cells only. Named genes first, then those that respond to interferon, those particular to a type, those that
    vary most within a stratum, and the best detected for the rest.
    """
    log_CG = cp10k(counts_CG).log1p()
    types = np.unique(cell_type)
    by_type = [_moments(log_CG, cell_type == kind) for kind in types]
    others = [_moments(log_CG, cell_type != kind) for kind in types]
    control = [_moments(log_CG, (cell_type == kind) & (condition == CONTROL)) for kind in types]
    stimulated = [_moments(log_CG, (cell_type == kind) & (condition == STIMULATED)) for kind in types]

    detection_G = np.max([group.detection_G for group in by_type], axis=0)
    response_G = np.max([abs(_contrast(b, a)) for a, b in zip(control, stimulated, strict=True)], axis=0)
    particular_G = np.max([_contrast(a, b) for a, b in zip(by_type, others, strict=True)], axis=0)
    variance_G = np.mean([group.variance_G for group in (*control, *stimulated)], axis=0)
    seen_G = detection_G >= SEEN

    named = np.isin(symbols, REQUIRED) & (detection_G >= SEEN_IF_NAMED)
    chosen = dict.fromkeys(np.flatnonzero(named).tolist())
    brought = {"named": len(chosen)}
    for reason, score_G, n in (
        ("interferon_response", response_G, N_RESPONSE),
        ("cell_type", particular_G, N_TYPE),
        ("variance", variance_G, N_VARIABLE),
    ):
        before = len(chosen)
        chosen.update(dict.fromkeys(_best(score_G, seen_G, n)))
        brought[reason] = len(chosen) - before
    by_detection = (column for column in _best(detection_G, seen_G, len(symbols)) if column not in chosen)
    brought["detection"] = N_GENES - len(chosen)
    chosen.update(dict.fromkeys(column for column, _ in zip(by_detection, range(N_GENES - len(chosen)), strict=False)))
    return np.array(sorted(chosen), dtype=np.int64), brought
