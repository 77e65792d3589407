"""Evaluation: a screen held against a real perturbation screen, and against positive controls that the user names."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from screen.directory import EVALUATION, EVALUATION_SUMMARY
from screen.errors import CellError, ConfigError, nearest, some
from screen.evaluate import profile_level, screen_level
from screen.evaluate.described import described_evaluation
from screen.evaluate.expected import Expect, checked, expected_table, recorded_expect
from screen.evaluate.labels import Genes, vocabulary_of
from screen.evaluate.predicted import Edit, Predicted, edit_of, predicted, predicted_changes
from screen.evaluate.profile_level import profile_table, profiles
from screen.evaluate.real_cells import EVERY_TYPE, FEWEST_CELLS, RealCells, open_real
from screen.evaluate.real_effects import MAX_FDR, RealEffects, real_effects
from screen.evaluate.screen_level import Compared, screen_table
from screen.files import write_file
from screen.results.results import Results
from screen.stats.hits import write_whole

MOST_CELLS = 300
OURS = "/prediction"
SCALE = "natural logarithm of 1 + counts per 10,000 of a cell's counts in the genes that the model and the file share"


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found; printed, it is a sentence and tables of 80 columns.

    screen         how well scores rank the real effects: `screen.evaluate.screen_level.SCHEMA`
    profiles       how near predicted changes are to real ones: `screen.evaluate.profile_level.SCHEMA`
    perturbations  one row per perturbation that is in both: scores, real effects, metrics of its profile
    expected       positive controls: `screen.evaluate.expected.SCHEMA`
    facts          settings, numbers of what matched and what did not, the real control cells, notes
    Tables of a comparison that was not asked for are empty.
    """

    screen: pl.DataFrame
    profiles: pl.DataFrame
    perturbations: pl.DataFrame
    expected: pl.DataFrame
    facts: Mapping[str, Any]

    @property
    def lines(self) -> list[str]:
        """As the command prints it."""
        return described_evaluation(self.screen, self.profiles, self.expected, self.facts)

    def __repr__(self) -> str:
        return "\n".join(self.lines)

    def write(self, directory: Path) -> Path:
        """Writes `evaluation/*.parquet` and `evaluation.json` into a directory; returns the latter's path."""
        tables = {"screen": self.screen, "profiles": self.profiles, "perturbations": self.perturbations}
        tables["expected"] = self.expected
        (directory / EVALUATION).mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            path = directory / EVALUATION / f"{name}.parquet"
            path.unlink(missing_ok=True)
            if not table.is_empty():
                write_whole(table, path)
        said = {"summary": self.lines, **self.facts}
        path = directory / EVALUATION_SUMMARY
        write_file(path, (json.dumps(said, indent=2, allow_nan=False) + "\n").encode())
        return path


def evaluate(
    results: Results,
    real: str | Path | None = None,
    perturbation_column: str = "perturbation",
    control: str = "control",
    *,
    celltype: str | None = None,
    mode: str | None = None,
    time: int | None = None,
    layer: str | None = None,
    max_cells: int = MOST_CELLS,
    expect: Expect | None = None,
) -> Evaluation:
    """How a finished screen compares with a real one, and with what is known without a model; docs/evaluate.md.

    real                 an h5ad of raw counts; None: only the positive controls are looked up
    perturbation_column  obs column of what was perturbed: symbols or Ensembl IDs, joint ones as A+B or A_B; `control`: its value
                         for control cells
    celltype             obs column whose values are the screen's strata, each compared by itself; without strata in the screen,
                         each with the one prediction. None: all cells together
    mode, time           which edit and time point; default: the only one
    layer                of the counts; by default X, or raw where X does not hold counts
    max_cells            cells read per perturbation, a random part that is the same each time
    expect               {edited gene: genes that must respond}; by default `expect` of the screen's configuration
    Raises ConfigError, CellError or GeneError, saying what was seen and what there is.
    """
    wanted = recorded_expect(results) if expect is None else checked(expect, "expect")
    if real is None and not wanted:
        raise ConfigError(
            "nothing to evaluate against: name a real screen (--real FILE.h5ad), or genes that must respond (--expect "
            "IFNAR1=STAT1,IRF9, or `expect` in the configuration)"
        )
    if max_cells < FEWEST_CELLS:
        raise ConfigError(f"max_cells is {max_cells}; it must be {FEWEST_CELLS} or more")
    facts: dict[str, Any] = {"directory": str(results.directory), "comparisons": [], "notes": []}
    tables: list[tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]] = []
    if real is not None:
        edit = edit_of(results, mode, time)
        facts |= {
            "real": Path(real).name, "perturbation_column": perturbation_column, "control": control, "celltype": celltype,
            "edit": str(edit), "scale": SCALE, "max_cells": max_cells, "max_fdr": MAX_FDR,
        }  # fmt: skip
        tables = _compared(results, edit, Path(real), perturbation_column, control, celltype, layer, max_cells, facts)
    empty = (screen_level.SCHEMA, profile_level.SCHEMA, {"perturbation": pl.String})
    screens, profile_tables, perturbations = (
        pl.concat([t[i] for t in tables], how="diagonal") if tables else pl.DataFrame(schema=empty[i]) for i in range(3)
    )
    return Evaluation(screens, profile_tables, perturbations, expected_table(results, wanted), facts)


def _compared(
    results: Results, edit: Edit, path: Path, column: str, control: str, celltype: str | None, layer: str | None,
    max_cells: int, facts: dict[str, Any],
) -> list[tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]]:  # fmt: skip
    """The tables of every comparison; `facts` learns what matched."""
    vocabulary = vocabulary_of(results.store)
    column_of = {e: g for g, e in enumerate(vocabulary.ensembl_id)}
    every = predicted(results, edit, results.strata, column_of)
    wanted = dict(zip(every.genes, every.name_P, strict=True))
    found = []
    with open_real(path, column, control, vocabulary, wanted, celltype, layer) as cells:
        facts["genes"] = {"model": len(vocabulary), "shared": len(cells.shared)}
        facts["notes"] += cells.notes
        for cell_type, strata in _strata_of_types(results, cells, celltype).items():
            ours = every if celltype is None else predicted(results, edit, strata, column_of)
            found.append(_one(results, edit, cells, cell_type, strata, ours, max_cells, facts))
    return found


def _strata_of_types(results: Results, cells: RealCells, celltype: str | None) -> dict[str, list[str]]:
    """Cell type of the real file -> the screen's strata that it is compared with."""
    if celltype is None:
        return {EVERY_TYPE: results.strata}
    types = cells.types
    if len(results.strata) == 1:
        return dict.fromkeys(types, results.strata)
    both = {t: [t] for t in types if t in results.strata}
    if not both:
        near = "".join(nearest(t, results.strata) for t in types[:1])
        raise CellError(
            f'no cell type in "{celltype}" of {cells.file} is a stratum of the screen: with control cells it has '
            f"{some(types, 10) or 'none'}; strata: {some(results.strata, 10)}{near}"
        )
    return both


def _one(
    results: Results, edit: Edit, cells: RealCells, cell_type: str, strata: Sequence[str], ours: Predicted, max_cells: int,
    facts: dict[str, Any],
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:  # fmt: skip
    row_of = {g: n for n, g in enumerate(ours.genes)}
    common = [g for g in ours.genes if g in cells.labels.of_genes]
    real = real_effects(cells, common, cell_type, max_cells)
    place = {int(g): n for n, g in enumerate(cells.shared.tolist())}
    own = [[place[x] for x in g if x in place] for g in real.genes]
    compared = Compared(ours, real, np.array([row_of[g] for g in real.genes], dtype=np.int64), own)
    facts["comparisons"].append(_facts(cells, cell_type, strata, ours, common, real))
    ids = [ours.id_P[n] for n in compared.screen_P]
    metrics: dict[str, Any] = {}
    profile = pl.DataFrame(schema=profile_level.SCHEMA)
    if results.has_counts and len(compared):
        change_PG = predicted_changes(results, edit, strata, ids, cells.shared)
        metrics = profiles(compared, change_PG, _sums_of_singles(cells, real, cell_type, max_cells))
        profile = profile_table(metrics, cell_type)
    return screen_table(compared, cell_type), profile, _perturbations(compared, cell_type, ids, metrics)


def _sums_of_singles(cells: RealCells, real: RealEffects, cell_type: str, max_cells: int) -> dict[int, Any]:
    """Joint perturbation (row) -> the sum of the real changes of its genes alone, where all of these were measured."""
    singles = sorted({(x,) for g in real.genes if len(g) > 1 for x in g} & set(cells.labels.of_genes))
    known: dict[Genes, Any] = dict(zip(real.genes, real.change_PG, strict=True))
    missing = [g for g in singles if g not in known]
    if missing:
        more = real_effects(cells, missing, cell_type, max_cells)
        known |= dict(zip(more.genes, more.change_PG, strict=True))
    return {
        p: np.sum([known[(x,)] for x in g], axis=0, dtype=np.float64)
        for p, g in enumerate(real.genes)
        if len(g) > 1 and all((x,) in known for x in g)
    }


def _facts(
    cells: RealCells, cell_type: str, strata: Sequence[str], ours: Predicted, common: Sequence[Genes], real: RealEffects
) -> dict[str, Any]:
    """Numbers of what matched; names of some of what did not."""
    lost = sorted(name for g, names in cells.labels.of_genes.items() if g not in set(ours.genes) for name in names)
    return {
        "stratum": cell_type, "strata": list(strata), "n_compared": len(real.genes), "n_screened": len(ours.genes),
        "n_in_fewer_screened_cells": ours.n_too_few, "n_not_in_the_file": len(ours.genes) - len(common),
        "n_with_too_few_real_cells": len(common) - len(real.genes), "n_not_screened": len(lost), "not_screened": lost[:20],
        "n_labels_without_a_gene": len(cells.labels.unknown), "labels_without_a_gene": list(cells.labels.unknown[:20]),
        "n_control_cells": real.n_controls, "n_real_cells": int(real.n_cells_P.sum()), "n_components": real.n_components,
    }  # fmt: skip


def _perturbations(compared: Compared, stratum: str, ids: Sequence[str], metrics: Mapping[str, Any]) -> pl.DataFrame:
    rows, real = compared.screen_P, compared.real
    columns: dict[str, Any] = {"stratum": [stratum] * len(compared), "perturbation": list(ids)}
    columns["target_symbol"] = [compared.predicted.name_P[n] for n in rows]
    columns |= {"energy_distance": real.energy_P, "n_deg": real.n_deg_P, **compared.scores}
    columns["rank_position"] = -columns["rank_position"]
    columns |= {k.removesuffix(OURS): v for k, v in metrics.items() if k.endswith(OURS)}
    table = pl.DataFrame(columns).with_columns(pl.selectors.float().fill_nan(None))
    return table.sort("energy_distance", descending=True, nulls_last=True)
