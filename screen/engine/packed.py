"""PackedEngine: the units of a plan in packed batches, lanes busy, the control of a cell once while memory has room."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, wait
from functools import partial
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray

from screen.engine.batch import BatchComputer, float32_products
from screen.engine.control import Control, join
from screen.engine.executor import Executor
from screen.engine.lanes import Lanes, is_out_of_memory, let_go
from screen.engine.screen import Screen
from screen.engine.unit import BegunUnit, Columns, Progress, Unit
from screen.planning.batches import Batch, pack_controls, pack_parts
from screen.planning.plan import Plan

BLOCKS_ALIVE = 2
"""Blocks of cells, or parts of them, whose controls are held at once: those that batches still need, and the next."""
UNITS_AHEAD = 1
"""Units whose batches are handed out before the one in front is finished."""


class PackedEngine:
    """Computes units of a prepared screen. `executor` says where and how; it steps down a rung where memory runs out.

    The controls of a block are computed beside the items of the block before, on a GPU in a lane and a stream of their own
    (`has_control_lane` None: the device decides).
    """

    def __init__(self, screen: Screen, executor: Executor, has_control_lane: bool | None = None) -> None:
        self.screen, self.executor, self._has_control_lane = screen, executor, has_control_lane
        self.name = "delta" if executor.is_delta else "packed"
        self.plan: Plan = screen.plan
        self.computer = BatchComputer(screen, executor)
        self._control: Control | None = None
        self._begun: dict[int, NDArray[np.int32]] = {}
        self._in_flight: deque[list[Future[None]]] = deque()
        self._lock = Lock()

    def units(self, numbers: Iterable[int], progress: Progress) -> Generator[Unit, None, None]:
        """The units, in order, with the controls of every cell of theirs. Raises PredictionError at the first NaN."""
        self._control, self._begun = None, {}
        self._in_flight.clear()
        if self.executor.device.type == "cuda":
            # weights and token rows were copied on another stream than the lanes'
            torch.cuda.synchronize(self.executor.device)
        with float32_products(self.executor), self._lanes() as lanes:
            begun: deque[BegunUnit] = deque()
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

    def controls(self, cell_C: NDArray[np.integer]) -> Columns:
        """What is kept of the unedited predictions of these cells, ascending; none is held to be taken over.

        Raises PredictionError at the first NaN.
        """
        batches = pack_controls(self.screen.lengths, cell_C, self.executor.batch_tokens)
        if self.executor.device.type == "cuda":
            torch.cuda.synchronize(self.executor.device)
        with float32_products(self.executor), self._lanes() as lanes:
            done = [lanes.submit(self._control_columns, b) for b in batches]
            parts = [d.result() for d in done]
        order = np.argsort(np.concatenate([cells for cells, _ in parts]))
        return {n: np.concatenate([columns[n] for _, columns in parts])[order] for n in parts[0][1]}

    def _lanes(self) -> Lanes:
        return Lanes(self.executor.device, self.executor.n_lanes, self._has_control_lane)

    def _control_columns(self, batch: Batch) -> tuple[NDArray[np.int64], Columns]:
        control = join([self.computer.controls(batch)], self.screen.bank.cell_id_C)
        return control.cell_C, self.computer.control_columns(control)

    def _begin(self, number: int, lanes: Lanes, progress: Progress) -> BegunUnit:
        """Packs a unit and hands its batches to the lanes, the controls of its cells first."""
        while True:
            unit = BegunUnit(number, self.plan.unit(number), self.executor)
            if self._fits(unit, partial(self._hand_out, unit, lanes, progress)):
                return unit
            progress = _no_progress

    def _hand_out(self, unit: BegunUnit, lanes: Lanes, progress: Progress) -> None:
        e = unit.executor
        packed = pack_parts(self.screen.lengths, self.plan, unit.number, e.batch_tokens, e.is_delta, e.n_parts)
        for block, parts in packed:
            self._hand_out_block(block, parts, unit, lanes, progress)
        rank, length = self.screen.lengths.rank(self.plan.cell_I[unit.rows], self.plan.perturbation_I[unit.rows])
        unit.write(
            np.arange(unit.rows.start, unit.rows.stop),
            {"items/rank": rank.astype(np.int16), "items/length": length.astype(np.int16)},
        )

    def _hand_out_block(
        self, block: int, parts: Mapping[int, list[Batch]], unit: BegunUnit, lanes: Lanes, progress: Progress
    ) -> None:
        """One block of cells: part by part the controls, then the batches; a block that is new puts them into the unit."""
        is_new, columns = block not in self._begun, []
        if is_new:
            self._begun = {block: self.plan.cells_of_block(block)}
        cell_C = self._begun[block]
        part_C = self.plan.part_of(cell_C, unit.executor.n_parts)
        for part in np.unique(part_C).tolist():
            batches = parts.get(part, [])
            if not batches and not is_new:
                continue
            control = self._control_of(cell_C[part_C == part], unit, lanes)
            if is_new:
                columns.append(lanes.submit_first(self.computer.control_columns, control).result())
            handed_out = [lanes.submit(self._batch, b, control, unit, progress) for b in batches]
            unit.tasks += handed_out
            self._in_flight[-1] += handed_out
        if is_new:
            unit.controls.append(
                (cell_C.astype(np.int64), {n: np.concatenate([c[n] for c in columns]) for n in columns[0]})
            )

    def _finish(self, unit: BegunUnit, lanes: Lanes) -> Unit:
        """Waits for a unit; one that ran out of memory is computed once more from its start, one rung down."""
        while not self._fits(unit, unit.wait):
            unit = self._begin(unit.number, lanes, _no_progress)
        record = {**unit.executor.record(), "engine": self.name}
        if unit.recomputed:
            record["recomputed"] = dict(sorted(unit.recomputed.items()))
        return Unit(unit.number, unit.rows, unit.columns, unit.controls, record)

    def _fits(self, unit: BegunUnit, work: Callable[[], None]) -> bool:
        """Does the work; False where memory ran out: nothing of the attempt is kept, later batches are smaller."""
        try:
            work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            let_go(error)
        else:
            return True
        unit.drop()
        # batches of the unit ahead end first: they need the room too, and may fail as this one did
        wait([batch for batches in self._in_flight for batch in batches if not batch.done()])
        self._in_flight.clear()
        self._control, self._begun = None, {}
        self.computer.forget()
        if self.executor.batch_tokens >= unit.executor.batch_tokens:
            self.executor = unit.executor.smaller(reason)
        if self.executor.device.type == "cuda":
            torch.cuda.empty_cache()
        return False

    def _control_of(self, cell_C: NDArray[np.int32], unit: BegunUnit, lanes: Lanes) -> Control:
        """The controls of cells of a block; those of before the last are dropped when their batches are done."""
        if self._control is not None and np.array_equal(self._control.cell_C, cell_C):
            return self._control
        self._control = None
        while len(self._in_flight) >= BLOCKS_ALIVE:
            # those of a unit that was dropped are done, or cancelled
            wait([batch for batch in self._in_flight.popleft() if not batch.done()])
        self._in_flight.append([])
        batches = pack_controls(self.screen.lengths, cell_C, unit.executor.batch_tokens)
        done = [lanes.submit_first(self.computer.controls, b) for b in batches]
        unit.tasks += done
        self._control = lanes.submit_first(join, [d.result() for d in done], self.screen.bank.cell_id_C).result()
        # their results must not outlive the block
        del unit.tasks[len(unit.tasks) - len(done) :]
        return self._control

    def _batch(self, batch: Batch, control: Control, unit: BegunUnit, progress: Progress) -> None:
        """Computes a batch and writes it into the unit's columns."""
        columns, recomputed = self.computer.items(batch, control)
        unit.write(batch.item_B, columns)
        with self._lock:
            unit.recomputed.update(recomputed)
            progress(batch.n_items, batch.n_tokens, batch.n_padded_tokens)


def _no_progress(n_items: int, n_tokens: int, n_padded: int) -> None:
    """A unit that is computed again is not counted again."""
