"""Real screen: counts of cells that a made-up experiment perturbed, as an h5ad, from what every perturbation changes."""

from collections.abc import Mapping
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from screen.results.results import Results

CONTROL, COLUMN = "non-targeting", "perturbation"
DEPTH, DEPTH_SPREAD, DISPERSION = 3_000.0, 0.3, 0.15
"""Counts of a cell and their spread (of the log); how much cells of a kind differ, as variance over squared mean."""
SCALE = 10_000


def control_expression(results: Results, time: int) -> NDArray[np.float64]:
    """(G,) mean log1p counts per 10,000 of the screen's own controls."""
    block = results.store.blocks[0]
    cells = np.flatnonzero(results.store.control(f"is_predicted_t{time}", block))
    return np.asarray(results.store.control(f"expression_t{time}", block, cells).astype(np.float64).mean(0))


def write_real(
    path: Path,
    gene_id_G: NDArray[np.object_],
    base_G: NDArray[np.float64],
    change_of: Mapping[str, NDArray[np.float64]],
    n_cells: Mapping[str, int] | int = 60,
    n_controls: int = 400,
    seed: int = 0,
    cell_type: str | None = None,
) -> Path:
    """Writes negative binomial counts of cells whose log1p counts per 10,000 are `base_G` plus the change of their label.

    The same file for the same arguments; labels are the perturbation column's values. Returns the path.
    """
    rng = np.random.default_rng([seed, 11])
    labels = [CONTROL, *change_of]
    sizes = [n_controls, *(n_cells if isinstance(n_cells, int) else n_cells[name] for name in change_of)]
    parts = []
    for label, n in zip(labels, sizes, strict=True):
        change_G = change_of.get(label, np.zeros(len(base_G)))
        mean_G = np.expm1(np.maximum(base_G + change_G, 0.0)) + 0.02
        depth_C1 = DEPTH * rng.lognormal(0, DEPTH_SPREAD, (n, 1))
        rate_CG = depth_C1 * mean_G / mean_G.sum() * rng.gamma(1 / DISPERSION, DISPERSION, (n, len(base_G)))
        parts.append(sparse.csr_matrix(rng.poisson(rate_CG).astype(np.float32)))
    label_C = np.repeat(labels, sizes)
    order = rng.permutation(len(label_C))
    obs = pd.DataFrame({COLUMN: pd.Categorical(label_C[order])}, index=[f"real {i}" for i in range(len(label_C))])
    if cell_type is not None:
        obs["cell_type"] = cell_type
    data = anndata.AnnData(sparse.vstack(parts, format="csr")[order], obs=obs, var=pd.DataFrame(index=list(gene_id_G)))
    data.write_h5ad(path)
    return path
