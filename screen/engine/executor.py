"""Executor: where and how units are computed. Part of it is frozen when a store is created, the rest may differ."""

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch.nn import functional as F

from screen.errors import ConfigError
from screen.models.attention import attend, attend_by_products
from screen.models.products import Arithmetic, CpuBackend, OneDnnProduct, Precision, has_onednn_products

CPU_BATCH_TOKENS = 2048
GPU_BATCH_TOKENS = 65_536
MUCH_FASTER = 1.15
"""oneDNN is taken only where it is clearly faster, so that luck in timing does not decide between equals."""
TRIED = (192, 256, 384, 512)
"""Lengths at which attention is timed."""
CPU_CHOICES = ("cpu_products", "onednn_attention_from", "onednn_encoder_attention_from")


@dataclass(frozen=True)
class Executor:
    """Device, precision of the model's products, what multiplies and attends on a CPU, tokens per batch, lanes (None: all)."""

    device: torch.device
    precision: Precision = "float32"
    cpu_products: CpuBackend = "torch"
    onednn_attention_from: int | None = None
    onednn_encoder_attention_from: int | None = None
    batch_tokens: int = CPU_BATCH_TOKENS
    n_lanes: int | None = None

    @property
    def arithmetic(self) -> Arithmetic:
        """What of this concerns the model."""
        return Arithmetic(
            self.precision, self.cpu_products, self.onednn_attention_from, self.onednn_encoder_attention_from
        )

    def smaller(self, reason: str) -> "Executor":
        """One rung down after running out of memory, for this reason. Raises MemoryError at the last one."""
        if self.batch_tokens <= 1:
            raise MemoryError(
                "not even one item at a time fits into memory, beside the weights and the controls of a block of cells; "
                f"use a machine with more memory, or fewer lanes (compute.lanes). The last error was {reason}"
            )
        return replace(self, batch_tokens=self.batch_tokens // 2)

    def decided(self) -> dict[str, Any]:
        """What is chosen once, when a store is created, so that every unit rounds alike."""
        names = ("precision", *CPU_CHOICES, "batch_tokens")
        return {name: getattr(self, name) for name in names}

    def record(self) -> dict[str, Any]:
        """What a unit's marker says of who computed it; units of one screen may differ here."""
        return {
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "precision": self.precision,
            **({name: getattr(self, name) for name in CPU_CHOICES} if self.device.type == "cpu" else {}),
            "batch_tokens": self.batch_tokens,
            "torch": torch.__version__,
            "threads_per_lane": 1,
            "perturbscreen": own_version(),
            "machine": platform.machine(),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def own_version() -> str:
    """The installed version, or what a bare checkout says."""
    try:
        return version("perturbscreen")
    except PackageNotFoundError:
        import screen

        return screen.__version__


def find_device(name: str) -> torch.device:
    """The device of a name; `auto` is the first GPU if there is one. Raises ConfigError."""
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f'device is "{name}"; allowed: auto, cpu, cuda, cuda:0, cuda:1, ...') from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f'device is "{name}"; allowed: auto, cpu, cuda, cuda:0, cuda:1, ...')
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f'device is "{name}", but torch {torch.__version__} sees {torch.cuda.device_count()} GPU(s) here; use cpu or auto'
        )
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def default_batch_tokens(device: torch.device) -> int:
    """Tokens per batch in its widest state."""
    return CPU_BATCH_TOKENS if device.type == "cpu" else GPU_BATCH_TOKENS


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
