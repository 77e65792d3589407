"""What the user wrote about genes and modes -> the perturbations of a screen."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import numpy as np

from screen import edits
from screen.cells.bank import SOURCE
from screen.cells.gene_list import read_gene_list
from screen.cells.vocabulary import NO_TOKEN
from screen.config.sections import LibraryConfig
from screen.edits import Site
from screen.errors import CellError, ConfigError
from screen.planning.index import BankIndex
from screen.planning.null_genes import NullPlan, null_perturbations
from screen.planning.perturbations import Library, Perturbation, make_library, make_perturbation
from screen.planning.window import Window


def expand(blocks: Sequence[LibraryConfig], index: BankIndex, window: Window, null: NullPlan) -> Library:
    """What the user wrote -> perturbations, then the random ones of the matched null, where he named genes."""
    made = [(*_block(b, index, window), b.genes != "all") for b in blocks]
    asked = {p for own, _, _ in made for p in own}
    parts = [([*own, *needed], is_named) for own, needed, is_named in made]
    library = make_library(parts)
    library = replace(library, is_needed=tuple(p not in asked for p in library.perturbations))
    if null.config.n == 0:
        return library
    # a kind of edit of which the user has all genes is its own null
    whole = {(p.mode, p.sites, p.pert_tps) for ps, is_named in parts if not is_named for p in ps}
    named = dict.fromkeys(p for ps, is_named in parts if is_named for p in ps)
    lists = [p for p in named if len(p.genes) > 1 or (p.mode, p.sites, p.pert_tps) not in whole]
    drawn = null_perturbations(lists, lambda p: _all_genes(p.mode, p.sites, p.pert_tps, index), index, null)
    added = tuple(p for p in dict.fromkeys(drawn) if p not in set(library.perturbations))
    n_own, n_added = len(library), len(added)
    return Library(
        (*library.perturbations, *added),
        (*library.must_screen, *(False,) * n_added),
        (False,) * n_own + (True,) * n_added,
        (*library.is_needed, *(False,) * n_added),
    )


def _where(block: LibraryConfig, window: Window) -> tuple[list[Site], list[int]]:
    """(sites, edited time points) of a block."""
    return block.perturbation_sequence, block.pert_tps or list(window.times)


def _block(block: LibraryConfig, index: BankIndex, window: Window) -> tuple[list[Perturbation], list[Perturbation]]:
    """(what is asked for, single edits that its pairs are compared with)."""
    (sites, tps), vocabulary = _where(block, window), index.vocabulary
    if block.genes == "all":
        if block.combos != "singles":
            what = "edit every gene at once" if block.combos == "joint" else "edit every two genes"
            raise ConfigError(
                f"library: `genes: all` with `combos: {block.combos}` would {what}; use `singles`, or `anchor`"
            )
        genes_of = {mode: _all_genes(mode, sites, tps, index) for mode in block.modes}
    else:
        names = read_gene_list(block.genes, vocabulary) if isinstance(block.genes, Path) else block.genes
        columns = vocabulary.columns(names)
        genes_of = dict.fromkeys(block.modes, columns)
    anchor = None if block.anchor is None else vocabulary.columns([block.anchor])[0]
    groups = {m: _groups(block, g, anchor) for m, g in genes_of.items()}
    made = [make_perturbation(g, m, sites, tps, vocabulary) for m in block.modes for g in groups[m]]
    is_paired = anchor is not None or block.combos == "pairs"
    alone = {m: dict.fromkeys(x for g in groups[m] for x in g) if is_paired else {} for m in block.modes}
    singles = [make_perturbation([x], m, sites, tps, vocabulary) for m in block.modes for x in alone[m]]
    for p, site in product([*made, *singles], sites):
        p.tokens(vocabulary, site)
    return made, singles


def _groups(block: LibraryConfig, genes: Sequence[int], anchor: int | None) -> list[list[int]]:
    """The genes of each edit."""
    if block.combos == "joint":
        return [list(genes)]
    if block.combos == "singles" and anchor is None:
        return [[g] for g in genes]
    different = list(dict.fromkeys(genes))
    found = (
        [list(pair) for pair in combinations(different, 2)]
        if anchor is None
        else [[anchor, g] for g in different if g != anchor]
    )
    if not found:
        raise ConfigError(
            "library: `combos: pairs` needs two different genes or more"
            if anchor is None
            else f"library: `anchor: {block.anchor}` needs a gene beside itself"
        )
    return found


def _all_genes(mode: str, sites: Sequence[Site], tps: Sequence[int], index: BankIndex) -> list[int]:
    """Where the mode needs the gene, every gene expressed in an edited state of some cell; else every gene with a token."""
    vocabulary = index.vocabulary
    chosen_G = (vocabulary.source_token_G != NO_TOKEN) if "src" in sites else np.ones(len(vocabulary), dtype=bool)
    if edits.parse(mode).mode.needs_gene:
        states = ([SOURCE] if "src" in sites else []) + (list(tps) if "tgt" in sites else [])
        chosen_G = chosen_G & np.any([index[s].is_seen_G for s in states], axis=0)
        if not chosen_G.any():
            raise CellError("no gene of the vocabulary is expressed in the edited state of any cell")
    return [int(g) for g in np.flatnonzero(chosen_G)]
