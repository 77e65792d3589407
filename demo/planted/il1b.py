"""python -m demo.planted.il1b --out DIR: a made-up screen of the shape that configs/il1b_lps.yaml has, finished.

IL1B and random genes knocked out in the source of three kinds of cells, read out at two time points. Nothing predicted it: masking
IL1B lowers and raises the genes of one made-up set early (in both kinds of monocytes), of another late (in CD14 monocytes).
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demo.planted.cells import FIRST_TOKEN, STRATUM_COLUMN, Cells, make_cells
from demo.planted.effects import Ints, PlantedEngine, PlantedScreen, Values
from demo.planted.sizes import Sizes
from demo.planted.truth import MODULES, N_SHIFT, Role, Truth
from demo.planted.written import finished, planned
from screen.cells.vocabulary import Vocabulary
from screen.edits import MASK
from screen.planning.perturbations import Library, make_perturbation
from screen.results.results import Results
from screen.running.listener import Lines, Listener

CELL_TYPES = ("B cells", "CD14 monocytes", "CD16 monocytes")
EARLY, LATE = 0, 1
"""Numbers of the responses; a half of the genes of each rises, the other falls."""
STRENGTH = {(EARLY, "CD14 monocytes"): 0.010, (EARLY, "CD16 monocytes"): 0.010, (LATE, "CD14 monocytes"): 0.012}
"""Response and cell type -> root mean square over genes, in log units; EARLY is at the first time point, LATE at the last."""
IL1B, N_NULLS, N_RANDOM_SETS = ("ENSG00000125538", "IL1B"), 100, 30


class LpsEngine(PlantedEngine):
    """Makes up what IL1B does beside what every edit does."""

    def _changes(self, k: int, p_R: Ints, cell_R: Ints, gene_R2: Ints, rank_R2: Ints) -> Values:
        delta_RG = super()._changes(k, p_R, cell_R, gene_R2, rank_R2)
        cells = self.screen.cells
        strength_S = np.array([STRENGTH.get((k, name), 0.0) for name in cells.stratum], dtype=np.float32)
        # the first perturbation is IL1B's
        own_R = (p_R == 0) * strength_S[cells.stratum_C[cell_R]] * self.responses.factor_C[cell_R]
        delta_RG += own_R.astype(np.float32)[:, None] * self.responses.program_KG[k]
        return delta_RG


def plant(sizes: Sizes, cells: Cells) -> Truth:
    """IL1B, a gene that most cells express, and null genes; the same for the same sizes and cells."""
    n_SG = np.stack([cells.has_CG[cells.stratum_C == s].sum(0) for s in range(len(cells.stratum))])
    common = np.flatnonzero((n_SG >= sizes.min_cells).all(0))
    order = common[np.argsort(-cells.has_CG[:, common].sum(0), kind="stable")].tolist()
    # one that does no more than most, but for what is planted
    gene = order.pop(2 * sizes.n_nulls // 5)
    null = order[: sizes.n_nulls]
    ids = [f"ENSG99{g + 1:09d}" for g in range(sizes.genes)]
    symbols = [f"GENE{g + 1:04d}" for g in range(sizes.genes)]
    ids[gene], symbols[gene] = IL1B
    tokens = np.arange(sizes.genes) + FIRST_TOKEN
    vocabulary = Vocabulary(tuple(ids), tuple(symbols), tuple(ids), tokens, tokens, origin="planted genes")
    edits = tuple(make_perturbation([g], MASK.name, ["src"], [], vocabulary) for g in (gene, *null))
    library = Library(edits, (True,) + (False,) * len(null), (False,) + (True,) * len(null))
    roles = tuple(Role(s, "planted" if g == gene else "ordinary") for g, s in enumerate(symbols))
    return Truth(roles, vocabulary, (gene,), (), tuple(null), len(MODULES) + N_SHIFT, library, {})


def gene_sets(screen: PlantedScreen, program_KG: NDArray[np.floating]) -> Iterator[str]:
    """Lines of a GMT file: what rises and falls early and late, and random genes."""
    rng, symbol = np.random.default_rng([screen.sizes.seed, 5]), screen.truth.vocabulary.symbol
    sets = {
        f"{name}_{up}": np.flatnonzero(sign * program_KG[program] > 0)
        for name, program in (("EARLY", EARLY), ("LATE", LATE))
        for up, sign in (("UP", 1), ("DOWN", -1))
    }
    for i in range(N_RANDOM_SETS):
        sets[f"RANDOM_{i + 1:02d}"] = rng.choice(len(symbol), int(rng.integers(8, 60)), replace=False)
    for name, genes in sets.items():
        yield "\t".join([name, "planted", *(symbol[g] for g in genes)]) + "\n"


def build(directory: Path, listener: Listener | None = None, n_cells: int = 60) -> Results:
    """Makes a finished screen; the same bytes for the same directory. Raises StoreError where one is there already."""
    sizes = Sizes(
        n_strata=3, n_cells=n_cells, n_genes=300, n_nulls=N_NULLS, has_replicates=False, cell_types=CELL_TYPES
    )
    cells = make_cells(sizes)
    screen = planned(sizes, cells, plant(sizes, cells))
    engine = LpsEngine(screen)
    planted = [{"response": ("EARLY", "LATE")[r], STRATUM_COLUMN: c, "strength": x} for (r, c), x in STRENGTH.items()]
    truth: dict[str, Any] = {"sizes": sizes.as_json(), "planted": planted}
    sets = gene_sets(screen, engine.responses.program_KG)
    return finished(directory, screen, engine, sets, truth, listener or Lines(lambda text: None), compare=((1, 2),))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory that is made; an empty one")
    lines = Lines(lambda text: sys.stdout.write(f"{text}\n"))
    lines.say(repr(build(parser.parse_args().out, lines)))


if __name__ == "__main__":
    main()
