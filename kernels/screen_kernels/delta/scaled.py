"""Scaled: differences as memory keeps them, times a power of two."""

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_SCALE = 2.0**16


@dataclass(frozen=True)
class Scaled:
    """Differences times a power of two from 1 to 65,536, in float16 or float32; what does not fit is infinite.

    Raises ValueError for another scale.
    """

    values: Tensor
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.scale <= MOST_SCALE or not float(self.scale).hex().startswith("0x1.0000000000000p"):
            raise ValueError(f"scale is {self.scale}; it must be a power of two from 1 to {MOST_SCALE:g}")

    def unscaled(self) -> Tensor:
        """The differences themselves, float32, or float64 where they are kept so."""
        return self.values.to(torch.promote_types(self.values.dtype, torch.float32)) / self.scale


def scaled(d: Tensor, scale: float, dtype: torch.dtype) -> Scaled:
    """Differences, rounded to what memory keeps."""
    return Scaled((d * scale).to(dtype), scale)
