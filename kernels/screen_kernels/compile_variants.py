"""Variants of kernels as launchers call them, for the compiler to report on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

WIDTH = 768
TYPES = {"float32": "*fp32", "float16": "*fp16", "bfloat16": "*bf16"}


@dataclass(frozen=True)
class Variant:
    """A kernel as the launcher calls it: argument types, constants, arguments that are no multiple of 16."""

    kernel: str
    name: str
    function: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    n_warps: int = 4
    odd: frozenset[str] = field(default=frozenset())
    n_stages: int = 3
    most_registers: int | None = None
