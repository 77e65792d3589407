"""Forward and Products: what the engine's time is compared with. The model's own calls, and the products inside them."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from screen.engine.executor import Executor
from screen.engine.forward import control_call, item_call, taken_over
from screen.engine.lanes import Lanes
from screen.engine.packed import PackedEngine
from screen.engine.workload import work
from screen.models.products import OneDnnProduct

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
    stages: list[Sequence[Call]] = []
    for controls, items in work(engine.screen, engine.executor.batch_tokens, range(engine.plan.n_units)):
        calls = [control_call(engine, b) for b in controls]
        taken = taken_over(controls, [call() for call in calls])
        stages += [calls, [item_call(engine, b, taken) for b in items]]
    return stages


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
