"""ReferenceEngine: one cell, one perturbation, the plain model; the definition of a result."""

import threading
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from screen.cells.bank import site_of
from screen.cells.vocabulary import EOS
from screen.engine.columns import control_columns, item_columns
from screen.engine.effects import Effect, Expression, change, cosine, gene_cosine, log_expression
from screen.engine.executor import Executor
from screen.engine.lanes import Lanes
from screen.engine.screen import Screen
from screen.engine.unit import Columns, Progress, Unit
from screen.errors import PredictionError
from screen.models.adapter import Readout, Rows
from screen.planning.perturbations import Perturbation


@dataclass(frozen=True)
class CellControl:
    """One unedited cell: its rows, its readout, log expression per time point, which time points have genes to pool."""

    rows: Rows
    readout: Readout
    expression: dict[int, Expression]
    is_predicted: dict[int, bool]


class ReferenceEngine:
    """Items one by one, nothing shared but the cell's control, on the CPU with torch's own products.

    In float32, or, where the executor says so, all in float64.
    """

    name = "reference"

    def __init__(self, screen: Screen, executor: Executor) -> None:
        self.screen, self.executor = screen, executor
        self.adapter = screen.adapter.in_double() if executor.precision == "float64" else screen.adapter
        self._keeps_hidden = screen.layout.keep_gene_cosine

    def units(self, numbers: Iterable[int], progress: Progress) -> Generator[Unit, None, None]:
        """The units, in order. Raises PredictionError at the first NaN."""
        plan = self.screen.plan
        controls: dict[int, CellControl] = {}
        with Lanes(torch.device("cpu"), self.executor.n_lanes) as lanes:
            for number in numbers:
                rows = plan.unit(number)
                blocks = np.unique(plan.cell_I[rows] // plan.cells_per_block).tolist()
                of_block = [plan.cells_of_block(b).tolist() for b in blocks]
                cells = [c for some in of_block for c in some]
                controls = {c: controls[c] for c in cells if c in controls}
                new = [c for c in cells if c not in controls]
                done = {c: lanes.submit(self.control, c) for c in new}
                controls |= {c: f.result() for c, f in done.items()}
                counted = _Counted(progress)
                tasks = [
                    lanes.submit(partial(self._counted, counted), i, controls[int(plan.cell_I[i])])
                    for i in range(rows.start, rows.stop)
                ]
                items = [t.result() for t in tasks]
                columns = {name: np.concatenate([x[name] for x in items]) for name in items[0]}
                record = {
                    **self.executor.record(),
                    "engine": self.name,
                    "cpu_products": "torch",
                    **{kind.choice: None for kind in self.screen.adapter.attention},
                }
                yield Unit(
                    number,
                    rows,
                    columns,
                    [(np.array(c), self._control_columns(controls, c)) for c in of_block if c[0] in new],
                    record,
                )

    def _counted(self, counted: "_Counted", i: int, control: CellControl) -> Columns:
        columns, n_tokens = self.item(i, control)
        counted.add(n_tokens)
        return columns

    def control(self, cell: int) -> CellControl:
        """The unedited prediction of one cell."""
        rows = self.screen.rows.control(cell)
        readout = self.adapter.predict(rows, keep_hidden=self._keeps_hidden)
        times, n = self.screen.window.pred_tps, self.screen.rows.n_conditions
        is_predicted = {t: bool((rows.row(t).ids_BL[:, n(t) :] > EOS).any()) for t in times}
        expression = {t: self._expression(readout, t) for t in readout.value_BG}
        for t in times:
            whole = torch.isfinite(readout.embedding_BD[t]).all() and all(
                bool(torch.isfinite(e.log_BG).all()) for k, e in expression.items() if k == t
            )
            if is_predicted[t] and not whole:
                self._refuse(t, cell, "none (control)")
        return CellControl(rows, readout, expression, is_predicted)

    def item(self, i: int, control: CellControl) -> tuple[Columns, int]:
        """(what the edit of plan item `i` changes in its cell, as columns of one row; tokens read)."""
        plan, layout = self.screen.plan, self.screen.layout
        cell, p = int(plan.cell_I[i]), self.screen.library.perturbations[int(plan.perturbation_I[i])]
        rows = self.screen.rows.edited(cell, p)
        readout = self.adapter.predict(rows, keep_hidden=self._keeps_hidden)
        effects = {t: self._effect(p, t, control, rows, readout) for t in layout.pred_tps}
        screened = torch.from_numpy(plan.is_screened_IT[i : i + 1])
        for k, t in enumerate(layout.pred_tps):
            if screened[0, k] and not bool(effects[t].is_finite_B):
                self._refuse(t, cell, p.id(self.screen.vocabulary))
        columns = {n: x.numpy() for n, x in item_columns(effects, screened, layout).items()}
        rank, length = self.screen.rows.rank(cell, p)
        columns |= {"items/rank": np.array([rank], dtype=np.int16), "items/length": np.array([length], dtype=np.int16)}
        return columns, rows.source.ids_BL.numel() + sum(x.ids_BL.numel() for x in rows.target.values())

    def _effect(self, p: Perturbation, t: int, control: CellControl, rows: Rows, readout: Readout) -> Effect:
        delta, total, genes = None, None, None
        if t in control.expression:
            after = self._expression(readout, t)
            delta, total = change(control.expression[t], after), after.total_B
        if self._keeps_hidden:
            genes = self._gene_cosine(p, t, control, rows, readout)
        shift = cosine(control.readout.embedding_BD[t], readout.embedding_BD[t])
        return Effect(readout.embedding_BD[t], shift, delta, total, genes)

    def _expression(self, readout: Readout, t: int) -> Expression:
        scale = str(self.screen.layout.expression_scale)
        return log_expression(readout.value_BG[t], readout.size_factor_B.get(t), scale)

    def _gene_cosine(self, p: Perturbation, t: int, control: CellControl, rows: Rows, readout: Readout) -> torch.Tensor:
        n, vocabulary = self.screen.rows.n_conditions(t), self.screen.vocabulary
        n_skipped = p.n_inserted if self.screen.window.excludes_genes(p, t) else 0
        ids = control.rows.row(t).ids_BL[:, n:], rows.row(t).ids_BL[:, n:]
        table = vocabulary.column_of_token(site_of(t))
        highest = max((int(x.max()) for x in ids if x.numel()), default=0)
        table = np.pad(table, (0, max(highest + 1 - len(table), 0)), constant_values=-1)
        hidden = control.readout.hidden_BLD[t][:, n:], readout.hidden_BLD[t][:, n:]
        return gene_cosine(
            ids[0], hidden[0], ids[1], hidden[1], torch.from_numpy(table), len(vocabulary), torch.tensor([n_skipped])
        )

    def _control_columns(self, controls: dict[int, CellControl], cells: list[int]) -> Columns:
        times, found = self.screen.layout.pred_tps, [controls[c] for c in cells]
        columns = control_columns(
            {t: torch.cat([c.readout.embedding_BD[t] for c in found]) for t in times},
            {
                t: Expression(
                    torch.cat([c.expression[t].log_BG for c in found]),
                    torch.cat([c.expression[t].total_B for c in found]),
                )
                for t in found[0].expression
            },
            {t: torch.tensor([c.is_predicted[t] for c in found]) for t in times},
            times,
        )
        return {name: x.numpy() for name, x in columns.items()}

    def _refuse(self, time: int, cell: int, perturbation: str) -> None:
        raise PredictionError(
            f"the model gave NaN or infinity (time point {time}) for cell {self.screen.bank.cell_id_C[cell]}, perturbation "
            f"{perturbation}; nothing of its unit is stored"
        )


class _Counted:
    """Progress, one item at a time."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._lock = progress, threading.Lock()

    def add(self, n_tokens: int) -> None:
        with self._lock:
            self._progress(1, n_tokens, 0)
