"""Window: which rows a model sees, and how much of each."""

from dataclasses import dataclass

from screen.cells.bank import SOURCE
from screen.planning.perturbations import Perturbation


@dataclass(frozen=True)
class Window:
    """Which rows a model sees: the source, context, and what is read out, and how many ids of each row (`max_len`).

    pred_tps         states that are read out: time points, or the source itself

    pool_everywhere: upstream leaves perturbed genes out of the pooled target embedding at every predicted time point;
    otherwise only where the target is edited.
    """

    pred_tps: tuple[int, ...]
    context_tps: tuple[int, ...]
    max_len: int
    pool_everywhere: bool = False

    @property
    def times(self) -> tuple[int, ...]:
        """Target time points that are read, ascending."""
        return tuple(sorted({*self.pred_tps, *self.context_tps} - {SOURCE}))

    def excludes_genes(self, perturbation: Perturbation, time: int) -> bool:
        """Whether pooling of this state leaves the perturbed genes out (perturbed run only)."""
        if time == SOURCE:
            return "src" in perturbation.sites
        return "tgt" in perturbation.sites and (self.pool_everywhere or time in perturbation.pert_tps)
