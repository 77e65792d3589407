"""PackedEngine: units of a plan in packed batches; the control of a cell once, only the work that an edit makes necessary."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from screen.cells.vocabulary import NO_TOKEN
from screen.engine.columns import control_columns, item_columns
from screen.engine.control import Control, join, padded, predict_controls
from screen.engine.effects import Effect, change, gene_cosine, log_expression
from screen.engine.executor import Executor
from screen.engine.lanes import Lanes, is_out_of_memory, to_host
from screen.engine.resident import Resident
from screen.engine.screen import Prepared
from screen.errors import PredictionError
from screen.models.adapter import BatchRows, Readout
from screen.planning.batches import Batch, pack_controls, pack_unit
from screen.planning.plan import Plan

Progress = Callable[[int, int, int], None]
"""Called as items are done, with (items, tokens read, of these padding)."""
Columns = dict[str, NDArray[Any]]
BLOCKS_ALIVE = 2
"""Blocks of cells whose controls are held at once: those that batches still need, and the next."""
UNITS_AHEAD = 1
"""Units whose batches are handed out before the one in front is finished."""


@dataclass(frozen=True)
class Unit:
    """A finished unit: rows of the plan, item columns by name, controls that are new (cells, columns), who computed it."""

    number: int
    rows: slice
    columns: Columns
    controls: list[tuple[NDArray[np.int64], Columns]]
    record: Mapping[str, Any]


@dataclass
class _Begun:
    """A unit whose batches are on their way; they write into its columns."""

    number: int
    rows: slice
    batch_tokens: int
    columns: Columns = field(default_factory=dict)
    controls: list[tuple[NDArray[np.int64], Columns]] = field(default_factory=list)
    tasks: list[Future[Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def wait(self) -> None:
        """Returns when every batch is done. Raises what went wrong with the first that failed."""
        for done in self.tasks:
            done.result()

    def drop(self) -> None:
        """Waits for what still runs, and forgets it: an error would keep the tensors of its batch alive."""
        for done in self.tasks:
            if not done.cancel():
                done.exception()
        self.tasks.clear()

    def write(self, item_B: NDArray[np.int64], values: Columns) -> None:
        """The rows of some items; batches of one unit write different rows."""
        n_rows = self.rows.stop - self.rows.start
        with self.lock:
            for name, x in values.items():
                if name not in self.columns:
                    self.columns[name] = np.zeros((n_rows, *x.shape[1:]), x.dtype)
        for name, x in values.items():
            self.columns[name][item_B - self.rows.start] = x


class PackedEngine:
    """Computes units of a prepared screen. `executor` says where and how; it steps down a rung where memory runs out."""

    name = "packed"

    def __init__(self, screen: Prepared, executor: Executor) -> None:
        self.screen, self.executor = screen, executor
        self.plan: Plan = screen.plan
        self.model = screen.packed(executor)
        self.resident = Resident(screen.rows, screen.library, screen.lengths, screen.condition_ids, executor.device)
        self._column_of_token = self._columns()
        self._is_inserted_PT = self._inserted()
        self._control: tuple[int, Control] | None = None
        self._in_flight: deque[list[Future[None]]] = deque()
        self._lock = threading.Lock()

    def units(self, numbers: Iterable[int], progress: Progress) -> Generator[Unit, None, None]:
        """The units, in order, with the controls of every cell of theirs. Raises PredictionError at the first NaN."""
        self._control = None
        if self.executor.device.type == "cuda":
            # weights and token rows were copied on another stream than the lanes'
            torch.cuda.synchronize(self.executor.device)
        with float32_products(self.executor), Lanes(self.executor.device, self.executor.n_lanes) as lanes:
            begun: deque[_Begun] = deque()
            for number in numbers:
                try:
                    begun.append(self._begin(number, lanes, progress))
                except Exception:
                    # what was begun before is whole: it is handed over first
                    while begun:
                        yield self._finish(begun.popleft(), lanes)
                    raise
                if len(begun) > UNITS_AHEAD:
                    yield self._finish(begun.popleft(), lanes)
            while begun:
                yield self._finish(begun.popleft(), lanes)

    def _begin(self, number: int, lanes: Lanes, progress: Progress) -> _Begun:
        """Packs a unit and hands its batches to the lanes, the controls of its cells first."""
        while True:
            unit = _Begun(number, self.plan.unit(number), self.executor.batch_tokens)
            if self._fits(unit, partial(self._hand_out, unit, lanes, progress)):
                return unit

    def _hand_out(self, unit: _Begun, lanes: Lanes, progress: Progress) -> None:
        for block, batches in pack_unit(self.screen.lengths, self.plan, unit.number, unit.batch_tokens):
            control = self._control_of(block, unit, lanes)
            handed_out = [lanes.submit(self._batch, b, control, unit, progress) for b in batches]
            unit.tasks += handed_out
            self._in_flight[-1] += handed_out
        rank, length = self.screen.lengths.rank(self.plan.cell_I[unit.rows], self.plan.perturbation_I[unit.rows])
        unit.write(
            np.arange(unit.rows.start, unit.rows.stop),
            {"items/rank": rank.astype(np.int16), "items/length": length.astype(np.int16)},
        )

    def _finish(self, unit: _Begun, lanes: Lanes) -> Unit:
        """Waits for a unit; one that ran out of memory is computed once more from its start, one rung down."""
        while not self._fits(unit, unit.wait):
            unit = self._begin(unit.number, lanes, _no_progress)
        record = {**replace(self.executor, batch_tokens=unit.batch_tokens).record(), "engine": self.name}
        return Unit(unit.number, unit.rows, unit.columns, unit.controls, record)

    def _fits(self, unit: _Begun, work: Callable[[], None]) -> bool:
        """Does the work; False where memory ran out: nothing of the attempt is kept, later batches are smaller."""
        try:
            work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = f"{type(error).__name__}: {str(error)[:200]}"
        else:
            return True
        unit.drop()
        self._control = None
        self._in_flight.clear()
        if self.executor.batch_tokens >= unit.batch_tokens:
            self.executor = replace(self.executor, batch_tokens=unit.batch_tokens).smaller(reason)
        if self.executor.device.type == "cuda":
            torch.cuda.empty_cache()
        return False

    def _control_of(self, block: int, unit: _Begun, lanes: Lanes) -> Control:
        """The controls of a block of cells: those of the block before are dropped, new ones go into the unit."""
        if self._control is not None and self._control[0] == block:
            return self._control[1]
        self._control = None
        while len(self._in_flight) >= BLOCKS_ALIVE:
            wait(self._in_flight.popleft())
        self._in_flight.append([])
        layout, bank = self.screen.layout, self.screen.bank
        batches = pack_controls(self.screen.lengths, self.plan.cells_of_block(block), unit.batch_tokens)
        done = [
            lanes.submit(
                predict_controls, self.model, self.resident, b, layout.expression_scale, layout.keep_gene_cosine
            )
            for b in batches
        ]
        unit.tasks += done
        control = lanes.submit(join, [d.result() for d in done], bank.cell_id_C).result()
        # their results must not outlive the block
        del unit.tasks[len(unit.tasks) - len(done) :]
        columns = lanes.submit(self._control_columns, control).result()
        unit.controls.append((control.cell_C, columns))
        self._control = block, control
        return control

    def _control_columns(self, control: Control) -> Columns:
        predicted = {t: torch.from_numpy(x).to(self.executor.device) for t, x in control.is_predicted_C.items()}
        columns = control_columns(control.embedding_CD, control.expression, predicted, self.screen.layout.pred_tps)
        return to_host(columns)

    def _batch(self, batch: Batch, control: Control, unit: _Begun, progress: Progress) -> None:
        """Predicts a batch and writes what changed into the unit's columns."""
        cells, index_B = np.unique(batch.cell_B, return_inverse=True)
        place_C = control.places(cells)
        rows = self.resident.rows(batch, index_B)
        at_C = torch.from_numpy(place_C).to(self.executor.device)
        before = {t: x[at_C] for t, x in control.embedding_CD.items()}
        readout = self.model.predict(rows, before, [control.shared_C[c] for c in place_C])
        effects = {t: self._effect(t, readout, control, at_C[rows.index_B]) for t in self.screen.window.pred_tps}
        for t in control.hidden_C:
            genes = self._gene_cosine(t, batch, rows, readout, control, place_C)
            effects[t] = replace(effects[t], gene_cosine_BG=genes)
        screened = torch.from_numpy(self.plan.is_screened_IT[batch.item_B]).to(self.executor.device)
        columns = item_columns(effects, screened, self.screen.layout)
        finite = torch.stack([effects[t].is_finite_B for t in self.screen.window.pred_tps], dim=1) | ~screened
        host = to_host({**columns, "is finite": finite.all(1)})
        self._require_finite(host.pop("is finite"), batch)
        unit.write(batch.item_B, host)
        with self._lock:
            progress(batch.n_items, batch.n_tokens, batch.n_padded_tokens)

    def _effect(self, t: int, readout: Readout, control: Control, at_B: Tensor) -> Effect:
        """What changed at one time point against the controls at these places."""
        before = control.expression[t].take(at_B) if t in control.expression else None
        if t in readout.unchanged:
            embedding_BD = control.embedding_CD[t][at_B]
            same_B = torch.ones_like(embedding_BD[:, 0])
            if before is None:
                return Effect(embedding_BD, same_B)
            return Effect(embedding_BD, same_B, torch.zeros_like(before.log_BG, dtype=torch.float32), before.total_B)
        embedding_BD, cosine_B = readout.embedding_BD[t], readout.cosine_B[t]
        if before is None:
            return Effect(embedding_BD, cosine_B)
        scale = str(self.screen.layout.expression_scale)
        after = log_expression(readout.value_BG[t], readout.size_factor_B.get(t), scale)
        return Effect(embedding_BD, cosine_B, change(before, after), after.total_B)

    def _gene_cosine(
        self, t: int, batch: Batch, rows: BatchRows, readout: Readout, control: Control, place_C: NDArray[np.int64]
    ) -> Tensor:
        hidden_CLD, ids_CL = padded([control.hidden_C[t][c] for c in place_C])
        n = self.resident.n_conditions
        skipped = torch.from_numpy(self._is_inserted_PT[t][batch.perturbation_B]).to(self.executor.device)
        return gene_cosine(
            ids_CL[rows.index_B],
            hidden_CLD[rows.index_B],
            rows.target[t].ids_BL[:, n:],
            readout.hidden_BLD[t][:, n:],
            self._column_of_token,
            len(self.screen.vocabulary),
            skipped,
        )

    def _require_finite(self, is_finite_B: NDArray[np.bool_], batch: Batch) -> None:
        bad = np.flatnonzero(~is_finite_B)
        if len(bad):
            p = self.screen.library.perturbations[int(batch.perturbation_B[bad[0]])]
            raise PredictionError(
                f"the model gave NaN or infinity for cell {self.screen.bank.cell_id_C[int(batch.cell_B[bad[0]])]}, perturbation "
                f"{p.id(self.screen.vocabulary)}; nothing of its unit is stored"
            )

    def _columns(self) -> Tensor:
        """(V,) gene column of every id that a target row can hold, negative for none."""
        table_V = self.screen.vocabulary.column_of_token("tgt")
        n_more = max(self.resident.n_target_tokens - len(table_V), 0)
        return torch.from_numpy(np.pad(table_V, (0, n_more), constant_values=NO_TOKEN)).to(self.executor.device)

    def _inserted(self) -> dict[int, NDArray[np.int64]]:
        """Time point -> (P,) leading positions that gene cosines leave out: the genes that an edit inserted."""
        ps, window = self.screen.library.perturbations, self.screen.window
        return {t: np.array([p.n_inserted if window.excludes_genes(p, t) else 0 for p in ps]) for t in window.pred_tps}


def _no_progress(n_items: int, n_tokens: int, n_padded: int) -> None:
    """A unit that is computed again is not counted again."""


@contextmanager
def float32_products(executor: Executor) -> Iterator[None]:
    """On a GPU, float32 products read all their bits, except where the precision is tf32."""
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = executor.precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn
