"""Summaries: finished units whose items are replaced by the moments of their groups (`keep: summaries`)."""

from collections.abc import Generator, Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from screen.engine.screen import Screen
from screen.engine.unit import Columns, Unit
from screen.planning.layout import SUMMARIES
from screen.planning.segments import segment_of_rows
from screen.stats.moments import counts_of, moments_of


def summarised(units: Iterable[Unit], screen: Screen) -> Generator[Unit, None, None]:
    """The same units, in order, with `summaries/` in place of `delta/`; a block of cells' controls come with its first."""
    controls: dict[str, NDArray[np.float32]] = {}
    cell_C = np.zeros(0, dtype=np.int64)
    for unit in units:
        # a unit may begin with the cells of the unit before and go on with new ones
        if unit.controls:
            used = np.isin(cell_C, screen.plan.cell_I[unit.rows])
            cells = [cell_C[used], *(c for c, _ in unit.controls)]
            for t in screen.layout.pred_tps:
                name = f"expression_t{t}"
                kept = [controls[name][used]] if name in controls else []
                controls[name] = np.concatenate([*kept, *(columns[name] for _, columns in unit.controls)])
            cell_C = np.concatenate(cells)
        yield replace(unit, columns=_summarise(unit, screen, cell_C, controls))


def _summarise(
    unit: Unit, screen: Screen, cell_C: NDArray[np.int64], controls: dict[str, NDArray[np.float32]]
) -> Columns:
    columns = {name: x for name, x in unit.columns.items() if not name.startswith("delta/")}
    segment_R = segment_of_rows(screen.plan, unit.rows)
    by_cell = np.argsort(cell_C)
    place_R = by_cell[np.searchsorted(cell_C, screen.plan.cell_I[unit.rows], sorter=by_cell)]
    is_log1p = screen.layout.expression_scale == "log1p_cp10k"
    for k, t in enumerate(screen.layout.pred_tps):
        delta_RG = unit.columns[f"delta/t{t}"]
        is_screened_R = screen.plan.is_screened_IT[unit.rows, k]
        shape = (int(segment_R.max()) + 1, delta_RG.shape[1])
        found = {name: np.zeros(shape, dtype=np.float32) for name in SUMMARIES}
        for segment in range(shape[0]):
            at = np.flatnonzero(is_screened_R & (segment_R == segment))
            if len(at):
                before_NG = counts_of(controls[f"expression_t{t}"][place_R[at]], is_log1p)
                moments = moments_of(delta_RG[at], before_NG, is_log1p)
                for name, values in found.items():
                    values[segment] = getattr(moments, f"{name}_G")
        columns |= {f"summaries/{name}/t{t}": x for name, x in found.items()}
    return columns
