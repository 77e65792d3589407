"""Upstream's tokenised folders (HF `datasets` on disk, paired h5ad files) -> TokenBank."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.cells.bank import MISSING, SOURCE, Ragged, State, TokenBank, Unfiltered
from screen.cells.files.cell_file import LARGEST_COUNT, CellFile
from screen.cells.files.damage import file_errors
from screen.cells.metadata import strings, texts
from screen.cells.vocabulary import CLS, EOS
from screen.config.inputs import CellsConfig
from screen.errors import CellError, some


def read_tokenised_cells(config: CellsConfig, count_tps: Sequence[int], log_normalise: bool, n_genes: int) -> TokenBank:
    """The paired cells of upstream's folders, filtered.

    count_tps      time points whose observed counts are read
    log_normalise  observed values become log1p of counts scaled to 10,000 (upstream, for an mse head)
    """
    assert config.src_dataset_file is not None and config.tgt_dataset_folder is not None
    folders = time_points(config.tgt_dataset_folder, ".dataset")
    adata = time_points(config.tgt_adata_folder, ".h5ad") if config.tgt_adata_folder else {}
    states = {SOURCE: _read_state(config.src_dataset_file, keep_special=True)}
    for t, folder in folders.items():
        state = _read_state(folder, keep_special=False)
        if len(state.tokens) != len(states[SOURCE].tokens):
            raise CellError(
                f"{folder} has {len(state.tokens)} rows but {config.src_dataset_file} has {len(states[SOURCE].tokens)}; "
                "row i of source and targets must be the same pairing"
            )
        if t in adata:
            state = _with_counts(state, adata[t], t in count_tps, log_normalise, n_genes)
        elif t in count_tps:
            raise CellError(
                f"no *.h5ad for time point {t} in {config.tgt_adata_folder}; there are {some(adata) or 'none'}"
            )
        states[t] = state
    bank = TokenBank(states, tuple(str(i) for i in range(len(states[SOURCE].tokens))))
    if config.cond_list:
        largest: list[int] = max(
            (states[t].tokens[c].tolist() for t in folders for c in range(bank.n_cells)), default=[]
        )
        first_seen = {c: bank.values_in_order(c) for c in config.cond_list}
        bank = replace(bank, unfiltered=Unfiltered(first_seen, 1 + max(largest, default=0)))
    return _filter(bank, config)


def time_points(folder: Path, suffix: str) -> dict[int, Path]:
    """Time point (first character of the name) -> entry of the folder. Raises CellError for repeats and other names."""
    if not folder.is_dir():
        raise CellError(f"no folder {folder}")
    found: dict[int, Path] = {}
    for entry in sorted(p for p in folder.iterdir() if p.name.endswith(suffix)):
        if entry.name[0] not in "123456789":
            raise CellError(f"{entry} must start with its time point, a digit 1-9")
        t = int(entry.name[0])
        if t in found:
            raise CellError(f"{entry.name} and {found[t].name} in {folder} both claim time point {t}")
        found[t] = entry
    if not found:
        raise CellError(f"{folder} holds no *{suffix}")
    return dict(sorted(found.items()))


def _read_state(folder: Path, keep_special: bool) -> State:
    with file_errors(f"cannot read the dataset {folder}"):
        return _state(_read_dataset(folder), keep_special, folder)


def _read_dataset(folder: Path) -> Any:
    """The arrow table of a `datasets` folder (versions 3 to 5)."""
    import pyarrow as pa

    state_file = folder / "state.json"
    if not state_file.is_file():
        hint = "; it is a DatasetDict: name one of its splits" if (folder / "dataset_dict.json").is_file() else ""
        raise CellError(f"{folder} is no Hugging Face dataset saved to disk: no state.json{hint}")
    names = [f["filename"] for f in json.loads(state_file.read_text())["_data_files"]]
    tables = []
    for name in names:
        with pa.memory_map(str(folder / name)) as handle:
            tables.append(_open_arrow(handle))
    table = pa.concat_tables(tables, promote_options="default")
    # offsets of lists and texts are taken on trust by whatever comes next
    table.validate(full=True)
    return table.combine_chunks()


def _open_arrow(handle: Any) -> Any:
    import pyarrow as pa

    try:
        return pa.ipc.open_stream(handle).read_all()
    except pa.ArrowInvalid:
        handle.seek(0)
        return pa.ipc.open_file(handle).read_all()


def _state(table: Any, keep_special: bool, path: Path) -> State:
    """Tokens, pairing index and string metadata of one dataset."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for column in ("input_ids", "cell_pairing_index"):
        if column not in table.column_names:
            raise CellError(f'{path} has no column "{column}"; columns: {some(table.column_names, 20)}')
    if not len(table):
        raise CellError(f"{path} has no rows")
    ids = table["input_ids"].combine_chunks()
    if not (pa.types.is_list(ids.type) or pa.types.is_large_list(ids.type)) or not pa.types.is_integer(
        ids.type.value_type
    ):
        raise CellError(f"{path}: input_ids must be lists of integers; they are {ids.type}")
    if not pa.types.is_integer(table["cell_pairing_index"].type) or table["cell_pairing_index"].null_count:
        raise CellError(f"{path}: cell_pairing_index must hold integers; it is {table['cell_pairing_index'].type}")
    flat = ids.flatten()
    if flat.null_count or not _fits_int32(flat):
        raise CellError(f"{path}: input_ids must be 0 or more, below 2^31 and complete; they run from {_range(flat)}")
    length_C = pc.fill_null(pc.list_value_length(ids), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    offset_C1 = np.concatenate([[0], np.cumsum(length_C)])
    tokens = Ragged(flat.to_numpy(zero_copy_only=False).astype(np.int32), offset_C1)
    if not keep_special:
        tokens = without_special(tokens)
    obs = {
        name: np.array([MISSING if v is None or v != v else str(v) for v in table[name].to_pylist()], dtype=object)
        for name in table.column_names
        if name not in ("input_ids", "cell_pairing_index", "length") and not pa.types.is_nested(table[name].type)
    }
    return State(tokens, table["cell_pairing_index"].cast(pa.int64()).to_numpy(), obs)


def _range(flat: Any) -> str:
    import pyarrow.compute as pc

    low_high = pc.min_max(flat)
    missing = f", {flat.null_count} missing" if flat.null_count else ""
    return f"{low_high['min']} to {low_high['max']}{missing}"


def _fits_int32(flat: Any) -> bool:
    import pyarrow.compute as pc

    low_high = pc.min_max(flat)
    return not len(flat) or (low_high["min"].as_py() >= 0 and low_high["max"].as_py() < 2**31)


def without_special(tokens: Ragged) -> Ragged:
    """The rows without <cls> and <eos>, as upstream loads targets."""
    keep_T = ~np.isin(tokens.token_T, (CLS, EOS))
    row_T = np.repeat(np.arange(len(tokens)), tokens.length_C)
    length_C = np.bincount(row_T[keep_T], minlength=len(tokens))
    return Ragged(tokens.token_T[keep_T], np.concatenate([[0], np.cumsum(length_C)]))


def _with_counts(state: State, path: Path, wants_counts: bool, log_normalise: bool, n_genes: int) -> State:
    """Adds the h5ad's metadata and, where wanted, its counts and their row sums."""
    import scipy.sparse as sp

    with CellFile.open(path) as file:
        table = file.frame("obs")
        if len(table) != len(state.tokens):
            raise CellError(
                f"{path} has {len(table)} cells but its dataset has {len(state.tokens)} rows; they must pair row by row"
            )
        obs = {str(c): texts(table[c]).astype(object) for c in table.columns}
        named = replace(state, obs=obs | dict(state.obs), barcode_C=strings(table.index))
        if not wants_counts:
            return named
        n_vars = len(file.frame("var"))
        if n_vars != n_genes and n_genes:
            raise CellError(f"{path} has {n_vars} genes but the model predicts {n_genes}; they do not belong together")
        counts = _raw_counts(file, len(table), n_vars)
    size_factor_C = np.asarray(counts.sum(axis=1), dtype=np.float32).ravel()
    if log_normalise:
        scale_C = 1e4 / np.maximum(size_factor_C, 1)
        counts = sp.csr_matrix(sp.diags(scale_C) @ counts, dtype=np.float32).log1p()
    return replace(named, counts=counts, size_factor_C=size_factor_C)


def _raw_counts(file: CellFile, n_cells: int, n_genes: int) -> Any:
    """X as CSR float32. Raises CellError if it is not there or does not hold counts."""
    if not file.has("X"):
        raise CellError(f"{file.path} has no X; put raw counts into X")
    counts = file.matrix("X", n_cells, n_genes).read(0, n_cells)
    value_T = counts.data
    is_odd_T = ~((value_T >= 0) & (value_T <= LARGEST_COUNT) & (value_T == np.round(value_T)))
    if is_odd_T.any():
        raise CellError(f"{file.path}: X must hold raw counts; it holds {value_T[is_odd_T][0]}; put counts into X")
    return counts.astype(np.float32)


def gene_columns(folder: Path) -> dict[Path, dict[str, list[str]]]:
    """The var columns (as strings) of every target h5ad of a folder."""
    return {path: _gene_columns(path) for path in time_points(folder, ".h5ad").values()}


def _gene_columns(path: Path) -> dict[str, list[str]]:
    with CellFile.open(path) as file:
        var = file.frame("var")
    return {str(c): [str(v) for v in var[c]] for c in var.columns}


def _filter(bank: TokenBank, config: CellsConfig) -> TokenBank:
    """filter_var / filter_cond: keep a row if the value of any state is listed; nothing listed anywhere = nothing filtered."""
    if not config.filter_var or not config.filter_cond:
        return bank
    values = [s.obs[config.filter_var] for s in bank.states.values() if config.filter_var in s.obs]
    if not values:
        columns = some(sorted({c for s in bank.states.values() for c in s.obs}), 20)
        raise CellError(f'filter_var "{config.filter_var}" is no column of the cells; columns: {columns}')
    keep_C: NDArray[np.bool_] = np.any([np.isin(v, config.filter_cond) for v in values], axis=0)
    if not keep_C.any():
        seen = some(sorted({str(x) for v in values for x in v}), 10)
        note = f'filter_cond {config.filter_cond} matches no cell ("{config.filter_var}" holds {seen}): nothing is filtered, as upstream'
        return replace(bank, notes=(*bank.notes, note))
    kept = bank.take(np.flatnonzero(keep_C))
    note = f"filter_var {config.filter_var}: {kept.n_cells} of {bank.n_cells} cells kept (any time point's value is listed)"
    return replace(kept, notes=(*kept.notes, note))
