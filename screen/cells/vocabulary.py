"""Vocabulary: gene column <-> Ensembl ID <-> symbol or alias <-> token, on the source and the target side."""

import csv
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from screen.errors import GeneError, nearest, some

PAD, MASK, CLS, EOS = 0, 1, 2, 3
SPECIAL_IDS = (PAD, MASK, CLS, EOS)
NO_TOKEN = -1
MOST_TOKENS = 2**24
"""Ids are below this: tables are made with a row for each."""


def strip_version(name: str) -> str:
    """ENSG00000125538.12 -> ENSG00000125538; other names unchanged."""
    stem, _, version = name.partition(".")
    return stem if stem[:3].upper() == "ENS" and version.isdigit() else name


@dataclass(frozen=True)
class Vocabulary:
    """G genes in the model's output order, with their tokens.

    ensembl_id, symbol  one per gene; where only one name is known both hold it
    name                upstream's gene name: the var index of its files
    source_token_G      token of each gene in source rows, NO_TOKEN where it has none
    target_token_G      token ("row id") of each gene in target rows
    median_G            median non-zero scaled expression, for tokenising raw counts; None where unknown
    aliases             other symbols, per gene
    origin              the file it was read from, for messages
    """

    ensembl_id: tuple[str, ...]
    symbol: tuple[str, ...]
    name: tuple[str, ...]
    source_token_G: NDArray[np.int64]
    target_token_G: NDArray[np.int64]
    median_G: NDArray[np.float64] | None = None
    aliases: tuple[tuple[str, ...], ...] = field(default=())
    origin: str = "vocabulary"

    def __post_init__(self) -> None:
        twice = [e for e, n in Counter(self.ensembl_id).items() if n > 1]
        if twice:
            raise GeneError(f"{self.origin} names {some(twice)} more than once; every gene needs an id of its own")
        for side, token_G in (("source", self.source_token_G), ("target", self.target_token_G)):
            used = token_G[token_G != NO_TOKEN]
            if len(used) and not 0 <= used.min() <= used.max() < MOST_TOKENS:
                raise GeneError(
                    f"{side} tokens of {self.origin} run from {used.min()} to {used.max()}; they must be 0 to {MOST_TOKENS - 1}, "
                    f"or {NO_TOKEN} for a gene without one"
                )
            values, counts = np.unique(used, return_counts=True)
            if (counts > 1).any():
                raise GeneError(
                    f"{side} tokens {some(values[counts > 1])} stand for more than one gene in the vocabulary"
                )
            if np.isin(used, SPECIAL_IDS).any():
                raise GeneError(f"a gene has one of the {side} ids 0-3, which stand for <pad>, <mask>, <cls> and <eos>")

    def __len__(self) -> int:
        return len(self.ensembl_id)

    def tokens(self, site: str) -> NDArray[np.int64]:
        """(G,) token of each gene on one side, 'src' or 'tgt'; NO_TOKEN where it has none."""
        return self.source_token_G if site == "src" else self.target_token_G

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names, tokens and medians: two vocabularies with one fingerprint tokenise alike."""
        digest = hashlib.sha256()
        for names in (self.ensembl_id, self.symbol, self.name):
            digest.update("\n".join(names).encode())
        digest.update(self.source_token_G.tobytes() + self.target_token_G.tobytes())
        if self.median_G is not None:
            digest.update(self.median_G.tobytes())
        return digest.hexdigest()

    @cached_property
    def name_tables(self) -> list[dict[str, list[int]]]:
        """Name -> gene columns: by Ensembl ID, name, symbol, alias; the last table is all of them in lower case."""
        kinds: list[Sequence[Iterable[str]]] = [
            [(strip_version(x),) for x in self.ensembl_id],
            [(x,) for x in self.name],
            [(x,) for x in self.symbol],
            self.aliases or [()] * len(self),
        ]
        tables: list[dict[str, list[int]]] = []
        for kind in kinds:
            table: dict[str, list[int]] = {}
            for column, names in enumerate(kind):
                for name in names:
                    table.setdefault(name, []).append(column)
            tables.append(table)
        any_case: dict[str, list[int]] = {}
        for table in tables:
            for name, columns in table.items():
                found = any_case.setdefault(name.lower(), [])
                found.extend(c for c in columns if c not in found)
        return [*tables, any_case]

    def column(self, name: str) -> int:
        """The gene column of an Ensembl ID (version ignored), symbol or alias; letter case matters only between genes.

        Raises GeneError if nothing or more than one gene answers to the name.
        """
        name = strip_version(str(name).strip())
        for table in self.name_tables:
            columns = table.get(name) or table.get(name.lower(), [])
            if len(columns) == 1:
                return columns[0]
            if columns:
                ids = some(self.ensembl_id[c] for c in columns)
                raise GeneError(f'gene "{name}" is the name of {len(columns)} genes: {ids}; use the Ensembl ID')
        known = [*self.ensembl_id, *self.symbol, *(a for names in self.aliases for a in names)]
        raise GeneError(f'unknown gene "{name}": not among the {len(self)} genes of the model{nearest(name, known)}')

    def columns(self, names: Iterable[str]) -> list[int]:
        """Gene columns of several names, in order. Raises one GeneError that lists every name that is not known."""
        found, problems = [], []
        for name in names:
            try:
                found.append(self.column(name))
            except GeneError as error:
                problems.append(str(error))
        if problems:
            more = f"\n(and {len(problems) - 20} more)" if len(problems) > 20 else ""
            raise GeneError("\n".join(problems[:20]) + more)
        return found

    def label(self, column: int) -> str:
        """'IL1B (ENSG00000125538)', or the one name that is known."""
        ensembl_id, symbol = self.ensembl_id[column], self.symbol[column]
        return ensembl_id if symbol == ensembl_id else f"{symbol} ({ensembl_id})"

    @cached_property
    def _column_of_token(self) -> dict[str, NDArray[np.int64]]:
        return {"src": _columns_by_token(self.source_token_G), "tgt": _columns_by_token(self.target_token_G)}

    def column_of_token(self, site: str) -> NDArray[np.int64]:
        """Lookup table token -> gene column (NO_TOKEN for special and unused ids) of one side, 'src' or 'tgt'."""
        return self._column_of_token[site]


def _columns_by_token(token_G: NDArray[np.int64]) -> NDArray[np.int64]:
    table = np.full(int(max(token_G.max(initial=0), max(SPECIAL_IDS))) + 1, NO_TOKEN, dtype=np.int64)
    has_token = token_G != NO_TOKEN
    table[token_G[has_token]] = np.flatnonzero(has_token)
    return table


def read_tsv(path: Path) -> Vocabulary:
    """A vocabulary file: ensembl_id, symbol, token_id, row_id; optional aliases ('|' between), median, name.

    Rows are the model's genes in output order. Raises GeneError for a missing column or a value that is no number.
    """
    try:
        rows = read_table(path)
    except (OSError, ValueError, csv.Error) as error:
        raise GeneError(f"cannot read the vocabulary {path} as tab-separated text: {error}") from error
    missing = [c for c in ("ensembl_id", "symbol", "token_id", "row_id") if not rows or c not in rows[0]]
    if missing:
        raise GeneError(
            f"vocabulary {path} lacks the column(s) {some(missing)}; it holds {some(rows[0] if rows else [])}"
        )
    try:
        return _from_rows(rows, path.name)
    except (ValueError, OverflowError) as error:
        raise GeneError(f"vocabulary {path}: {error}") from error


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a tab-separated file with a header, each with a value for every column.

    Raises OSError, csv.Error, or ValueError naming the line that has fewer values, or more.
    """
    with path.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t", restkey=""))
    for number, row in enumerate(rows, start=2):
        if "" in row or None in row.values():
            raise ValueError(f"line {number} has {'more' if '' in row else 'fewer'} values than the header has names")
    return rows


def _from_rows(rows: Sequence[Mapping[str, str]], origin: str) -> Vocabulary:
    has_median = "median" in rows[0]
    if not all(r["ensembl_id"] for r in rows):
        raise ValueError("a gene has no ensembl_id")
    return Vocabulary(
        ensembl_id=tuple(r["ensembl_id"] for r in rows),
        symbol=tuple(r["symbol"] or r["ensembl_id"] for r in rows),
        name=tuple(r.get("name") or r["ensembl_id"] for r in rows),
        source_token_G=np.array([int(r["token_id"]) for r in rows], dtype=np.int64),
        target_token_G=np.array([int(r["row_id"]) for r in rows], dtype=np.int64),
        median_G=np.array([float(r["median"]) for r in rows]) if has_median else None,
        aliases=tuple(tuple(a for a in (r.get("aliases") or "").split("|") if a) for r in rows),
        origin=origin,
    )
