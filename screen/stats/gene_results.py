"""GeneResults: what is said of every gene of a group, and how it is computed from items or from their moments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from screen.config.sections import DegConfig
from screen.stats.moments import Moments, moments_of, standard_error
from screen.stats.tests.sample import Sample
from screen.stats.tests.table import computed

Genes = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class GeneResults:
    """Per gene (G,): the mean change and its standard error, means of counts, and what tests computed, by name."""

    mean_delta: Genes
    se: Genes
    target_mean: Genes
    ref_mean: Genes
    of_tests: Mapping[str, Genes]

    def of(self, name: str) -> Genes:
        """A value of a test; NaN where it was not computed (not asked for, too few cells, only summaries kept)."""
        found = self.of_tests.get(name)
        return np.full(len(self.mean_delta), np.nan) if found is None else found


def statistics_of(
    delta_NG: NDArray[np.floating],
    before_NG: NDArray[np.floating],
    is_log1p: bool,
    replicate_N: NDArray[np.int64] | None,
    config: DegConfig,
    control_NG: NDArray[np.floating] | None = None,
) -> GeneResults:
    """Of N items, (N, G) each; tests are over replicate means where the items have replicates.

    `before_NG` are the controls as counts (`counts_of`), `control_NG` as they are stored, for tests that need values.
    """
    inference = of_cells = moments_of(delta_NG, before_NG, is_log1p)
    after_NG = None if control_NG is None else control_NG + delta_NG
    if replicate_N is not None:
        delta_NG = mean_by(delta_NG, replicate_N)
        inference = moments_of(delta_NG, delta_NG, False)
        control_NG, after_NG = (None if x is None else mean_by(x, replicate_N) for x in (control_NG, after_NG))
    return _tested(Sample(inference, delta_NG, control_NG, after_NG), of_cells, config)


def from_moments(moments: Moments, config: DegConfig) -> GeneResults:
    """What moments alone allow: no ranks."""
    return _tested(Sample(moments), moments, config)


def _tested(sample: Sample, of_cells: Moments, config: DegConfig) -> GeneResults:
    """Every test that is asked for and can be made; expression levels are those of the cells."""
    of_tests: dict[str, Genes] = {}
    if sample.moments.n_cells > 1:
        for test in computed(config):
            if sample.has(test.needs):
                found = test.compute(sample, config)
                missing = {test.statistic, test.p_value, *test.columns} - set(found)
                assert not missing, f"the test {test.name} does not compute {sorted(missing)}, which it declares"
                of_tests |= found
    return GeneResults(
        mean_delta=sample.moments.mean_delta_G,
        se=standard_error(sample.moments),
        target_mean=of_cells.target_mean_G,
        ref_mean=of_cells.ref_mean_G,
        of_tests=of_tests,
    )


def mean_by(values_NG: NDArray[np.floating], code_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean rows of the items with the same code, in order of the codes."""
    order_N = np.argsort(code_N, kind="stable")
    start_R = np.flatnonzero(np.diff(code_N[order_N], prepend=-1))
    sum_RG = np.add.reduceat(values_NG[order_N].astype(np.float64), start_R, axis=0)
    mean_RG: NDArray[np.float64] = sum_RG / np.diff(np.append(start_R, len(code_N)))[:, None]
    return mean_RG


def concatenated(parts: Sequence[GeneResults]) -> GeneResults:
    """The results of genes that were computed some at a time."""
    if len(parts) == 1:
        return parts[0]
    always = ("mean_delta", "se", "target_mean", "ref_mean")
    return GeneResults(
        **{name: np.concatenate([getattr(p, name) for p in parts]) for name in always},
        of_tests={name: np.concatenate([p.of_tests[name] for p in parts]) for name in parts[0].of_tests},
    )
