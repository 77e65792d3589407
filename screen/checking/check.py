"""check: is this model any good on these cells? A configuration in, figures, a table of cells and a paragraph out."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screen.cells.bank import SOURCE
from screen.checking.accuracy import Accuracy, accuracy, prediction_figures, source_figures
from screen.checking.agreement import between_models, stability
from screen.checking.cells import SEED, CheckedCells, checked_cells
from screen.checking.effects import FEWEST, Effects, effect_cells, effects_of, sampled_edits
from screen.checking.predicted import predicted
from screen.config.screen_config import ScreenConfig
from screen.directory import CHECK, CHECKED_CELLS
from screen.engine.executor import own_version
from screen.engine.screen import Screen
from screen.errors import ConfigError, WriteError
from screen.files import holds, write_file
from screen.planning.perturbations import Library
from screen.results.checked import described_check, table_of_check, wrapped
from screen.running.api import Config, listener_of, loaded_config
from screen.running.listener import Listener
from screen.running.prepare import taken
from screen.stats.hits import write_whole


@dataclass(frozen=True)
class Check:
    """What was found: `print(check)` says it in words and as a table.

    figures  everything, as check.json holds it (docs/check.md)
    cells    a row per cell and time point: what is observed against what is predicted
    """

    figures: Mapping[str, Any]
    cells: pl.DataFrame

    def __str__(self) -> str:
        return "\n".join([*wrapped(described_check(self.figures)), "", *table_of_check(self.figures)])

    def write(self, directory: str | Path) -> None:
        """Writes check.json and check.parquet; files that say the same are left alone. Raises WriteError."""
        directory = Path(directory)
        text = (json.dumps(self.figures, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            write_whole(self.cells, directory / CHECKED_CELLS)
            if not holds(directory / CHECK, text):
                write_file(directory / CHECK, text)
        except OSError as error:
            raise WriteError(f"cannot write to {directory} ({error.strerror}); name another folder (--out)") from error


def check(
    config: Config,
    out: str | Path | None = None,
    cells: int | None = None,
    models: Sequence[str | Path] = (),
    progress: Listener | Callable[[str], object] | None = None,
) -> Check:
    """Is this model any good on these cells: accuracy beside baselines, what a cell's own source adds, stability of effects.

    config    of `load_config`, or what that takes
    out       folder to write check.json and check.parquet into; None: nothing is written
    cells     at most so many; None: the configuration's `check.cells`
    models    checkpoints beside the configured one (other training seeds), whose rankings are compared; and `check.models`
    progress  None: quiet; a function that is given lines, such as `print`; or a `screen.running.listener.Listener`
    The screen need not have run, and nothing of it is touched.
    Raises ScreenError: RequestError for what cannot be met, WriteError and PredictionError for what fails on the way.

    >>> import screen
    >>> found = screen.check("demo.yaml", cells=12)
    >>> print(found)
    On 12 cells of 1 type (cell_type: CD14+ Monocytes), paired by pairs.tsv: ...
    >>> found.figures["source"][0]["verdict"] in ("gain", "no gain"), found.cells.height
    (True, 12)
    """
    loaded, listener = loaded_config(config), listener_of(progress)
    n_cells = loaded.check.cells if cells is None else cells
    if n_cells < 1:
        raise ConfigError(f"check: cells is {n_cells}; it must be 1 or more")
    checkpoints = _other_models(loaded, models)
    with listener.status("reading model and cells"):
        found = checked_cells(loaded, n_cells)
        screen = found.screen()
    for note in found.notes:
        listener.note(note)
    of_times = _accuracies(found, screen, listener)
    effects, figures = _effects(found, screen, checkpoints, listener)
    made = Check(_figures(found, screen, of_times, {**effects, **figures}), _table(found, screen, of_times))
    if out is not None:
        made.write(out)
    return made


def _other_models(config: ScreenConfig, models: Sequence[str | Path]) -> dict[str, Path]:
    """Name -> checkpoint of the models beside the configured one, which may be listed itself."""
    own = config.model.checkpoint.resolve()
    paths = dict.fromkeys(p for p in (Path(m).resolve() for m in (*config.check.models, *models)) if p != own)
    names = {p: p.name if sum(q.name == p.name for q in (own, *paths)) == 1 else str(p) for p in paths}
    return {name: path for path, name in names.items()}


def _accuracies(found: CheckedCells, screen: Screen, listener: Listener) -> list[Accuracy]:
    if not found.times:
        return []
    stratum_C = screen.plan.stratum_C
    with listener.status(f"predicting {found.n_cells:,} cells, each from three sources"):
        controls = predicted(found, screen.library.take([0]), stratum_C)
    with listener.status("comparing with what was observed"):
        return [accuracy(found, controls, stratum_C, t) for t in found.times]


def _effects(
    found: CheckedCells, screen: Screen, checkpoints: Mapping[str, Path], listener: Listener
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(how many cells were edited, stability and agreement of a sample of edits)."""
    chosen, half_C = effect_cells(screen.plan.stratum_C)
    few = _taken(found, chosen)
    library = sampled_edits(few.screen(screen.library), half_C)
    about = {"n_cells": len(chosen), "fewest": FEWEST}
    if not len(library):
        return about, {"stability": [], "agreement": []}
    own = found.config.model.checkpoint.name
    by_model = {own: _computed(few, library, half_C, listener, own)}
    for name, path in checkpoints.items():
        other = _taken(_of_model(found, path, name), chosen)
        by_model[name] = _computed(other, library, half_C, listener, name)
    return about, {"stability": stability(by_model[own]), "agreement": between_models(by_model)}


def _computed(
    cells: CheckedCells, library: Library, half_C: NDArray[np.int64], listener: Listener, name: str
) -> Effects:
    n_items = cells.screen(library).plan.n_items
    listener.say(f"{len(library):,} edits of {cells.n_cells} cells by {name}")
    with listener.progress(n_items) as progress:
        return effects_of(cells, library, half_C, progress)


def _taken(found: CheckedCells, chosen: NDArray[np.int64]) -> CheckedCells:
    return CheckedCells(taken(found.loaded, chosen), found.config, found.pairing)


def _of_model(found: CheckedCells, path: Path, name: str) -> CheckedCells:
    """The same cells with another checkpoint. Raises ConfigError where it is the same model, or reads other genes."""
    model = found.config.model.model_copy(update={"checkpoint": path})
    other = checked_cells(found.config.model_copy(update={"model": model}), found.n_cells)
    if other.loaded.adapter.fingerprint == found.loaded.adapter.fingerprint:
        raise ConfigError(f"{name} holds the same weights as {found.config.model.checkpoint.name}; name another model")
    is_alike = other.loaded.vocabulary.fingerprint == found.loaded.vocabulary.fingerprint
    if not is_alike or other.loaded.bank.cell_id_C != found.loaded.bank.cell_id_C:
        raise ConfigError(f"{name} reads other genes or cells than {found.config.model.checkpoint.name}")
    return other


def _figures(found: CheckedCells, screen: Screen, of_times: Sequence[Accuracy], effects: Any) -> dict[str, Any]:
    loaded, names = found.loaded, screen.plan.coverage.stratum
    n_S = np.bincount(screen.plan.stratum_C, minlength=len(names)).tolist()
    predictions = [prediction_figures(a) for a in of_times]
    return {
        "perturbscreen": own_version(),
        **{name: version(name) for name in ("torch", "numpy")},
        "model": loaded.adapter.fingerprint,
        "checkpoint": found.config.model.checkpoint.name,
        "seed": SEED,
        "cells": {
            "n": found.n_cells,
            "grouped_by": list(found.config.output.strata),
            "strata": dict(zip(names, n_S, strict=True)),
            "pairing": dict(found.pairing),
        },
        "n_genes": len(loaded.vocabulary),
        "scale": loaded.adapter.schema.expression_scale,
        "times": list(loaded.window.pred_tps),
        "shows_target": bool(found.times),
        "prediction": [p for p in predictions if p is not None],
        "source": [source_figures(a) for a in of_times],
        "effects": effects,
        "notes": list(found.notes),
    }


def _table(found: CheckedCells, screen: Screen, of_times: Sequence[Accuracy]) -> pl.DataFrame:
    """A row per cell and time point."""
    bank, names = found.loaded.bank, np.array(screen.plan.coverage.stratum)
    lead = {
        "cell": list(bank.cell_id_C),
        "cell_idx": bank.states[SOURCE].cell_index_C,
        "stratum": names[screen.plan.stratum_C],
    }
    schema = {"cell": pl.String, "cell_idx": pl.Int64, "stratum": pl.String, "time": pl.Int8}
    if not of_times:
        return pl.DataFrame({**lead, "time": np.zeros(found.n_cells, dtype=np.int8)}, schema=schema)
    parts = [
        pl.DataFrame({**lead, "time": np.full(found.n_cells, a.time), **a.columns}, schema_overrides=schema)
        for a in of_times
    ]
    return pl.concat(parts, how="diagonal").with_columns(pl.selectors.float().fill_nan(None))
