"""Effects: what every edit of a planted screen changes, as vectors over genes, and the engine that makes items of them.

An item changes by the sum over its edited genes of
  what any edit does (a background of its own, the response that all share, the edited gene itself) x the cell
  + what is planted (a response x its strength, in some strata at some time points)            x the cell
and by what a deletion does by moving other genes up, by its cell's donor, and by noise.
"""

from collections.abc import Generator, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo.planted.cells import Cells
from demo.planted.sizes import Sizes
from demo.planted.truth import MODULES, N_SHIFT, Truth, is_active
from screen.edits import DELETE
from screen.engine.unit import Columns, Progress, Unit
from screen.planning.index import NOWHERE, BankIndex
from screen.planning.layout import Layout
from screen.planning.plan import Plan

NOISE, BACKGROUND, UNIVERSAL, DONOR, RANKS_MOVED, ON_TARGET = 0.004, 0.0013, 0.0015, 0.002, 0.0035, 0.04
"""Log units: noise of an item and gene; root mean squares over genes of the other parts; change of the edited gene itself."""
OF_INSERTION, WHERE_IT_IS = 0.9, 0.8
"""What an overexpression has of the planted effect, the other way; and what of that where the gene was there before."""
SYNERGY, SUPPRESSION, NEW = 0.8, -0.6, 0.01
N_RESPONDING, SHARE_RESPONDING, N_SHIFTED = 30, 0.05, 20
SHIFT_PER_SQUARE = 12.0
"""How far an embedding moves per mean square change."""
Values = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Responses:
    """Vectors over genes.

    program_KG   planted responses, root mean square 1; of a module genes rise and fall, of a shifted set all rise
    base_MGTG    what losing (M 0) and gaining (1) each gene does whatever is planted
    shared_TG    everybody's response, root mean square 1
    rank_TG      what moving up does; donor_DTG: how donors differ
    factor_C     how strongly a cell responds
    """

    program_KG: Values
    base_MGTG: Values
    shared_TG: Values
    rank_TG: Values
    donor_DTG: Values
    factor_C: Values


def responses(sizes: Sizes, truth: Truth, cells: Cells) -> Responses:
    """The same for the same sizes."""
    rng = np.random.default_rng([sizes.seed, 3])
    n_genes, n_times = sizes.genes, len(sizes.times)
    program_KG = np.zeros((truth.n_programs, n_genes))
    n_responding = max(N_RESPONDING, int(SHARE_RESPONDING * n_genes))
    calm = np.setdiff1d(np.arange(n_genes), truth.planted)
    for k in range(truth.n_programs):
        is_shift = len(MODULES) <= k < len(MODULES) + N_SHIFT
        n = N_SHIFTED if is_shift else n_responding
        genes, size_N = rng.choice(calm, n, replace=False), rng.gamma(4.0, 0.25, n)
        program_KG[k, genes] = 1.0 if is_shift else size_N * np.where(np.arange(n) % 2 == 0, 1.0, -1.0)
    program_KG = _unit(program_KG)
    # genes of which a cell has many matter more
    weight_G = 0.7 + 0.6 * cells.has_CG.mean(0)
    shape = (2, n_genes, 1, 1)
    size_MG = rng.lognormal(0, 0.3, shape) * weight_G[:, None, None]
    background = BACKGROUND * size_MG * rng.standard_normal((2, n_genes, 1, n_genes), dtype=np.float32)
    shared_TG = _unit(rng.standard_normal((n_times, n_genes)))
    along_MG = (
        UNIVERSAL * rng.lognormal(0, 0.3, shape) * weight_G[:, None, None] * np.array([1.0, 1.4])[:, None, None, None]
    )
    growing_T = np.linspace(1.0, 1.25, n_times)[:, None]
    base = ((background + along_MG * shared_TG) * growing_T).astype(np.float32)
    at = np.arange(n_genes)
    base[0, at, :, at] -= ON_TARGET
    base[1, at, :, at] += ON_TARGET
    return Responses(
        program_KG.astype(np.float32), base, shared_TG.astype(np.float32),
        (RANKS_MOVED * _unit(rng.standard_normal((n_times, n_genes)))).astype(np.float32),
        (DONOR * rng.standard_normal((sizes.n_donors, n_times, n_genes))).astype(np.float32),
        rng.lognormal(0, 0.25, sizes.n_cells).astype(np.float32),
    )  # fmt: skip


def _unit(x_NG: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows with a root mean square of 1."""
    return np.asarray(x_NG / np.sqrt(np.square(x_NG).mean(-1, keepdims=True)))


@dataclass(frozen=True)
class PlantedScreen:
    """What is known before anything is computed."""

    sizes: Sizes
    cells: Cells
    truth: Truth
    plan: Plan
    index: BankIndex

    @property
    def layout(self) -> Layout:
        """What the store keeps."""
        return self.sizes.layout


class PlantedEngine:
    """Makes up units of a plan, in the place of a model."""

    name = "planted"

    def __init__(self, screen: PlantedScreen) -> None:
        self.screen = screen
        truth, cells, ps = screen.truth, screen.cells, screen.truth.library.perturbations
        self.responses = responses(screen.sizes, truth, cells)
        self._is_active_GST = is_active(truth, len(cells.stratum), len(screen.sizes.times))
        self._strength_G = np.array([r.strength for r in truth.role], dtype=np.float32)
        self._program_G = np.array([r.program for r in truth.role])
        # a single edit has one gene and no second
        self._gene_P2 = np.array([(*p.genes, -1)[:2] for p in ps])
        self._is_insertion_P = np.array([not p.edit.mode.needs_gene for p in ps])
        self._is_deletion_P = np.array([p.edit.mode is DELETE for p in ps])
        boost = {"synergy": SYNERGY, "suppression": SUPPRESSION}
        self._boost_P, self._new_P = np.zeros(len(ps), dtype=np.float32), np.full(len(ps), -1)
        for number, pair in truth.pair_of.items():
            self._boost_P[number], self._new_P[number] = boost.get(pair.interaction, 0.0), pair.program
        self._length_C = np.minimum(cells.bank.states[0].tokens.length_C, cells.max_len)
        self._done: set[int] = set()

    def units(self, numbers: Iterable[int], progress: Progress) -> Generator[Unit, None, None]:
        """The units, in order."""
        plan = self.screen.plan
        for number in numbers:
            rows = plan.unit(number)
            blocks = [b for b in np.unique(plan.cell_I[rows] // plan.cells_per_block).tolist() if b not in self._done]
            self._done.update(blocks)
            columns = self._columns(number, rows)
            progress(rows.stop - rows.start, int(columns["items/length"].sum()), 0)
            yield Unit(number, rows, columns, [self._controls(b) for b in blocks], self._record(number))

    def _record(self, number: int) -> dict[str, object]:
        """Who computed: nobody; the hour is one that does not change."""
        return {
            "device": "none", "precision": "float32", "engine": self.name, "batch_tokens": 0,
            "perturbscreen": "planted", "finished": f"2026-01-01T00:{number // 60 % 60:02d}:{number % 60:02d}+00:00",
        }  # fmt: skip

    def _controls(self, block: int) -> tuple[Ints, Columns]:
        cell_N, cells = self.screen.plan.cells_of_block(block).astype(np.int64), self.screen.cells
        columns: Columns = {}
        for k, t in enumerate(self.screen.layout.pred_tps):
            columns[f"embedding_t{t}"] = cells.embedding_TCD[k, cell_N]
            columns[f"is_predicted_t{t}"] = np.ones(len(cell_N), dtype=bool)
            columns[f"expression_t{t}"] = cells.expression_TCG[k, cell_N]
            columns[f"total_t{t}"] = cells.total_TC[k, cell_N]
        return cell_N, columns

    def _columns(self, number: int, rows: slice) -> Columns:
        plan, layout, cells = self.screen.plan, self.screen.layout, self.screen.cells
        rng = np.random.default_rng([self.screen.sizes.seed, 4, number])
        p_R, cell_R = plan.perturbation_I[rows].astype(np.int64), plan.cell_I[rows].astype(np.int64)
        gene_R2 = self._gene_P2[p_R]
        rank_R2 = np.full(gene_R2.shape, NOWHERE)
        for slot in (0, 1):
            at = np.flatnonzero(gene_R2[:, slot] >= 0)
            rank_R2[at, slot] = self.screen.index[0].find(cell_R[at], gene_R2[at, slot])[1]
        first_R = rank_R2.min(1)
        columns: Columns = {
            "items/rank": np.where(first_R == NOWHERE, -1, first_R), "items/length": self._length_C[cell_R],
        }  # fmt: skip
        for k, t in enumerate(layout.pred_tps):
            delta_RG = self._changes(k, p_R, cell_R, gene_R2, rank_R2)
            delta_RG += NOISE * rng.standard_normal(delta_RG.shape, dtype=np.float32)
            # nothing is expressed less than not at all
            np.maximum(delta_RG, -cells.expression_TCG[k, cell_R], out=delta_RG)
            delta_RG[~plan.is_screened_IT[rows, k]] = 0
            square_R = np.square(delta_RG).mean(1)
            columns[f"delta/t{t}"] = (delta_RG * np.float32(layout.delta_scale)).astype(layout.dtype)
            columns[f"items/embedding_cosine_t{t}"] = 1 - SHIFT_PER_SQUARE * square_R
            columns[f"items/rms_delta_t{t}"] = np.sqrt(square_R)
            columns[f"items/total_t{t}"] = cells.total_TC[k, cell_R] * (1 + delta_RG.mean(1))
        return columns

    def _changes(self, k: int, p_R: Ints, cell_R: Ints, gene_R2: Ints, rank_R2: Ints) -> Values:
        """(R, G) at one time point, without noise."""
        found, cells = self.responses, self.screen.cells
        has_R2, is_insertion_R = rank_R2 != NOWHERE, self._is_insertion_P[p_R]
        # a knock-out of a gene that a cell lacks does nothing there
        acts_R2 = (gene_R2 >= 0) & (has_R2 | is_insertion_R[:, None])
        factor_R = found.factor_C[cell_R]
        both_R = acts_R2.all(1)
        boost_R = np.where(both_R, 1 + self._boost_P[p_R], 1).astype(np.float32)
        delta_RG: Values = found.donor_DTG[cells.donor_C[cell_R], k] * factor_R[:, None]
        for slot in (0, 1):
            at = np.flatnonzero(acts_R2[:, slot])
            gene_N = gene_R2[at, slot]
            sign_N = np.where(is_insertion_R[at], -OF_INSERTION * np.where(has_R2[at, slot], WHERE_IT_IS, 1.0), 1.0)
            active_N = self._is_active_GST[gene_N, cells.stratum_C[cell_R[at]], k]
            planted_N = (sign_N * active_N * self._strength_G[gene_N] * boost_R[at]).astype(np.float32)
            change_NG = found.base_MGTG[is_insertion_R[at].astype(int), gene_N, k]
            has = np.flatnonzero(planted_N)
            change_NG[has] += planted_N[has, None] * found.program_KG[self._program_G[gene_N[has]]]
            delta_RG[at] += change_NG * factor_R[at, None]
        new = np.flatnonzero(both_R & (self._new_P[p_R] >= 0))
        delta_RG[new] += NEW * factor_R[new, None] * found.program_KG[self._new_P[p_R[new]]]
        gone = np.flatnonzero(self._is_deletion_P[p_R])
        n_behind_N = 1 - rank_R2[gone, 0] / self._length_C[cell_R[gone]]
        delta_RG[gone] += (n_behind_N * factor_R[gone]).astype(np.float32)[:, None] * found.rank_TG[k]
        return delta_RG
