"""H5ad: cells of raw counts, ranked with the model's medians and tokens, and paired into a TokenBank."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.cells.bank import SOURCE, Ragged, State, TokenBank
from screen.cells.counts import RAW, Counts, Reading, find_counts, rows_of_all, tokens_at
from screen.cells.files.cell_file import CellFile
from screen.cells.gene_columns import are_genes
from screen.cells.metadata import ALL_CELLS, Cells, Ints, strings, texts
from screen.cells.pairing import DRAWN, Pairs, make_pairing, unique_names
from screen.cells.vocabulary import CLS, EOS, NO_TOKEN, Vocabulary
from screen.config.inputs import CellsConfig
from screen.errors import CellError, GeneError, some

SCALE = 10_000
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
    counts: str = RAW,
    duplicates: str = "error",
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
    counts          `raw`, or `fractional`: values of 0 or more that need not be whole (`Reading`)
    duplicates      a gene in several columns of the file is an `error`, or their `sum`
    special_tokens  put <cls> first and <eos> last in source rows; target rows never have them
    counts_for      time points whose observed counts are kept (default: all); size factors are always kept

    Genes are ranked by count / (cell's total over the model's genes) * 10,000 / median, ties in gene order.
    Cells without any gene that has a token are left out. X is read in blocks of rows.
    Raises CellError or GeneError, saying what was seen and what there is.
    """
    _check_medians(vocabulary)
    if SOURCE in targets:
        raise CellError("targets: time points are numbered 1 to 9; seen: 0")
    with_counts = set(targets if counts_for is None else counts_for)
    if not with_counts <= set(targets):
        raise CellError(f"counts_for names {sorted(with_counts - set(targets))}; time points: {sorted(targets)}")
    with CellFile.open(path) as file, _right_way_round(file, vocabulary):
        value_of_state = {SOURCE: ALL_CELLS if source is None else str(source)} | {
            t: str(targets[t]) for t in sorted(targets)
        }
        cells = Cells(path.name, file.frame("obs"), state_column, value_of_state)
        plan = make_pairing(cells, pairing, strata, filters, seed)
        reading = Reading(layer, counts, duplicates, is_yaml=True)
        found, usable_C, notes = find_counts(file, reading, plan.candidates, vocabulary, cells)
        pairs, said = plan.pairs(usable_C, max_cells)
        states = _states(pairs, found, vocabulary, cells, with_counts)
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
        layer=config.layer, counts=config.counts, duplicates=config.duplicates, special_tokens=config.special_tokens,
    )  # fmt: skip


def source_counts(config: CellsConfig, vocabulary: Vocabulary, row_P: Ints) -> Any:
    """Observed counts (CSR, float32) of the source cells at these rows of a configuration's h5ad, which a bank leaves out."""
    assert config.h5ad is not None
    with CellFile.open(config.h5ad) as file:
        cells = Cells(config.h5ad.name, file.frame("obs"), None, {SOURCE: ALL_CELLS})
        reading = Reading(config.layer, config.counts, config.duplicates, is_yaml=True)
        counts, _, _ = find_counts(file, reading, {SOURCE: np.unique(row_P)}, vocabulary, cells)
        return _states({SOURCE: row_P}, counts, vocabulary, cells, [SOURCE])[SOURCE].counts


@contextmanager
def _right_way_round(file: CellFile, vocabulary: Vocabulary) -> Iterator[None]:
    """Where genes lie in rows, that is what is said, and not what follows from it."""
    try:
        yield
    except (CellError, GeneError) as error:
        name, obs = file.path.name, file.frame("obs")
        if are_genes(vocabulary, strings(obs.index)) and not are_genes(vocabulary, strings(file.frame("var").index)):
            raise CellError(
                f"{name} lies the wrong way round: its {len(obs):,} rows (obs) are genes, and must be cells; turn it: "
                f'`anndata.read_h5ad("{name}").T.write_h5ad(...)`'
            ) from error
        raise


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


def _states(
    pairs: Pairs, counts: Counts, vocabulary: Vocabulary, cells: Cells, with_counts: Collection[int]
) -> dict[int, State]:
    """Tokens and metadata of the chosen rows of each state; of a target also size factors, and counts where asked for."""
    assert vocabulary.median_G is not None  # checked before
    read = {state: _Read() for state in pairs}
    every_R, is_in = rows_of_all(pairs, len(cells.obs))
    for part_R, counts_RG in counts.model_blocks(every_R):
        for state, into in read.items():
            of_state_RG = counts_RG[np.flatnonzero(is_in[state][part_R])]
            into.tokens.append(tokenise(of_state_RG, vocabulary.median_G, tokens_at(vocabulary, state)))
            into.totals.append(np.asarray(of_state_RG.sum(axis=1), dtype=np.float32).ravel())
            into.counts += [of_state_RG.astype(np.float32)] if state in with_counts else []
    return {state: read[state].state(state, row_P, cells) for state, row_P in pairs.items()}


@dataclass
class _Read:
    """What was read of the distinct rows of a state, in ascending order."""

    tokens: list[Ragged] = field(default_factory=list)
    totals: list[NDArray[np.float32]] = field(default_factory=list)
    counts: list[Any] = field(default_factory=list)

    def state(self, number: int, row_P: Ints, cells: Cells) -> State:
        """The state of these rows, in their order."""
        from scipy import sparse

        _, back_P = np.unique(row_P, return_inverse=True)
        return State(
            _stacked(self.tokens).take(back_P),
            row_P,
            {str(c): texts(cells.obs[c].iloc[row_P]) for c in cells.obs},
            counts=sparse.vstack(self.counts, format="csr")[back_P] if self.counts else None,
            size_factor_C=None if number == SOURCE else np.concatenate(self.totals)[back_P],
            barcode_C=cells.name_C[row_P],
        )


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
