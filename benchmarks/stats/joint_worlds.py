"""How often a joint edit of nothing is called something: lists of triples in models whose gene embeddings are permuted.

python -m benchmarks.stats.joint_worlds   # ten minutes on two cores

A world is one permuted model and one list of triples of common genes, no gene twice, screened by the command at its defaults,
which draws null triples near them. Worlds are the observations: in one, the same few genes may be the strong ones everywhere.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import polars as pl
import yaml

from benchmarks.record import ROOT, record
from benchmarks.run_all import exit_code, options, reported
from benchmarks.stats.gene_sets import DATA, permuted, ran

SIZE, N_COMMON, FIRST_WORLD = 3, 300, 11
LEAST, MOST_CALLED = 0.06, 0.1
"""The interval of the share of p < .05 begins below LEAST; worlds in which anything has q < .1, beyond chance."""


def common_genes() -> list[str]:
    """The genes that most cells of the screened type hold before stimulation, the most common first."""
    cells = ad.read_h5ad(DATA / "cells.h5ad")
    is_source_C = (cells.obs["condition"] == "control") & (cells.obs["cell_type"] == "CD14+ Monocytes")
    n_cells_G = np.asarray((cells[is_source_C.to_numpy()].X > 0).sum(axis=0)).ravel()
    return [str(g) for g in cells.var_names[np.argsort(-n_cells_G, kind="stable")[:N_COMMON]]]


def world(folder: Path, seed: int, n_listed: int, max_cells: int, more: dict[str, object]) -> pl.DataFrame:
    """Hits of the triples of one world, the null ones aside."""
    config = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
    config["model"] = {
        "checkpoint": str(permuted(seed, folder / f"{seed}.ckpt")),
        "vocabulary": str(DATA / "genes.tsv"),
    }
    files = {"h5ad": str(DATA / "cells.h5ad"), "pairing": str(DATA / "pairs.tsv"), "max_cells": max_cells}
    config["cells"] |= files
    triples = np.random.default_rng([seed, 77]).permutation(common_genes())[: SIZE * n_listed].reshape(-1, SIZE)
    config["library"] = [{"genes": t, "combos": "joint", "modes": ["mask"]} for t in triples.tolist()]
    config["output"]["report"] = False
    del config["enrich"]
    (folder / f"{seed}.yaml").write_text(yaml.safe_dump(config | more))
    ran(["run", str(folder / f"{seed}.yaml"), "--out", str(folder / str(seed))])
    return pl.read_parquet(folder / str(seed) / "hits.parquet").filter(~pl.col("is_null")).drop_nulls("p_value")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 1 if too much is called."""
    given = options(__doc__, arguments)
    n_worlds, n_listed, max_cells = (2, 6, 6) if given.quick else (20, 30, 15)
    more: dict[str, object] = {"null": {"n": 20}} if given.quick else {}
    with tempfile.TemporaryDirectory() as folder:
        hits = [world(Path(folder), FIRST_WORLD + w, n_listed, max_cells, more) for w in range(n_worlds)]
    at5_W, at1_W = (np.array([(h["p_value"] < level).mean() for h in hits]) for level in (0.05, 0.01))
    half = 1.96 * at5_W.std(ddof=1) / np.sqrt(n_worlds)
    called = float(np.mean([bool((h["q_value"] < 0.1).any()) for h in hits]))
    said = {
        "interval": [round(at5_W.mean() - half, 4), round(at5_W.mean() + half, 4)],
        "below_01": round(float(at1_W.mean()), 4),
        "any_q_below_10": called,
        "worlds": n_worlds,
        "perturbations": sum(h.height for h in hits),
    }
    line = record(
        "type_1_joint_mask", round(float(at5_W.mean()), 4), "of p below .05", None, None, given.results, **said
    )
    chance = 1.96 * np.sqrt(MOST_CALLED * (1 - MOST_CALLED) / n_worlds)
    faults = [reported(line, at_most=LEAST + half)]
    if called > MOST_CALLED + chance:
        faults.append(f"{line['name']}: something is called in {called:.2f} of the worlds")
    return exit_code(faults, given.quick)


if __name__ == "__main__":
    sys.exit(main())
