"""Sizes: how large a planted screen is, and how it is kept."""

from dataclasses import asdict, dataclass
from typing import Any

from screen.config.section import Mode
from screen.edits import DELETE, MASK, OVEREXPRESS, PAD
from screen.errors import ConfigError
from screen.planning.layout import Layout

WIDTH = 8
"""Of an embedding; nothing is said by it."""
SINGLES: dict[Mode, float] = {MASK.name: 0.40, OVEREXPRESS.name: 0.25, DELETE.name: 0.12, PAD.name: 0.12}
"""Mode -> its share of the perturbations asked for; joint edits are the others."""
STEP: dict[Mode, int] = {MASK.name: 1, OVEREXPRESS.name: 2, DELETE.name: 3, PAD.name: 3}
"""Every which of the genes with a role is edited in a mode."""
JOINT: dict[Mode, float] = {MASK.name: 2 / 3, OVEREXPRESS.name: 1 / 3}
"""Mode -> its share of the joint edits."""
FEWEST, GENES_PER_PERTURBATION = 250, 0.25
STRATA = ("B cells", "CD4 T cells", "Monocytes", "NK cells")
HOSTILE_STRATUM = '"><img src=x onerror=alert(1)>'


@dataclass(frozen=True)
class Sizes:
    """How much of everything. `n_perturbations` are asked for; of every kind of edit `n_nulls` null ones are beside them.

    n_cells  of all strata together
    n_genes  of the model; None: 400, or as many as the perturbations need
    top      genes written per group; None: all
    """

    n_perturbations: int = 300
    n_strata: int = 4
    n_cells: int = 40
    n_genes: int | None = None
    times: tuple[int, ...] = (1, 2)
    n_nulls: int = 60
    n_donors: int = 4
    seed: int = 0
    is_hostile: bool = False
    keep: str = "predictions"
    top: int | None = None
    has_replicates: bool = True
    has_relations: bool = False
    min_cells: int = 5
    cell_types: tuple[str, ...] = STRATA

    def __post_init__(self) -> None:
        if self.n_perturbations < FEWEST:
            raise ConfigError(f"{self.n_perturbations} perturbations; what is planted needs {FEWEST} or more")
        if len(self.times) < 2:
            raise ConfigError(f"time points {self.times}; some hits are planted at one of two or more")
        if self.n_cells < self.n_strata * self.min_cells:
            raise ConfigError(
                f"{self.n_cells} cells in {self.n_strata} strata; {self.min_cells} or more each are needed"
            )
        if self.keep == "summaries" and self.has_replicates:
            raise ConfigError("a test over donors needs the single cells: keep predictions, or say --no-replicates")

    @property
    def genes(self) -> int:
        """Genes of the model."""
        return self.n_genes or max(400, int(GENES_PER_PERTURBATION * self.n_perturbations))

    @property
    def strata(self) -> tuple[str, ...]:
        """Names of the groups of cells."""
        names = [self.cell_types[s] if s < len(self.cell_types) else f"Cell type {s + 1}" for s in range(self.n_strata)]
        return (*names[:-1], HOSTILE_STRATUM) if self.is_hostile else tuple(names)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "times": list(self.times), "cell_types": list(self.cell_types)}

    @property
    def layout(self) -> Layout:
        """What the store keeps."""
        is_small = self.keep == "summaries"
        return Layout(
            self.times,
            WIDTH,
            "log1p_cp10k",
            "float32" if is_small else "float16",
            keep="summaries" if is_small else "predictions",
        )

    def counts(self, n_free: int) -> dict[Mode, int]:
        """Mode -> genes edited singly; what a mode has too few genes for goes to the next."""
        found, left = dict[Mode, int](), 0.0
        for mode, share in SINGLES.items():
            wanted = share * self.n_perturbations + left
            found[mode] = min(round(wanted), n_free)
            left = wanted - found[mode]
        return found
