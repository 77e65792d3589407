"""Vocabulary from a configuration: our TSV, or upstream's pickled maps with names from its h5ad files."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from screen.cells.vocabulary import MOST_TOKENS, NO_TOKEN, SPECIAL_IDS, Vocabulary, read_table, read_tsv, strip_version
from screen.config.inputs import ModelConfig
from screen.errors import GeneError, some
from screen.models.unpickle import load_pickle

SPECIAL_NAMES = ("<pad>", "<mask>", "<cls>", "<eos>")
SYMBOL_COLUMNS = ("symbol", "gene_symbol", "feature_name", "gene_name")


def load_vocabulary(
    config: ModelConfig, gene_names: Mapping[str, list[str]] | None, source_is_row_id: bool
) -> Vocabulary:
    """The model's vocabulary.

    gene_names        columns of a target h5ad's var (gene_name, ensembl_id, ...), in the model's gene order, or None
    source_is_row_id  True with `Transformer_encoder`, whose source rows hold row ids
    """
    path = config.vocabulary
    vocabulary = read_tsv(path) if path is not None else _from_maps(config, gene_names or {}, source_is_row_id)
    if config.gene_median_path is not None:
        vocabulary = replace(vocabulary, median_G=_medians(config.gene_median_path, vocabulary))
    if config.gene_table is not None:
        vocabulary = _rename(vocabulary, config.gene_table)
    return vocabulary


def _int_map(path: Path, what: str) -> dict[int, Any]:
    raw = load_pickle(path, GeneError)
    if not isinstance(raw, dict) or not raw:
        raise GeneError(f"{what} {path} must hold a dict; it holds a {type(raw).__name__}")
    odd = [k for k in raw if not _is_id(k)]
    if odd:
        raise GeneError(
            f"{what} {path} must have integer ids from 0 to {MOST_TOKENS - 1} as keys; it has {_shortened(odd)}"
        )
    return {int(k): v for k, v in raw.items()}


def _is_id(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and 0 <= int(value) < MOST_TOKENS


def _shortened(values: list[Any]) -> str:
    return some(f"{v!r:.60}" for v in values)


def _from_maps(config: ModelConfig, gene_names: Mapping[str, list[str]], source_is_row_id: bool) -> Vocabulary:
    assert config.mapping_dict_path is not None
    mapping = _int_map(config.mapping_dict_path, "mapping_dict_path")
    odd = [v for v in mapping.values() if not isinstance(v, str)]
    if odd:
        raise GeneError(
            f"mapping_dict_path {config.mapping_dict_path} must map ids to gene names; it maps to {type(odd[0]).__name__}"
        )
    genes = {k: v for k, v in mapping.items() if v not in SPECIAL_NAMES and k not in SPECIAL_IDS}
    row_id, name = list(genes), tuple(genes.values())
    ensembl_id, symbol = _both_names(name, gene_names)
    target = np.array(row_id, dtype=np.int64)
    return Vocabulary(
        ensembl_id,
        symbol,
        name,
        target if source_is_row_id else _source_tokens(config.tokenid_to_rowid_path, target),
        target,
        origin=config.mapping_dict_path.name,
    )


def check_gene_order(vocabulary: Vocabulary, columns_of: Mapping[Path, Mapping[str, list[str]]]) -> None:
    """Every target h5ad must hold the model's genes in the model's order. Raises GeneError naming the first that differs.

    gene_name and ensembl_id of its var are compared with every kind of name that they share most genes with.
    """
    for path, columns in columns_of.items():
        for theirs in (tuple(map(strip_version, columns[c])) for c in ("gene_name", "ensembl_id") if c in columns):
            if len(theirs) != len(vocabulary):
                raise GeneError(
                    f"{path} has {len(theirs)} genes but the model predicts {len(vocabulary)}: they do not belong together"
                )
            for ours in _comparable(vocabulary, theirs):
                if theirs != ours:
                    first = next(i for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)
                    raise GeneError(
                        f"{path} and the model's vocabulary ({vocabulary.origin}) do not fit each other: gene {first} is "
                        f"{theirs[first]} in the h5ad and {ours[first]} in the vocabulary"
                    )


def _comparable(vocabulary: Vocabulary, theirs: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The kinds of name that mostly hold the same words; symbols, which change over time, only if no other kind does."""
    kinds = [tuple(map(strip_version, k)) for k in (vocabulary.name, vocabulary.ensembl_id, vocabulary.symbol)]
    name, ensembl_id, symbol = ([k] if 2 * len(set(k) & set(theirs)) >= len(k) else [] for k in kinds)
    return name + ensembl_id or symbol


def _both_names(name: tuple[str, ...], columns: Mapping[str, list[str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(Ensembl IDs, symbols), falling back on the one name that is known."""
    n_columns = {len(values) for values in columns.values()} or {len(name)}
    if n_columns != {len(name)}:
        raise GeneError(
            f"the target h5ad files have {some(sorted(n_columns))} genes but mapping_dict_path names {len(name)}: they do not "
            "belong together"
        )
    ensembl_id = tuple(strip_version(x) for x in columns.get("ensembl_id", name))
    n_uses = Counter(ensembl_id)
    ensembl_id = tuple(n if n_uses[e] > 1 or not e else e for e, n in zip(ensembl_id, name, strict=True))
    found = next((columns[c] for c in SYMBOL_COLUMNS if c in columns and list(columns[c]) != list(ensembl_id)), name)
    return ensembl_id, tuple(found)


def _source_tokens(
    path: Path | None, target: np.ndarray[Any, np.dtype[np.int64]]
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Source token of each gene: the inverse of tokenid_to_rowid; none where the map has no entry."""
    if path is None:
        return np.full(len(target), NO_TOKEN, dtype=np.int64)
    to_row = _int_map(path, "tokenid_to_rowid_path")
    bad = [v for v in to_row.values() if not _is_id(v)]
    if bad:
        raise GeneError(
            f"tokenid_to_rowid_path {path} must map ids to ids from 0 to {MOST_TOKENS - 1}; it maps to {_shortened(bad)}"
        )
    inverse = {int(row): token for token, row in to_row.items() if token not in SPECIAL_IDS}
    unknown = sorted(set(inverse) - set(target.tolist()))
    if unknown:
        raise GeneError(
            f"{path} maps to row ids that mapping_dict_path does not hold: {some(unknown)}; the two do not belong together"
        )
    return np.array([inverse.get(int(r), NO_TOKEN) for r in target], dtype=np.int64)


def _medians(path: Path, vocabulary: Vocabulary) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Medians by Ensembl ID, NaN for a gene without one. Raises GeneError if the file fits none."""
    raw = load_pickle(path, GeneError)
    if not isinstance(raw, dict):
        raise GeneError(f"gene_median_path {path} must hold a dict of gene -> median; it holds a {type(raw).__name__}")
    odd = [v for v in raw.values() if isinstance(v, bool) or not isinstance(v, int | float | np.integer | np.floating)]
    if odd:
        raise GeneError(f"gene_median_path {path} must map genes to numbers; it maps to {_shortened(odd)}")
    by_gene = {strip_version(str(k)): v for k, v in raw.items()}
    medians = np.array([float(by_gene.get(strip_version(e), np.nan)) for e in vocabulary.ensembl_id])
    if np.isnan(medians).all():
        raise GeneError(f"{path} has a median for none of the model's genes; its keys look like {some(by_gene)}")
    return medians


def _rename(vocabulary: Vocabulary, path: Path) -> Vocabulary:
    """Symbols and aliases from a table with ensembl_id, symbol[, aliases]."""
    import csv

    try:
        rows = {strip_version(r["ensembl_id"]): r for r in read_table(path)}
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise GeneError(
            f"cannot read gene_table {path}: it needs tab-separated columns ensembl_id and symbol ({error})"
        ) from error
    found = [rows.get(strip_version(e), {}) for e in vocabulary.ensembl_id]
    symbol = tuple(r.get("symbol") or s for r, s in zip(found, vocabulary.symbol, strict=True))
    aliases = tuple(tuple(a for a in (r.get("aliases") or "").split("|") if a) for r in found)
    return replace(vocabulary, symbol=symbol, aliases=aliases)
