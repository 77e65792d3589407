"""Pairs: the joint edits of a screen whose single edits are in it too, and how each differs from the sum of these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from screen.stats.deg import Names
from screen.stats.false_discovery import benjamini_hochberg
from screen.stats.gene_results import mean_by
from screen.stats.moments import Moments, Rounding, least_error, mean_and_squares
from screen.stats.relations.items import Items, some_of
from screen.stats.relations.kinds import Integers, Values
from screen.stats.tests.paired_t import two_sided

CONFIDENCE, FEWEST_UNITS = 0.95, 3
"""Of intervals; cells or replicates that they need."""


@dataclass(frozen=True)
class Joint:
    """Numbers in the store of a joint edit and of the single edits of its genes; columns of these."""

    number: int
    singles: tuple[int, ...]
    own: tuple[int, ...]


def joint_edits(names: Names) -> list[Joint]:
    """Those whose every gene has a single edit of the same mode and site."""
    which = list(zip(names.site.tolist(), names.mode.tolist(), names.target.tolist(), strict=True))
    number: Mapping[tuple[str, str, str], int] = {key: p for p, key in enumerate(which)}
    found = []
    for p, (site, mode, target) in enumerate(which):
        singles = [number.get((site, mode, gene)) for gene in target.split("+")]
        known = tuple(s for s in singles if s is not None)
        if len(singles) > 1 and len(known) == len(singles):
            found.append(Joint(p, known, tuple(names.edited(p))))
    return found


@dataclass(frozen=True)
class Compared:
    """A joint edit beside the sum of its single edits.

    joint_G, additive_G  mean changes; n_cells: cells that have all of them, is_paired: and which the means are of
    se_G, statistic_G, p_G, fdr_G  of their difference, over cells or replicates; NaN for too few or where it is not paired
    interaction          what the joint edit adds to the sum, or lacks of it, as a share of the sum: along its direction, with
                         the interval's ends
    noise                root mean square of se_G over the genes that are not edited
    """

    joint: Joint
    joint_G: Values
    additive_G: Values
    n_cells: int
    is_paired: bool
    se_G: Values
    statistic_G: Values
    p_G: Values
    fdr_G: Values
    interaction: float
    low: float
    high: float
    noise: float

    @property
    def difference_G(self) -> Values:
        """What the joint edit adds to the sum."""
        return self.joint_G - self.additive_G

    @property
    def other_G(self) -> NDArray[np.bool_]:
        """Genes that are not edited."""
        return _others(self.joint, len(self.joint_G))


def _others(joint: Joint, n_genes: int) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.ones(n_genes, dtype=np.bool_)
    found[list(joint.own)] = False
    return found


def compared(items: Items, joints: Sequence[Joint], time: int, rounding: Rounding) -> list[tuple[int, Compared]]:
    """(stratum, how it differs) of joint edits at a time point, on the cells that have the joint and every single edit."""
    found = []
    for joint in joints:
        edits = (joint.number, *joint.singles)
        row_cell_E = [items.of(p, time) for p in edits]
        cell_N = row_cell_E[0][1]
        for _, cell_I in row_cell_E[1:]:
            cell_N = np.intersect1d(cell_N, cell_I, assume_unique=True)
        for stratum in np.unique(items.strata.stratum_C[cell_N]).tolist():
            here_N = cell_N[items.strata.stratum_C[cell_N] == stratum]
            here_N = here_N[some_of(len(here_N))]
            change_ENG = [
                items.changes(p, time, row_I[np.searchsorted(cell_I, here_N)])
                for p, (row_I, cell_I) in zip(edits, row_cell_E, strict=True)
            ]
            replicate_C = items.strata.replicate_C
            replicate_N = None if replicate_C is None else replicate_C[here_N]
            found.append((stratum, on_cells(joint, change_ENG, replicate_N, rounding)))
    return found


def on_cells(
    joint: Joint, change_ENG: Sequence[NDArray[np.floating]], replicate_N: Integers | None, rounding: Rounding
) -> Compared:
    """From the changes of the same cells by the joint edit, first, and by the single ones, (N, G) each."""
    n_cells = len(change_ENG[0])
    if replicate_N is not None and (replicate_N >= 0).any():
        change_ENG = [mean_by(x_NG[replicate_N >= 0], replicate_N[replicate_N >= 0]) for x_NG in change_ENG]
    joint_UG = change_ENG[0].astype(np.float64)
    additive_UG = np.sum([x_NG.astype(np.float64) for x_NG in change_ENG[1:]], axis=0)
    n, n_genes = joint_UG.shape
    nan_G = np.full(n_genes, np.nan)
    se_G, statistic_G, p_G, noise = nan_G, nan_G, nan_G, np.nan
    away_UG, other_G = joint_UG - additive_UG, _others(joint, n_genes)
    if n >= FEWEST_UNITS:
        mean_G, square_G = mean_and_squares(away_UG)
        # each of the stored changes is rounded
        floor_G = np.sqrt(np.sum([np.square(_rounding_error(x, rounding)) for x in change_ENG], axis=0))
        se_G = np.maximum(np.sqrt(square_G / (n - 1) / n), floor_G)
        statistic_G = mean_G / se_G
        p_G, noise = two_sided(statistic_G, n - 1), float(np.sqrt(np.mean(np.square(se_G[other_G]))))
    interaction, low, high = interaction_of(away_UG[:, other_G], additive_UG[:, other_G])
    return Compared(
        joint, joint_UG.mean(0), additive_UG.mean(0), n_cells, True, se_G, statistic_G, p_G, benjamini_hochberg(p_G),
        interaction, low, high, noise,
    )  # fmt: skip


def on_means(joint: Joint, mean_EG: Values, n_cells: int) -> Compared:
    """From mean changes alone, whose cells may differ: no interval and no test."""
    joint_G, additive_G = mean_EG[0], mean_EG[1:].sum(0)
    nan_G, other_G = np.full(len(joint_G), np.nan), _others(joint, len(joint_G))
    square = float(additive_G[other_G] @ additive_G[other_G])
    along = float((joint_G - additive_G)[other_G] @ additive_G[other_G])
    interaction = along / square if square > 0 else np.nan
    return Compared(
        joint, joint_G, additive_G, n_cells, False, nan_G, nan_G, nan_G, nan_G, interaction, np.nan, np.nan, np.nan
    )


def interaction_of(away_UG: Values, additive_UG: Values) -> tuple[float, float, float]:
    """(share, lower and upper end of its interval) of the additive change that the difference adds along its direction.

    Each cell's difference is taken along the mean of the *other* cells' additive changes: its own would be in both, with
    opposite signs, and noise would look like suppression. NaN for the interval of fewer than 3, and for no change.
    """
    n = len(away_UG)
    if n < 2:
        square = float(np.square(additive_UG).sum())
        return (float((away_UG * additive_UG).sum()) / square if square > 0 else np.nan), np.nan, np.nan
    others_UG = (additive_UG.sum(0) - additive_UG) / (n - 1)
    square_U = np.square(others_UG).sum(1)
    if not (square_U > 0).all():
        return np.nan, np.nan, np.nan
    share_U = (away_UG * others_UG).sum(1) / square_U
    mean = float(share_U.mean())
    if n < FEWEST_UNITS:
        return mean, np.nan, np.nan
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2) * share_U.std(ddof=1) / np.sqrt(n))
    return mean, mean - half, mean + half


def _rounding_error(change_NG: NDArray[np.floating], rounding: Rounding) -> Values:
    mean_G, square_G = mean_and_squares(change_NG)
    nan_G = np.full(len(mean_G), np.nan)
    return least_error(Moments(len(change_NG), mean_G, square_G, nan_G, nan_G), rounding)
