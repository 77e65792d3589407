"""Source-mask screen of held-out CD14+ pairs: how large predicted effects are, and whether two seeds agree on them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata, spearmanr
from torch import Tensor

from demo.cells import DemoCells, Floats, Ints, log_cp10k
from demo.named_genes import INTERFERON_STIMULATED, REGULATORS
from demo.train import MASK, Corpus, expected_counts, padded
from screen.models.perturbgen.network.model import PerturbGen

SCREENED_TYPE = "CD14+ Monocytes"
N_PAIRS = 50
FEWEST_CELLS = 5  # of the screened pairs that must express a gene
FEWEST_OBSERVED = 30  # pairs with, and as many without, the gene in the source
AT_ONCE = 64
N_MATCHED = 12
N_SHUFFLES = 200
SEED = 0


@dataclass(frozen=True)
class Screen:
    """Mean effect of masking each screened gene X (X, G), and what else might explain its size."""

    gene_X: Ints
    delta_XG: Floats
    position_X: Floats
    detection_X: Floats
    length_X: Floats

    @property
    def strength_X(self) -> Floats:
        """RMS over output genes of the mean log1p CP10K change."""
        return np.asarray(np.sqrt((self.delta_XG**2).mean(axis=1)))


def screened_pairs(cells: DemoCells, pairs_P2: Ints) -> Ints:
    """The pairs that are screened: a fixed random draw of one type."""
    rows = np.flatnonzero(cells.cell_type[pairs_P2[:, 0]] == SCREENED_TYPE)
    chosen = np.sort(np.random.default_rng(SEED).choice(rows, N_PAIRS, replace=False))
    return np.asarray(pairs_P2[chosen])


@torch.inference_mode()
def _deltas_of_cell(model: PerturbGen, source: Ints, target: Ints, positions: Ints) -> Tensor:
    """(len(positions), G) change of log1p CP10K when the source token at each position is masked in turn."""
    src_1L, tgt_1L = padded([source]), padded([target])

    def log_expression(src_BL: Tensor) -> Tensor:
        tgt_BL = tgt_1L.expand(len(src_BL), -1)
        hidden_BLD = model.decode(tgt_BL, 1, model.encode(src_BL), None)
        return torch.log1p(expected_counts(model, hidden_BLD, tgt_BL, torch.full((len(src_BL), 1), 10_000.0)))

    control_1G = log_expression(src_1L)
    deltas = []
    for start in range(0, len(positions), AT_ONCE):
        block = torch.from_numpy(positions[start : start + AT_ONCE])
        edited_BL = src_1L.repeat(len(block), 1)
        edited_BL[torch.arange(len(block)), block] = MASK
        deltas.append(log_expression(edited_BL) - control_1G)
    return torch.cat(deltas)


def screen_sources(model: PerturbGen, cells: DemoCells, corpus: Corpus, pairs_P2: Ints) -> Screen:
    """Masks every gene of every source of the pairs, targets shown in full."""
    n_genes = len(cells.genes.symbol)
    column_of = np.zeros(cells.genes.token_id.max() + 1, dtype=np.int64)
    column_of[cells.genes.token_id] = np.arange(n_genes)
    total_GG = np.zeros((n_genes, n_genes))
    seen_G, position_G, length_G = np.zeros((3, n_genes))
    for source, target in pairs_P2:
        columns = column_of[corpus.source[source]]
        positions = np.arange(len(columns))
        deltas = _deltas_of_cell(model, corpus.source[source], corpus.target[target], positions)
        total_GG[columns] += deltas.double().numpy()
        seen_G[columns] += 1
        position_G[columns] += positions
        length_G[columns] += len(columns)
    gene_X = np.flatnonzero(seen_G >= FEWEST_CELLS)
    seen_X = seen_G[gene_X]
    return Screen(
        gene_X,
        total_GG[gene_X] / seen_X[:, None],
        position_G[gene_X] / seen_X,
        seen_X / len(pairs_P2),
        length_G[gene_X] / seen_X,
    )


def unexplained(screen: Screen) -> Floats:
    """Log strength left after a quadratic fit on rank position, detection and row length."""
    covariates = [np.log1p(screen.position_X), screen.detection_X, screen.length_X]
    scaled = [(value - value.mean()) / (value.std() or 1.0) for value in covariates]
    design = np.stack([np.ones_like(scaled[0]), *scaled, *(value**2 for value in scaled)], axis=1)
    log_strength = np.log(screen.strength_X)
    return np.asarray(log_strength - design @ np.linalg.lstsq(design, log_strength, rcond=None)[0])


def _screen_gene(model: PerturbGen, corpus: Corpus, showing: list[Ints], token: int) -> tuple[float, float]:
    """Strength of masking one source token in up to 50 of the pairs that show it, and its mean position there."""
    chosen = np.random.default_rng(SEED).permutation(len(showing))[:N_PAIRS]
    deltas, positions = [], []
    for source, target in (showing[index] for index in chosen):
        position = np.flatnonzero(corpus.source[source] == token)
        deltas.append(_deltas_of_cell(model, corpus.source[source], corpus.target[target], position))
        positions.append(position[0])
    strength = float(torch.cat(deltas).double().mean(0).square().mean().sqrt())
    return strength, float(np.mean(positions))


def regulators(model: PerturbGen, screen: Screen, cells: DemoCells, corpus: Corpus, pairs_P2: Ints) -> dict[str, Any]:
    """Where interferon's receptors and signal carriers stand by strength among the screened genes, 1 strongest.

    They are rare, so each is masked in all pairs of the type that show it, up to 50. `share_beaten` is the share it beats of the 12
    screened genes nearest in position and detection; chance is 0.5.
    """
    found: dict[str, Any] = {"n_genes_ranked": len(screen.gene_X)}
    beaten = []
    for symbol in REGULATORS:
        gene = cells.genes.column_of(symbol)
        token = None if gene is None else cells.genes.token_id[gene]
        showing = [pair for pair in pairs_P2 if token in corpus.source[pair[0]]]
        if token is None or not showing:
            found[symbol] = "shown in no source"
            continue
        strength, position = _screen_gene(model, corpus, showing, int(token))
        others = screen.gene_X != gene
        stronger = screen.strength_X[others] > strength
        far_position = rankdata(np.append(screen.position_X[others], position))
        far_detection = rankdata(np.append(screen.detection_X[others], len(showing) / len(pairs_P2)))
        distance = np.abs(far_position - far_position[-1])[:-1] + np.abs(far_detection - far_detection[-1])[:-1]
        beaten.append(1 - stronger[np.argsort(distance, kind="stable")[:N_MATCHED]].mean())
        found[symbol] = {
            "rank": int(stronger.sum()) + 1,
            "share_beaten": round(float(beaten[-1]), 2),
            "n_pairs": min(len(showing), N_PAIRS),
        }
    return {**found, "mean_share_beaten": round(float(np.mean(beaten)), 2)}


def stimulated_columns(cells: DemoCells) -> Ints:
    """Gene columns of the interferon-stimulated genes that the model knows."""
    return np.flatnonzero(np.isin(cells.genes.symbol, INTERFERON_STIMULATED))


def predicted_stimulation(screen: Screen, cells: DemoCells) -> Floats:
    """Per screened gene: predicted ISG expression with the gene minus without it, the gene itself left out."""
    columns = stimulated_columns(cells)
    return np.array(
        [-row[columns[columns != gene]].mean() for gene, row in zip(screen.gene_X, screen.delta_XG, strict=True)]
    )


@dataclass(frozen=True)
class Observed:
    """Held-out pairs as evidence: genes each source shows (P, X), its targets' ISG score (P, X), log totals (P, 2).

    The score leaves gene X out where X is itself an ISG.
    """

    shown_PX: Floats
    score_PX: Floats
    depth_P2: Floats

    def association(self, depth_adjusted: bool = False, target_P: Ints | None = None) -> Floats:
        """Per gene: ISG score of targets whose source shows the gene minus that of the rest; NaN where pairs are few.

        Association within assigned pairs, not causation. With `depth_adjusted` it is the coefficient beside the log
        totals of source and target. `target_P` hands the targets out anew.
        """
        target_P = np.arange(len(self.score_PX)) if target_P is None else target_P
        depth_P2 = np.stack([self.depth_P2[:, 0], self.depth_P2[target_P, 1]], axis=1)
        beside = np.column_stack([np.ones(len(target_P)), *(depth_P2.T if depth_adjusted else ())])
        left_PX = self.shown_PX - beside @ np.linalg.lstsq(beside, self.shown_PX, rcond=None)[0]
        n_showing_X = self.shown_PX.sum(axis=0)
        fewest_X = np.minimum(n_showing_X, len(target_P) - n_showing_X)
        slope_X = (left_PX * self.score_PX[target_P]).sum(axis=0) / np.maximum((left_PX**2).sum(axis=0), 1e-12)
        return np.where(fewest_X >= FEWEST_OBSERVED, slope_X, np.nan)


def observe(cells: DemoCells, corpus: Corpus, pairs_P2: Ints, gene_X: Ints) -> Observed:
    """What the pairs say of each screened gene."""
    columns, log_PG = stimulated_columns(cells), log_cp10k(cells.counts_CG[pairs_P2[:, 1]])
    is_own_X = np.isin(gene_X, columns)
    total_P1 = log_PG[:, columns].sum(axis=1, keepdims=True)
    score_PX = (total_P1 - np.where(is_own_X, log_PG[:, gene_X], 0.0)) / (len(columns) - is_own_X)
    shown_PX = np.stack([np.isin(cells.genes.token_id[gene_X], corpus.source[row]) for row in pairs_P2[:, 0]])
    depth_C = np.log(np.asarray(cells.counts_CG.sum(axis=1)).ravel())
    return Observed(shown_PX.astype(np.float64), score_PX, depth_C[pairs_P2])


def agreement_with_observed(predicted_X: Floats, observed: Observed) -> dict[str, Any]:
    """Spearman's rho of predicted ISG effects with those associations, and with targets dealt out at random."""
    rng, n_pairs = np.random.default_rng(SEED), len(observed.score_PX)
    shuffled = [
        rank_correlation(predicted_X, observed.association(target_P=rng.permutation(n_pairs)))
        for _ in range(N_SHUFFLES)
    ]
    plain = observed.association()
    return {
        "rho": rank_correlation(predicted_X, plain),
        "rho_depth_adjusted": rank_correlation(predicted_X, observed.association(depth_adjusted=True)),
        "rho_with_shuffled_targets_2.5_97.5": [round(float(q), 3) for q in np.percentile(shuffled, [2.5, 97.5])],
        "n_genes": int(np.isfinite(plain).sum()),
        "n_pairs": n_pairs,
    }


def rank_correlation(one: Floats, other: Floats) -> float:
    """Spearman's rho over entries that both have."""
    both = np.isfinite(one) & np.isfinite(other)
    return round(float(spearmanr(one[both], other[both]).statistic), 3)
