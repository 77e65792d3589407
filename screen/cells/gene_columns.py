"""Which columns of a file hold which gene of the model, by any of its names, in whichever column of var they stand."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.cells.foreign_genes import advice_for, case_note, r_note
from screen.cells.metadata import Strings, strings
from screen.cells.vocabulary import Vocabulary, strip_version
from screen.errors import GeneError, some

ANY_CASE = 4
"""The last of `Vocabulary.name_tables`."""
ENOUGH_GENES = 0.5
ENOUGH_NAMES = 0.1
"""An unusual column of var names genes if so many of the model's, or of its own where these are fewer, are among them."""
INDEX = "var names"
ID_COLUMNS = ("ensembl_id", "ensembl", "ensembl_gene_id", "gene_id", "gene_ids", "feature_id")
SYMBOL_COLUMNS = ("gene_name", "gene_names", "symbol", "symbols", "gene_symbol", "gene_symbols", "feature_name")
KIND_COLUMNS = ("feature_types", "feature_type")
EXPRESSION = "Gene Expression"

Columns = dict[int, list[int]]
"""Gene of the model -> columns of the file that hold it."""


def select_genes(vocabulary: Vocabulary, var: Any, file: str, duplicates: str = "error") -> tuple[Any, list[str]]:
    """The matrix [F, G] that takes the columns of a file to the model's genes, and notes.

    var         the file's table of genes (F rows); columns that it says hold no gene expression are left out
    duplicates  what becomes of a gene that several columns hold: "error", or "sum"
    Raises GeneError as `match_genes`, or where nothing is gene expression.
    """
    from scipy import sparse

    is_gene_F, notes = _is_expression(var, file)
    schemes, said = _schemes(vocabulary, var, is_gene_F, file)
    columns_of, told = match_genes(vocabulary, schemes, file, duplicates)
    genes = [g for g, columns in columns_of.items() for _ in columns]
    columns = [c for found in columns_of.values() for c in found]
    shape = (len(var), len(vocabulary))
    return sparse.csr_matrix((np.ones(len(genes)), (columns, genes)), shape=shape), [*said, *notes, *told]


def match_genes(
    vocabulary: Vocabulary, schemes: Mapping[str, Strings], file: str, duplicates: str = "error"
) -> tuple[Columns, list[str]]:
    """The columns of the file that hold each gene of the model, and notes.

    `schemes` are the names of every column, by several ways of naming; no name is "". Names are as strong as in `Vocabulary.column`:
    Ensembl ID (version ignored), name, symbol, alias, any of them in other letter case. A gene goes to the columns with
    the strongest name: a former symbol never competes with the present one. A name that several genes share is no name.
    Raises GeneError if no gene matches, or, unless they are to be summed, if several columns match one gene equally well.
    """
    claims: dict[int, dict[int, list[int]]] = {}
    for column, names in enumerate(zip(*schemes.values(), strict=True)):
        found = [x for x in (strength_and_gene(vocabulary, str(n)) for n in names) if x is not None]
        if found:
            strength, gene = min(found, key=lambda x: x[0])
            claims.setdefault(gene, {}).setdefault(strength, []).append(column)
    if not claims:
        raise GeneError(_nothing_in_common(vocabulary, schemes, file))
    strongest = {gene: min(by_strength.items()) for gene, by_strength in sorted(claims.items())}
    columns_of = {gene: columns for gene, (_, columns) in strongest.items()}
    names_F = next(iter(schemes.values()))
    notes = _gene_notes(vocabulary, columns_of, schemes, file)
    any_case = [str(names_F[columns[0]]) for strength, columns in strongest.values() if strength == ANY_CASE]
    notes += case_note(any_case, file) if any_case else []
    if doubles := {gene: columns for gene, columns in columns_of.items() if len(columns) > 1}:
        notes.append(_doubles(vocabulary, doubles, names_F, file, duplicates))
    return columns_of, notes


def strength_and_gene(vocabulary: Vocabulary, name: str) -> tuple[int, int] | None:
    """Which kind of name it is (0 the strongest) and the gene; None where no gene or several genes answer to it."""
    name = strip_version(name.strip())
    for strength, table in enumerate(vocabulary.name_tables):
        genes = table.get(name.lower() if strength == ANY_CASE else name)
        if genes:
            return (strength, genes[0]) if len(genes) == 1 else None
    return None


def genes_named(vocabulary: Vocabulary, names: Iterable[object]) -> set[int]:
    """The genes of the model that are among these names."""
    found = (strength_and_gene(vocabulary, str(n)) for n in names)
    return {x[1] for x in found if x is not None}


def are_genes(vocabulary: Vocabulary, names: Sequence[str] | Strings) -> bool:
    """Whether these are names of genes: more than chance finds."""
    return len(genes_named(vocabulary, names)) > ENOUGH_NAMES * min(len(vocabulary), len(names))


def _schemes(
    vocabulary: Vocabulary, var: Any, is_gene_F: NDArray[np.bool_], file: str
) -> tuple[dict[str, Strings], list[str]]:
    """Column of var -> names of the file's columns: the usual ones, or another that names genes where these do not."""
    by_lower = {str(c).lower(): c for c in reversed(var.columns)}
    usual = dict.fromkeys(by_lower[c] for c in (*ID_COLUMNS, *SYMBOL_COLUMNS) if c in by_lower)
    every = {INDEX: strings(var.index)} | {str(c): strings(var[c]) for c in var if c in usual or _is_text(var[c])}
    every = {name: np.where(is_gene_F, names, "") for name, names in every.items()}
    known = {name: every[name] for name in (INDEX, *map(str, usual))}
    genes_of = {name: genes_named(vocabulary, names) for name, names in known.items()}
    n_known, n_most = len(set().union(*genes_of.values())), min(len(vocabulary), int(is_gene_F.sum()))
    if n_known <= ENOUGH_GENES * n_most:
        others = {name: len(genes_named(vocabulary, names)) for name, names in every.items() if name not in known}
        best = max(others, key=lambda name: others[name], default="")
        if others.get(best, 0) > max(n_known, ENOUGH_NAMES * n_most):
            n_found = f"{others[best]:,} of the model's {len(vocabulary):,}"
            return {best: every[best]}, [f"Genes were found in var column {quoted(best)}: {n_found}."]
        if n_known == 0:
            raise GeneError(_nothing_in_common(vocabulary, every, file))
    used = [quoted(name) for name in known if name != INDEX and genes_of[name]]
    return known, [f"Genes were found in var column {some(used)}."] if used and not genes_of[INDEX] else []


def _is_text(column: Any) -> bool:
    import pandas as pd

    values = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column
    return bool(pd.api.types.is_object_dtype(values.dtype) or pd.api.types.is_string_dtype(values.dtype))


def _is_expression(var: Any, file: str) -> tuple[NDArray[np.bool_], list[str]]:
    """Which columns of the file hold gene expression, as it says itself, and notes. Raises GeneError where none does."""
    by_lower = {str(c).lower(): c for c in var.columns}
    column = next((by_lower[c] for c in KIND_COLUMNS if c in by_lower), None)
    if column is None:
        return np.ones(len(var), dtype=bool), []
    kind_F = strings(var[column])
    is_gene_F = kind_F == EXPRESSION
    if "Antibody Capture" not in kind_F and not is_gene_F.any():
        # other words, of which nothing is known
        return np.ones(len(var), dtype=bool), []
    others = [f"{int((kind_F == kind).sum()):,} {kind}" for kind in np.unique(kind_F[~is_gene_F])]
    if not is_gene_F.any():
        raise GeneError(f'{file} holds no "{EXPRESSION}", but {some(others)} (var column "{column}"); genes are needed')
    note = f'{file} holds {some(others)} beside genes (var column "{column}"): left out.'
    return is_gene_F, [note] if others else []


def _nothing_in_common(vocabulary: Vocabulary, schemes: Mapping[str, Strings], file: str) -> str:
    listed = []
    for name, names in schemes.items():
        shown = ", ".join(quoted(str(n)) for n in names[names != ""][:2])
        n_found = len(genes_named(vocabulary, names))
        listed.append(f"{name if name == INDEX else f'column {quoted(name)}'} ({shown}, ...): {n_found:,}")
    ours = ", ".join(quoted(vocabulary.label(g)) for g in range(min(2, len(vocabulary))))
    return (
        f"the genes of {file} are not named as the model's; genes of the model in each column of var: {some(listed, 10)}; the model's "
        f"are {ours}, ...; {advice_for(vocabulary, schemes)}"
    )


def quoted(name: str) -> str:
    """A name in quotes."""
    return f'"{name}"'


def _doubles(vocabulary: Vocabulary, doubles: Columns, names_F: Strings, file: str, duplicates: str) -> str:
    """The note of columns that are summed. Raises GeneError where they are not to be."""
    if duplicates == "sum":
        listed = some((vocabulary.label(g) for g in doubles), 3)
        return f"{len(doubles):,} genes stand in several columns of {file}, which are summed (`duplicates: sum`): {listed}."
    shown = [
        f"{vocabulary.label(g)} in columns {' and '.join(f'{c} ({quoted(str(names_F[c]))})' for c in columns[:3])}"
        for g, columns in doubles.items()
    ]
    raise GeneError(
        f"{file}: {len(doubles):,} genes of the model stand in more than one column: {some(shown, 3)}; rename or remove all "
        "but one, or say `duplicates: sum` in `cells`"
    )


def _gene_notes(vocabulary: Vocabulary, columns_of: Columns, schemes: Mapping[str, Strings], file: str) -> list[str]:
    n_genes, n_found = len(vocabulary), len(columns_of)
    n_columns = sum(any(names) for names in zip(*schemes.values(), strict=True))
    notes = []
    if n_found < ENOUGH_GENES * n_genes:
        notes.append(f"Warning: {file} holds only {n_found:,} of the model's {n_genes:,} genes; expect poor results.")
    if lacking := [g for g in range(n_genes) if g not in columns_of]:
        named = some(vocabulary.label(g) for g in lacking)
        notes.append(f"{file} lacks {len(lacking):,} of the model's {n_genes:,} genes, which count as 0: {named}.")
        notes += r_note(vocabulary, lacking, schemes)
    if n_columns > (n_used := sum(map(len, columns_of.values()))):
        notes.append(f"{n_columns - n_used:,} of the {n_columns:,} genes of {file} are not the model's: dropped.")
    return notes
