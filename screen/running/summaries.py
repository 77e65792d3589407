"""Summaries: finished units with the moments of their groups, in place of their items' changes or beside them."""

from collections.abc import Generator, Iterable
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from screen.engine.unit import Columns, Unit
from screen.planning.layout import SUMMARIES, Layout
from screen.planning.plan import Plan
from screen.planning.segments import segment_of_rows
from screen.stats.moments import counts_of, moments_of
from screen.stats.partial_moments import partial_moments


class Planned(Protocol):
    """What is known of a screen before it is computed: its items, and what is kept of them."""

    @property
    def plan(self) -> Plan:
        """The items."""

    @property
    def layout(self) -> Layout:
        """The arrays."""


def summarised(units: Iterable[Unit], screen: Planned) -> Generator[Unit, None, None]:
    """The same units, in order, with `summaries/` in place of `delta/` (`keep: summaries`)."""
    controls = _Controls(screen)
    for unit in units:
        controls.take(unit)
        yield replace(unit, columns=_summarise(unit, screen, controls))


def with_moments(units: Iterable[Unit], screen: Planned, stratum_C: NDArray[np.integer]) -> Generator[Unit, None, None]:
    """The same units, in order, with `moments/` beside `delta/`: those of the changes as they are stored."""
    controls = _Controls(screen)
    for unit in units:
        controls.take(unit)
        yield replace(unit, columns=unit.columns | _moments(unit, screen, controls, stratum_C))


class _Controls:
    """The controls of the cells of the current unit; those of a block of cells come with its first."""

    def __init__(self, screen: Planned) -> None:
        self._plan, self._times = screen.plan, screen.layout.pred_tps
        self._cell_C = np.zeros(0, dtype=np.int64)
        self.expression: dict[int, NDArray[np.float32]] = {}

    def take(self, unit: Unit) -> None:
        """Goes on to a unit."""
        if not unit.controls:
            return
        # a unit may begin with the cells of the unit before and go on with new ones
        used = np.isin(self._cell_C, self._plan.cell_I[unit.rows])
        cells = [self._cell_C[used], *(c for c, _ in unit.controls)]
        for t in self._times:
            kept = [self.expression[t][used]] if t in self.expression else []
            self.expression[t] = np.concatenate([*kept, *(columns[f"expression_t{t}"] for _, columns in unit.controls)])
        self._cell_C = np.concatenate(cells)

    def place(self, unit: Unit) -> NDArray[np.int64]:
        """(R,) the row of each item's control."""
        by_cell = np.argsort(self._cell_C)
        place_R: NDArray[np.int64] = by_cell[
            np.searchsorted(self._cell_C, self._plan.cell_I[unit.rows], sorter=by_cell)
        ]
        return place_R


def _summarise(unit: Unit, screen: Planned, controls: _Controls) -> Columns:
    columns = {name: x for name, x in unit.columns.items() if not name.startswith("delta/")}
    segment_R, place_R = segment_of_rows(screen.plan, unit.rows), controls.place(unit)
    is_log1p = screen.layout.expression_scale == "log1p_cp10k"
    for k, t in enumerate(screen.layout.pred_tps):
        delta_RG = unit.columns[f"delta/t{t}"]
        is_screened_R = screen.plan.is_screened_IT[unit.rows, k]
        shape = (int(segment_R.max()) + 1, delta_RG.shape[1])
        found = {name: np.zeros(shape, dtype=np.float32) for name in SUMMARIES}
        for segment in range(shape[0]):
            at = np.flatnonzero(is_screened_R & (segment_R == segment))
            if len(at):
                before_NG = counts_of(controls.expression[t][place_R[at]], is_log1p)
                moments = moments_of(delta_RG[at], before_NG, is_log1p)
                for name, values in found.items():
                    values[segment] = getattr(moments, f"{name}_G")
        columns |= {f"summaries/{name}/t{t}": x for name, x in found.items()}
    return columns


def _moments(unit: Unit, screen: Planned, controls: _Controls, stratum_C: NDArray[np.integer]) -> Columns:
    layout, columns = screen.layout, Columns()
    segment_R, place_R = segment_of_rows(screen.plan, unit.rows, stratum_C), controls.place(unit)
    n_segments, is_log1p = int(segment_R.max()) + 1, layout.expression_scale == "log1p_cp10k"
    for k, t in enumerate(layout.pred_tps):
        counted_R = np.where(screen.plan.is_screened_IT[unit.rows, k], segment_R, -1)
        before_CG = counts_of(controls.expression[t], is_log1p)
        found = partial_moments(
            unit.columns[f"delta/t{t}"], layout.delta_scale, before_CG, place_R, counted_R, n_segments, is_log1p
        )
        columns |= {f"moments/{name}/t{t}": x for name, x in found.items()}
    return columns
