"""How often nothing is called something: lists of genes drawn from genome-wide screens in which no gene is special.

python -m benchmarks.stats.null_worlds permuted CONFIG DIR   # a screen of a model whose gene embeddings were permuted
python -m benchmarks.stats.null_worlds swapped CONFIG DIR    # a real screen; changes are swapped within each cell
python -m benchmarks.stats.null_worlds asked CONFIG DIR      # a list, or joint edits, in a permuted model, as the command did it

DIR is a finished screen of `genes: all` with `keep: predictions`. A list's null perturbations are drawn by the planner, as
for any user, and looked up in the screen. Per kind of list: type I error at .05 and .01 with 95 % intervals, and the share
of draws in which anything has q < .1.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from scipy import sparse

from benchmarks.record import RESULTS, record
from benchmarks.run_all import reported
from screen.config.sections import NullConfig
from screen.directory import STORE
from screen.planning.index import BankIndex
from screen.planning.null_genes import NullPlan, null_perturbations
from screen.planning.perturbations import Perturbation, make_perturbation
from screen.running.configuration import load_config
from screen.running.prepare import prepare
from screen.stats.false_discovery import benjamini_hochberg
from screen.stats.null import calibrate, covariates
from screen.store.reader import StoreReader

LIST, N_DRAWS, MIN_CELLS, NEAR, N_SWAPS = 20, 200, 5, 20, 20


@dataclass(frozen=True)
class World:
    """One mode of a genome-wide screen: P perturbations, their strengths and what these depend on."""

    mode: str
    gene_P: np.ndarray
    strength_P: np.ndarray
    covariate_PK: np.ndarray
    n_cells_P: np.ndarray
    n_edited_P: np.ndarray
    rank_P: np.ndarray


class Screened:
    """A finished genome-wide screen: its items, and the planner's index of its cells."""

    def __init__(self, config: Path, directory: Path) -> None:
        self.store = StoreReader.open(directory / STORE)
        self.block = self.store.blocks[0]
        screen = prepare(load_config(config))
        self.index: BankIndex = screen.index
        self.vocabulary, self.plan = screen.vocabulary, screen.plan
        self.mode_P = self.block.strings("perturbations/mode")
        symbol = {e: i for i, e in enumerate(screen.vocabulary.ensembl_id)}
        self.gene_P = np.array([symbol[g] for g in self.block.strings("perturbations/target_gene")])
        self.perturbation_I = self.block.read("items/perturbation")
        self.cell_I, self.n_edited_I = self.block.read("items/cell"), self.block.read("items/n_edited")
        self.rank_I, self.length_I = (self.block.effect(n).astype(float) for n in ("rank", "length"))

    def world(self, mode: str, swap: np.random.Generator | None = None) -> World:
        """The perturbations of a mode with enough cells; with `swap`, items exchange their changes with near ones."""
        item_N = np.flatnonzero(self.mode_P[self.perturbation_I] == mode)
        source_N = item_N if swap is None else self._swapped(item_N, swap)
        ps, place_N = np.unique(self.perturbation_I[item_N], return_inverse=True)
        n_cells_P = np.bincount(place_N).astype(float)
        mean_PG = self._means(place_N, source_N, n_cells_P)
        known_N = self.rank_I[item_N] >= 0
        with np.errstate(invalid="ignore"):
            rank_P = np.bincount(place_N, np.where(known_N, self.rank_I[item_N], 0)) / np.bincount(place_N, known_N)
        length_P = np.bincount(place_N, self.length_I[item_N]) / n_cells_P
        n_edited_P = np.bincount(place_N, self.n_edited_I[item_N]) / n_cells_P
        enough = np.flatnonzero(n_cells_P >= MIN_CELLS)
        return World(
            mode,
            self.gene_P[ps][enough],
            np.sqrt(np.square(mean_PG).mean(1))[enough],
            covariates(rank_P, n_cells_P, length_P, n_edited_P)[enough],
            n_cells_P[enough],
            n_edited_P[enough],
            rank_P[enough],
        )

    def _means(self, place_N: np.ndarray, source_N: np.ndarray, n_cells_P: np.ndarray) -> np.ndarray:
        if not hasattr(self, "_delta_IG"):
            self._delta_IG = self.block.delta(self.store.layout.pred_tps[0], slice(None))
        shape = len(n_cells_P), len(self._delta_IG)
        member = sparse.csr_matrix((1 / n_cells_P[place_N], (place_N, source_N)), shape=shape)
        return member.astype(np.float32) @ self._delta_IG

    def _swapped(self, item_N: np.ndarray, swap: np.random.Generator) -> np.ndarray:
        """The items permuted within each cell, within runs of NEAR by rank; absent genes, which have none, among themselves."""
        order = np.lexsort((np.where(self.rank_I[item_N] < 0, 1e9, self.rank_I[item_N]), self.cell_I[item_N]))
        run = np.concatenate([self._runs(n, swap) for n in np.unique(self.cell_I[item_N], return_counts=True)[1]])
        cell = self.cell_I[item_N][order].astype(np.int64)
        absent = self.rank_I[item_N][order] < 0
        shuffled = np.lexsort((swap.random(len(order)), np.where(absent, 10**6, run), cell))
        straight = np.lexsort((np.arange(len(order)), np.where(absent, 10**6, run), cell))
        out = np.empty(len(item_N), dtype=np.int64)
        out[order[straight]] = item_N[order[shuffled]]
        return out

    @staticmethod
    def _runs(n: int, swap: np.random.Generator) -> np.ndarray:
        return (np.arange(n) + int(swap.integers(NEAR))) // NEAR


KINDS: dict[str, Callable[[World, np.random.Generator], np.ndarray]] = {
    "random": lambda w, rng: rng.permutation(len(w.gene_P))[:LIST],
    "top-ranked": lambda w, rng: _of(w, rng, np.where(np.isnan(w.rank_P), np.inf, w.rank_P)),
    "rarest": lambda w, rng: _of(w, rng, w.n_edited_P * w.n_cells_P),
    "most detected": lambda w, rng: _of(w, rng, -w.n_edited_P * w.n_cells_P),
}


def _of(world: World, rng: np.random.Generator, key_P: np.ndarray) -> np.ndarray:
    """A list from the tenth of perturbations with the smallest key; ties by chance."""
    order = np.lexsort((rng.random(len(key_P)), key_P))
    return rng.permutation(order[: max(len(order) // 10, LIST)])[:LIST]


def judged(screened: Screened, world: World, chosen: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(p, q) of a list, against the null perturbations that the planner gives it."""
    vocabulary, place = screened.vocabulary, {g: i for i, g in enumerate(world.gene_P.tolist())}
    plan = NullPlan(NullConfig(seed=seed), screened.plan.stratum_C * 0, ("all",), MIN_CELLS)

    def made(gene: int) -> Perturbation:
        return make_perturbation([gene], world.mode, ["src"], [], vocabulary)

    asked = [made(g) for g in world.gene_P[chosen].tolist()]
    drawn = null_perturbations(asked, lambda p: world.gene_P.tolist(), screened.index, plan)
    null = np.array([place[p.genes[0]] for p in drawn])
    both = np.concatenate([chosen, null])
    found = calibrate(world.strength_P[both], world.covariate_PK[both], np.arange(len(both)) >= len(chosen))
    p_L = found.p_P[: len(chosen)]
    return p_L, benjamini_hochberg(p_L)


def lists(
    screened: Screened, worlds: Sequence[World], kind: str, n_draws: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """((draws, LIST) p, (draws, LIST) number of each perturbation, other in other worlds, (draws,) whether any q < .1)."""
    rng, ps, which, called = np.random.default_rng(0), [], [], []
    for number in range(n_draws):
        at = number % len(worlds)
        chosen = KINDS[kind](worlds[at], rng)
        p_L, q_L = judged(screened, worlds[at], chosen, number)
        ps.append(p_L)
        which.append(at * 10**6 + chosen)
        called.append((q_L < 0.1).any())
    return np.array(ps), np.array(which), np.array(called)


def share_below(p_N: np.ndarray, which_N: np.ndarray, level: float) -> tuple[float, float]:
    """(share of p below a level, half its 95 % interval): drawn again and again, a perturbation is one observation."""
    _, place_N = np.unique(which_N, return_inverse=True)
    n_P, below_P = np.bincount(place_N), np.bincount(place_N, p_N < level)
    share = below_P.sum() / n_P.sum()
    # the ratio's standard error, perturbations as clusters
    return float(share), float(1.96 * np.sqrt(np.square(below_P - share * n_P).sum()) / n_P.sum())


def main(arguments: list[str] | None = None) -> int:
    """Records what it measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["permuted", "swapped", "asked"])
    parser.add_argument("config", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--draws", type=int, default=N_DRAWS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    said = Said(given.kind, given.directory.name, given.results)
    if given.kind == "asked":
        hits = pl.read_parquet(given.directory / "hits.parquet").drop_nulls("q_value")
        for (mode,), part in hits.group_by("mode", maintain_order=True):
            p_N = part["p_value"].to_numpy()
            said(str(mode), "asked", p_N, np.arange(len(p_N)), (part["q_value"].to_numpy() < 0.1).any(keepdims=True))
        return 0
    screened = Screened(given.config, given.directory)
    for mode in np.unique(screened.mode_P).tolist():
        swaps = [None] if given.kind == "permuted" else [np.random.default_rng([7, i]) for i in range(N_SWAPS)]
        worlds = [screened.world(mode, s) for s in swaps]
        for which in KINDS:
            p_DL, which_DL, called_D = lists(screened, worlds, which, given.draws)
            said(mode, which, p_DL.ravel(), which_DL.ravel(), called_D)
        found = [calibrate(w.strength_P, w.covariate_PK).p_P for w in worlds]
        called_D = np.array([(benjamini_hochberg(p) < 0.1).any() for p in found])
        p_N = np.concatenate(found)
        said(mode, "all", p_N, np.arange(len(p_N)), called_D)
    return 0


@dataclass(frozen=True)
class Said:
    """Records figures of one world."""

    kind: str
    world: str
    results: Path

    def __call__(self, mode: str, which: str, p_N: np.ndarray, which_N: np.ndarray, called_D: np.ndarray) -> None:
        (at5, half5), (at1, half1) = (share_below(p_N, which_N, level) for level in (0.05, 0.01))
        more = {
            "interval": [round(at5 - half5, 4), round(at5 + half5, 4)],
            "below_01": round(at1, 4),
            "interval_01": [round(at1 - half1, 4), round(at1 + half1, 4)],
            "any_q_below_10": round(float(called_D.mean()), 4),
            "draws": len(called_D),
            "perturbations": len(np.unique(which_N)),
        }
        name = f"type_1_{self.kind}_{self.world}_{mode}_{which.replace(' ', '_')}"
        reported(record(name, round(at5, 4), "of p below .05", None, None, self.results, **more))


if __name__ == "__main__":
    sys.exit(main())
