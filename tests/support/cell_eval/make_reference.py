"""reference.json: what cell-eval itself makes of small random arrays. The tests read the file and need no cell-eval.

python -m venv apart && apart/bin/pip install "cell-eval==0.8.2"
apart/bin/python tests/support/cell_eval/make_reference.py
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import polars as pl
from cell_eval._types import PerturbationAnndataPair, initialize_de_comparison
from cell_eval.metrics import _anndata, _de

N_PERTURBATIONS, N_GENES, N_CELLS, N_CONTROLS, CONTROL = 6, 12, 5, 7, "control"
GENES = [f"gene{g:02d}" for g in range(N_GENES)]
PERTURBED = GENES[:N_PERTURBATIONS]


def values(rng, n, shift):
    """Cells by genes, non-negative, three decimals."""
    return np.round(rng.gamma(2.0, 0.5, (n, N_GENES)) + shift, 3)


def arrays():
    """{label: [real cells, predicted cells]}; the control's are the same on both sides."""
    rng = np.random.Generator(np.random.Philox(5))
    controls = values(rng, N_CONTROLS, 0.0)
    found = {CONTROL: [controls, controls]}
    for label in PERTURBED:
        shift = np.abs(rng.normal(0, 0.4, N_GENES))
        found[label] = [values(rng, N_CELLS, shift), values(rng, N_CELLS, 0.5 * shift)]
    return found


def changes():
    """Per perturbation: fold changes and fdr of every gene, real and predicted."""
    rng = np.random.Generator(np.random.Philox(6))
    found = {}
    for label in PERTURBED:
        real = rng.normal(0, 1, N_GENES)
        predicted = 0.5 * real + rng.normal(0, 0.7, N_GENES)
        fdr = [rng.uniform(0, 0.12, N_GENES) for _ in range(2)]
        found[label] = [np.round(x, 4) for x in (real, predicted, *fdr)]
    return found


def pair(cells):
    sides = []
    for side in (0, 1):
        labels = [label for label, both in cells.items() for _ in both[side]]
        x = np.concatenate([both[side] for both in cells.values()])
        obs = pd.DataFrame({"target": labels}, index=[str(i) for i in range(len(labels))])
        sides.append(ad.AnnData(x, obs=obs, var=pd.DataFrame(index=GENES)))
    return PerturbationAnndataPair(*sides, pert_col="target", control_pert=CONTROL)


def comparison(found):
    sides = []
    for side in (0, 1):
        rows = [
            {"target": label, "feature": g, "log2_fold_change": x[side][i], "p_value": x[2 + side][i], "fdr": x[2 + side][i]}
            for label, x in found.items() for i, g in enumerate(GENES)
        ]  # fmt: skip
        sides.append(pl.DataFrame(rows))
    return initialize_de_comparison(*sides)


def main():
    cells, de = arrays(), changes()
    data, compared = pair(cells), comparison(de)
    metrics = {
        "pearson_delta": _anndata.pearson_delta(data),
        "mae_delta": _anndata.mae_delta(data),
        "edistance": _anndata.edistance(data),
        **{f"discrimination_{m}": _anndata.discrimination_score(data, metric=m) for m in ("l1", "l2", "cosine")},
        "overlap_at_N": _de.de_overlap_metric(compared, k=None),
        "overlap_at_3": _de.de_overlap_metric(compared, k=3),
        "direction_match": _de.DEDirectionMatch()(compared),
        "spearman_lfc": _de.DESpearmanLFC()(compared),
    }
    said = {
        "made_by": "tests/support/cell_eval/make_reference.py",
        "versions": {n: version(n) for n in ("cell-eval", "numpy", "scipy", "scikit-learn", "polars")},
        "genes": GENES, "perturbed": PERTURBED, "control": CONTROL,
        "cells": {label: [x.tolist() for x in both] for label, both in cells.items()},
        "changes": {label: [x.tolist() for x in found] for label, found in de.items()},
        "metrics": metrics,
    }  # fmt: skip
    Path(__file__).with_name("reference.json").write_text(json.dumps(said, separators=(",", ":")) + "\n")
    sys.stdout.write(json.dumps(metrics, indent=1) + "\n")


if __name__ == "__main__":
    main()
