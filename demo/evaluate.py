"""Says how good the demo's model is: `python -m demo.evaluate [--checkpoint FILE] [--other SECOND_SEED]`."""

import argparse
import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from demo.cells import DemoCells, Ints, read_cells, read_pairs
from demo.masking import (
    FEWEST_CELLS,
    N_PAIRS,
    SCREENED_TYPE,
    Screen,
    agreement_with_observed,
    observe,
    predicted_stimulation,
    rank_correlation,
    regulators,
    screen_sources,
    screened_pairs,
    stimulated_columns,
    unexplained,
)
from demo.prediction import evaluate_prediction, other_sources
from demo.train import Corpus, read_corpus
from screen.demo import DATA
from screen.models.perturbgen.files.checkpoint import load_model
from screen.models.perturbgen.files.read_sizes import Declared
from screen.models.perturbgen.network.model import PerturbGen

N_TOP = 20


def _profile_agreement(one: Screen, other: Screen) -> float:
    """Median over the first seed's strongest genes of the correlation of their effect profiles between seeds."""
    top = np.argsort(-one.strength_X)[:N_TOP]
    return round(float(np.median([np.corrcoef(one.delta_XG[i], other.delta_XG[i])[0, 1] for i in top])), 3)


def _directions(screen: Screen) -> float:
    """Share of the effect profiles' sum of squares in their three leading directions."""
    squares = np.linalg.svd(screen.delta_XG, compute_uv=False) ** 2
    return round(float(squares[:3].sum() / squares.sum()), 3)


def _of_one_seed(
    model: PerturbGen, screen: Screen, cells: DemoCells, corpus: Corpus, type_pairs: Ints
) -> dict[str, Any]:
    """What one seed's screen shows, and how its ISG effects compare with what held-out pairs show."""
    observed = observe(cells, corpus, type_pairs, screen.gene_X)
    symbol = cells.genes.symbol
    order = np.argsort(-screen.strength_X)
    return {
        "strength_quantiles_5_50_95": [float(f"{q:.2e}") for q in np.percentile(screen.strength_X, [5, 50, 95])],
        "largest_strength": float(f"{screen.strength_X.max():.2e}"),
        "strongest": [str(symbol[gene]) for gene in screen.gene_X[order[:N_TOP]]],
        "share_in_three_directions": _directions(screen),
        "strength_explained_by_covariates": round(
            float(1 - unexplained(screen).var() / np.log(screen.strength_X).var()), 3
        ),
        "regulators": regulators(model, screen, cells, corpus, type_pairs),
        "isg_effect_vs_observed": agreement_with_observed(predicted_stimulation(screen, cells), observed),
        "n_isgs": len(stimulated_columns(cells)),
    }


def evaluate_screen(paths: list[Path], cells: DemoCells, corpus: Corpus, pairs: Ints) -> dict[str, Any]:
    """Figures of the source-mask screen for each seed, and of their agreement where there are two."""
    chosen = screened_pairs(cells, pairs)
    type_pairs = pairs[cells.cell_type[pairs[:, 0]] == SCREENED_TYPE]
    models = [load_model(path, Declared())[0] for path in paths]
    screens = [screen_sources(model, cells, corpus, chosen) for model in models]
    report: dict[str, Any] = {
        "cells": f"{N_PAIRS} held-out {SCREENED_TYPE} pairs, target shown in full, mode mask, site src",
        "n_genes": f"{len(screens[0].gene_X)} seen in at least {FEWEST_CELLS} sources",
        "n_items": int(sum(len(corpus.source[row]) for row in chosen[:, 0])),
        "seeds": [_of_one_seed(*seed, cells, corpus, type_pairs) for seed in zip(models, screens, strict=True)],
    }
    if len(screens) == 2:
        one, other = screens
        top = [set(np.argsort(-screen.strength_X)[:N_TOP].tolist()) for screen in screens]
        isg = [predicted_stimulation(screen, cells) for screen in screens]
        report["between_seeds"] = {
            "strength_rho": rank_correlation(one.strength_X, other.strength_X),
            "strength_rho_after_covariates": rank_correlation(unexplained(one), unexplained(other)),
            "top_20_shared": len(top[0] & top[1]),
            "top_20_profile_r": _profile_agreement(one, other),
            "isg_effect_rho": rank_correlation(*isg),
            "isg_effect_same_sign": round(float((np.sign(isg[0]) == np.sign(isg[1])).mean()), 3),
        }
    return report


def evaluate(paths: list[Path]) -> dict[str, Any]:
    """The whole evaluation; the first checkpoint is the one that is shipped."""
    cells = read_cells()
    corpus, pairs = read_corpus(cells), read_pairs(cells)
    sources = other_sources(cells.cell_type[pairs[:, 1]], pairs[:, 0])
    random_pairs = np.stack([sources, pairs[:, 1]], axis=1)
    return {
        "made_by": "python -m demo.evaluate",
        "checkpoints": [
            {
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "seed": torch.load(path, weights_only=True)["hyper_parameters"]["seed"],
            }
            for path in paths
        ],
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "note": "pairs are optimal-transport assignments and the data hold no knock-outs: effects are associations, not causes",
        "prediction": [evaluate_prediction(load_model(path, Declared())[0], cells, corpus, pairs) for path in paths],
        "prediction_on_random_pairs": evaluate_prediction(
            load_model(paths[0], Declared())[0], cells, corpus, random_pairs
        ),
        "screen": evaluate_screen(paths, cells, corpus, pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=DATA / "demo.ckpt")
    parser.add_argument("--other", type=Path, help="a second seed's checkpoint, for agreement between seeds")
    parser.add_argument("--out", type=Path, default=DATA / "EVALUATION.json")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    report = json.dumps(evaluate([path for path in (arguments.checkpoint, arguments.other) if path]), indent=2)
    print(report)  # noqa: T201
    arguments.out.write_text(report + "\n")


if __name__ == "__main__":
    main()
