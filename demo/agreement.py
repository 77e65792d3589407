"""How well two finished runs of the demo, with models of different seeds, agree on the strength of every masked gene.

python -m demo.train --seed 1 --out seed1.ckpt      # then run configs/demo.yaml with this checkpoint
python -m demo.agreement runs/demo runs/demo_seed1
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import spearmanr

COVARIATES = ("rank_position", "n_cells", "length")
N_TOP = 20


def agreement(one: pl.DataFrame, other: pl.DataFrame) -> dict[str, float]:
    """Spearman of log strength between two hits tables, over the ranked masked genes of the first.

    raw      as it is
    residual after regressing out rank position, number of cells and row length (ranks and their squares)
    top      genes shared by the two top twenties
    """
    masked = pl.col("mode") == "mask"
    both = one.filter(masked).drop_nulls("strength_rank").join(other.filter(masked), on="perturbation", suffix="_other")
    strengths = [np.log(both[c].to_numpy()) for c in ("strength", "strength_other")]
    ranks = [_rank(both[c].to_numpy()) for c in COVARIATES]
    design = np.column_stack([np.ones(both.height), *ranks, *(r**2 for r in ranks)])
    residuals = [y - design @ np.linalg.lstsq(design, y, rcond=None)[0] for y in strengths]
    tops = [set(h.filter(masked).drop_nulls("strength_rank").head(N_TOP)["perturbation"]) for h in (one, other)]
    return {
        "genes": both.height,
        "raw": float(spearmanr(*strengths).statistic),
        "residual": float(spearmanr(*residuals).statistic),
        "top": len(tops[0] & tops[1]),
    }


def _rank(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return pl.Series(values).rank().to_numpy() / len(values)


if __name__ == "__main__":
    found = agreement(*(pl.read_parquet(Path(d) / "hits.parquet") for d in sys.argv[1:3]))
    sys.stdout.write(" ".join(f"{k} {v:.3g}" for k, v in found.items()) + "\n")
