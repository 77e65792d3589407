"""What the user wrote about genes and modes -> the perturbations of a screen."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

from screen import edits
from screen.cells.bank import SOURCE
from screen.cells.vocabulary import NO_TOKEN
from screen.config.sections import FEWEST_NULLS, MANY_NULLS, LibraryConfig, NullConfig
from screen.edits import Site
from screen.errors import CellError, ConfigError
from screen.planning.index import BankIndex
from screen.planning.perturbations import Library, Perturbation, make_library, make_perturbation
from screen.planning.window import Window


def expand(
    blocks: Sequence[LibraryConfig], index: BankIndex, window: Window, null: NullConfig | None = None
) -> Library:
    """What the user wrote -> perturbations, then the random ones of the matched null."""
    library = make_library((list(_block(b, index, window)), b.genes != "all") for b in blocks)
    if null is None or null.n == 0:
        return library
    random = [p for b in blocks for p in _random(b, null, library, index, window)]
    added = tuple(p for p in dict.fromkeys(random) if p not in set(library.perturbations))
    n_own, n_added = len(library), len(added)
    return Library(
        (*library.perturbations, *added),
        (*library.must_screen, *(False,) * n_added),
        (False,) * n_own + (True,) * n_added,
    )


def _random(
    block: LibraryConfig, null: NullConfig, library: Library, index: BankIndex, window: Window
) -> list[Perturbation]:
    """Edits like those of a block, of genes that no perturbation of the user has; none where it has all genes.

    Genes are drawn by a counter-based generator keyed by the seed: the same for the same screen.
    """
    if block.genes == "all":
        return []
    sites, tps = _where(block, window)
    taken = {g for p in library.perturbations for g in p.genes}
    own, made = list(_block(block, index, window)), []
    for mode in block.modes:
        found = _all_genes(mode, sites, tps, index)
        free = [g for g in found if g not in taken]
        k = max(len(p.genes) for p in own if p.mode == mode)
        n = min(MANY_NULLS, len(free) - k) if null.n is None else null.n
        if len(free) < n + k:
            raise ConfigError(
                f"null.n is {n}, but only {len(free)} genes beside those of the library can be edited ({mode}); "
                "ask for fewer, or for `genes: all`, which needs no null perturbations"
            )
        if n < FEWEST_NULLS:
            continue
        draw = np.random.Generator(np.random.Philox(key=null.seed))
        # another gene of the user's leaves the others as they are
        shuffled = [g for g in draw.permutation(found).tolist() if g not in taken]
        groups = (
            [draw.choice(free, k, replace=False).tolist() for _ in range(n)] if k > 1 else [[g] for g in shuffled[:n]]
        )
        made += [make_perturbation(g, mode, sites, tps, index.vocabulary) for g in groups]
    return made


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
