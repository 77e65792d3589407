"""Pairs: what an edit changes at one time point beside what it changes at another, in the same cells, per gene."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from screen.config.sections import DegConfig
from screen.stats.gene_results import GeneResults, by_replicate, concatenated, statistics_of
from screen.stats.groups import READ_BYTES, WORK_BYTES, Group, GroupReader
from screen.stats.moments import Rounding
from screen.stats.partial_moments import cut

Ints: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Pair(Group):
    """A group whose changes are differences: those at `time` minus those at `time_before`, of cells that have both.

    `genes` has of them: mean_delta, the mean difference, and its error and tests; target_mean, ref_mean: the mean change at
    `time`, and at `time_before`.
    """

    time_before: int


@dataclass(frozen=True)
class RoundingOfBoth(Rounding):
    """Of a difference of two stored changes, each with a step of its own: `both_G`, the root of the sum of their squares."""

    both_G: NDArray[np.float64] | None = None

    def step_G(self, magnitude_G: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same whatever the difference: it is not the difference that was rounded."""
        assert self.both_G is not None
        return self.both_G


def pairs(reader: GroupReader, perturbations: Sequence[int]) -> Iterator[Pair]:
    """Every pair of time points that the settings compare, of some of the store's perturbations, by stratum.

    Strata without a cell that was screened at both have none.
    """
    block, strata = reader.block, reader.strata
    for p in perturbations:
        row_I = block.rows_of(p - block.first)
        cell_I = block.read("items/cell", row_I).astype(np.int64)
        stratum_I = strata.stratum_C[cell_I]
        for before, time in reader.config.compare:
            is_both_I = block.read(f"items/is_screened_t{before}", row_I) & block.read(
                f"items/is_screened_t{time}", row_I
            )
            for stratum in np.unique(stratum_I[is_both_I & (stratum_I >= 0)]).tolist():
                at_I = np.flatnonzero(is_both_I & (stratum_I == stratum))
                yield _pair(reader, (p, stratum, time, before), row_I[at_I], cell_I[at_I])


def _pair(reader: GroupReader, which: tuple[int, int, int, int], row_N: Ints, cell_N: Ints) -> Pair:
    perturbation, stratum, time, before = which
    replicate_N = None if reader.strata.replicate_C is None else reader.strata.replicate_C[cell_N]
    nan = float("nan")
    return Pair(
        perturbation=perturbation,
        stratum=stratum,
        time=time,
        time_before=before,
        n_cells=len(row_N),
        n_replicates=0 if replicate_N is None else len(np.unique(replicate_N[replicate_N >= 0])),
        genes=_genes(reader, before, time, row_N, replicate_N),
        embedding_shift=nan,
        rank=nan,
        length=nan,
        n_edited=nan,
        test=reader.test,
    )


def _genes(reader: GroupReader, before: int, time: int, row_N: Ints, replicate_N: Ints | None) -> GeneResults:
    """Genes some at a time: as many as fit, stored, and of these as many as fit decoded."""
    block, scale, n = reader.block, np.float32(reader.layout.delta_scale), len(row_N)
    itemsize = block.array(f"delta/t{time}").dtype.itemsize
    parts, steps = list[GeneResults](), list[NDArray[np.float64]]()
    for wide in cut(reader.n_genes, READ_BYTES // (2 * n * (itemsize + 4))):
        stored = [block.read_part(f"delta/t{t}", row_N, wide) for t in (before, time)]
        for narrow in cut(stored[0].shape[1], WORK_BYTES // (8 * n)):
            before_NG, after_NG = (x[:, narrow].astype(np.float32) / scale for x in stored)
            rounding = rounding_of(before_NG, after_NG, replicate_N, reader.rounding)
            assert rounding.both_G is not None
            steps.append(rounding.both_G)
            parts.append(difference(before_NG, after_NG, replicate_N, reader.config, rounding))
    whole = concatenated(parts)
    rounding = replace(rounding, both_G=np.concatenate(steps))
    return replace(whole, sample=replace(whole.sample, rounding=rounding))


def difference(
    before_NG: NDArray[np.float32],
    after_NG: NDArray[np.float32],
    replicate_N: Ints | None,
    config: DegConfig,
    rounding: RoundingOfBoth,
) -> GeneResults:
    """Of the changes of N items at two time points, (N, G) each: paired tests of the difference.

    The unpaired rank-sum, where it is asked for, is between the two. Means and tests are over replicates where there are some.
    """
    # differences of float16 are exact in float64
    delta_NG = after_NG.astype(np.float64) - before_NG
    return statistics_of(delta_NG, before_NG, False, replicate_N, config, before_NG, rounding)


def rounding_of(
    before_NG: NDArray[np.float32], after_NG: NDArray[np.float32], replicate_N: Ints | None, stored: Rounding
) -> RoundingOfBoth:
    """How far off both changes are, each as `screen.stats.moments.least_error` has it: by the step of its root mean square."""
    square_G = np.zeros(before_NG.shape[1])
    for values_NG in (before_NG, after_NG):
        of_units = values_NG.astype(np.float64) if replicate_N is None else by_replicate(values_NG, replicate_N)
        square_G += np.square(stored.step_G(np.sqrt(np.mean(np.square(of_units), axis=0))))
    return RoundingOfBoth(stored.dtype, stored.scale, np.sqrt(square_G))
