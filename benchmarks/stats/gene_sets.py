"""Gene sets where there is nothing to find, and where a set was shifted: models whose gene embeddings are permuted.

In such a model an edited gene has another gene's vector: whatever set its name belongs to, the claim is false.

python -m benchmarks.stats.gene_sets --worlds DIR  # a quarter of an hour on two cores; DIR keeps the screens for the next time
"""

import csv
import io
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import yaml

from benchmarks.record import ROOT, record
from benchmarks.run_all import exit_code, parser_of, reported
from screen.cli.main import main as command
from screen.directory import STORE
from screen.edits import MASK, OVEREXPRESS
from screen.models.unpickle import load_torch
from screen.stats import enrich
from screen.stats.sets.gene_sets import GeneSets
from screen.store.store import ScreenStore

DATA = ROOT / "screen" / "demo" / "data"
SETS = DATA / "reactome_small.gmt"
Q_NULL, Q_PLANTED = 0.05, 0.1
MOST_NULL, LEAST_POWER, MOST_FALSE = 0.05, 0.5, 0.1
SHIFTS = (1.0, 2.0, 3.0)
"""Of every gene of a set, as multiples of the perturbation's strength (root mean square change over genes)."""
MUST = 2.0
"""The shift that the power is asked of."""


@dataclass(frozen=True)
class Work:
    """Seeds of permuted models, genes of the long screens ("all" or a list), random genes beside the lists, plants, cells."""

    seeds: tuple[int, ...]
    genes: Any
    n_listed: int
    n_null: int | None
    n_plants: int
    max_cells: int


REAL = Work((1, 2), "all", 20, None, 8, 15)


def genes() -> list[dict[str, str]]:
    with (DATA / "genes.tsv").open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def permuted(seed: int, path: Path) -> Path:
    """The demo's checkpoint with the vectors of genes permuted, one order for source and target; special tokens stay."""
    raw, listed = load_torch(DATA / "demo.ckpt"), genes()
    order = np.random.default_rng(seed).permutation(len(listed))
    for name, weight in raw["state_dict"].items():
        if name.endswith("token_embedding.weight"):
            column = "token_id" if "encoder_layers" in name else "row_id"
            token = torch.tensor([int(g[column]) for g in listed])
            moved = weight.clone()
            moved[token] = weight[token[torch.from_numpy(order)]]
            raw["state_dict"][name] = moved
    torch.save(raw, path)
    return path


def screened(folder: Path, name: str, seed: int, work: Work, library: Any) -> Path:
    """The directory of a finished screen of a permuted model, as the demo's configuration has it; made once."""
    out = folder / name
    if not (out / "hits.parquet").is_file():
        config = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
        config["model"] = {
            "checkpoint": str(permuted(seed, folder / f"{name}.ckpt")),
            "vocabulary": str(DATA / "genes.tsv"),
        }
        config["cells"] |= {
            "h5ad": str(DATA / "cells.h5ad"),
            "pairing": str(DATA / "pairs.tsv"),
            "max_cells": work.max_cells,
        }
        config["library"] = {"genes": library, "modes": [MASK.name, OVEREXPRESS.name]}
        config |= {} if work.n_null is None or library == "all" else {"null": {"n": work.n_null}}
        del config["enrich"]
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
        ran(["run", str(folder / f"{name}.yaml"), "--out", str(out)])
    return out


def ran(arguments: list[str]) -> None:
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as errors:
        code = command(arguments)
    # a gene that no cell expresses is not screened, which the exit code tells
    if code and "requested perturbation(s) not screened" not in errors.getvalue():
        raise RuntimeError(f"perturbscreen {' '.join(arguments)} ended with {code}: {errors.getvalue()}")


def scores(directory: Path) -> pl.DataFrame:
    """What the command says of gene sets, at its defaults."""
    ran(["deg", str(directory), "--gene-sets", str(SETS), "--top", "0"])
    return enrich.scan_scores(directory).collect()


def null_shares(table: pl.DataFrame, name: str) -> Iterator[tuple[str, float, dict[str, Any]]]:
    """(name, share of perturbations with any set at q below Q_NULL, what else there is to say) of each mode."""
    judged = table.filter(pl.col("p_value").is_not_null())
    for (mode,), part in judged.group_by("mode", maintain_order=True):
        least = part.group_by("perturbation", "stratum", "time").agg(pl.col("p_value", "q_value").min())
        more = {"n_perturbations": least.height, "share_p": round(float((least["p_value"] < 0.05).mean()), 4)}  # type: ignore[arg-type]
        yield f"gene_sets_null_{name}_{mode}", float((least["q_value"] < Q_NULL).mean()), more  # type: ignore[arg-type]


def planted(directory: Path, copy: Path, plants: dict[str, np.ndarray], shift: float) -> dict[str, float]:
    """A copy of a screen in which the genes (G,) of a set change more in every cell of some perturbations.

    Returns the shift of each in log units.
    """
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(directory, copy)
    # they are of the changes as they were: tables would be made of them, and show no plant
    for moments in (copy / STORE).glob("library/*/moments"):
        shutil.rmtree(moments)
    hits = pl.read_parquet(copy / "hits.parquet")
    store = ScreenStore.open(copy / STORE, "r+")
    ids, block, added = store.perturbations("id").tolist(), store.blocks[0], {}
    array = block.array("delta/t1")
    for perturbation, member_G in plants.items():
        added[perturbation] = shift * float(hits.filter(perturbation=perturbation)["strength"][0])
        for row in block.rows_of(ids.index(perturbation)).tolist():
            array[row] = array[row] + (added[perturbation] * store.layout.delta_scale * member_G).astype(array.dtype)
    return added


def powers(
    directory: Path, copy: Path, sets: GeneSets, work: Work, shift: float
) -> Iterator[tuple[str, float, float, dict[str, Any]]]:
    """(mode, power, false discovery rate, sizes) of two planted perturbations of a list, a set each, by the command.

    False is a set of a perturbation without a plant, and of one with it a set that has no gene in common with the planted one.
    """
    hits = pl.read_parquet(directory / "hits.parquet").filter(~pl.col("is_null") & (pl.col("strength_rank") > 0))
    rng, found = np.random.default_rng(0), {m: [] for m in (MASK.name, OVEREXPRESS.name)}
    common_SS = (sets.member_SG.astype(np.float32) @ sets.member_GS) > 0
    for _ in range(work.n_plants):
        chosen = {m: rng.choice(hits.filter(mode=m)["perturbation"].to_numpy(), 2, replace=False) for m in found}
        planted_set = {p: int(rng.integers(len(sets))) for two in chosen.values() for p in two}
        added = planted(directory, copy, {p: sets.member_SG[s] for p, s in planted_set.items()}, shift)
        called = scores(copy).filter(pl.col("q_value") < Q_PLANTED)
        for mode, two in chosen.items():
            rows = [
                (p, sets.name_S.index(s)) for p, s in called.filter(mode=mode).select("perturbation", "gene_set").rows()
            ]
            power = float(np.mean([(p, planted_set[p]) in rows for p in two]))
            false = sum(p not in planted_set or not common_SS[planted_set[p], s] for p, s in rows)
            found[mode].append((power, false / max(len(rows), 1), float(np.mean([added[p] for p in two]))))
    for mode, rounds in found.items():
        power, false, size = np.mean(rounds, axis=0)
        more = {"shift_in_strengths": shift, "shift_in_log_units": round(float(size), 5), "n_plants": 2 * work.n_plants}
        yield mode, float(power), float(false), more


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 1 if a set is called where there is none, or too few where there are."""
    warnings.simplefilter("ignore")
    parser = parser_of(__doc__)
    parser.add_argument("--worlds", type=Path, help="screens are made here, or found")
    given = parser.parse_args(arguments)
    known = [g["ensembl_id"] for g in genes()]
    work = Work((1,), known[:1500:30], 8, 20, 1, 6) if given.quick else REAL
    faults = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.worlds or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for seed in work.seeds:
            table = scores(screened(folder, f"permuted{seed}", seed, work, work.genes))
            for name, share, more in null_shares(table, str(seed)):
                line = record(name, round(share, 4), "of them", None, None, given.results, **more)
                faults.append(reported(line, at_most=MOST_NULL))
        listed = np.random.default_rng(7).permutation(known).tolist()
        # of a list of genes only those that enough cells have are ranked among the knock-outs
        directory = screened(
            folder, "listed", 1, work, [g for g in listed if g in detected(folder, work)][: work.n_listed]
        )
        sets = GeneSets.read([SETS], known, [g["symbol"] for g in genes()])
        for shift in SHIFTS if not given.quick else (MUST,):
            for mode, power, false, more in powers(directory, Path(temporary) / "copy", sets, work, shift):
                name = f"{mode}_{shift:g}"
                line = record(f"gene_sets_power_{name}", round(power, 3), "of them", None, None, given.results, **more)
                faults.append(reported(line, at_least=LEAST_POWER if shift == MUST else None))
                line = record(f"gene_sets_fdr_{name}", round(false, 3), "of them", None, None, given.results, **more)
                faults.append(reported(line, at_most=MOST_FALSE if shift == MUST else None))
    return exit_code(faults, given.quick)


def detected(folder: Path, work: Work) -> set[str]:
    """Genes whose knock-out the first screen ranks."""
    table = pl.read_parquet(folder / f"permuted{work.seeds[0]}" / "hits.parquet")
    return set(table.filter((pl.col("mode") == MASK.name) & (pl.col("strength_rank") > 0))["target"])


if __name__ == "__main__":
    sys.exit(main())
