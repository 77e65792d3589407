"""H5ad: cells of raw counts, ranked with the model's medians and tokens, and paired into a TokenBank."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.cells.bank import SOURCE, Ragged, State, TokenBank
from screen.cells.files.cell_file import LARGEST_COUNT, CellFile
from screen.cells.files.on_disk import Matrix
from screen.cells.gene_columns import NO_COLUMN, match_genes
from screen.cells.pairing import (
    ALL_CELLS,
    DRAWN,
    Cells,
    Ints,
    Pairs,
    Strings,
    make_pairing,
    strings,
    texts,
    unique_names,
)
from screen.cells.vocabulary import CLS, EOS, NO_TOKEN, Vocabulary
from screen.config.inputs import CellsConfig
from screen.errors import CellError, GeneError, nearest, some

SCALE = 10_000
ROWS_TRIED = 256
ID_COLUMNS = ("ensembl_id", "ensembl", "ensembl_gene_id", "gene_id", "gene_ids", "feature_id")
SYMBOL_COLUMNS = ("gene_name", "gene_names", "symbol", "symbols", "gene_symbol", "gene_symbols", "feature_name")
NO_FILTERS: Mapping[str, Sequence[str]] = MappingProxyType({})


def read_h5ad_cells(
    path: Path,
    vocabulary: Vocabulary,
    *,
    state_column: str | None = None,
    source: str | None = None,
    targets: Mapping[int, str] = MappingProxyType({}),
    pairing: str | Path = "stratified",
    strata: Sequence[str] = (),
    seed: int = 0,
    filters: Mapping[str, Sequence[str]] = NO_FILTERS,
    max_cells: int | None = None,
    layer: str | None = None,
    special_tokens: bool = False,
    counts_for: Sequence[int] | None = None,
) -> TokenBank:
    """Paired cells of an h5ad with raw counts, as rank-ordered tokens of the model.

    state_column    obs column of the states: `source` is its value for source cells, `targets` {time point: value};
                    None: every cell is a source cell
    pairing         `stratified` (within combinations of the obs columns `strata`), `random`, or a file (`read_mapping`)
    filters         {obs column: allowed values}, for source cells and, unless a mapping file names them, target cells
    max_cells       keep a random subset of this many pairings, in their order
    layer           layer of the counts; by default X, or `raw` where X does not hold counts
    special_tokens  put <cls> first and <eos> last in source rows; target rows never have them
    counts_for      time points whose observed counts are kept (default: all); size factors are always kept

    Genes are ranked by count / (cell's total over the model's genes) * 10,000 / median, ties in gene order.
    Cells without any gene that has a token are left out. X is read in blocks of rows, except that CSC is read whole.
    Raises CellError or GeneError, saying what was seen and what there is.
    """
    _check_medians(vocabulary)
    if SOURCE in targets:
        raise CellError("targets: time points are numbered 1 to 9; seen: 0")
    with_counts = set(targets if counts_for is None else counts_for)
    if not with_counts <= set(targets):
        raise CellError(f"counts_for names {sorted(with_counts - set(targets))}; time points: {sorted(targets)}")
    with CellFile.open(path) as file:
        value_of_state = {SOURCE: str(source or ALL_CELLS)} | {t: str(targets[t]) for t in sorted(targets)}
        cells = Cells(path.name, file.frame("obs"), state_column, value_of_state)
        plan = make_pairing(cells, pairing, strata, filters, seed)
        counts, usable_C, notes = find_counts(file, layer, plan.candidates, vocabulary, cells)
        pairs, said = plan.pairs(usable_C, max_cells)
        states = {s: _state(s, row_P, counts, vocabulary, cells, s in with_counts) for s, row_P in pairs.items()}
    if special_tokens:
        states[SOURCE] = replace(states[SOURCE], tokens=_framed(states[SOURCE].tokens))
    return TokenBank(states, unique_names(cells.name_C[pairs[SOURCE]]), (*notes, *said))


def cells_of_h5ad(config: CellsConfig, vocabulary: Vocabulary) -> TokenBank:
    """The cells of a configuration that names an h5ad. Raises CellError, GeneError."""
    assert config.h5ad is not None
    pairing: str | Path = config.pairing if config.pairing in DRAWN else Path(config.pairing)
    return read_h5ad_cells(
        config.h5ad, vocabulary, state_column=config.state_column, source=config.source, targets=config.targets,
        pairing=pairing, strata=config.strata, seed=config.seed, filters=config.filters, max_cells=config.max_cells,
        layer=config.layer, special_tokens=config.special_tokens,
    )  # fmt: skip


def source_counts(config: CellsConfig, vocabulary: Vocabulary, row_P: Ints) -> Any:
    """Observed counts (CSR, float32) of the source cells at these rows of a configuration's h5ad, which a bank leaves out."""
    assert config.h5ad is not None
    with CellFile.open(config.h5ad) as file:
        cells = Cells(config.h5ad.name, file.frame("obs"), None, {SOURCE: ALL_CELLS})
        counts, _, _ = find_counts(file, config.layer, {SOURCE: np.unique(row_P)}, vocabulary, cells)
        return _state(SOURCE, row_P, counts, vocabulary, cells, True).counts


def tokenise(counts_CG: Any, median_G: NDArray[np.float64], token_G: Ints) -> Ragged:
    """Each cell's tokens by falling count / total * 10,000 / median, ties in gene order; no token, no entry.

    `counts_CG` is CSR with sorted indices and no stored zeros; the total is over all its columns.
    """
    total_C = np.asarray(counts_CG.sum(axis=1), dtype=np.float64).ravel()
    has_token_T = token_G[counts_CG.indices] != NO_TOKEN
    row_T = np.repeat(np.arange(len(total_C)), np.diff(counts_CG.indptr))[has_token_T]
    gene_T = counts_CG.indices[has_token_T]
    value_T = counts_CG.data[has_token_T] / total_C[row_T] * SCALE / median_G[gene_T]
    order_T = np.lexsort((-value_T, row_T))  # stable, and genes come sorted: ties stay in gene order
    offset_C1 = np.zeros(len(total_C) + 1, dtype=np.int64)
    np.cumsum(np.bincount(row_T, minlength=len(total_C)), out=offset_C1[1:])
    return Ragged(token_G[gene_T[order_T]].astype(np.int32), offset_C1)


class _NotCountsError(Exception):
    """Why a matrix does not hold raw counts."""


@dataclass(frozen=True)
class CountMatrix:
    """A matrix of the file (C cells, F genes of the file), read in blocks of rows.

    gene_F, cell_C   names for messages
    """

    label: str
    stored: Matrix
    gene_F: Strings
    cell_C: Strings

    def blocks(self, row_R: Ints) -> Iterator[tuple[Ints, Any]]:
        """Ascending distinct rows, some at a time, and their counts: CSR [rows, F]. Raises _NotCountsError at others."""
        cuts = np.flatnonzero(np.diff(row_R // self.stored.rows_at_once)) + 1
        for part_R in np.split(row_R, cuts):
            first = int(part_R[0])
            counts_RF = self.stored.read(first, int(part_R[-1]) + 1)[part_R - first]
            self._check(counts_RF, part_R)
            yield part_R, counts_RF

    def _check(self, counts_RF: Any, row_R: Ints) -> None:
        value_T = counts_RF.data
        is_count_T = (value_T >= 0) & (value_T <= LARGEST_COUNT) & (value_T == np.floor(value_T))
        if not is_count_T.all():
            t = int(np.argmin(is_count_T))
            row = row_R[np.searchsorted(counts_RF.indptr, t, side="right") - 1]
            where = f'for cell "{self.cell_C[row]}" and gene "{self.gene_F[counts_RF.indices[t]]}"'
            raise _NotCountsError(
                f"{self.label} holds {value_T[t]:g} {where} (largest value thereabouts {value_T.max():g})"
            )


@dataclass(frozen=True)
class Counts:
    """A matrix of counts, and select_FG: 1 where gene f of the file is gene g of the model."""

    matrix: CountMatrix
    select_FG: Any

    def model_blocks(self, row_R: Ints) -> Iterator[Any]:
        """Counts of the model's genes, some rows at a time: CSR [rows, G], float64, sorted, without stored zeros."""
        for _, counts_RF in self.matrix.blocks(row_R):
            counts_RG = (counts_RF.astype(np.float64) @ self.select_FG).tocsr()
            counts_RG.eliminate_zeros()
            counts_RG.sort_indices()
            yield counts_RG

    def expressing(self, candidates: Pairs, vocabulary: Vocabulary) -> NDArray[np.bool_]:
        """Per cell of the file whether it is a candidate with a count in a gene that has a token on its side."""
        usable_C = np.zeros(len(self.matrix.cell_C), dtype=bool)
        for state, row_R in candidates.items():
            has_token_F = self.select_FG @ (_token_G(vocabulary, state) != NO_TOKEN)
            for part_R, counts_RF in self.matrix.blocks(row_R):
                usable_C[part_R] = counts_RF.astype(np.float64) @ has_token_F > 0
        return usable_C


def find_counts(
    file: CellFile, layer: str | None, candidates: Pairs, vocabulary: Vocabulary, cells: Cells
) -> tuple[Counts, NDArray[np.bool_], list[str]]:
    """The first of the places for counts that does hold them, cells that express something there, and notes."""
    problems: list[str] = []
    for key in _places(file, layer, cells.file):
        matrix, var = _matrix(file, key, cells)
        select_FG, notes = _selection(vocabulary, var, cells.file)
        counts = Counts(matrix, select_FG)
        try:
            usable_C = counts.expressing(candidates, vocabulary)
        except _NotCountsError as problem:
            problems.append(str(problem))
            continue
        if problems:
            notes.append(f"The counts of {matrix.label} were used: {problems[0]}.")
        return counts, usable_C, notes
    seen = "; ".join(problems)
    raise CellError(f"{cells.file}: raw counts are needed, but {seen}; {_advice(file, candidates, cells)}")


def _places(file: CellFile, layer: str | None, name: str) -> list[str]:
    """Where counts may be, in order of preference."""
    layers = file.layers
    has = f"layers: {some(layers, 20) or 'none'}"
    if layer is not None:
        if layer not in layers:
            raise CellError(f'{name} has no layer "{layer}"; {has}{nearest(layer, layers)}')
        return [f"layers/{layer}"]
    places = [key for key in ("X", "raw/X") if file.has(key)]
    if not places:
        raise CellError(f"{name} has neither X nor raw; set `layer:` to the layer of raw counts; {has}")
    return places


def _advice(file: CellFile, candidates: Pairs, cells: Cells) -> str:
    """Which layers there are and which look like counts."""
    if not (layers := file.layers):
        return "the file has no layers either; write the raw counts to X"
    good = [f'"{layer}"' for layer in layers if _looks_like_counts(file, layer, candidates, cells)]
    return f"set `layer:` to raw counts; layers: {some(layers, 20)}; of these look like counts: {some(good) or 'none'}"


def _looks_like_counts(file: CellFile, layer: str, candidates: Pairs, cells: Cells) -> bool:
    try:
        next(_matrix(file, f"layers/{layer}", cells)[0].blocks(candidates[SOURCE][:ROWS_TRIED]))
    except (_NotCountsError, CellError):
        return False
    return True


def _matrix(file: CellFile, key: str, cells: Cells) -> tuple[CountMatrix, Any]:
    """One matrix of the file and the data frame of its genes."""
    var = file.frame("raw/var" if key == "raw/X" else "var")
    stored = file.matrix(key, len(cells.obs), len(var))
    label = {"X": "X", "raw/X": "raw"}.get(key, f'layer "{key.removeprefix("layers/")}"')
    return CountMatrix(label, stored, strings(var.index), cells.name_C), var


def _selection(vocabulary: Vocabulary, var: Any, file: str) -> tuple[Any, list[str]]:
    """The matrix [F, G] that takes the file's genes to the model's, and notes."""
    from scipy import sparse

    by_lower = {str(c).lower(): c for c in reversed(var.columns)}
    known = [by_lower[c] for c in (*ID_COLUMNS, *SYMBOL_COLUMNS) if c in by_lower]
    column_G, notes = match_genes(vocabulary, [strings(var.index), *(strings(var[c]) for c in known)], file)
    gene = np.flatnonzero(column_G != NO_COLUMN)
    select_FG = sparse.csr_matrix((np.ones(len(gene)), (column_G[gene], gene)), shape=(len(var), len(vocabulary)))
    return select_FG, notes


def _state(state: int, row_P: Ints, counts: Counts, vocabulary: Vocabulary, cells: Cells, with_counts: bool) -> State:
    """Tokens and metadata of the chosen rows; for a target also size factors, and counts if asked for."""
    from scipy import sparse

    assert vocabulary.median_G is not None  # checked before
    unique_R, back_P = np.unique(row_P, return_inverse=True)
    tokens, totals, kept = [], [], []
    for counts_RG in counts.model_blocks(unique_R):
        tokens.append(tokenise(counts_RG, vocabulary.median_G, _token_G(vocabulary, state)))
        totals.append(np.asarray(counts_RG.sum(axis=1), dtype=np.float32).ravel())
        kept += [counts_RG.astype(np.float32)] if with_counts else []
    obs = {str(c): texts(cells.obs[c].iloc[row_P]) for c in cells.obs}
    return State(
        _stacked(tokens).take(back_P),
        row_P,
        obs,
        counts=sparse.vstack(kept, format="csr")[back_P] if with_counts else None,
        size_factor_C=None if state == SOURCE else np.concatenate(totals)[back_P],
    )


def _token_G(vocabulary: Vocabulary, state: int) -> Ints:
    return vocabulary.source_token_G if state == SOURCE else vocabulary.target_token_G


def _stacked(parts: Sequence[Ragged]) -> Ragged:
    length_C = np.concatenate([p.length_C for p in parts])
    return Ragged(np.concatenate([p.token_T for p in parts]), np.concatenate([[0], np.cumsum(length_C)]))


def _framed(tokens: Ragged) -> Ragged:
    """<cls> before and <eos> after every row."""
    offset_C1 = tokens.offset_C1 + 2 * np.arange(len(tokens) + 1)
    token_T = np.zeros(int(offset_C1[-1]), dtype=np.int32)
    token_T[offset_C1[:-1]], token_T[offset_C1[1:] - 1] = CLS, EOS
    token_T[token_T == 0] = tokens.token_T
    return Ragged(token_T, offset_C1)


def _check_medians(vocabulary: Vocabulary) -> None:
    if vocabulary.median_G is None:
        raise GeneError(
            "the vocabulary has no medians, by which genes are ranked in raw counts: "
            'add a column "median" to the vocabulary file, or give `gene_median_path`'
        )
    unusable = np.flatnonzero(~(np.isfinite(vocabulary.median_G) & (vocabulary.median_G > 0)))
    if len(unusable):
        listed = some(f"{vocabulary.label(int(g))} {vocabulary.median_G[g]}" for g in unusable)
        raise GeneError(f"medians must be finite and above 0; {len(unusable)} are not: {listed}")
