"""Planted effects found again, and how much of what is called is false: perturbations by the matched null, genes by the tests.

python -m benchmarks.stats.power                   # two minutes; appends to benchmarks/results.jsonl
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.record import median, p20_p80, record
from benchmarks.run_all import exit_code, options, reported
from screen.config.sections import MANY_NULLS, DegConfig
from screen.stats.false_discovery import benjamini_hochberg
from screen.stats.gene_results import statistics_of
from screen.stats.null import calibrate

PERTURBATION_FDR, GENE_FDR = 0.1, 0.05
SLACK = 1.2
"""A realised rate is a mean of a few simulations: it may lie so much above the rate asked for."""


@dataclass(frozen=True)
class Asked:
    """A screen: perturbations asked for, how many of them have an effect, null ones beside them (0: all genes are asked for)."""

    n_asked: int
    n_hits: int
    n_nulls: int = 0

    @property
    def name(self) -> str:
        """For the records."""
        return f"{'list' if self.n_nulls else 'all'}_{self.n_asked}_{self.n_hits}"


@dataclass(frozen=True)
class Work:
    """Simulations of each screen; the screens; cells and genes of a group, and how often genes are simulated."""

    n_rounds: int
    screens: tuple[Asked, ...]
    n_cells: int
    n_genes: int
    n_gene_rounds: int


LISTS = tuple(Asked(n, hits, MANY_NULLS) for n, hits in ((20, 1), (100, 10), (300, 30)))
"""As a user gets them: the default number of null perturbations."""
REAL = Work(60, (*LISTS, *(Asked(3000, hits) for hits in (10, 30, 300))), 50, 2000, 20)
TINY = Work(2, (LISTS[0], Asked(400, 20)), 50, 200, 2)
SMALL_LIST = 20
"""In a list this short the one false call among one or two is much: its rate may be SMALL_LIST_FDR."""
SMALL_LIST_FDR = 0.15


def strengths(n: int, n_hits: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(strengths, covariates, which have an effect) of a simulated model whose edits are noise apart from the effects.

    The noise is the larger and the more variable the lower a gene ranks and the fewer cells have it; an effect is 1 to 3
    times as much as e is to 1.
    """
    rng = np.random.default_rng(seed)
    rank, detection, length = rng.exponential(200, n), rng.uniform(0.05, 1, n), rng.normal(400, 80, n)
    location = -3 - 0.004 * rank - 1.5 * np.log(detection) + 0.002 * length
    spread = 0.15 + 0.3 * (1 - detection)
    has_effect = np.arange(n) < n_hits
    log_strength = location + spread * rng.standard_normal(n) + has_effect * rng.uniform(1, 3, n)
    return np.exp(log_strength), np.stack([rank, np.log(detection), length], axis=1), has_effect


def of_perturbations(screen: Asked, seed: int) -> tuple[float, float]:
    """(share of the effects that are called, share of the called that are none)."""
    n = screen.n_asked + screen.n_nulls
    strength_P, covariate_PK, has_effect_P = strengths(n, screen.n_hits, seed)
    is_null_P = np.arange(n) >= screen.n_asked
    p_P = calibrate(strength_P, covariate_PK, is_null_P if screen.n_nulls else None).p_P
    return rates(benjamini_hochberg(np.where(is_null_P, np.nan, p_P)) < PERTURBATION_FDR, has_effect_P)


def of_genes(work: Work, seed: int) -> dict[str, tuple[float, float]]:
    """The same for genes of one group, by each test: one gene in twenty shifts by 0.2 to 1 of its spread between cells."""
    rng, shape = np.random.default_rng(seed), (work.n_cells, work.n_genes)
    control_NG = rng.gamma(2.0, 0.5, shape).astype(np.float32)
    has_effect_G = np.arange(work.n_genes) < work.n_genes // 20
    shift_G = 0.02 * rng.uniform(0.2, 1, work.n_genes) * rng.choice([-1, 1], work.n_genes) * has_effect_G
    delta_NG = (shift_G + 0.02 * rng.standard_normal(shape)).astype(np.float32)
    found = statistics_of(
        delta_NG, np.expm1(control_NG), True, None, DegConfig(rank_sum="tie_corrected", signed_rank=True), control_NG
    )
    p = {name: found.of(f"{name}_p_value") for name in ("t", "signed_rank", "rank_sum")}
    return {name: rates(benjamini_hochberg(x) < GENE_FDR, has_effect_G) for name, x in p.items()}


def rates(is_called: np.ndarray, has_effect: np.ndarray) -> tuple[float, float]:
    """(power, false discovery rate)."""
    n_called = int(is_called.sum())
    return float((is_called & has_effect).sum() / has_effect.sum()), float(
        (is_called & ~has_effect).sum() / max(n_called, 1)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 1 if more is false than was asked for."""
    given = options(__doc__, arguments)
    work = TINY if given.quick else REAL
    genes = [of_genes(work, seed) for seed in range(work.n_gene_rounds)]
    measured: dict[str, tuple[float, list[tuple[float, float]]]] = {
        **{
            s.name: (
                SMALL_LIST_FDR if s.n_asked <= SMALL_LIST else PERTURBATION_FDR,
                [of_perturbations(s, seed) for seed in range(work.n_rounds)],
            )
            for s in work.screens
        },
        **{f"genes_{test}": (GENE_FDR, [g[test] for g in genes]) for test in genes[0]},
    }
    faults = []
    for name, (rate, found) in measured.items():
        power, false = zip(*found, strict=True)
        shared = {"n_simulations": len(found), "asked_for": rate}
        faults.append(_said(f"power_{name}", power, given.results, lambda line: reported(line), **shared))
        faults.append(
            _said(f"fdr_{name}", false, given.results, lambda line, r=rate: reported(line, at_most=SLACK * r), **shared)
        )
    return exit_code(faults, given.quick)


def _said(name: str, values: Sequence[float], path: Path, say: Callable[..., str], **more: float) -> str:
    mean = float(np.mean(values))
    spread = [round(x, 4) for x in p20_p80(values)]
    line = record(
        name, round(mean, 4), "of them", None, None, path, p20_p80=spread, median=round(median(values), 4), **more
    )
    return say(line)


if __name__ == "__main__":
    sys.exit(main())
