"""GeneResults: what is said of every gene of a group, and how it is computed from items or from their moments."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from screen.config.sections import DegConfig
from screen.stats.moments import (
    FLOAT32,
    Moments,
    Rounding,
    count_change,
    moments_of,
    moments_with,
    of_group,
    stacked,
    standard_error,
)
from screen.stats.tests.gene_test import GeneTest
from screen.stats.tests.sample import Sample
from screen.stats.tests.table import SIGN_AGREEMENT, computed

Genes = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class GeneResults:
    """What is said of every gene of a group: (G,) each.

    sample      moments alone, of the cells, or of the replicates where there are some
    of_changes  what was computed of single changes, by name; gene by gene, so that genes may be computed some at a time;
                or of moments of many groups at once (`of_many`)
    """

    sample: Sample
    config: DegConfig
    of_changes: Mapping[str, Genes]

    @property
    def mean_delta(self) -> Genes:
        """The mean change."""
        return self.sample.moments.mean_delta_G

    @cached_property
    def se(self) -> Genes:
        """The standard error of the mean change."""
        return standard_error(self.sample.moments)

    @property
    def target_mean(self) -> Genes:
        """Mean counts with the edit."""
        return self.sample.moments.target_mean_G

    @property
    def ref_mean(self) -> Genes:
        """Mean counts without the edit."""
        return self.sample.moments.ref_mean_G

    @cached_property
    def of_tests(self) -> Mapping[str, Genes]:
        """What tests computed, by name; those of moments see all genes of the group, and are computed when first asked for."""
        return _tested(self.sample, self.config, "moments", self.of_changes) | dict(self.of_changes)

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
    rounding: Rounding = FLOAT32,
) -> GeneResults:
    """Of N items, (N, G) each; means and tests are over replicate means where the items have replicates.

    `before_NG` are the controls as counts (`counts_of`), `control_NG` as they are stored, for tests that need values.
    Items whose replicate is missing (below 0) are left out; where all are, their means are given, and no test.
    """
    after_NG = None if control_NG is None else control_NG + delta_NG
    if replicate_N is None:
        moments = moments_of(delta_NG, before_NG, is_log1p)
        return of_units(Sample(moments, delta_NG, control_NG, after_NG, rounding), config)
    change_NG = count_change(delta_NG, before_NG, is_log1p)
    values, replicates = (delta_NG, before_NG, change_NG, control_NG, after_NG), Replicates(replicate_N)
    delta_RG, before_RG, change_RG, control_RG, after_RG = (None if x is None else replicates.means(x) for x in values)
    assert delta_RG is not None and before_RG is not None and change_RG is not None
    moments = moments_with(delta_RG, before_RG, change_RG)
    return of_units(Sample(moments, delta_RG, control_RG, after_RG, rounding, of_replicates=True), config)


def of_units(sample: Sample, config: DegConfig) -> GeneResults:
    """Of cells or replicates, whose changes are at hand."""
    delta_NG = sample.delta_NG
    assert delta_NG is not None
    has_agreement = sample.of_replicates and len(delta_NG) > 1
    return _results(sample, config, {SIGN_AGREEMENT: sign_agreement(delta_NG)} if has_agreement else {})


def from_moments(moments: Moments, config: DegConfig, rounding: Rounding = FLOAT32) -> GeneResults:
    """What moments alone allow: no ranks."""
    return _results(Sample(moments, rounding=rounding), config, {})


def of_many(moments_N: Sequence[Moments], config: DegConfig, rounding: Rounding = FLOAT32) -> list[GeneResults]:
    """`from_moments` of every group; tests that take many groups are computed for all groups of as many cells.

    Two thousand genes are so few that threads would mostly wait for each other between one array and the next.
    """
    n_cells_N, found = np.array([m.n_cells for m in moments_N]), dict[int, GeneResults]()
    for n_cells in np.unique(n_cells_N).tolist():
        at = np.flatnonzero(n_cells_N == n_cells).tolist()
        alone_N = [moments_N[i] for i in at]
        found |= zip(at, of_together(Sample(stacked(alone_N), rounding=rounding), config, alone_N), strict=True)
    return [found[i] for i in range(len(moments_N))]


def of_together(sample: Sample, config: DegConfig, moments_N: Sequence[Moments] | None = None) -> list[GeneResults]:
    """Of N groups of as many cells or replicates: a sample whose moments are (N, G), and whose changes, if any, (N, R, G).

    Tests of moments alone are computed, and those that take many groups at once; `GeneResults.of_tests` has the others.
    moments_N  those of each group, where they are at hand
    """
    moments, found = sample.moments, dict[str, Genes]()
    if moments.n_cells > 1:
        for test in computed(config):
            if test.takes_groups and test.needs == "moments":
                found |= _of_test(test, sample, config)
        if sample.of_replicates and sample.delta_NG is not None:
            found[SIGN_AGREEMENT] = sign_agreement(sample.delta_NG)
    return [
        GeneResults(
            sample=Sample(
                of_group(moments, i) if moments_N is None else moments_N[i],
                rounding=sample.rounding.of_group(i),
                of_replicates=sample.of_replicates,
            ),
            config=config,
            of_changes={name: x_NG[i] for name, x_NG in found.items()},
        )
        for i in range(len(moments.mean_delta_G))
    ]


def _results(sample: Sample, config: DegConfig, more: Mapping[str, Genes]) -> GeneResults:
    of_changes = _tested(sample, config, "changes") | _tested(sample, config, "values") | dict(more)
    alone = replace(sample, delta_NG=None, before_NG=None, after_NG=None)
    return GeneResults(sample=alone, config=config, of_changes=of_changes)


def _tested(sample: Sample, config: DegConfig, needs: str, there: Container[str] = ()) -> dict[str, Genes]:
    """Every test with these needs that is asked for, can be made and is not there yet."""
    found: dict[str, Genes] = {}
    if sample.moments.n_cells > 1:
        for test in computed(config):
            if test.needs == needs and test.p_value not in there and sample.has(test.needs):
                found |= _of_test(test, sample, config)
    return found


def _of_test(test: GeneTest, sample: Sample, config: DegConfig) -> Mapping[str, Genes]:
    found = test.compute(sample, config)
    missing = {test.statistic, test.p_value, *test.columns} - set(found)
    assert not missing, f"the test {test.name} does not compute {sorted(missing)}, which it declares"
    return found


def sign_agreement(delta_RG: NDArray[np.floating]) -> Genes:
    """Per gene the share of the replicates that change to the side to which their mean does; NaN where that is 0."""
    mean_G = delta_RG.mean(axis=-2)
    share_G: Genes = (np.sign(delta_RG) == np.sign(mean_G)[..., None, :]).mean(axis=-2)
    return np.where(mean_G == 0, np.nan, share_G)


def by_replicate(values_NG: NDArray[np.floating], replicate_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """(R, G) means of the replicates there are; without any, of all items."""
    return Replicates(replicate_N).means(values_NG)


class Replicates:
    """Which items are of which replicate, looked up once for all that is said of the items."""

    def __init__(self, replicate_N: NDArray[np.int64]) -> None:
        has_N = replicate_N >= 0
        self._has_N = None if has_N.all() or not has_N.any() else has_N
        code_N = replicate_N if self._has_N is None else replicate_N[has_N]
        self._order_N, self._start_R, self._n_R1 = _runs_of(code_N if has_N.any() else np.zeros_like(replicate_N))

    def means(self, values_NG: NDArray[np.floating]) -> NDArray[np.float64]:
        """(R, G) means of the replicates there are; without any, of all items."""
        some_NG = values_NG if self._has_N is None else values_NG[self._has_N]
        return _means_of(some_NG, self._order_N, self._start_R, self._n_R1)


def mean_by(values_NG: NDArray[np.floating], code_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean rows of the items with the same code, in order of the codes."""
    return _means_of(values_NG, *_runs_of(code_N))


def _runs_of(code_N: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(order of the items by code, where each code begins in it, how many items it has (R, 1))."""
    order_N = np.argsort(code_N, kind="stable")
    sorted_N = code_N[order_N]
    start_R = np.flatnonzero(np.append(True, sorted_N[1:] != sorted_N[:-1])[: len(code_N)])
    return order_N, start_R, np.diff(np.append(start_R, len(code_N)))[:, None]


def _means_of(
    values_NG: NDArray[np.floating], order_N: NDArray[np.int64], start_R: NDArray[np.int64], n_R1: NDArray[np.int64]
) -> NDArray[np.float64]:
    sum_RG = np.add.reduceat(values_NG[order_N].astype(np.float64), start_R, axis=0)
    mean_RG: NDArray[np.float64] = sum_RG / n_R1
    return mean_RG


def concatenated(parts: Sequence[GeneResults]) -> GeneResults:
    """The results of genes that were computed some at a time; tests of moments are made of all of them together."""
    if len(parts) == 1:
        return parts[0]
    first, moments = parts[0].sample, [p.sample.moments for p in parts]
    per_gene = [f.name for f in fields(Moments) if f.name != "n_cells"]
    whole = Moments(first.moments.n_cells, *(np.concatenate([getattr(m, name) for m in moments]) for name in per_gene))
    return GeneResults(
        sample=replace(first, moments=whole),
        config=parts[0].config,
        of_changes={name: np.concatenate([p.of_changes[name] for p in parts]) for name in parts[0].of_changes},
    )
