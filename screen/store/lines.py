"""Lines: which predictions of a store are exported, one per item and time point, and what is read for them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen import __version__
from screen.cells.bank import SOURCE
from screen.errors import ConfigError, StoreError, nearest, some
from screen.store.arrays import group_of, stored_name
from screen.store.find import find
from screen.store.folder import damages
from screen.store.reader import Block, StoreReader


@dataclass(frozen=True, eq=False)
class Wanted:
    """What of a screen is exported; what is not said is not restricted.

    names   of perturbations, as of `find`; all edits of each
    cell_C  whether each cell is in `stratum`; whoever names a stratum says which cells are in it
    """

    names: tuple[str, ...] = ()
    mode: str | None = None
    stratum: str | None = None
    time: int | None = None
    cell_C: NDArray[np.bool_] | None = None

    def __str__(self) -> str:
        said = {"perturbation": ", ".join(self.names), "mode": self.mode, "stratum": self.stratum, "time": self.time}
        return "; ".join(f"{k} {v}" for k, v in said.items() if v not in (None, "")) or "all"

    def perturbations(self, store: StoreReader) -> list[int]:
        """Numbers of the perturbations, in the store's order. Raises GeneError for a name or mode that is not there."""
        found = {p for name in self.names or (None,) for p in find(store, name, self.mode)}
        return sorted(found)


@dataclass(frozen=True)
class Lines:
    """N lines of an export, one per item and time point: library block and row of the item, perturbation, cell, time."""

    block_N: NDArray[np.int64]
    item_N: NDArray[np.int64]
    perturbation_N: NDArray[np.int64]
    cell_N: NDArray[np.int64]
    time_N: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.item_N)

    def take(self, lines: slice | NDArray[np.int64]) -> "Lines":
        """Some of the lines, in the order asked for."""
        columns = (self.block_N, self.item_N, self.perturbation_N, self.cell_N, self.time_N)
        return Lines(*(x[lines] for x in columns))

    def at(self, time: int, block: int | None = None) -> NDArray[np.int64]:
        """Lines of one time point, of one library block or all."""
        chosen = self.time_N == time
        return np.flatnonzero(chosen if block is None else chosen & (self.block_N == block))


def lines_of(store: StoreReader, wanted: Wanted) -> Lines:
    """One line per item and time point that was screened, in upstream's order: batch of cells, time point, cell.

    Raises GeneError and ConfigError for what is not there, StoreError for an unfinished screen or one that kept only summaries.
    """
    numbers, times = wanted.perturbations(store), store.layout.pred_tps
    if wanted.time is not None and wanted.time not in times:
        raise ConfigError(f"no time point {wanted.time}; there are {some(times, 20)}")
    if store.layout.keeps_summaries:
        raise StoreError(
            f"{store.path} holds summaries, no predictions of single cells; screen with `keep: predictions` to export them"
        )
    if not store.is_complete:
        raise StoreError(
            f"{store.path} is unfinished: {store.n_committed} of {store.n_units} units; run it again to finish"
        )
    found = []
    for block in store.blocks:
        local = [p - block.first for p in numbers if 0 <= p - block.first < block.n_perturbations]
        rows = [block.rows_of(p) for p in local]
        item_N = np.concatenate([np.zeros(0, np.int64), *rows])
        perturbation_N = np.repeat(np.array(local, dtype=np.int64) + block.first, [len(r) for r in rows])
        cell_N = block.read("items/cell", item_N).astype(np.int64)
        is_chosen_N = np.ones(len(item_N), dtype=bool) if wanted.cell_C is None else wanted.cell_C[cell_N]
        block_N = np.full(len(item_N), block.number)
        for k, t in enumerate(times):
            if wanted.time in (None, t):
                is_here_N = is_chosen_N & block.read(f"items/is_screened_t{t}", item_N)
                place_N, time_N = np.full((2, len(item_N)), [[k], [t]])
                columns = (block_N, item_N, perturbation_N, cell_N, time_N, place_N)
                found.append(np.stack(columns)[:, is_here_N])
    *lines, place_N = np.concatenate(found, axis=1)
    table = Lines(*lines)
    batch_N = table.cell_N // int(store.provenance["view"]["export_batch_size"])
    return table.take(np.lexsort((table.cell_N, place_N, batch_N, table.perturbation_N)))


Read = Callable[[Block, int, NDArray[np.int64]], NDArray[Any]]
"""Values at rows of one library block and time point."""


def gather(store: StoreReader, table: Lines, row_N: NDArray[np.int64], read: Read) -> NDArray[np.float32]:
    """What `read` gives for the row (an item or a cell) of every line."""
    out: NDArray[np.float32] | None = None
    for block in store.blocks:
        for t in store.layout.pred_tps:
            at = table.at(t, block.number)
            unique, inverse = np.unique(row_N[at], return_inverse=True)
            values = read(block, t, unique)
            if out is None:
                out = np.zeros((len(table), *values.shape[1:]), dtype=np.float32)
            out[at] = values[inverse]
    assert out is not None
    return out


def metadata_of(store: StoreReader, table: Lines) -> dict[str, NDArray[Any]]:
    """Columns of the target state of each line, `output.var_list` alone where it names some."""
    var_list: list[str] | None = store.provenance["view"]["var_list"]
    columns: dict[str, NDArray[Any]] = {}
    for t in store.layout.pred_tps:
        place = f"cells/{group_of(t)}/obs"
        with damages(store.path / place):
            names = [str(k) for k, _ in store.group[place].members()]  # type: ignore[union-attr]
        for name in var_list if var_list is not None else sorted(names):
            if stored_name(name) not in names:
                raise StoreError(
                    f'var_list names "{name}", which the cells of time point {t} lack{nearest(name, names)}'
                )
            values = columns.setdefault(name, np.full(len(table), "", dtype=object))
            at = table.at(t)
            values[at] = store.strings(f"cells/{group_of(t)}/obs/{stored_name(name)}")[table.cell_N[at]]
    return columns


def cells_of(store: StoreReader, table: Lines) -> dict[str, NDArray[Any]]:
    """The cell of each line: its target state's row in the user's data set, its time point, the barcodes of both states.

    Directories of earlier versions have no barcodes of target cells, and data sets may have none.
    """
    cell_idx_N, target_N = np.zeros(len(table), dtype=np.int64), np.full(len(table), "", dtype=object)
    for t in store.layout.pred_tps:
        at = table.at(t)
        cell_idx_N[at] = store.read(f"cells/{group_of(t)}/cell_index")[table.cell_N[at]]
        barcode_C = barcodes(store, t)
        if barcode_C is not None:
            target_N[at] = barcode_C[table.cell_N[at]]
    source_C = barcodes(store, SOURCE)
    source_N = (store.strings("cells/id") if source_C is None else source_C)[table.cell_N]
    return {"cell_idx": cell_idx_N, "time": table.time_N, "source_cell": source_N, "target_cell": target_N}


def barcodes(store: StoreReader, state: int) -> NDArray[Any] | None:
    """(C,) names of a state's cells in the user's data set; None where that has none, or the directory is an older one."""
    place = f"cells/{group_of(state)}/barcode"
    return store.strings(place) if place in store.group else None


def require_some(lines: Lines, wanted: Wanted) -> None:
    """Raises StoreError where nothing was predicted."""
    if not len(lines):
        raise StoreError(
            f"no cell allows what is wanted ({wanted}): genes that are not expressed there, or lie beyond the model's longest row, "
            "have no prediction; coverage.parquet has the numbers of cells"
        )


def genes_of(store: StoreReader) -> Any:
    """The table of genes of an export, by upstream's names."""
    import pandas as pd

    var = pd.DataFrame(index=pd.Index(store.strings("genes/name"), dtype=object))
    for column in ("ensembl_id", "symbol"):
        var[column] = store.strings(f"genes/{column}")
    return var


def facts_of(store: StoreReader, wanted: Wanted) -> dict[str, str]:
    """What an export says of where it comes from and what was chosen."""
    mode_P, identity = store.perturbations("mode"), store.provenance["identity"]
    config = str(store.blocks[0].attributes.get("config", "")) if store.blocks else ""
    return {
        "directory": str(store.path.parent.absolute()),
        "selection": str(wanted),
        "mode": ", ".join(sorted({str(mode_P[p]) for p in wanted.perturbations(store)})),
        "screened_by": f"perturbscreen {store.provenance['perturbscreen']}",
        "written_by": f"perturbscreen {__version__}",
        "readout": _readout(config),
        "config": config,
        "identity_cells": str(identity["cells"]),
        "model": str(identity["model"]),
    }


def _readout(config: str) -> str:
    """Which readout of the model a configuration of our own asked for."""
    import yaml

    try:
        found = yaml.safe_load(config)
        if isinstance(found, dict) and "library" in found:
            return str((found.get("predict") or {}).get("readout", "expected"))
    except (yaml.YAMLError, AttributeError):
        pass
    return "as its config says"
