"""Rounding: how changes are kept between operations, and what products read."""

import math
import threading
from collections.abc import Mapping, Sequence

import torch
from screen_kernels.delta.attention import Round, as_they_are
from torch import Tensor

LARGEST_HALF, HEADROOM, MOST_EXPONENT = 65504.0, 32.0, 16
"""float16 holds full precision from 2^-14 on: below the largest change that was seen there are 25 binades, above it 5."""
UNSEEN_EXPONENT = 4
"""Of operations that no sample met."""


class Rounding:
    """Nothing is rounded: changes are as they are computed, in numbers of a dtype."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        """What memory keeps."""
        self._laid_out: dict[tuple[torch.dtype, tuple[int, ...]], tuple[Sequence[Tensor], Tensor]] = {}
        self._lock = threading.Lock()

    def scale(self, key: tuple[object, ...]) -> float:
        """What the operation `key` multiplies changes by before memory keeps them."""
        return 1.0

    def kept_weight(self, *weights: Tensor) -> Tensor:
        """Weights as memory keeps them for products, one below the other."""
        return self._as(self.dtype, weights, as_they_are)

    def stored(self, key: tuple[object, ...], d: Tensor) -> Tensor:
        """A change as the operation `key` keeps it."""
        return d

    def passed_on(self, key: tuple[object, ...], d: Tensor) -> Tensor:
        """A change that is used as it is computed, though the operation has it stored where more rows change."""
        return d

    def weight(self, weight: Tensor) -> Tensor:
        """A weight as products read it."""
        return weight

    @property
    def operand(self) -> Round:
        """What attention's products read."""
        return as_they_are

    def _as(self, dtype: torch.dtype, weights: Sequence[Tensor], round_to: Round) -> Tensor:
        """Made the first time that a lane meets them; the weights are kept beside it: their addresses stand for them."""
        key = dtype, tuple(id(w) for w in weights)
        with self._lock:
            if key not in self._laid_out:
                made = round_to(torch.cat(list(weights)) if len(weights) > 1 else weights[0]).to(dtype)
                if made.is_cuda:
                    # other lanes read it on other streams
                    torch.cuda.current_stream(made.device).synchronize()
                self._laid_out[key] = weights, made
            return self._laid_out[key][1]


EXACT = Rounding()


class LargestSeen(Rounding):
    """Nothing is rounded; remembers the largest change of every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.largest: dict[str, float] = {}

    def stored(self, key: tuple[object, ...], d: Tensor) -> Tensor:
        name = name_of(key)
        finite = torch.nan_to_num(d, nan=0.0, posinf=0.0, neginf=0.0)
        self.largest[name] = max(self.largest.get(name, 0.0), float(finite.abs().max()) if d.numel() else 0.0)
        return d

    passed_on = stored

    def scales(self) -> dict[str, int]:
        """Exponent of the power of two by operation: HEADROOM times the largest change is within float16."""
        found = {n: LARGEST_HALF / HEADROOM / x for n, x in self.largest.items() if x > 0}
        return {n: int(min(max(math.floor(math.log2(x)), 0), MOST_EXPONENT)) for n, x in found.items()}


class HalfRounding(Rounding):
    """float16, as tensor cores read it and memory keeps it; sums stay float32. `stored`, `weight` and `operand` emulate it:
    the numbers are float32 again.

    `exponents` are of the power of two, by operation, that a change is multiplied by before it is rounded. What does not fit
    becomes infinite, and is found by that.
    """

    def __init__(self, exponents: Mapping[str, int]) -> None:
        super().__init__(torch.float16)
        self._exponents = exponents

    def scale(self, key: tuple[object, ...]) -> float:
        return float(2 ** self._exponents.get(name_of(key), UNSEEN_EXPONENT))

    def stored(self, key: tuple[object, ...], d: Tensor) -> Tensor:
        scale = self.scale(key)
        return (d * scale).half().float() / scale

    def weight(self, weight: Tensor) -> Tensor:
        return self._as(torch.float32, [weight], to_half)

    @property
    def operand(self) -> Round:
        return to_half


def to_half(x: Tensor) -> Tensor:
    """Rounded to float16, as float32."""
    return x.half().float()


def name_of(key: tuple[object, ...]) -> str:
    """An operation's key as settings write it."""
    return "/".join(str(part) for part in key)
