"""Cells of a check: those that a configuration names, up to a number, whatever few of them the screen itself would take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from screen.cells.bank import SOURCE
from screen.cells.pairing import DRAWN, shuffled
from screen.config.screen_config import ScreenConfig
from screen.config.sections import DegConfig
from screen.engine.screen import Screen
from screen.models.registry import Loaded, load
from screen.planning.perturbations import Library
from screen.running.prepare import in_strata, screen_of, taken

SEED = 0


@dataclass(frozen=True)
class CheckedCells:
    """A model and the cells that it is judged on.

    config   the configuration as a check reads it: every number kept, no other table asked for
    pairing  who made pairs of source and target: {"kind": "file" | "drawn" | "rows" | "none", "name": ...}
    """

    loaded: Loaded
    config: ScreenConfig
    pairing: Mapping[str, str]
    notes: Sequence[str] = ()

    @property
    def n_cells(self) -> int:
        return self.loaded.bank.n_cells

    @property
    def times(self) -> tuple[int, ...]:
        """The target time points that are predicted; none where the model reads out the source."""
        return tuple(t for t in self.loaded.window.pred_tps if t != SOURCE)

    def screen(self, library: Library | None = None) -> Screen:
        """The screen of these cells: of the configured perturbations, or of these."""
        return screen_of(self.loaded, self.config, library=library)


def checked_cells(config: ScreenConfig, n_cells: int) -> CheckedCells:
    """Reads model and cells; of more than `n_cells` a sample, the same every time. Raises RequestError."""
    asked = _for_check(config, n_cells)
    loaded, notes = in_strata(load(asked), asked)
    n_all = loaded.bank.n_cells
    if n_all > n_cells:
        loaded = taken(loaded, np.sort(shuffled(np.arange(n_all), SEED, "check")[:n_cells]))
    return CheckedCells(loaded, asked, _pairing(config, loaded), tuple(notes))


def _for_check(config: ScreenConfig, n_cells: int) -> ScreenConfig:
    cells, output = config.cells, config.output
    # pairs of one stratum are what a gain is to be measured within
    strata = output.strata or (cells.strata if cells.h5ad is not None else [])
    kept = {"strata": strata, "keep": "predictions", "store_dtype": "float32", "keep_gene_cosine": False}
    return config.model_copy(
        update={
            "cells": cells.model_copy(update={"max_cells": n_cells} if cells.h5ad is not None else {}),
            "output": output.model_copy(update=kept),
            "deg": DegConfig(),
            "enrich": None,
        }
    )


def _pairing(config: ScreenConfig, loaded: Loaded) -> dict[str, str]:
    cells = config.cells
    if set(loaded.window.pred_tps) == {SOURCE}:
        return {"kind": "none", "name": ""}
    if cells.h5ad is None:
        return {"kind": "rows", "name": "row by row"}
    if cells.pairing in DRAWN:
        return {"kind": "drawn", "name": cells.pairing}
    return {"kind": "file", "name": Path(cells.pairing).name}
