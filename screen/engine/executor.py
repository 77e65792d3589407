"""Executor: where and how units are computed. Part of it is frozen when a store is created, the rest may differ."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, cast, get_args

import torch

from screen.errors import ConfigError
from screen.models.ops import Arithmetic, CpuBackend, Precision

DeltaPrecision = Literal["delta16", "delta32", "delta64"]
"""Of the changes that the delta engine carries: float16, as a GPU stores them, float32, float64 (the definition)."""
AnyPrecision = Literal[Precision, DeltaPrecision, "float64"]
"""float64 is the reference engine's alone."""
DELTA: tuple[str, ...] = get_args(DeltaPrecision)

CPU_BATCH_TOKENS = 2048
GPU_BATCH_TOKENS = 65_536


@dataclass(frozen=True)
class Executor:
    """Device, precision of the model's products, what multiplies and attends on a CPU, tokens per batch, lanes (None: all).

    `n_parts` is into how many a block of cells is cut, whose controls are held one part after another, and computed
    again by the next unit of the block: twice as many with every rung.
    `attention_from` has an entry for every kind of attention of the model, as `Arithmetic` reads it; `scales` one for every
    operation of the model, where changes are stored as float16 (delta16): the power of two that they are multiplied by.
    """

    device: torch.device
    precision: AnyPrecision = "float32"
    cpu_products: CpuBackend = "torch"
    attention_from: Mapping[str, int | None] = field(default_factory=dict)
    batch_tokens: int = CPU_BATCH_TOKENS
    n_lanes: int | None = None
    scales: Mapping[str, int] = field(default_factory=dict)
    n_parts: int = 1

    @staticmethod
    def of_store(device: torch.device, decided: Mapping[str, Any], n_lanes: int | None) -> "Executor":
        """Who goes on with a store that was created with these choices."""
        own = ("precision", "cpu_products", "batch_tokens", "scales")
        attention = {name: value for name, value in decided.items() if name not in own}
        return Executor(
            device, decided["precision"], decided["cpu_products"], attention, decided["batch_tokens"], n_lanes,
            decided.get("scales", {}),
        )  # fmt: skip

    @property
    def is_delta(self) -> bool:
        """Whether changes are computed, not cells."""
        return self.precision in DELTA

    @property
    def arithmetic(self) -> Arithmetic:
        """How a network is computed with plain ops; where changes are carried, that is for the items that cannot be."""
        precision = cast(Precision, "float32" if self.precision not in get_args(Precision) else self.precision)
        return Arithmetic(precision, self.cpu_products, self.attention_from)

    def smaller(self, reason: str) -> "Executor":
        """One rung down after running out of memory, for this reason. Raises MemoryError at the last one."""
        if self.batch_tokens <= 1:
            raise MemoryError(
                "not even one item at a time fits into memory, beside the weights and the controls of a few cells; "
                f"use a machine with more memory, or fewer lanes (compute.lanes). The last error was {reason}"
            )
        return replace(self, batch_tokens=self.batch_tokens // 2, n_parts=2 * self.n_parts)

    def decided(self) -> dict[str, Any]:
        """What is chosen once, when a store is created, so that every unit rounds alike."""
        return {
            "precision": self.precision,
            "cpu_products": self.cpu_products,
            **self.attention_from,
            "batch_tokens": self.batch_tokens,
            **({"scales": dict(self.scales)} if self.scales else {}),
        }

    def record(self) -> dict[str, Any]:
        """What a unit's marker says of who computed it; units of one screen may differ here."""
        on_cpu = {"cpu_products": self.cpu_products, **self.attention_from}
        return {
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "precision": self.precision,
            **(on_cpu if self.device.type == "cpu" else {}),
            "batch_tokens": self.batch_tokens,
            **({"parts_per_block": self.n_parts} if self.n_parts > 1 else {}),
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
