"""Which column of a file holds which gene of the model, by any of its names."""

from collections.abc import Sequence

import numpy as np

from screen.cells.pairing import Ints, Strings
from screen.cells.vocabulary import Vocabulary, strip_version
from screen.errors import GeneError, some

NO_COLUMN = -1
ANY_CASE = 4
"""The last of `Vocabulary.name_tables`."""
ENOUGH_GENES = 0.5


def match_genes(vocabulary: Vocabulary, schemes: Sequence[Strings], file: str) -> tuple[Ints, list[str]]:
    """Per gene of the model the column of the file that holds it (NO_COLUMN if none does), and notes.

    `schemes` are the names of every column by several naming schemes. Names are as strong as in `Vocabulary.column`:
    Ensembl ID (version ignored), name, symbol, alias, any of them in other letter case. A gene goes to the column with
    the strongest name: a former symbol never competes with the present one. A name that several genes share is no name.
    Raises GeneError if no gene matches, or if two columns match one gene by names of equal strength.
    """
    claims: dict[int, dict[int, list[int]]] = {}
    for column, names in enumerate(zip(*schemes, strict=True)):
        found = [x for x in (strength_and_gene(vocabulary, str(n)) for n in names) if x is not None]
        if found:
            strength, gene = min(found, key=lambda x: x[0])
            claims.setdefault(gene, {}).setdefault(strength, []).append(column)
    if not claims:
        raise GeneError(_nothing_in_common(vocabulary, schemes, file))
    strongest = {gene: min(by_strength.items()) for gene, by_strength in claims.items()}
    doubles = {gene: columns for gene, (_, columns) in strongest.items() if len(columns) > 1}
    if doubles:
        gene, columns = min(doubles.items())
        named = " and ".join(f'"{schemes[0][c]}" (column {c})' for c in columns)
        also = f" ({len(doubles) - 1} more genes likewise)" if len(doubles) > 1 else ""
        raise GeneError(f"{file}: {named} both stand for {vocabulary.label(gene)}{also}; rename or remove all but one")
    column_G = np.full(len(vocabulary), NO_COLUMN, dtype=np.int64)
    for gene, (_, columns) in strongest.items():
        column_G[gene] = columns[0]
    n_any_case = sum(strength == ANY_CASE for strength, _ in strongest.values())
    return column_G, _gene_notes(vocabulary, column_G, len(schemes[0]), n_any_case, file)


def strength_and_gene(vocabulary: Vocabulary, name: str) -> tuple[int, int] | None:
    """Which kind of name it is (0 the strongest) and the gene; None where no gene or several genes answer to it."""
    name = strip_version(name.strip())
    for strength, table in enumerate(vocabulary.name_tables):
        genes = table.get(name.lower() if strength == ANY_CASE else name)
        if genes:
            return (strength, genes[0]) if len(genes) == 1 else None
    return None


def _nothing_in_common(vocabulary: Vocabulary, schemes: Sequence[Strings], file: str) -> str:
    theirs = "; ".join(some(f'"{n}"' for n in scheme[:3]) for scheme in schemes) or "nothing"
    ours = "; ".join(some(f'"{n}"' for n in names[:3]) for names in (vocabulary.ensembl_id, vocabulary.symbol))
    return (
        f"{file} and the model have no gene in common: the file names its genes {theirs}; the model names them {ours}; "
        'add Ensembl IDs as a column "ensembl_id" of var, or symbols as "gene_name"'
    )


def _gene_notes(vocabulary: Vocabulary, column_G: Ints, n_columns: int, n_any_case: int, file: str) -> list[str]:
    n_genes, lacking = len(column_G), np.flatnonzero(column_G == NO_COLUMN)
    n_found = n_genes - len(lacking)
    notes = []
    if n_found < ENOUGH_GENES * n_genes:
        notes.append(f"Warning: {file} holds only {n_found:,} of the model's {n_genes:,} genes; expect poor results.")
    if len(lacking):
        named = some(vocabulary.label(int(g)) for g in lacking)
        notes.append(f"{file} lacks {len(lacking):,} of the model's {n_genes:,} genes, which count as 0: {named}.")
    if n_columns > n_found:
        notes.append(f"{n_columns - n_found:,} of the {n_columns:,} genes of {file} are not the model's: dropped.")
    if n_any_case:
        notes.append(f"{n_any_case:,} genes match only if letter case is ignored; check the species of {file}.")
    return notes
