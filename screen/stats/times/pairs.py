"""Pairs: what an edit changes at one time point beside what it changes at another, in the same cells, per gene."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from screen.config.sections import DegConfig
from screen.stats.gene_results import GeneResults, by_replicate, concatenated, of_together, of_units
from screen.stats.groups import READ_BYTES, WORK_BYTES, Group, GroupReader
from screen.stats.moments import Rounding, moments_with
from screen.stats.partial_moments import cut
from screen.stats.tests.sample import Sample
from screen.stats.units import Units, runs

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

    def of_group(self, number: int) -> "RoundingOfBoth":
        """That of one of many groups at once."""
        assert self.both_G is not None
        return RoundingOfBoth(self.dtype, self.scale, self.both_G[number])

    def step_G(self, magnitude_G: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same whatever the difference: it is not the difference that was rounded."""
        assert self.both_G is not None
        return self.both_G


class _Found(NamedTuple):
    """A pair before its genes are read: its changes, and which of their items are of it."""

    perturbation: int
    stratum: int
    time: int
    before: int
    changes: "_Changes"
    at_N: Ints
    cell_N: Ints


def pairs(reader: GroupReader, perturbations: Sequence[int]) -> Iterator[Pair]:
    """Every pair of time points that the settings compare, of some of the store's perturbations, by stratum.

    Strata without a cell that was screened at both have none.
    """
    rows = [reader.block.rows_of(p - reader.block.first) for p in perturbations]
    # as many values of both time points as fit the cache, but for one perturbation's
    for some in runs([len(row_I) for row_I in rows], WORK_BYTES // (8 * reader.n_genes)):
        found = list(_found(reader, perturbations[some], rows[some]))
        yield from map(partial(_pair, reader), found, _results(reader, found))


def _found(reader: GroupReader, perturbations: Sequence[int], rows: Sequence[Ints]) -> Iterator[_Found]:
    """The pairs of some perturbations, whose items are read at once."""
    row_I, edges = np.concatenate(rows), np.cumsum([0, *map(len, rows)]).tolist()
    cell_I = reader.block.read("items/cell", row_I).astype(np.int64)
    stratum_I, changes = reader.strata.stratum_C[cell_I], _Changes(reader, row_I)
    is_screened = {t: changes.is_screened(t) for pair in reader.config.compare for t in pair}
    for p, (start, stop) in zip(perturbations, pairwise(edges), strict=True):
        for before, time in reader.config.compare:
            is_both_I = is_screened[before][start:stop] & is_screened[time][start:stop]
            stratum_N = np.where(is_both_I, stratum_I[start:stop], -1)
            for stratum in sorted(set(stratum_N.tolist()) - {-1}):
                at_N = start + np.flatnonzero(stratum_N == stratum)
                yield _Found(p, stratum, time, before, changes, at_N, cell_I[at_N])


def _results(reader: GroupReader, found: Sequence[_Found]) -> list[GeneResults]:
    """Of each pair: small ones together, where their tests are of moments."""
    if not reader.takes_together:
        return [_genes(reader, f) for f in found]
    genes = list[GeneResults]()
    for some in runs([len(f.at_N) for f in found], WORK_BYTES // (8 * reader.n_genes)):
        few = found[some]
        genes += [_genes(reader, f) for f in few] if len(few) == 1 else _of_few(reader, few)
    return genes


def _of_few(reader: GroupReader, found: Sequence[_Found]) -> list[GeneResults]:
    """`_genes` of each, at once."""
    scale, every = np.float32(reader.layout.delta_scale), slice(0, reader.n_genes)
    group_I, replicate_C = np.repeat(np.arange(len(found)), [len(f.at_N) for f in found]), reader.strata.replicate_C
    before_IG, after_IG = (
        np.concatenate([f.changes.part(t, f.at_N, every) for f, t in zip(found, times, strict=True)]).astype(np.float32)
        / scale
        for times in ([f.before for f in found], [f.time for f in found])
    )
    replicate_I = None if replicate_C is None else replicate_C[np.concatenate([f.cell_N for f in found])]
    units = Units.of(group_I, replicate_I, len(found))
    before_UG, after_UG = (units.means(x).astype(np.float64, copy=False) for x in (before_IG, after_IG))
    results = dict[int, GeneResults]()
    for group_N, unit_NR in units.together():
        sample = _sample(before_UG[unit_NR], after_UG[unit_NR], reader.rounding, replicate_I is not None)
        results |= zip(group_N.tolist(), of_together(sample, reader.config), strict=True)
    return [results[i] for i in range(len(found))]


class _Changes:
    """The changes of the I items of some perturbations as they are stored; all of them at once where they fit."""

    def __init__(self, reader: GroupReader, row_I: Ints) -> None:
        self._block, self._row_I = reader.block, row_I
        times = {t for pair in reader.config.compare for t in pair}
        self.itemsize = max(reader.block.array(f"delta/t{t}").dtype.itemsize for t in times)
        fits = len(times) * self.itemsize * len(row_I) * reader.n_genes <= READ_BYTES
        self._kept = {t: reader.block.read(f"delta/t{t}", row_I) for t in times} if fits else {}

    def is_screened(self, time: int) -> NDArray[np.bool_]:
        """(I,) whether an item has a prediction at a time point."""
        return np.asarray(self._block.read(f"items/is_screened_t{time}", self._row_I))

    def part(self, time: int, at_N: Ints, genes: slice) -> NDArray[np.floating]:
        """(N, G') of some of the items and genes."""
        if time in self._kept:
            return np.asarray(self._kept[time][at_N, genes])
        return self._block.read_part(f"delta/t{time}", self._row_I[at_N], genes)


def _pair(reader: GroupReader, found: _Found, genes: GeneResults) -> Pair:
    replicate_N = _replicates(reader, found)
    nan = float("nan")
    return Pair(
        perturbation=found.perturbation,
        stratum=found.stratum,
        time=found.time,
        time_before=found.before,
        n_cells=len(found.at_N),
        n_replicates=0 if replicate_N is None else len(set(replicate_N[replicate_N >= 0].tolist())),
        genes=genes,
        embedding_shift=nan,
        rank=nan,
        length=nan,
        n_edited=nan,
        test=reader.test,
    )


def _replicates(reader: GroupReader, found: _Found) -> Ints | None:
    return None if reader.strata.replicate_C is None else reader.strata.replicate_C[found.cell_N]


def _genes(reader: GroupReader, found: _Found) -> GeneResults:
    """Genes some at a time: as many as fit, stored, and of these as many as fit decoded."""
    scale, n, changes = np.float32(reader.layout.delta_scale), len(found.at_N), found.changes
    replicate_N, parts = _replicates(reader, found), list[GeneResults]()
    for wide in cut(reader.n_genes, READ_BYTES // (2 * n * (changes.itemsize + 4))):
        stored = [changes.part(t, found.at_N, wide) for t in (found.before, found.time)]
        for narrow in cut(stored[0].shape[1], WORK_BYTES // (8 * n)):
            before_NG, after_NG = (x[:, narrow].astype(np.float32) / scale for x in stored)
            parts.append(difference(before_NG, after_NG, replicate_N, reader.config, reader.rounding))
    return with_steps(parts)


def difference(
    before_NG: NDArray[np.float32],
    after_NG: NDArray[np.float32],
    replicate_N: Ints | None,
    config: DegConfig,
    stored: Rounding,
) -> GeneResults:
    """Of the changes of N items at two time points, (N, G) each: paired tests of the difference.

    Means and tests are over replicates where there are some. The unpaired rank-sum, where it is asked for, is between the two.
    Both changes were rounded when they were `stored`, each by the step of its root mean square: errors add up as squares.
    """
    of_replicates = replicate_N is not None
    before_RG, after_RG = (
        x.astype(np.float64) if replicate_N is None else by_replicate(x, replicate_N) for x in (before_NG, after_NG)
    )
    return of_units(_sample(before_RG, after_RG, stored, of_replicates), config)


def _sample(
    before_RG: NDArray[np.float64], after_RG: NDArray[np.float64], stored: Rounding, of_replicates: bool
) -> Sample:
    """Of R units, or of many groups of as many at once, (N, R, G)."""
    # differences of float16 are exact in float64
    delta_RG = after_RG - before_RG
    square_G = sum(np.square(stored.step_G(np.sqrt(np.square(x).mean(axis=-2)))) for x in (before_RG, after_RG))
    rounding = RoundingOfBoth(stored.dtype, stored.scale, np.sqrt(square_G))
    return Sample(moments_with(delta_RG, before_RG, delta_RG), delta_RG, before_RG, after_RG, rounding, of_replicates)


def with_steps(parts: Sequence[GeneResults]) -> GeneResults:
    """The results of genes that were computed some at a time, and the steps that all of them were rounded by."""
    roundings = [p.sample.rounding for p in parts]
    steps = [r.both_G for r in roundings if isinstance(r, RoundingOfBoth) and r.both_G is not None]
    whole = concatenated(parts)
    rounding = RoundingOfBoth(roundings[0].dtype, roundings[0].scale, np.concatenate(steps))
    return replace(whole, sample=replace(whole.sample, rounding=rounding))
