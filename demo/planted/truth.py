"""Truth: which genes do what in a planted screen, by role, and which perturbations follow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from demo.planted.cells import FIRST_TOKEN, Cells
from demo.planted.sizes import JOINT, STEP, Sizes
from screen.cells.vocabulary import Vocabulary
from screen.config.section import Mode
from screen.errors import ConfigError
from screen.planning.perturbations import Library, Perturbation, make_perturbation

HIT, MODULE, SHIFT, PAIR = 0.012, 0.009, 0.0016, 0.006
"""Root mean square over genes of what they change, in log units; an ordinary edit is at 0.002 to 0.003, noise included."""
MODULES = ("A", "B", "C")
N_ALL, N_ONE_STRATUM, N_ONE_TIME, N_MODULE, N_SHIFT, N_PAIRS = 5, 2, 3, 5, 2, 6
INTERACTIONS = ("additive", "synergy", "suppression", "new response")
HOSTILE_SYMBOLS = ("<script>alert(1)</script>", "__proto__")


@dataclass(frozen=True)
class Role:
    """What editing one gene does beside what every edit does; active in some strata and at some time points (numbers).

    kind     ordinary (nothing), everywhere, one stratum, one time, module, gene-set shift, pair, rare
    program  number of the response that it has, and how strongly
    """

    symbol: str
    kind: str = "ordinary"
    program: int = -1
    strength: float = 0.0
    strata: tuple[int, ...] = ()
    times: tuple[int, ...] = ()


@dataclass(frozen=True)
class Pair:
    """A planted joint edit: two genes (columns) and how they act together."""

    genes: tuple[int, int]
    interaction: str = "additive"
    program: int = -1


@dataclass(frozen=True)
class Truth:
    """What is planted: `role` has every gene by column.

    planted, ordinary, null  genes of a role, others asked for, those of the null
    n_programs               responses in all; the first are those of the modules, then those of the shifted sets
    pair_of                  number of a perturbation of the library -> the planted pair that it edits
    """

    role: tuple[Role, ...]
    vocabulary: Vocabulary
    planted: tuple[int, ...]
    ordinary: tuple[int, ...]
    null: tuple[int, ...]
    n_programs: int
    library: Library
    pair_of: Mapping[int, Pair]


def plant(sizes: Sizes, cells: Cells) -> Truth:
    """The same for the same sizes and cells. Raises ConfigError where there are too few genes."""
    rng = np.random.default_rng([sizes.seed, 2])
    free, null = _free(cells, sizes, rng)
    roles, pairs, n_programs = _roles(sizes, cells)
    counts = sizes.counts(len(free))
    if min(counts[mode] for mode in JOINT) < len(roles):
        raise ConfigError(
            f"{sizes.n_perturbations} perturbations of {len(free)} genes edit {min(counts[mode] for mode in JOINT)} in each of "
            f"{', '.join(JOINT)}; what is planted needs {len(roles)}: ask for more perturbations, or genes"
        )
    asked = free[: max(counts.values())]
    of_gene = [Role(f"GENE{g + 1:04d}") for g in range(sizes.genes)]
    for gene, role in zip(asked, roles, strict=False):
        of_gene[gene] = role
    symbols = tuple(r.symbol for r in of_gene)
    ids = tuple(f"ENSG99{g + 1:09d}" for g in range(sizes.genes))
    tokens = np.arange(sizes.genes) + FIRST_TOKEN
    vocabulary = Vocabulary(ids, symbols, ids, tokens, tokens, origin="planted genes")
    planted = tuple(Pair((asked[a], asked[b]), kind, program) for a, b, kind, program in pairs)
    library, pair_of = _library(sizes, vocabulary, counts, asked, null, planted, len(roles))
    return Truth(
        tuple(of_gene),
        vocabulary,
        tuple(asked[: len(roles)]),
        tuple(asked[len(roles) :]),
        tuple(null),
        n_programs,
        library,
        pair_of,
    )


def _free(cells: Cells, sizes: Sizes, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """(genes that may be asked for, those of the null), in random order.

    The first is rare, then come those with enough cells in every stratum, of which those of the null are some.
    """
    n_SG = np.stack([cells.has_CG[cells.stratum_C == s].sum(0) for s in range(len(cells.stratum))])
    n_G, is_common_G = n_SG.sum(0), (n_SG >= sizes.min_cells).all(0)
    seen = np.flatnonzero((n_G > 0) & ~is_common_G)
    rare = int(seen[np.argmin(n_G[seen])])
    common = rng.permutation(np.flatnonzero(is_common_G)).tolist()
    others = [g for g in rng.permutation(seen).tolist() if g != rare]
    if len(common) < 2 * sizes.n_nulls:
        raise ConfigError(
            f"{len(common)} of {sizes.genes} genes are in {sizes.min_cells} cells of every stratum; {sizes.n_nulls} null ones "
            "need twice as many: take more cells, genes, or fewer strata"
        )
    return [rare, *common[sizes.n_nulls :], *others], common[: sizes.n_nulls]


def _roles(sizes: Sizes, cells: Cells) -> tuple[list[Role], list[tuple[int, int, str, int]], int]:
    """(roles in the order of genes, pairs by their places with interaction and program, programs in all)."""
    strata, times = tuple(range(len(cells.stratum))), tuple(range(len(sizes.times)))
    n_programs = len(MODULES) + N_SHIFT
    roles = [Role("RARE1", "rare")]

    def add(symbol: str, kind: str, strength: float, s: Sequence[int] = strata, t: Sequence[int] = times) -> None:
        nonlocal n_programs
        roles.append(Role(symbol, kind, n_programs, strength, tuple(s), tuple(t)))
        n_programs += 1

    for i in range(N_ALL):
        symbol = HOSTILE_SYMBOLS[i] if sizes.is_hostile and i < len(HOSTILE_SYMBOLS) else f"ALL{i + 1}"
        add(symbol, "everywhere", HIT * (1.6 - 0.15 * i))
    for s in strata:
        for i in range(N_ONE_STRATUM):
            add(f"ONLY{s + 1}{'ab'[i]}", "one stratum", HIT, s=[s])
    for symbol, t in (("EARLY", times[0]), ("LATE", times[-1])):
        for i in range(N_ONE_TIME):
            add(f"{symbol}{i + 1}", "one time", HIT, t=[t])
    for m, letter in enumerate(MODULES):
        for i in range(N_MODULE):
            sign = -1.0 if i == N_MODULE - 1 else 1.0
            roles.append(Role(f"MOD{letter}{i + 1}", "module", m, sign * MODULE * (1.2 - 0.1 * i), strata, times))
    for k in range(N_SHIFT):
        for i in range(2):
            when = times if k == 0 else times[-1:]
            roles.append(Role(f"SHIFT{k + 1}{'ab'[i]}", "gene-set shift", len(MODULES) + k, SHIFT, strata, when))
    pairs = []
    for i in range(N_PAIRS):
        kind, place = INTERACTIONS[i % len(INTERACTIONS)], len(roles)
        for letter in "ab":
            add(f"PAIR{i + 1}{letter}", "pair", PAIR)
        n_programs += kind == INTERACTIONS[3]
        pairs.append((place, place + 1, kind, n_programs - 1 if kind == INTERACTIONS[3] else -1))
    return roles, pairs, n_programs


def _library(
    sizes: Sizes,
    vocabulary: Vocabulary,
    counts: Mapping[str, int],
    asked: Sequence[int],
    null: Sequence[int],
    pairs: Sequence[Pair],
    n_planted: int,
) -> tuple[Library, dict[int, Pair]]:
    """(singles and joint edits asked for, then null ones of every kind; which of them are planted pairs)."""

    def edit(mode: str, *genes: int) -> Perturbation:
        return make_perturbation(genes, mode, ["src"], [], vocabulary)

    singles = {mode: [edit(mode, g) for g in _edited(asked, n_planted, mode, n)] for mode, n in counts.items()}
    n_joint, joint = sizes.n_perturbations - sum(counts.values()), dict[str, list[Perturbation]]()
    planted: dict[Perturbation, Pair] = {}
    for mode, share in JOINT.items():
        mine = {edit(mode, *p.genes): p for p in pairs}
        planted |= mine
        n_more = max(round(share * n_joint) - len(mine), 0)
        # nothing is planted in them, and their singles are there
        more = _couples([p.genes[0] for p in singles[mode] if p.genes[0] in asked[n_planted:]], n_more)
        joint[mode] = [*mine, *(edit(mode, *g) for g in more)]
    nulls = [[edit(mode, g) for g in null] for mode in singles]
    nulls += [[edit(mode, *g) for g in _couples(null, len(null))] for mode in joint]
    own, random = (*chain(*singles.values(), *joint.values()),), (*chain(*nulls),)
    is_null = (False,) * len(own) + (True,) * len(random)
    library = Library((*own, *random), tuple(not x for x in is_null), is_null)
    return library, {n: planted[p] for n, p in enumerate(library.perturbations) if p in planted}


def _edited(asked: Sequence[int], n_planted: int, mode: Mode, n: int) -> list[int]:
    """`n` of the genes asked for: those of pairs where joint edits are, of others with a role every STEP-th, then the rest."""
    of_pairs = asked[n_planted - 2 * N_PAIRS : n_planted] if mode in JOINT else []
    first = [*asked[: n_planted - 2 * N_PAIRS : STEP[mode]], *of_pairs]
    return [*first, *(g for g in (*asked[n_planted:], *asked[:n_planted]) if g not in first)][:n]


def _couples(genes: Sequence[int], n: int) -> list[tuple[int, int]]:
    """`n` different pairs, each gene about as often as another."""
    found: list[tuple[int, int]] = []
    for step in range(1, len(genes)):
        found += [(g, genes[(i + step) % len(genes)]) for i, g in enumerate(genes) if len(found) < n + len(genes)]
        if len(found) >= n:
            break
    return found[:n]


def is_active(truth: Truth, n_strata: int, n_times: int) -> NDArray[np.bool_]:
    """(G, S, T) whether editing a gene has its planted effect there."""
    found = np.zeros((len(truth.role), n_strata, n_times), dtype=bool)
    for gene, role in enumerate(truth.role):
        found[np.ix_([gene], role.strata, role.times)] = True
    return found
