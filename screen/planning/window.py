"""Window: which rows a model sees, and how much of each."""

from dataclasses import dataclass

from screen.planning.perturbations import Perturbation


@dataclass(frozen=True)
class Window:
    """Which rows a model sees: predicted and context time points, and how many ids of each row (`max_len`).

    pool_everywhere: upstream leaves perturbed genes out of the pooled target embedding at every predicted time point;
    otherwise only where the target is edited.
    """

    pred_tps: tuple[int, ...]
    context_tps: tuple[int, ...]
    max_len: int
    pool_everywhere: bool = False

    def excludes_genes(self, perturbation: Perturbation, time: int) -> bool:
        """Whether pooling at this time point leaves the perturbed genes out (perturbed run only)."""
        return "tgt" in perturbation.sites and (self.pool_everywhere or time in perturbation.pert_tps)
