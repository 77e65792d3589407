"""choose_executor: which executor runs a screen. What a store was created with wins over what would be chosen now."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch.nn import functional as F

from screen.config.sections import ComputeConfig
from screen.engine.executor import AnyPrecision, Executor, default_batch_tokens, find_device
from screen.engine.screen import Screen
from screen.errors import ConfigError
from screen.models.attention import attend, attend_by_products
from screen.models.ops import CpuBackend
from screen.models.products import OneDnnProduct, has_onednn_products

MUCH_FASTER = 1.15
"""oneDNN is taken only where it is clearly faster, so that luck in timing does not decide between equals."""
TRIED = (192, 256, 384, 512)
"""Lengths at which attention is timed."""


def choose_executor(compute: ComputeConfig, screen: Screen, decided: Mapping[str, Any] | None = None) -> Executor:
    """The executor of a configuration; `decided` is what an existing store was created with. Raises ConfigError."""
    never = {kind.choice: None for kind in screen.adapter.attention}
    if compute.engine == "reference":
        plain: AnyPrecision = "float64" if compute.precision == "float64" else "float32"
        return Executor(torch.device("cpu"), plain, attention_from=never, n_lanes=compute.lanes)
    device = find_device(compute.device)
    if decided is not None:
        if decided["cpu_products"] == "onednn" and device.type == "cpu" and not has_onednn_products():
            raise ConfigError(
                f"the output directory was created with oneDNN products, which torch {torch.__version__} lacks here; "
                "continue on a machine like the first, or choose another --out"
            )
        for name in ("precision", "batch_tokens", "cpu_products"):
            asked = getattr(compute, name)
            if asked not in (None, "auto", decided[name]):
                raise ConfigError(
                    f"compute.{name} is {asked}, but the output directory was created with {decided[name]}; "
                    "remove the setting, or choose another --out"
                )
        return Executor.of_store(device, decided, compute.lanes)
    precision: AnyPrecision = candidates(compute, device)[0] if compute.precision == "auto" else compute.precision
    batch_tokens = compute.batch_tokens or default_batch_tokens(device)
    if device.type != "cpu":
        return Executor(device, precision, "torch", never, batch_tokens, compute.lanes)
    return replace(_on_cpu(compute, screen), precision=precision, batch_tokens=batch_tokens, n_lanes=compute.lanes)


def candidates(compute: ComputeConfig, device: torch.device) -> tuple[AnyPrecision, ...]:
    """What `precision: auto` tries on a device, in order; the last is never tried, but taken where nothing else agrees."""
    if device.type == "cpu":
        return ("float32",)
    return ("fp16x2", "float32") if compute.engine == "packed" else ("delta16", "fp16x2", "float32")


def _on_cpu(compute: ComputeConfig, screen: Screen) -> Executor:
    """What multiplies and attends on this CPU, by the clock unless the user says so."""
    kinds = screen.adapter.attention
    plain = Executor(torch.device("cpu"), attention_from={kind.choice: None for kind in kinds})
    if compute.cpu_products == "torch":
        return plain
    if compute.cpu_products == "onednn" and not has_onednn_products():
        raise ConfigError(
            f"compute.cpu_products is onednn, but torch {torch.__version__} has none here; use auto or torch"
        )
    longest = screen.window.max_len
    return replace(
        plain,
        cpu_products="onednn" if compute.cpu_products == "onednn" else fastest_product(screen.adapter.schema.width),
        attention_from={k.choice: onednn_attention_from(k.n_heads, k.head_width, longest) for k in kinds},
    )


def fastest_product(width: int) -> CpuBackend:
    """What multiplies faster on this CPU, by timing 1,024 rows by width x width for a moment, one torch thread."""
    with _one_thread():
        return "onednn" if has_onednn_products() and _product_ratio(width) >= MUCH_FASTER else "torch"


def onednn_attention_from(n_heads: int, head_width: int, longest: int) -> int | None:
    """From how many keys on attention made of oneDNN products is faster on this CPU; None: never, up to `longest`."""
    if not has_onednn_products():
        return None
    with _one_thread():
        lengths = [n for n in TRIED if n <= longest]
        return next((n for n in lengths if _attention_ratio(n_heads, head_width, n) >= MUCH_FASTER), None)


@contextmanager
def _one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(n_threads)


def _product_ratio(width: int) -> float:
    linear = torch.nn.Linear(width, width)
    fast, x = OneDnnProduct(linear), torch.ones(1024, width)
    return _ratio(lambda: F.linear(x, linear.weight, linear.bias), lambda: fast(x))


def _attention_ratio(n_heads: int, head_width: int, length: int) -> float:
    head = torch.ones(2, n_heads, length, head_width)
    return _ratio(lambda: attend(head, head, head, None), lambda: attend_by_products(head, head, head, None))


def _ratio(slow: Callable[[], object], fast: Callable[[], object], n_rounds: int = 7) -> float:
    """Best time of `slow` over best time of `fast`, run in turn: what else the machine does disturbs the best least."""
    seconds: dict[Callable[[], object], list[float]] = {slow: [], fast: []}
    slow(), fast()
    for _ in range(n_rounds):
        for f, taken in seconds.items():
            start = time.perf_counter()
            f()
            taken.append(time.perf_counter() - start)
    return round(min(seconds[slow]) / min(seconds[fast]), 3)
