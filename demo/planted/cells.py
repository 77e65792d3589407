"""Cells: token rows, expression and metadata of the cells of a planted screen, before any gene has a name."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo.planted.sizes import WIDTH, Sizes
from screen.cells.bank import SOURCE, Ragged, State, TokenBank, combined
from screen.planning.layout import SCALE

FIRST_TOKEN = 10
SHARE_EXPRESSED, LENGTH_SPREAD, LONGEST = 0.8, 0.05, 0.87
"""Share of the genes that a cell expresses, its spread, and how much of the genes the model's longest row holds."""
STRATUM_COLUMN, DONOR_COLUMN = "cell_type", "replicate"
Values = NDArray[np.float32]


@dataclass(frozen=True)
class Cells:
    """C cells: what the model would be shown and would predict of them without an edit.

    expression_TCG  log1p of counts per 10,000 at each time point; a row's counts add up to these
    has_CG          whether the source row holds the gene where the model sees it
    """

    bank: TokenBank
    stratum_C: NDArray[np.int64]
    stratum: tuple[str, ...]
    donor_C: NDArray[np.int64]
    expression_TCG: Values
    total_TC: Values
    embedding_TCD: Values
    has_CG: NDArray[np.bool_]
    max_len: int


def make_cells(sizes: Sizes) -> Cells:
    """The same for the same sizes."""
    rng = np.random.default_rng([sizes.seed, 1])
    n_cells, n_genes, times = sizes.n_cells, sizes.genes, sizes.times
    of_C = np.arange(n_cells) % sizes.n_strata
    label_C = np.array(sizes.strata, dtype=object)[of_C]
    stratum_C, stratum = combined([label_C], n_cells)
    donor_C = np.arange(n_cells) // sizes.n_strata % sizes.n_donors
    popularity_G = rng.permutation(np.linspace(3.0, 0.0, n_genes))
    popularity_CG = popularity_G + rng.normal(0, 0.35, (len(stratum), n_genes))[stratum_C]
    max_len = int(LONGEST * n_genes)
    states, expressions, totals = {}, [], []
    obs = {STRATUM_COLUMN: label_C, DONOR_COLUMN: np.array([f"donor {d + 1}" for d in donor_C], dtype=object)}
    for state in (SOURCE, *times):
        popularity_CG = popularity_CG + rng.normal(0, 0.3, (n_cells, n_genes))
        n_C = np.clip(rng.normal(SHARE_EXPRESSED, LENGTH_SPREAD, n_cells) * n_genes, 5, n_genes).astype(int)
        rows = [np.argsort(-x)[:n] + FIRST_TOKEN for x, n in zip(popularity_CG, n_C, strict=True)]
        size_C = rng.lognormal(8.3, 0.3, n_cells).astype(np.float32)
        states[state] = State(
            Ragged.from_rows(rows),
            state * n_cells + np.arange(n_cells),
            obs,
            size_factor_C=None if state == SOURCE else size_C,
        )
        if state != SOURCE:
            weight_CG = np.exp(1.3 * popularity_CG + rng.normal(0, 0.3, n_genes))
            totals.append(size_C)
            expressions.append(np.log1p(SCALE * weight_CG / weight_CG.sum(1, keepdims=True)))
    has_CG = np.zeros((n_cells, n_genes), dtype=bool)
    for c in range(n_cells):
        has_CG[c, states[SOURCE].tokens[c][:max_len] - FIRST_TOKEN] = True
    bank = TokenBank(states, tuple(f"cell {c + 1}" for c in range(n_cells)))
    return Cells(
        bank, stratum_C, tuple(stratum), donor_C, np.stack(expressions).astype(np.float32),
        np.stack(totals),
        rng.normal(size=(len(times), n_cells, WIDTH)).astype(np.float32), has_CG, max_len,
    )  # fmt: skip
