"""Pairing: which stimulated cell each control cell is said to become.

No cell was seen twice, so pairs are made: within a cell type, by the assignment that costs least in principal components centred on
each type and state. The components and the centres come from training cells only.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from demo.cells import CONTROL, STIMULATED, DemoCells, Floats, Ints, log_cp10k

N_COMPONENTS = 20
CLIP = 10.0


@dataclass(frozen=True)
class PairingSpace:
    """Coordinates (C, components) of every cell, comparable between states of one type."""

    position_CP: Floats


def _centred(log_CG: Floats, cells: DemoCells) -> Floats:
    """Log expression minus the training mean of the cell's type and state."""
    centred_CG = np.empty_like(log_CG)
    for cell_type in np.unique(cells.cell_type):
        for condition in (CONTROL, STIMULATED):
            in_stratum = (cells.cell_type == cell_type) & (cells.condition == condition)
            training = in_stratum & ~cells.is_held_out
            centred_CG[in_stratum] = log_CG[in_stratum] - log_CG[training].mean(axis=0)
    return centred_CG


def fit_pairing_space(cells: DemoCells) -> PairingSpace:
    """Principal components of what type and state do not explain, fitted on training cells."""
    centred_CG = _centred(log_cp10k(cells.counts_CG), cells)
    training = ~cells.is_held_out
    scale_G = centred_CG[training].std(axis=0)
    scale_G[scale_G == 0] = 1.0
    scaled_CG = np.clip(centred_CG / scale_G, -CLIP, CLIP)
    covariance_GG = scaled_CG[training].T @ scaled_CG[training] / training.sum()
    _, axes_GG = np.linalg.eigh(covariance_GG)
    return PairingSpace(scaled_CG @ axes_GG[:, -N_COMPONENTS:][:, ::-1])


def assign(space: PairingSpace, source: Ints, target: Ints) -> Ints:
    """The cheapest one-to-one pairs of two groups of cells: (min of both sizes, 2)."""
    before_SP, after_TP = space.position_CP[source], space.position_CP[target]
    squares_ST = (before_SP**2).sum(1)[:, None] + (after_TP**2).sum(1)[None] - 2 * before_SP @ after_TP.T
    chosen_source, chosen_target = linear_sum_assignment(squares_ST)
    return np.stack([source[chosen_source], target[chosen_target]], axis=1)


def held_out_pairs(cells: DemoCells, space: PairingSpace) -> Ints:
    """Pairs (P, 2) of held-out cells, type by type."""
    return np.concatenate(
        [
            assign(space, cells.stratum(kind, CONTROL, True), cells.stratum(kind, STIMULATED, True))
            for kind in np.unique(cells.cell_type)
        ]
    )


def training_pairs(cells: DemoCells, space: PairingSpace, rng: np.random.Generator, most_per_type: int = 900) -> Ints:
    """A fresh draw of at most `most_per_type` training pairs of each type."""
    drawn = []
    for kind in np.unique(cells.cell_type):
        source = cells.stratum(kind, CONTROL, False)
        target = cells.stratum(kind, STIMULATED, False)
        n_pairs = min(len(source), len(target), most_per_type)
        before = rng.choice(source, n_pairs, replace=False)
        after = rng.choice(target, n_pairs, replace=False)
        drawn.append(assign(space, before, after))
    return np.concatenate(drawn)
