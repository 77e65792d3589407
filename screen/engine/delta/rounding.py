"""Rounding: how changes are kept between operations, and what products read."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Rounding:
    """Nothing is rounded: changes are as they are computed."""

    def stored(self, key: tuple[object, ...], d: Tensor) -> Tensor:
        """A change as the operation `key` keeps it."""
        return d

    def weight(self, weight: Tensor) -> Tensor:
        """A weight as products read it."""
        return weight

    def operand(self, x: Tensor) -> Tensor:
        """What attention's products read."""
        return x


EXACT = Rounding()


class HalfRounding(Rounding):
    """float16, as tensor cores read it and memory keeps it; sums stay float32. Emulated: the numbers are float32 again.

    `scale` is a power of two by operation, that a change is multiplied by before it is rounded. What does not fit becomes
    infinite, and is found by that.
    """

    def __init__(self, scale: Mapping[str, float]) -> None:
        self._scale, self._weights = scale, dict[int, tuple[Tensor, Tensor]]()

    def stored(self, key: tuple[object, ...], d: Tensor) -> Tensor:
        scale = self._scale[name_of(key)]
        return (d * scale).half().float() / scale

    def weight(self, weight: Tensor) -> Tensor:
        known = self._weights.get(id(weight))
        if known is None:
            known = self._weights[id(weight)] = (weight, weight.half().float())
        return known[1]

    def operand(self, x: Tensor) -> Tensor:
        return x.half().float()


def name_of(key: tuple[object, ...]) -> str:
    """An operation's key as settings write it."""
    return "/".join(str(part) for part in key)
