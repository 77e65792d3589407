"""Null perturbations: random genes like the ones asked for, which a list of genes is judged against.

How strong an edit is depends on how high its gene ranks and in how many cells it is. Genes drawn from everywhere do not
surround a list of, say, the highest-ranked ones; so every gene asked for gets the nearest others that are left.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from screen.config.sections import FEWEST_NULLS, MANY_NULLS, NullConfig
from screen.errors import ConfigError
from screen.planning.index import BankIndex
from screen.planning.perturbations import Perturbation, edited_states, make_perturbation, parse_perturbation

Groups = list[tuple[int, ...]]
Values = NDArray[np.float64]
NEAREST, NEAREST_OF_JOINT = 4, 40
"""A gene asked for gets one of so many nearest that are left. In a joint edit each gene is replaced by one of more: there
are many such edits, and none should be another's copy."""


@dataclass(frozen=True)
class NullPlan:
    """How null perturbations are drawn: settings, strata (group of each cell, names), what an output directory holds.

    min_cells  cells that a perturbation needs to be ranked, and a null one to be of use
    there      id -> whether it is a null perturbation, of a directory that exists already: it keeps its own
    """

    config: NullConfig
    stratum_C: NDArray[np.int64]
    stratum: tuple[str, ...]
    min_cells: int
    there: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class _Kind:
    """Perturbations that are compared with each other, apart from stratum and time: their first stands for all."""

    example: Perturbation
    asked: tuple[Perturbation, ...]
    possible: tuple[int, ...]

    def made(self, genes: Sequence[int], index: BankIndex) -> Perturbation:
        e = self.example
        return make_perturbation(genes, e.mode, e.sites, e.pert_tps, index.vocabulary)


def null_perturbations(
    asked: Sequence[Perturbation], possible: Callable[[Perturbation], list[int]], index: BankIndex, plan: NullPlan
) -> list[Perturbation]:
    """Null perturbations for those that the user named; `possible` gives the genes that can be edited as one of them is.

    As many as the settings say, for every mode, site, number of genes and stratum; without a number MANY_NULLS, or as many
    as there are, or none where these are fewer than FEWEST_NULLS. The same for the same screen.
    Raises ConfigError for a number that cannot be met.
    """
    kinds: dict[tuple[object, ...], list[Perturbation]] = {}
    for p in asked:
        kinds.setdefault((p.mode, p.sites, p.pert_tps, len(p.genes)), []).append(p)
    taken = {g for p in asked for g in p.genes}
    made: list[Perturbation] = []
    for some in kinds.values():
        free = tuple(g for g in possible(some[0]) if g not in taken)
        made += _of_kind(_Kind(some[0], tuple(some), free), index, plan)
    return made


def _of_kind(kind: _Kind, index: BankIndex, plan: NullPlan) -> list[Perturbation]:
    kept = _kept(kind, index, plan)
    wanted, n = plan.config.n, MANY_NULLS if plan.config.n is None else plan.config.n
    new = [p for p in kind.asked if p.id(index.vocabulary) not in plan.there]
    if not new and (wanted is None or wanted <= len(kept)):
        return kept
    # where nothing new is asked for, what is wanted beyond what a directory has; else others, near what is new
    drawn: Groups = [] if new else [p.genes for p in kept]
    new = new or list(kind.asked)
    profile = _Profile(kind, index, plan)
    counts = [profile.draw(s, n, [p.genes for p in new], drawn) for s in range(len(plan.stratum))]
    if wanted is not None and max(counts, default=0) < n:
        raise ConfigError(
            f"null.n is {wanted}, but only {max(counts, default=0)} genes beside those of the library can be edited "
            f"({kind.example.mode}) in at least {profile.fewest} cells; ask for fewer, or for `genes: all`, which needs no "
            "null perturbations"
        )
    return list(dict.fromkeys([*kept, *(kind.made(g, index) for g in drawn)]))


def _kept(kind: _Kind, index: BankIndex, plan: NullPlan) -> list[Perturbation]:
    """The null perturbations of this kind that are there already, those that the user asks for by name aside."""
    e = kind.example
    start = f"{e.site_label}:{e.mode}:"
    names = [i for i, is_null in plan.there.items() if is_null and i.startswith(start)]
    found = [parse_perturbation(i, index.vocabulary) for i in names]
    return [p for p in found if len(p.genes) == len(e.genes) and p not in kind.asked]


class _Profile:
    """Where genes stand: in each stratum the cells that hold them in an edited row, and their mean rank there."""

    def __init__(self, kind: _Kind, index: BankIndex, plan: NullPlan) -> None:
        self.kind, self.fewest = kind, plan.min_cells
        needs_gene, n_strata = kind.example.edit.mode.needs_gene, len(plan.stratum)
        self.free = np.array(kind.possible, dtype=np.int64)
        held_SG, self._rank_SG = _where_genes_stand(kind.example, index, plan)
        self._held_SG = held_SG
        # an insertion is made in every cell
        size_S = np.bincount(plan.stratum_C, minlength=n_strata)
        self._cells_SG = held_SG if needs_gene else np.broadcast_to(size_S[:, None], held_SG.shape)
        if not (self._cells_SG >= self.fewest).any():
            self.fewest = 1
        self._draw = np.random.Generator(np.random.Philox(key=plan.config.seed))

    def draw(self, stratum: int, n: int, asked: Groups, drawn: Groups) -> int:
        """Adds to `drawn` until `n` are of use in a stratum; how many are. None where nothing asked for is of use there.

        Nothing is added where less than FEWEST_NULLS would be.
        """
        usable = [g for g in asked if self._is_usable(stratum, g)]
        have = [g for g in drawn if self._is_usable(stratum, g)]
        if not usable or len(have) >= n:
            return len(have) if usable else 0
        free = self.free[self._cells_SG[stratum, self.free] >= self.fewest]
        if len(asked[0]) == 1:
            free = np.setdiff1d(free, [g for (g,) in drawn])
            new: Groups = [(g,) for g in self._nearest(stratum, [g for (g,) in usable], free, n - len(have))]
        else:
            new = list(self._joint(stratum, usable, free, n - len(have), set(drawn)))
        if len(have) + len(new) >= FEWEST_NULLS:
            drawn += new
        return len(have) + len(new)

    def _is_usable(self, stratum: int, genes: Sequence[int]) -> bool:
        return int(self._cells_SG[stratum, list(genes)].max()) >= self.fewest

    def _place(self, stratum: int, among: NDArray[np.int64]) -> Values:
        """(G, 2) quantiles of every gene's rank and of the cells that hold it, among some; genes held nowhere come last."""
        rank_G, held_G = self._rank_SG[stratum], self._held_SG[stratum].astype(np.float64)
        return np.stack([_quantile(x_G, x_G[among]) for x_G in (rank_G, held_G)], axis=1)

    def _nearest(self, stratum: int, asked: Sequence[int], free: NDArray[np.int64], n: int) -> list[int]:
        """The genes asked for, in random turns, take one of the nearest that are left, until there are n or none is left."""
        place_G2, is_left_F = self._place(stratum, np.append(free, asked)), np.ones(len(free), dtype=bool)
        found: list[int] = []
        while len(found) < min(n, len(free)):
            for gene in self._draw.permutation(asked)[: min(n, len(free)) - len(found)]:
                away_F = np.square(place_G2[free] - place_G2[gene]).sum(1)
                near = np.argsort(np.where(is_left_F, away_F, np.inf), kind="stable")[: min(NEAREST, is_left_F.sum())]
                taken = int(self._draw.choice(near))
                is_left_F[taken] = False
                found.append(int(free[taken]))
        return found

    def _joint(
        self, stratum: int, asked: Groups, free: NDArray[np.int64], n: int, drawn: set[tuple[int, ...]]
    ) -> Iterator[tuple[int, ...]]:
        """Joint edits of genes, each near one of a joint edit asked for; none twice, in whatever order."""
        size = len(asked[0])
        if len(free) < size:
            return
        place_G2 = self._place(stratum, np.append(free, [g for genes in asked for g in genes]))
        known, n_found = {frozenset(g) for g in drawn}, 0
        # some are drawn twice where there are few
        for number in range(20 * n):
            found: list[int] = []
            for gene in asked[number % len(asked)]:
                away_F = np.square(place_G2[free] - place_G2[gene]).sum(1)
                near = [
                    int(g) for g in free[np.argsort(away_F, kind="stable")[: NEAREST_OF_JOINT + size]] if g not in found
                ]
                found.append(near[int(self._draw.integers(min(len(near), NEAREST_OF_JOINT)))])
            if frozenset(found) not in known:
                known.add(frozenset(found))
                yield tuple(found)
                n_found += 1
            if n_found == n:
                return


def _where_genes_stand(example: Perturbation, index: BankIndex, plan: NullPlan) -> tuple[NDArray[np.int64], Values]:
    """(S, G) cells that hold each gene in an edited row, at most over the states; and its mean rank in the first of them."""
    n_strata, n_genes = len(plan.stratum), len(index.vocabulary)
    held_SG, first_SG = np.zeros((n_strata, n_genes), dtype=np.int64), np.zeros((0, 0))
    for state in edited_states(example):
        n_SG, rank_SG = index[state].tally(plan.stratum_C, n_strata)
        held_SG = np.maximum(held_SG, n_SG)
        if not first_SG.size:
            first_SG = np.where(n_SG > 0, rank_SG / np.maximum(n_SG, 1), np.inf)
    return held_SG, first_SG


def _quantile(x_G: Values, among_N: Values) -> Values:
    """Place of each value among some, 0 to 1; ties share it."""
    known_N = np.sort(among_N)
    below_G, upto_G = (np.searchsorted(known_N, x_G, side=side) for side in ("left", "right"))
    return np.asarray((below_G + upto_G) / (2 * max(len(known_N), 1)), dtype=np.float64)
