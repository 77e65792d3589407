"""RealEffects: what every perturbation of a real screen did, from its cells and the controls of the same type.

All on log1p counts per 10,000 of the shared genes. Every group of cells is also cut into two halves, controls too: how well
one half predicts the other is what any prediction can be expected to reach.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.cells.pairing import shuffled
from screen.errors import CellError
from screen.evaluate.energy import energy_distance, mean_within, principal_axes
from screen.evaluate.labels import Genes
from screen.evaluate.real_cells import FEWEST_CELLS, MOST_CONTROLS, RealCells
from screen.stats.false_discovery import benjamini_hochberg_rows

MOST_FOR_AXES, MOST_IN_DISTANCES = 2_000, 1_000
"""Cells that principal components are of; control cells that distances are to."""
SUMS_BYTES = 2**30
"""Of sums that are held at once: perturbations beyond these are read after the others."""
MAX_FDR = 0.05
Values = NDArray[np.float64]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class RealEffects:
    """P perturbations of one cell type, G shared genes, 2 halves.

    energy_P, energy_2P  energy distance to the controls, of all cells and of each half
    n_deg_P, n_deg_2P    genes with fdr < MAX_FDR by Welch's t test against the controls, the perturbed genes left out
    change_PG            mean minus the controls' mean; change_2PG of each half against the controls' same half
    variance_PG          between cells, with n - 1
    is_changed_PG        fdr < MAX_FDR; is_changed_second_PG of the second half
    expression_G, detection_G  of the controls: mean, share of cells
    """

    genes: tuple[Genes, ...]
    n_cells_P: Ints
    n_controls: int
    energy_P: Values
    energy_2P: Values
    n_deg_P: Ints
    n_deg_2P: Ints
    change_PG: Floats
    change_2PG: Floats
    variance_PG: Floats
    is_changed_PG: NDArray[np.bool_]
    is_changed_second_PG: NDArray[np.bool_]
    expression_G: Values
    detection_G: Values
    n_components: int


@dataclass(frozen=True)
class _Group:
    """Some cells: their rows in the file, ascending, and which half each is in."""

    row_R: Ints
    half_R: Ints

    @staticmethod
    def of(row_R: Ints, *key: object) -> "_Group":
        order_R = shuffled(np.arange(len(row_R)), "halves", *key)
        half_R = np.zeros(len(row_R), dtype=np.int64)
        half_R[order_R[1::2]] = 1
        return _Group(row_R, half_R)


def real_effects(cells: RealCells, genes: Sequence[Genes], cell_type: str, most_cells: int) -> RealEffects:
    """Of the perturbations that have FEWEST_CELLS or more in this cell type. Raises CellError where the controls have fewer."""
    control = _Group.of(cells.rows_of([cells.control], cell_type, MOST_CONTROLS), cell_type)
    if len(control.row_R) < FEWEST_CELLS:
        raise CellError(
            f'{cells.file} has {len(control.row_R)} control cells of type "{cell_type}"; {FEWEST_CELLS} or more are needed'
        )
    rows = {g: cells.rows_of(cells.labels.of_genes[g], cell_type, most_cells) for g in genes}
    kept = [g for g in genes if len(rows[g]) >= FEWEST_CELLS]
    groups = [_Group.of(rows[g], cell_type, list(g)) for g in kept]
    axes_GD = _axes(cells, [control, *groups], cell_type)
    base = _Sums.of(cells, [control], axes_GD)
    parts = [_of_some(cells, some, base, control, axes_GD) for some in _cut(groups, len(cells.shared))]
    place = {int(g): n for n, g in enumerate(cells.shared.tolist())}
    own = [[place[x] for x in g if x in place] for g in kept]
    found = {name: np.concatenate([p[name] for p in parts], axis=axis) for name, axis in _AXIS.items()}
    for name in ("fdr", "fdr_first", "fdr_second"):
        for p, columns in enumerate(own):
            found[name][p, columns] = np.nan
    n_PG = {name: found.pop(name) < MAX_FDR for name in ("fdr", "fdr_first", "fdr_second")}
    mean_G, detection_G = base.sum_2KG[:, 0].sum(0) / base.n_2K[:, 0].sum(), base.detected_G / base.n_2K[:, 0].sum()
    return RealEffects(
        tuple(kept), np.array([len(g.row_R) for g in groups]), len(control.row_R),
        n_deg_P=n_PG["fdr"].sum(1), n_deg_2P=np.stack([n_PG["fdr_first"].sum(1), n_PG["fdr_second"].sum(1)]),
        is_changed_PG=n_PG["fdr"], is_changed_second_PG=n_PG["fdr_second"],
        expression_G=mean_G, detection_G=detection_G, n_components=axes_GD.shape[1], **found,
    )  # fmt: skip


_AXIS = {
    "energy_P": 0, "energy_2P": 1, "change_PG": 0, "change_2PG": 1, "variance_PG": 0, "fdr": 0, "fdr_first": 0,
    "fdr_second": 0,
}  # fmt: skip
"""What is computed of some perturbations at a time -> the axis along which they follow one another."""


def _cut(groups: Sequence[_Group], n_genes: int) -> list[Sequence[_Group]]:
    step = max(SUMS_BYTES // (64 * max(n_genes, 1)), 1)
    # no perturbation at all gives arrays of length 0
    return [groups[i : i + step] for i in range(0, max(len(groups), 1), step)]


def _axes(cells: RealCells, groups: Sequence[_Group], cell_type: str) -> Values:
    from scipy import sparse

    every = np.concatenate([g.row_R for g in groups])
    chosen = np.sort(shuffled(every, "axes", cell_type)[:MOST_FOR_AXES])
    return principal_axes(sparse.vstack(list(cells.blocks(chosen)), format="csr"))


@dataclass(frozen=True)
class _Sums:
    """Sums over the cells of K groups and their two halves, and every cell's place along the axes, group by group."""

    n_2K: Values
    sum_2KG: Values
    square_2KG: Values
    place_K: list[Values]
    detected_G: Values

    @staticmethod
    def of(cells: RealCells, groups: Sequence[_Group], axes_GD: Values) -> "_Sums":
        from scipy import sparse

        n_genes, n_groups = axes_GD.shape[0], len(groups)
        if not n_groups:
            empty = np.zeros((2, 0, n_genes))
            return _Sums(np.zeros((2, 0)), empty, empty, [], np.zeros(n_genes))
        row_N = np.concatenate([g.row_R for g in groups])
        code_N = np.concatenate([2 * k + g.half_R for k, g in enumerate(groups)])
        order_N = np.argsort(row_N, kind="stable")
        sums, squares = np.zeros((2 * n_groups, n_genes)), np.zeros((2 * n_groups, n_genes))
        detected_G, places, done = np.zeros(n_genes), [], 0
        for x_RG in cells.blocks(row_N[order_N]):
            code_R = code_N[order_N[done : done + x_RG.shape[0]]]
            done += len(code_R)
            of_group = sparse.csr_matrix(
                (np.ones(len(code_R)), (code_R, np.arange(len(code_R)))), shape=(2 * n_groups, len(code_R))
            )
            _add(sums, of_group @ x_RG)
            _add(squares, of_group @ x_RG.multiply(x_RG))
            detected_G += x_RG.getnnz(axis=0)
            places.append(np.asarray(x_RG @ axes_GD))
        place_ND = np.empty((len(row_N), axes_GD.shape[1]))
        place_ND[order_N] = np.concatenate(places)
        edges = np.cumsum([len(g.row_R) for g in groups])[:-1]
        n_K2 = np.bincount(code_N, minlength=2 * n_groups).reshape(-1, 2).astype(np.float64)
        sum_2KG, square_2KG = (x.reshape(n_groups, 2, n_genes).transpose(1, 0, 2) for x in (sums, squares))
        return _Sums(n_K2.T, sum_2KG, square_2KG, np.split(place_ND, edges), detected_G)

    def moments(self, half: int | None = None) -> tuple[Values, Values, Values]:
        """(cells (K, 1), mean (K, G), variance (K, G)) of all cells or of a half."""
        part = slice(None) if half is None else slice(half, half + 1)
        n_K1 = self.n_2K[part].sum(0)[:, None]
        mean_KG = self.sum_2KG[part].sum(0) / n_K1
        variance_KG = (self.square_2KG[part].sum(0) - n_K1 * np.square(mean_KG)) / (n_K1 - 1)
        return n_K1, mean_KG, np.maximum(variance_KG, 0.0)


def _add(total_KG: Values, sparse_KG: Any) -> None:
    """Adds a sparse matrix, row by row where it has any."""
    found = sparse_KG.tocsr()
    for k in np.flatnonzero(np.diff(found.indptr)).tolist():
        some = slice(found.indptr[k], found.indptr[k + 1])
        total_KG[k, found.indices[some]] += found.data[some]


def _of_some(
    cells: RealCells, groups: Sequence[_Group], base: _Sums, control: _Group, axes_GD: Values
) -> dict[str, NDArray[Any]]:
    sums = _Sums.of(cells, groups, axes_GD)
    change_PG = sums.moments()[1] - base.moments()[1]
    change_2PG = np.stack([sums.moments(h)[1] - base.moments(h)[1] for h in (0, 1)])
    fdr = [benjamini_hochberg_rows(welch_p(*sums.moments(h), *base.moments(h))) for h in (None, 0, 1)]
    most = slice(MOST_IN_DISTANCES)
    place_ND = base.place_K[0]
    near = [place_ND[most], *(place_ND[control.half_R == h][most] for h in (0, 1))]
    within = [mean_within(x) for x in near]
    energy_3P = np.array(
        [
            [energy_distance(x, near[0], within[0]), *(
                energy_distance(x[g.half_R == h], near[1 + h], within[1 + h]) for h in (0, 1)
            )]
            for x, g in zip(sums.place_K, groups, strict=True)
        ]
    ).reshape(-1, 3).T  # fmt: skip
    return {
        "energy_P": energy_3P[0], "energy_2P": energy_3P[1:], "change_PG": change_PG.astype(np.float32),
        "change_2PG": change_2PG.astype(np.float32), "variance_PG": sums.moments()[2].astype(np.float32),
        "fdr": fdr[0], "fdr_first": fdr[1], "fdr_second": fdr[2],
    }  # fmt: skip


def welch_t(n_x: Values, mean_x: Values, variance_x: Values, n_y: Values, mean_y: Values, variance_y: Values) -> Values:
    """Welch's t of two groups; NaN where neither varies."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (mean_x - mean_y) / np.sqrt(variance_x / n_x + variance_y / n_y)
    return np.asarray(np.where(np.isfinite(found), found, np.nan))


def welch_p(n_x: Values, mean_x: Values, variance_x: Values, n_y: Values, mean_y: Values, variance_y: Values) -> Values:
    """Its two-sided p. Source: Welch 1947."""
    from scipy.special import stdtr

    t = welch_t(n_x, mean_x, variance_x, n_y, mean_y, variance_y)
    a, b = variance_x / n_x, variance_y / n_y
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = np.square(a + b) / (np.square(a) / (n_x - 1) + np.square(b) / (n_y - 1))
        return np.asarray(2 * stdtr(freedom, -np.abs(t)))
