"""What the user wrote about genes and modes -> the perturbations of a screen."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

from screen import edits
from screen.cells.bank import SOURCE
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
    parts = [(list(_block(b, index, window)), b.genes != "all") for b in blocks]
    library = make_library(parts)
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
    )


def _where(block: LibraryConfig, window: Window) -> tuple[list[Site], list[int]]:
    """(sites, edited time points) of a block."""
    return block.perturbation_sequence, block.pert_tps or list(window.times)


def _block(block: LibraryConfig, index: BankIndex, window: Window) -> list[Perturbation]:
    (sites, tps), vocabulary = _where(block, window), index.vocabulary
    if block.genes == "all":
        if block.combos == "joint":
            raise ConfigError("library: `genes: all` with `combos: joint` would edit every gene at once; use `singles`")
        genes_of = {mode: _all_genes(mode, sites, tps, index) for mode in block.modes}
    else:
        columns = vocabulary.columns(_read_genes(block.genes) if isinstance(block.genes, Path) else block.genes)
        genes_of = dict.fromkeys(block.modes, columns)
    groups = {m: [g] if block.combos == "joint" else [[x] for x in g] for m, g in genes_of.items()}
    made = [make_perturbation(g, m, sites, tps, vocabulary) for m in block.modes for g in groups[m]]
    for p, site in product(made, sites):
        p.tokens(vocabulary, site)
    return made


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


def _read_genes(path: Path) -> list[str]:
    """One gene name per line; blank lines and `#` comments are skipped."""
    try:
        lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f'library.genes: cannot read "{path}" ({error}); write `all`, a list, or a file with one gene per line'
        ) from error
    genes = [line for line in lines if line]
    if not genes:
        raise ConfigError(f"library.genes: {path} holds no gene")
    return genes
