"""Exports for other tools: edited cells and their unedited predictions as rows of their own, in scPerturb's columns."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.errors import RequestError, StoreError, some
from screen.planning.layout import COUNTS, LOG1P, SCALES, counts
from screen.store.lines import Lines, Wanted, cells_of, facts_of, gather, genes_of, lines_of, metadata_of, require_some
from screen.store.reader import StoreReader

CONTROL, NON_TARGETING, TARGET = "control", "non-targeting", "target_gene"
"""What unedited cells are called by scPerturb and pertpy, and by cell-eval; the column that cell-eval is given."""


@dataclass(eq=False)
class RowsWithControl:
    """Rows of an export, edited cells first and then each of their unedited predictions once, to be read some at a time.

    X on one of SCALES, 0 where rounding would give less; obs perturbation (symbol, joint ones A+B; "control"),
    perturbation_type, nperts, perturbation_id, target_gene_id, mode, time, cell_idx, source_cell, target_cell, and the metadata.
    """

    store: StoreReader
    lines: Lines
    scale: str
    obs: Any
    var: Any
    uns: dict[str, str]
    notes: Sequence[str] = ()

    def arrays(self, start: int, stop: int) -> dict[str, NDArray[np.float32]]:
        """X of rows start to stop."""
        store, lines = self.store, self.lines.take(slice(start, stop))
        log_NG = self._control("expression", lines).astype(np.float64)
        edited_N = np.flatnonzero(lines.perturbation_N >= 0)
        edited = lines.take(edited_N)
        change = gather(store, edited, edited.item_N, lambda b, t, rows: b.read(f"delta/t{t}", rows))
        log_NG[edited_N] += change / np.float32(store.layout.delta_scale)
        if self.scale == COUNTS and store.layout.expression_scale != "model":
            total_N = self._control("total", lines)
            total_N[edited_N] = gather(store, edited, edited.item_N, lambda b, t, rows: b.effect(f"total_t{t}", rows))
            log_NG = counts(log_NG, total_N)
        return {"X": np.maximum(log_NG, 0).astype(np.float32)}

    def _control(self, name: str, lines: Lines) -> NDArray[np.float32]:
        return gather(self.store, lines, lines.cell_N, lambda b, t, cells: self.store.control(f"{name}_t{t}", b, cells))


def with_control(store: StoreReader, wanted: Wanted, scale: str = COUNTS) -> RowsWithControl:
    """Edited cells and the unedited predictions of the same cells, once per cell and time point.

    Raises GeneError and ConfigError for what is not there; StoreError for a screen without counts, one that is unfinished or
    kept only summaries, a scale that it does not have, and where no cell allows what is wanted.
    """
    if not store.layout.has_counts:
        raise StoreError(f"{store.path} has embeddings only; there is no expression to put beside a control")
    is_own = store.layout.expression_scale == "model"
    if is_own and scale == LOG1P:
        raise StoreError(
            f"{store.path} holds log expression on the model's own scale, which is not {LOG1P}; leave --scale out to have it as "
            "it is"
        )
    edited = lines_of(store, wanted)
    require_some(edited, wanted)
    lines = _with_controls(edited, len(store.blocks) - 1)
    what = "the model's own log expression" if is_own else SCALES[scale]
    uns = {"X": "predictions for edited cells and for the same cells unedited", "scale": what, "layout": "with control"}
    uns |= {"control": "unedited predictions of the cells that have an edited row, once per cell and time point"}
    return RowsWithControl(store, lines, scale, _obs(store, lines), genes_of(store), uns | facts_of(store, wanted))


def for_cell_eval(store: StoreReader, wanted: Wanted) -> RowsWithControl:
    """`with_control` as cell-eval reads it: log1p CP10K; obs target_gene, one condition each, "non-targeting" for controls.

    Genes are called by their symbols, as targets are; those that share one by their Ensembl IDs.
    Raises RequestError where a target has several edits, or there are several time points; otherwise as `with_control`.
    """
    rows = with_control(store, wanted, LOG1P)
    times = sorted({int(t) for t in rows.lines.time_N})
    if len(times) > 1:
        raise RequestError(
            f"cell-eval compares one condition per target, but there are time points {some(times)}; say --time"
        )
    pairs = rows.obs[["perturbation", "perturbation_id"]].drop_duplicates()
    twice = pairs[pairs.duplicated("perturbation", keep=False)]
    if len(twice):
        target = twice["perturbation"].iloc[0]
        ids = twice["perturbation_id"][twice["perturbation"] == target].astype(str)
        raise RequestError(
            f"cell-eval compares one condition per target, but {target} stands for {some(ids)}; say --mode or --perturbation"
        )
    obs = rows.obs.rename(columns={TARGET: f"cell_{TARGET}"})
    obs.insert(0, TARGET, np.where(obs["perturbation"] == CONTROL, NON_TARGETING, obs["perturbation"]))
    symbol_G, id_G = rows.var["symbol"].to_numpy(), rows.var["ensembl_id"].to_numpy()
    is_shared_G = rows.var["symbol"].duplicated(keep=False).to_numpy()
    var = rows.var.set_index(np.where(is_shared_G, id_G, symbol_G))
    return replace(rows, obs=obs, var=var, uns=rows.uns | {"layout": "cell-eval"})


def _with_controls(edited: Lines, last_block: int) -> Lines:
    """The lines, and after them one without a perturbation (-1) for each of their cells and time points."""
    time_M, cell_M = np.unique(np.stack([edited.time_N, edited.cell_N]), axis=1)
    none_M = np.full(len(cell_M), -1)
    controls = (np.full(len(cell_M), last_block), none_M, none_M, cell_M, time_M)
    before = (edited.block_N, edited.item_N, edited.perturbation_N, edited.cell_N, edited.time_N)
    return Lines(*(np.concatenate(pair) for pair in zip(before, controls, strict=True)))


def _obs(store: StoreReader, lines: Lines) -> Any:
    """What is known of every row; metadata that are called as a column of ours are called `cell_...`."""
    import pandas as pd

    def of(name: str) -> NDArray[Any]:
        # a control's number, -1, is the last one
        return np.array([*store.perturbations(name), CONTROL], dtype=object)[lines.perturbation_N]

    mode_N, target_N = of("mode"), of("target_gene")
    is_control_N = lines.perturbation_N < 0
    n_genes_N = np.array([str(t).count("+") + 1 for t in target_N], dtype=np.int64)
    ours = {
        "perturbation": of("target_symbol"),
        "perturbation_type": np.where(
            is_control_N, CONTROL, np.array([f"in silico {m}" for m in mode_N], dtype=object)
        ),
        "nperts": np.where(is_control_N, 0, n_genes_N),
        "perturbation_id": of("id"),
        "target_gene_id": target_N,
        "mode": mode_N,
        **cells_of(store, lines),
    }
    metadata = {name if name not in ours else f"cell_{name}": v for name, v in metadata_of(store, lines).items()}
    return pd.DataFrame(ours | metadata, index=[str(i) for i in range(len(lines))])
