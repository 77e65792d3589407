"""Held-out prediction: how near the model comes to the target cell, beside baselines that need no model."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from demo.cells import STIMULATED, DemoCells, Floats, Ints, cp10k, log_cp10k
from demo.train import Corpus, expected_counts, padded
from screen.models.perturbgen.network.count_head import negative_log_likelihood
from screen.models.perturbgen.network.model import PerturbGen

AT_ONCE = 32
N_BOOTSTRAP = 2_000
SEED = 0
LOG_DISPERSIONS = np.arange(-3.0, 6.01, 0.25)
MOST_COUNTS = 3_000
TAIL = 1e-7


@dataclass(frozen=True)
class Pairs:
    """Held-out pairs: source and target rows (P), the target's type, counts (P, G), total and log1p CP10K."""

    source_P: Ints
    target_P: Ints
    kind_P: Any
    counts_PG: Floats
    total_P1: Floats
    log_PG: Floats


def read_targets(cells: DemoCells, pairs_P2: Ints) -> Pairs:
    """What the target cells of the pairs look like."""
    counts = cells.counts_CG[pairs_P2[:, 1]]
    counts_PG = counts.toarray().astype(np.float64)
    kind_P = cells.cell_type[pairs_P2[:, 1]]
    return Pairs(pairs_P2[:, 0], pairs_P2[:, 1], kind_P, counts_PG, counts_PG.sum(1, keepdims=True), log_cp10k(counts))


@torch.inference_mode()
def predicted_shares(model: PerturbGen, corpus: Corpus, source_P: Ints, target_P: Ints, prompt: bool) -> Floats:
    """(P, G) expected share of each gene in the target; with `prompt` it is shown housekeeping genes only."""
    shares = []
    for start in range(0, len(source_P), AT_ONCE):
        here = slice(start, start + AT_ONCE)
        src_BL = padded([corpus.source[row] for row in source_P[here]])
        tgt_BL = padded([corpus.prompt if prompt else corpus.target[row] for row in target_P[here]])
        hidden_BLD = model.decode(tgt_BL, 1, model.encode(src_BL), src_BL != 0)
        shares.append(expected_counts(model, hidden_BLD, tgt_BL, torch.ones(len(src_BL), 1)))
    return torch.cat(shares).double().numpy()


def pearson(one_PG: Floats, other_PG: Floats) -> Floats:
    """Correlation over genes, per pair."""
    a, b = one_PG - one_PG.mean(1, keepdims=True), other_PG - other_PG.mean(1, keepdims=True)
    return np.asarray((a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1)))


def mean_with_interval(value_P: Floats) -> dict[str, float | list[float]]:
    """Mean and its 95 % bootstrap interval over pairs."""
    rng = np.random.default_rng(SEED)
    draws = value_P[rng.integers(0, len(value_P), (N_BOOTSTRAP, len(value_P)))].mean(1)
    return {
        "mean": round(float(value_P.mean()), 4),
        "ci95": [round(float(q), 4) for q in np.percentile(draws, [2.5, 97.5])],
    }


def _type_means(cells: DemoCells, kinds: Any) -> dict[str, tuple[Floats, Floats]]:
    """Per type, over stimulated training cells: mean CP10K, and mean of log1p CP10K."""
    means = {}
    for kind in np.unique(kinds):
        part = cells.counts_CG[cells.stratum(str(kind), STIMULATED, held_out=False)]
        means[str(kind)] = (np.asarray(cp10k(part).mean(axis=0)).ravel(), log_cp10k(part).mean(axis=0))
    return means


def _nll(counts: Floats, mu: Floats, dispersion_G: Tensor) -> Tensor:
    """NB negative log-likelihood per cell, averaged over genes."""
    total: Tensor = negative_log_likelihood(torch.from_numpy(counts), torch.from_numpy(mu), dispersion_G.double()[None])
    return total.div(counts.shape[1])


def fit_dispersion(cells: DemoCells, means: dict[str, tuple[Floats, Floats]]) -> Tensor:
    """(G,) the dispersion that makes the type means likeliest, on stimulated training cells."""
    rows = [cells.stratum(kind, STIMULATED, held_out=False) for kind in means]
    counts_CG = cells.counts_CG[np.concatenate(rows)].toarray().astype(np.float64)
    share_CG = np.concatenate(
        [np.tile(means[kind][0] / 10_000, (len(part), 1)) for kind, part in zip(means, rows, strict=True)]
    )
    count, mu = torch.from_numpy(counts_CG), torch.from_numpy(share_CG * counts_CG.sum(1, keepdims=True))
    best_G, least_G = torch.ones(count.shape[1]).double(), torch.full((count.shape[1],), torch.inf).double()
    for log_dispersion in LOG_DISPERSIONS:
        dispersion = torch.full((1, 1, 1), float(np.exp(log_dispersion))).double()
        loss_G = negative_log_likelihood(count[..., None], mu[..., None], dispersion).sum(0)
        best_G = torch.where(loss_G < least_G, dispersion.flatten(), best_G)
        least_G = torch.minimum(loss_G, least_G)
    return best_G


def expected_log(mu_PG: Floats, dispersion_G: Floats, total_P1: Floats) -> Floats:
    """Mean of log1p CP10K under the NB with mean mu: the quantity that a mean of log1p estimates."""
    chance_PG = (dispersion_G / (dispersion_G + mu_PG)) ** dispersion_G
    rise_PG, left_PG = mu_PG / (mu_PG + dispersion_G), 1 - chance_PG
    out_PG = np.zeros_like(mu_PG)
    for count in range(1, MOST_COUNTS):
        chance_PG = chance_PG * rise_PG * (count - 1 + dispersion_G) / count
        out_PG += chance_PG * np.log1p(count / total_P1 * 10_000)
        left_PG = left_PG - chance_PG
        if left_PG.max() < TAIL:
            break
    return out_PG


def other_sources(kind_P: Any, source_P: Ints) -> Ints:
    """For each pair the source of another pair of the same type, drawn at random, never its own."""
    rng, swapped_P = np.random.default_rng(SEED), source_P.copy()
    for kind in np.unique(kind_P):
        ring = rng.permutation(np.flatnonzero(kind_P == kind))
        swapped_P[ring] = source_P[np.roll(ring, 1)]
    return swapped_P


def evaluate_prediction(model: PerturbGen, cells: DemoCells, corpus: Corpus, pairs_P2: Ints) -> dict[str, Any]:
    """Figures of held-out prediction, ready for JSON. r is Pearson's over genes of log1p CP10K, per pair."""
    pairs = read_targets(cells, pairs_P2)
    means = _type_means(cells, pairs.kind_P)
    mean_PG, mean_log_PG = (np.stack([means[str(kind)][i] for kind in pairs.kind_P]) for i in (0, 1))
    dispersion = model.theta.detach().exp()[:, 0]
    full = predicted_shares(model, corpus, pairs.source_P, pairs.target_P, prompt=False)
    prompt = predicted_shares(model, corpus, pairs.source_P, pairs.target_P, prompt=True)
    predictions = {
        "model, full target": np.log1p(full * 10_000),
        "model, prompt target": np.log1p(prompt * 10_000),
        "model, full target, mean of log1p under its NB": expected_log(
            full * pairs.total_P1, dispersion.double().numpy(), pairs.total_P1
        ),
        "type mean, then log1p": np.log1p(mean_PG),
        "type mean of log1p": mean_log_PG,
        "source copied": log_cp10k(cells.counts_CG[pairs.source_P]),
    }
    r = {name: pearson(value, pairs.log_PG) for name, value in predictions.items()}
    model_names = [name for name in r if name.startswith("model")]
    best = max((name for name in r if name not in model_names), key=lambda name: r[name].mean())
    swapped_P = other_sources(pairs.kind_P, pairs.source_P)
    gain = {}
    for name, own, is_prompt in (("full target", full, False), ("prompt target", prompt, True)):
        other = predicted_shares(model, corpus, swapped_P, pairs.target_P, is_prompt)
        gain[name] = pearson(np.log1p(own * 1e4), pairs.log_PG) - pearson(np.log1p(other * 1e4), pairs.log_PG)
    nll = {
        "model, full target": _nll(pairs.counts_PG, full * pairs.total_P1, dispersion),
        "model, prompt target": _nll(pairs.counts_PG, prompt * pairs.total_P1, dispersion),
        "type mean, fitted dispersion": _nll(
            pairs.counts_PG, mean_PG / 1e4 * pairs.total_P1, fit_dispersion(cells, means)
        ),
    }
    by_type = {
        str(kind): {name: round(float(value[pairs.kind_P == kind].mean()), 4) for name, value in r.items()}
        for kind in np.unique(pairs.kind_P)
    }
    return {
        "n_pairs": len(pairs_P2),
        "pearson_r": {name: mean_with_interval(value) for name, value in r.items()},
        "best_baseline": best,
        "minus_best_baseline": {name: mean_with_interval(r[name] - r[best]) for name in model_names},
        "minus_type_mean_then_log1p": {
            name: mean_with_interval(r[name] - r["type mean, then log1p"]) for name in model_names
        },
        "gain_of_own_source": {name: mean_with_interval(value) for name, value in gain.items()},
        "nb_nll_per_gene": {name: mean_with_interval(value.numpy()) for name, value in nll.items()},
        "pearson_r_by_type": by_type,
    }
