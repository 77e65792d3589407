"""A float32 activation as two float16 parts, for products with float32's accuracy at float16's cost."""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from screen_kernels.backend import choose

Activation = Literal["none", "gelu"]


def split_half(x_TD: Tensor, activation: Activation = "none", backend: str | None = None) -> Tensor:
    """[h | l] with h = float16(y), l = float16(y - h), y = activation(x) in float32; gelu is exact (erf).

    Shapes: (..., D) any float -> (..., 2D) float16. h + l is y to 2 ** -22 of its size, or 2 ** -25 where y is tiny.
    |y| must stay below 65,520: beyond, h is infinite and the pair NaN.
    Raises ValueError for an unknown activation.
    """
    if activation not in get_args(Activation):
        raise ValueError(f'activation is "{activation}"; allowed: {", ".join(get_args(Activation))}')
    if choose(x_TD, backend) == "torch":
        return split_half_reference(x_TD, activation)
    from screen_kernels import _split_half_triton

    half_T2D = torch.empty(*x_TD.shape[:-1], 2 * x_TD.shape[-1], dtype=torch.float16, device=x_TD.device)
    _split_half_triton.launch(x_TD, activation, half_T2D)
    return half_T2D


def split_half_reference(x_TD: Tensor, activation: Activation = "none") -> Tensor:
    """The definition of `split_half`."""
    return halves(F.gelu(x_TD.float()) if activation == "gelu" else x_TD.float())


def halves(y_TD: Tensor) -> Tensor:
    """[h | l] of a float32 array, (..., D) -> (..., 2D) float16."""
    high_TD = y_TD.half()
    return torch.cat([high_TD, (y_TD - high_TD).half()], dim=-1)


def split_half_bytes(n_rows: int, width: int, itemsize: int = 4) -> int:
    """Bytes moved at least: read once, both halves written once."""
    return n_rows * width * (itemsize + 4)


def split_half_flops(n_rows: int, width: int, activation: Activation = "none") -> int:
    """The remainder; gelu adds four multiplications or additions and one erf, counted as one."""
    return n_rows * width * (6 if activation == "gelu" else 1)
