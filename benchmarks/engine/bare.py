"""Forward and Products: what the engine's time is compared with. The model's own calls, and the products inside them."""

import copy
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from screen.bench.bare import control_call, item_call, taken_over
from screen.engine.executor import Executor
from screen.engine.lanes import Lanes
from screen.engine.packed import PackedEngine
from screen.models.ops import PlainOps
from screen.models.perturbgen.chains import REUSE
from screen.models.products import Weights
from screen.running.workload import batches_by_block

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
    for controls, items in batches_by_block(engine.screen, engine.executor.batch_tokens, range(engine.plan.n_units)):
        calls = [control_call(engine.computer, b) for b in controls]
        taken = taken_over(controls, [call() for call in calls])
        stages += [calls, [item_call(engine.computer, b, taken) for b in items]]
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
    """Writes down the products and attention calls of a packed model, apart for each thread.

    `ops` are those to give it; the layers that it calls without ops, its count head, are listened to until `stop`.
    """

    def __init__(self, ops: PlainOps, model: nn.Module) -> None:
        self._now = threading.local()
        layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
        self._hooks = [m.register_forward_pre_hook(self._layer) for m in layers]
        self.ops = self._heard_by(ops)
        self.ops._parts = {name: self._heard_by(part) for name, part in ops._parts.items()}

    def _heard_by(self, ops: PlainOps) -> PlainOps:
        listening: Any = copy.copy(ops)
        listening.product = partial(self._product, ops)
        listening._attend = partial(self._attention, ops._attend)
        return listening  # type: ignore[no-any-return]

    def stop(self) -> None:
        """Leaves the model as it was."""
        for hook in self._hooks:
            hook.remove()

    def _layer(self, layer: nn.Linear, given: tuple[Tensor, ...]) -> None:
        self._note(
            partial(F.linear, weight=layer.weight, bias=layer.bias),
            given,
            (),
            2 * given[0].numel() * layer.out_features,
        )

    def heard(self, call: Call) -> list[Heard]:
        """What one call of the model asks for."""
        self._now.calls = []
        call()
        return self._now.calls

    def _product(self, ops: PlainOps, x: Tensor, linear: Weights) -> Tensor:
        product = partial(ops.product, linear=linear)
        self._note(product, (x,), (), 2 * x.numel() * len(linear.weight))
        return product(x)

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
    model: Any = engine.computer.model
    listener = Listener(model.ops, engine.screen.adapter.model)
    # every row's: what the first attention does of a few rows alone is not in the plan
    engine.computer.model = replace(model, ops=listener.ops, reuse=REUSE - {"few"})
    with Lanes(engine.executor.device, engine.executor.n_lanes) as lanes:
        futures = [[lanes.submit(listener.heard, call) for call in calls] for calls in forward]
        heard = [[done.result() for done in calls] for calls in futures]
    listener.stop()
    engine.computer.model = model
    every = [h for calls in heard for one in calls for h in one]
    number_N = torch.randn(max(h.extent for h in every), generator=torch.Generator().manual_seed(0))
    return [[partial(_again, one, number_N) for one in calls] for calls in heard], sum(h.flops for h in every)


def _again(calls: Sequence[Heard], number_N: Tensor) -> None:
    for call in calls:
        call.again(number_N)
