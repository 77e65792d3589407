"""Effects: what a sample of the configured edits does in a few cells, which stand in two halves."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from screen.cells.pairing import shuffled
from screen.checking.cells import SEED, CheckedCells
from screen.checking.predicted import executor_of
from screen.engine.packed import PackedEngine
from screen.engine.screen import Screen
from screen.engine.unit import Progress, Unit
from screen.planning.perturbations import Library, Perturbation

Values = NDArray[np.float64]
Ints = NDArray[np.int64]
N_CELLS, N_EDITS = 40, 60
"""Cells that are edited, and edits of each mode and site, at most."""
FEWEST = 3
"""Cells of each half that an edit must have."""
N_HALVES = 2
ROUNDING, SHIFT_ROUNDING = 1e-6, 2e-7
"""Log units, and 1 - cosine, up to which a strength in float32 is rounding: an edit that changes nothing."""

Kind = tuple[str, str]
"""Mode and site: perturbations are compared with others of the same."""


@dataclass(frozen=True)
class Effects:
    """P perturbations at T time points, in two halves H of the cells.

    n_TPH         cells
    sum_TPHX      sum of the changes over them: of log expression, of embeddings for a model without counts
    shift_TPH     sum of 1 - cosine of their embeddings
    rank_P        mean rank of the edited gene, NaN where it is in no row
    """

    perturbations: tuple[Perturbation, ...]
    times: tuple[int, ...]
    has_counts: bool
    n_TPH: Ints
    sum_TPHX: Values
    shift_TPH: Values
    rank_P: Values

    def kinds(self) -> dict[Kind, Ints]:
        """Mode and site -> its perturbations."""
        found: dict[Kind, list[int]] = {}
        for i, p in enumerate(self.perturbations):
            found.setdefault((p.mode, p.site_label), []).append(i)
        return {kind: np.array(numbers) for kind, numbers in found.items()}

    def mean(self, time: int, halves: Sequence[int]) -> Values:
        """(P, X) mean change over some halves; NaN without a cell."""
        k, some = self.times.index(time), list(halves)
        with np.errstate(invalid="ignore"):
            mean_PX: Values = self.sum_TPHX[k][:, some].sum(1) / self.n(time, halves)[:, None]
        return mean_PX

    def n(self, time: int, halves: Sequence[int]) -> Ints:
        """(P,) cells of some halves."""
        found: Ints = self.n_TPH[self.times.index(time)][:, list(halves)].sum(1)
        return found

    def strength(self, time: int, halves: Sequence[int]) -> Values:
        """(P,) as the table of hits has it: root mean square of the mean change; for embeddings, their mean shift.

        0 for what is rounding.
        """
        if self.has_counts:
            strength_P, least = np.sqrt(np.square(self.mean(time, halves)).mean(1)), ROUNDING
        else:
            shift_P = self.shift_TPH[self.times.index(time)][:, list(halves)].sum(1)
            with np.errstate(invalid="ignore"):
                strength_P, least = shift_P / self.n(time, halves), SHIFT_ROUNDING
        return np.asarray(np.where(strength_P <= least, 0.0, strength_P))


def effect_cells(stratum_C: Ints) -> tuple[Ints, Ints]:
    """(cells that are edited, ascending; the half of each): every stratum is in both halves alike, give or take a cell."""
    chosen = np.sort(shuffled(np.arange(len(stratum_C)), SEED, "effects")[:N_CELLS])
    half_C = np.zeros(len(chosen), dtype=np.int64)
    order = np.argsort(stratum_C[chosen], kind="stable")
    half_C[order] = np.arange(len(chosen)) % N_HALVES
    return chosen, half_C


def sampled_edits(screen: Screen, half_C: Ints) -> Library:
    """Up to N_EDITS perturbations of each mode and site that have enough cells in both halves: the user's before null ones."""
    plan, library = screen.plan, screen.library
    key_I = plan.perturbation_I.astype(np.int64) * N_HALVES + half_C[plan.cell_I]
    n_PH = np.bincount(key_I, minlength=len(library) * N_HALVES).reshape(-1, N_HALVES)
    of_kind: dict[Kind, list[int]] = {}
    for i in np.flatnonzero((n_PH >= FEWEST).all(1)).tolist():
        p = library.perturbations[i]
        of_kind.setdefault((p.mode, p.site_label), []).append(i)
    chosen = []
    for kind, numbers in of_kind.items():
        drawn = shuffled(np.array(numbers), SEED, "edits", *kind)
        own_first = sorted(drawn.tolist(), key=lambda i: library.is_null[i])
        chosen += own_first[:N_EDITS]
    return library.take(sorted(chosen))


def effects_of(cells: CheckedCells, library: Library, half_C: Ints, progress: Progress) -> Effects:
    """The edits, computed. `half_C` are the halves of the cells, all of which are edited."""
    screen = cells.screen(library)
    engine, times = PackedEngine(screen, executor_of(cells.config.compute, screen)), screen.layout.pred_tps
    has_counts = screen.layout.has_counts
    n_values = len(screen.vocabulary) if has_counts else screen.layout.width
    shape = (len(times), len(library), N_HALVES)
    n_TPH, sum_TPHX, shift_TPH = np.zeros(shape, dtype=np.int64), np.zeros((*shape, n_values)), np.zeros(shape)
    rank_P, n_ranked_P = np.zeros((2, len(library)))
    before = {t: np.zeros((cells.n_cells, screen.layout.width), dtype=np.float32) for t in times}
    for unit in engine.units(range(screen.plan.n_units), progress):
        for cell_C, columns in unit.controls:
            for t in times:
                before[t][cell_C] = columns[f"embedding_t{t}"]
        p_I, cell_I = screen.plan.perturbation_I[unit.rows], screen.plan.cell_I[unit.rows]
        rank_I = unit.columns["items/rank"]
        np.add.at(rank_P, p_I[rank_I >= 0], rank_I[rank_I >= 0])
        np.add.at(n_ranked_P, p_I[rank_I >= 0], 1)
        for k, t in enumerate(times):
            is_there_I = screen.plan.is_screened_IT[unit.rows, k]
            change_IX = _changes(unit, t, before[t][cell_I], has_counts)
            key_I = p_I * N_HALVES + half_C[cell_I]
            for key in np.unique(key_I[is_there_I]).tolist():
                some, (p, h) = is_there_I & (key_I == key), divmod(key, N_HALVES)
                n_TPH[k, p, h] += some.sum()
                sum_TPHX[k, p, h] += change_IX[some].sum(0, dtype=np.float64)
                cosine_N = unit.columns[f"items/embedding_cosine_t{t}"][some].astype(np.float64)
                shift_TPH[k, p, h] += (1 - cosine_N).sum()
    with np.errstate(invalid="ignore"):
        rank_P = rank_P / n_ranked_P
    return Effects(library.perturbations, times, has_counts, n_TPH, sum_TPHX, shift_TPH, rank_P)


def _changes(unit: Unit, time: int, before_IX: NDArray[np.float32], has_counts: bool) -> NDArray[np.float32]:
    if has_counts:
        return np.asarray(unit.columns[f"delta/t{time}"], dtype=np.float32)
    return np.asarray(unit.columns[f"embedding/t{time}"] - before_IX, dtype=np.float32)
