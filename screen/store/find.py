"""find: which perturbations, and which genes, of a screen a name means."""

from itertools import product

from screen.errors import GeneError, nearest, some
from screen.store.reader import StoreReader

MANY = 10_000
"""Combinations of genes that one name may mean, by symbols that several genes share."""


def find(store: StoreReader, name: str | None = None, mode: str | None = None) -> list[int]:
    """Numbers of the perturbations that a name means, of one mode or of all, in the store's order.

    A name is an id (`src:mask:ENSG00000125538`; its genes by symbol too, its site left out), or a gene's symbol or Ensembl ID: every edit
    of it. Joint genes are joined by `+`, in any order. None means all.
    Raises GeneError for a gene that the model lacks, that was not perturbed, or not in this mode.
    """
    ids = store.perturbations("id").tolist()
    found = list(range(len(ids))) if name is None else _named(store, name, ids)
    if mode is None:
        return found
    mode_P = store.perturbations("mode")
    of_mode = [p for p in found if mode_P[p] == mode]
    if not of_mode:
        there = sorted({str(mode_P[p]) for p in found})
        what = "nothing" if name is None else f'"{name}"'
        how = "was" if name is None else "was not"
        raise GeneError(
            f'{what} {how} edited by mode "{mode}"; there is {some(there)}{nearest(mode, there)}; `genes: all` leaves out genes '
            "that no cell expresses, where an edit needs them"
        )
    return of_mode


def find_gene(store: StoreReader, name: str) -> list[str]:
    """Ensembl IDs of the model's genes that a symbol or an Ensembl ID means, sorted: more than one where a symbol is shared.

    Raises GeneError for one that the model lacks.
    """
    ids_of = _ids_of(store)
    if name not in ids_of:
        raise _unknown(store, name, nearest(name, ids_of))
    return sorted(ids_of[name])


def _named(store: StoreReader, name: str, ids: list[str]) -> list[int]:
    if name in ids:
        return [ids.index(name)]
    edit, _, genes = name.rpartition(":")
    # "mask:STAT1" is an edit of every site
    edits = [f":{i.rpartition(':')[0]}" for i in ids]
    of_edit = [p for p, its in enumerate(edits) if not edit or its.endswith(f":{edit}")]
    if not of_edit:
        raise GeneError(f'no perturbation "{name}" in this screen{nearest(name, ids)}')
    spelled = [f"{edit}:{s}" for s in store.perturbations("target_symbol").tolist()] if edit else []
    wanted = _meanings(store, genes, nearest(name, [*ids, *spelled]) if edit else "")
    edited = {p: ids[p].rpartition(":")[2].split("+") for p in of_edit}
    found = [p for p, its in edited.items() if tuple(sorted(its)) in wanted]
    if not found:
        raise GeneError(f'"{name}" was not perturbed in this screen{_instead(store, name, ids, wanted)}')
    return found


def _meanings(store: StoreReader, genes: str, near: str) -> set[tuple[str, ...]]:
    """The Ensembl IDs, sorted, that genes joined by `+` may mean.

    Raises GeneError for one that the model lacks, with `near`, or else the nearest gene, as what may be meant.
    """
    ids_of, names = _ids_of(store), genes.split("+")
    for gene in names:
        if gene not in ids_of:
            raise _unknown(store, gene, near or nearest(gene, ids_of))
    found: set[tuple[str, ...]] = set()
    for chosen in product(*(sorted(ids_of[gene]) for gene in names)):
        found.add(tuple(sorted(chosen)))
        if len(found) > MANY:
            raise GeneError(f'"{genes}" means too many genes: their symbols are shared; use Ensembl IDs')
    return found


def _ids_of(store: StoreReader) -> dict[str, set[str]]:
    """Ensembl ID or symbol -> the Ensembl IDs of the model's genes that it may mean."""
    ensembl_id, symbol = (store.strings(f"genes/{n}").tolist() for n in ("ensembl_id", "symbol"))
    ids_of: dict[str, set[str]] = {e: {e} for e in ensembl_id}
    for e, s in zip(ensembl_id, symbol, strict=True):
        ids_of.setdefault(s, set()).add(e)
    return ids_of


def _unknown(store: StoreReader, gene: str, near: str) -> GeneError:
    return GeneError(
        f'no gene "{gene}" among the {len(store.strings("genes/ensembl_id")):,} of this screen\'s model{near}; genes have '
        "symbols or Ensembl IDs, perturbations ids as in the column `perturbation` of the hits"
    )


def _instead(store: StoreReader, name: str, ids: list[str], wanted: set[tuple[str, ...]]) -> str:
    """'; ...' saying what was perturbed: joint edits of the gene, or names that are close."""
    genes = {g for some_genes in wanted for g in some_genes}
    joint = [i for i in ids if "+" in i.rpartition(":")[2] and genes & set(i.rpartition(":")[2].split("+"))]
    if joint:
        return f" alone; jointly: {some(joint, 3)}"
    if ":" in name:
        return nearest(name, ids)
    n = len(set(store.perturbations("target_gene").tolist()))
    near = nearest(name, store.perturbations("target_symbol").tolist())
    return f" ({n:,} genes were; see the hits){near}"
