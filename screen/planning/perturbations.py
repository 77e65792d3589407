"""Perturbation and Library: genes in, integers and stable, readable ids out."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from screen import edits
from screen.cells.bank import SOURCE
from screen.cells.vocabulary import NO_TOKEN, Vocabulary
from screen.edits import Edit, Site
from screen.errors import GeneError

MANY_JOINT_GENES = 10


@dataclass(frozen=True)
class Perturbation:
    """One edit: gene columns, how (mode) and where (source row, target rows of some time points, or both).

    Genes are in vocabulary order, except where the mode's table says that their order matters: there it is the user's.
    Raises UnknownModeError for a mode that the table lacks.

    >>> import screen
    >>> knock_out = screen.Perturbation(genes=(4, 9), mode="mask", sites=("src", "tgt"), pert_tps=(1, 2))
    >>> knock_out.site_label, knock_out.n_inserted
    ('src+tgt@1,2', 0)
    >>> screen.Perturbation(genes=(4,), mode="overexpress", sites=("src",)).n_inserted
    1
    """

    genes: tuple[int, ...]
    mode: str
    sites: tuple[Site, ...]
    pert_tps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        edits.parse(self.mode)

    @property
    def edit(self) -> Edit:
        """What `mode` says: a row of the table of modes, and the value of its parameter."""
        return edits.parse(self.mode)

    @property
    def n_inserted(self) -> int:
        """Tokens that it inserts into each edited row."""
        return self.edit.mode.n_inserted * len(self.genes)

    @property
    def site_label(self) -> str:
        """'src', 'tgt@1,2' or 'src+tgt@1,2'."""
        target = "tgt@" + ",".join(map(str, self.pert_tps))
        return "+".join("src" if site == "src" else target for site in self.sites)

    def id(self, vocabulary: Vocabulary) -> str:
        """'src:mask:ENSG00000125538'; joint genes are joined by '+'."""
        return f"{self.site_label}:{self.mode}:" + "+".join(vocabulary.ensembl_id[g] for g in self.genes)

    def symbols(self, vocabulary: Vocabulary) -> str:
        """The genes' symbols, joined as in the id."""
        return "+".join(vocabulary.symbol[g] for g in self.genes)

    def tokens(self, vocabulary: Vocabulary, site: Site) -> list[int]:
        """The genes' ids on one side, in order. Raises GeneError for a gene without a source token."""
        token_G = vocabulary.source_token_G if site == "src" else vocabulary.target_token_G
        for gene in self.genes:
            if token_G[gene] == NO_TOKEN:
                raise GeneError(
                    f"{vocabulary.label(gene)} has no token in the source vocabulary (tokenid_to_rowid_path, or "
                    "token_id of the vocabulary file): it cannot be edited there"
                )
        return [int(token_G[g]) for g in self.genes]


def make_perturbation(
    genes: Sequence[int], mode: str, sites: Iterable[Site], pert_tps: Iterable[int], vocabulary: Vocabulary
) -> Perturbation:
    """A Perturbation in canonical form. Raises UnknownModeError; GeneError if a gene is inserted twice."""
    unique, is_ordered = tuple(dict.fromkeys(genes)), edits.parse(mode).mode.is_ordered
    if is_ordered and len(unique) < len(genes):
        twice = next(g for g in unique if list(genes).count(g) > 1)
        raise GeneError(f"{vocabulary.label(twice)} is listed twice in one {mode} edit; list each gene once")
    ordered = unique if is_ordered else tuple(sorted(unique))
    where: tuple[Site, ...] = tuple(s for s in ("src", "tgt") if s in set(sites))
    return Perturbation(ordered, mode, where, tuple(sorted(set(pert_tps))) if "tgt" in where else ())


def parse_perturbation(text: str, vocabulary: Vocabulary) -> Perturbation:
    """The perturbation of an id. Raises GeneError for a gene that the vocabulary lacks, UnknownModeError for such a mode."""
    label, mode, genes = text.split(":")
    sites: list[Site] = [site for site in ("src", "tgt") if site in (part[:3] for part in label.split("+"))]
    times = label.rpartition("@")[2] if "tgt" in sites else ""
    tps = [int(t) for t in times.split(",") if t]
    found = make_perturbation(vocabulary.columns(genes.split("+")), mode, sites, tps, vocabulary)
    assert found.id(vocabulary) == text
    return found


def edited_states(perturbation: Perturbation) -> tuple[int, ...]:
    """State numbers that the perturbation edits."""
    source = (SOURCE,) if "src" in perturbation.sites else ()
    return source + (perturbation.pert_tps if "tgt" in perturbation.sites else ())


@dataclass(frozen=True)
class Library:
    """The perturbations of one screen, without repeats, in the user's order.

    `must_screen[i]` tells whether the user named perturbation i's genes (and so wants to hear if it cannot be screened),
    `is_null[i]` whether it is a random one, added for the matched null, `is_needed[i]` whether it is a single edit that nobody
    asked for, added because pairs are compared with it.
    """

    perturbations: tuple[Perturbation, ...]
    must_screen: tuple[bool, ...]
    is_null: tuple[bool, ...] = ()
    is_needed: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        for name in ("is_null", "is_needed"):
            if not getattr(self, name):
                object.__setattr__(self, name, (False,) * len(self.perturbations))

    def __len__(self) -> int:
        return len(self.perturbations)

    def take(self, numbers: Sequence[int]) -> "Library":
        """Some of its perturbations."""
        lists = (self.perturbations, self.must_screen, self.is_null, self.is_needed)
        return Library(*(tuple(x[i] for i in numbers) for x in lists))  # type: ignore[arg-type]

    def ids(self, vocabulary: Vocabulary) -> tuple[str, ...]:
        """Stable ids, one per perturbation."""
        return tuple(p.id(vocabulary) for p in self.perturbations)

    def fingerprint(self, vocabulary: Vocabulary) -> str:
        """SHA-256 over the ids."""
        return hashlib.sha256("\n".join(self.ids(vocabulary)).encode()).hexdigest()


def make_library(blocks: Iterable[tuple[Sequence[Perturbation], bool]]) -> Library:
    """Joins blocks of perturbations, dropping exact repeats; named by the user anywhere means named."""
    named: dict[Perturbation, bool] = {}
    for perturbations, must_screen in blocks:
        for p in perturbations:
            named[p] = named.get(p, False) or must_screen
    return Library(tuple(named), tuple(named.values()))
