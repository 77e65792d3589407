"""GeneList: names of genes in a text file, one per line, or in a column of a CSV or TSV file."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from screen.cells.gene_columns import genes_named, quoted, strength_and_gene
from screen.cells.vocabulary import Vocabulary
from screen.errors import ConfigError, some

HEADER = re.compile(r"x|v\d+|.*(gene|symbol|ensembl|name|\bid\b|_id\b|feature|hgnc|target|accession|locus).*", re.I)
"""What the first line says where it is no gene but the name of a column; R calls one x or V1."""
ALLOWED = "write `all`, a list, or a file with one gene per line, or a CSV or TSV file with a column of genes"


def read_gene_list(path: Path, vocabulary: Vocabulary) -> list[str]:
    """The names, in order; whether the model knows them is for the caller to see.

    Blank lines and what follows `#` are skipped, and a header. Of several columns the one that names most genes is taken; lines
    of several genes each are taken whole.
    Raises ConfigError for a file that cannot be read, that is empty, or none of whose columns names a gene.
    """
    rows = _rows(_text(path))
    if not rows:
        raise ConfigError(f"library.genes: {path} holds no gene")
    fields = [[f for f in row if f] for row in rows]
    if _lists_genes(vocabulary, fields):
        return [f for row in fields for f in row]
    columns = [[row[k] if k < len(row) else "" for row in rows] for k in range(max(map(len, rows)))]
    columns = [c for c in columns if any(c)]
    n_genes = [len(genes_named(vocabulary, c)) for c in columns]
    if len(columns) > 1 and not max(n_genes):
        listed = [f"{quoted(c[0])} ({', '.join(c[1:3])}, ...)" for c in columns]
        raise ConfigError(f"library.genes: no column of {path} names a gene of the model: {some(listed)}; {ALLOWED}")
    names = columns[n_genes.index(max(n_genes))]
    first = names[0]
    is_header = strength_and_gene(vocabulary, first) is None and (HEADER.fullmatch(first) or not first)
    names = [n for n in names[1 if is_header else 0 :] if n]
    if not names:
        raise ConfigError(f"library.genes: {path} holds no gene, but {quoted(first)} alone")
    return names


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f'library.genes: cannot read "{path}" ({error}); {ALLOWED}') from error
    if data[:2] == b"PK":
        raise ConfigError(f"library.genes: {path} is a workbook of Excel; save it as CSV (UTF-8)")
    # Excel's "Unicode text" is UTF-16 with a mark at its start
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"library.genes: {path} is no text in UTF-8 ({error.reason} at byte {error.start}); {ALLOWED}"
        ) from error


def _rows(text: str) -> list[list[str]]:
    """The fields of each line that holds something; one field, where nothing divides lines."""
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    counted = {d: sum(d in line for line in lines) for d in "\t;,"}
    delimiter = max(counted, key=lambda d: counted[d])
    rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    return [row for row in ([field.strip() for field in row] for row in rows) if any(row)]


def _lists_genes(vocabulary: Vocabulary, fields: Sequence[Sequence[str]]) -> bool:
    """Whether every field is a gene, and some line holds several: lines of genes, not a table."""
    found = [[strength_and_gene(vocabulary, f) for f in row] for row in fields]
    return all(x is not None for row in found for x in row) and any(len({x[1] for x in row if x}) > 1 for row in found)
