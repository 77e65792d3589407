"""Forward and Products: what the engine's time is compared with. The model's own calls, and the products inside them."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from screen.control import Control, join, predict_controls
from screen.engine import PackedEngine
from screen.executor import Executor
from screen.lanes import Lanes
from screen.models.products import OneDnnProduct
from screen.pack import Batch, pack_controls, pack_unit

Call = Callable[[], object]
Stages = Sequence[Sequence[Call]]
"""Calls of one stage run side by side; the next stage waits for them."""


def seconds_in_lanes(stages: Stages, executor: Executor) -> float:
    """How long the calls take in the engine's lanes; results are dropped."""
    with Lanes(executor.device, executor.n_lanes) as lanes:
        start = time.perf_counter()
        for calls in stages:
            for done in [lanes.submit(_dropped, call) for call in calls]:
                done.result()
        return time.perf_counter() - start


def _dropped(call: Call) -> None:
    call()


@torch.inference_mode()
def forward_of(engine: PackedEngine) -> Stages:
    """The model's calls for all batches of a screen: per block of cells the controls, then the items; inputs prepared."""
    screen, budget = engine.screen, engine.executor.batch_tokens
    stages: list[list[Call]] = []
    control, latest = None, -1
    for number in range(engine.plan.n_units):
        for block, batches in pack_unit(screen.lengths, engine.plan, number, budget):
            if control is None or block != latest:
                packed = pack_controls(screen.lengths, engine.plan.cells_of_block(block), budget)
                scale = screen.layout.expression_scale
                parts = [predict_controls(engine.model, engine.resident, b, scale, False) for b in packed]
                control, latest = join(parts, screen.bank.cell_id_C), block
                stages.append([partial(engine.model.control, *_control_inputs(engine, b)) for b in packed])
            stages.append([partial(engine.model.predict, *_inputs(engine, b, control)) for b in batches])
    return stages


def _control_inputs(engine: PackedEngine, batch: Batch) -> tuple[Any, Any]:
    rows = engine.resident.rows(batch, np.arange(batch.n_items))
    return rows, {0: _own(rows.source.ids_BL), **{t: _own(row.ids_BL) for t, row in rows.target.items()}}


def _own(ids_BL: Tensor) -> list[int]:
    """Length of each row up to its last id that is no pad."""
    return ((ids_BL != 0) * torch.arange(1, ids_BL.shape[1] + 1)).amax(1).tolist()


def _inputs(engine: PackedEngine, batch: Batch, control: Control) -> tuple[Any, Any, Any]:
    cells, index_B = np.unique(batch.cell_B, return_inverse=True)
    place_C = control.places(cells)
    before = {t: x[torch.from_numpy(place_C)] for t, x in control.embedding_CD.items()}
    return engine.resident.rows(batch, index_B), before, [control.shared_C[c] for c in place_C]


@dataclass(frozen=True)
class Heard:
    """One call of a product or of attention: what was called, shape and strides of its tensors, what else it was given."""

    function: Callable[..., Tensor]
    views: list[tuple[tuple[int, ...], tuple[int, ...]]]
    rest: tuple[Any, ...]
    flops: int

    @property
    def extent(self) -> int:
        """Numbers that the widest of its tensors reaches over."""
        return max(1 + sum((n - 1) * step for n, step in zip(*view, strict=True)) for view in self.views)

    def again(self, number_N: Tensor) -> None:
        """The same call on these numbers, each tensor with its own shape and strides."""
        self.function(*(number_N.as_strided(*view) for view in self.views), *self.rest)


class Listener:
    """Writes down the products and attention calls of a packed model, apart for each thread."""

    def __init__(self, model: nn.Module) -> None:
        self._now = threading.local()
        self._undo: list[Callable[[], object]] = []
        for module in model.modules():
            if isinstance(module, nn.Linear | OneDnnProduct):
                self._undo.append(module.register_forward_pre_hook(self._product).remove)
            if hasattr(module, "attend"):
                self._undo.append(partial(setattr, module, "attend", module.attend))
                module.attend = partial(self._attention, module.attend)

    def stop(self) -> None:
        """Leaves the model as it was."""
        for undo in self._undo:
            undo()

    def heard(self, call: Call) -> list[Heard]:
        """What one call of the model asks for."""
        self._now.calls = []
        call()
        return self._now.calls

    def _product(self, module: Any, given: tuple[Tensor, ...]) -> None:
        (x,) = given
        self._note(module, given, (), 2 * x.numel() * module.out_features)

    def _attention(self, attend: Callable[..., Tensor], *given: Any) -> Tensor:
        query, key, value, *rest = given
        n_heads, n_queries, width = query.shape[1:]
        n_rows = max(len(query), len(key))
        flops = 4 * n_rows * n_heads * n_queries * key.shape[2] * width
        self._note(attend, (query, key, value), tuple(rest), flops)
        return attend(*given)

    def _note(self, function: Any, tensors: Sequence[Tensor], rest: tuple[Any, ...], flops: int) -> None:
        views = [(tuple(x.shape), tuple(x.stride())) for x in tensors]
        self._now.calls.append(Heard(function, views, rest, flops))


def products_of(engine: PackedEngine, forward: Stages) -> tuple[Stages, int]:
    """(the products and attention of a forward and nothing else, on random data; their FLOPs). Runs the forward once."""
    listener = Listener(engine.model.model)  # type: ignore[attr-defined]
    with Lanes(engine.executor.device, engine.executor.n_lanes) as lanes:
        futures = [[lanes.submit(listener.heard, call) for call in calls] for calls in forward]
        heard = [[done.result() for done in calls] for calls in futures]
    listener.stop()
    every = [h for calls in heard for one in calls for h in one]
    number_N = torch.randn(max(h.extent for h in every), generator=torch.Generator().manual_seed(0))
    return [[partial(_again, one, number_N) for one in calls] for calls in heard], sum(h.flops for h in every)


def _again(calls: Sequence[Heard], number_N: Tensor) -> None:
    for call in calls:
        call.again(number_N)
