"""Activation: how much gelu and relu change where their input does."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from screen_kernels.backend import choose
from screen_kernels.delta.ragged import RaggedRows
from screen_kernels.delta.scaled import Scaled, scaled

SMALL = 0.05
"""In float32, differences up to this go by derivatives: subtracting two values would lose more than five terms leave out."""


def gelu_change(h: Tensor, d: Tensor) -> Tensor:
    """gelu(h + d) - gelu(h), gelu exact (erf).

    Shapes: any two that broadcast -> the broadcast one; float32 or float64.
    """
    whole = F.gelu(h + d) - F.gelu(h)
    if h.dtype == torch.float64:
        return whole
    return torch.where(d.abs() <= SMALL, _by_derivatives(h, d), whole)


def _by_derivatives(h: Tensor, d: Tensor) -> Tensor:
    """Five terms of Taylor's series: gelu' = Phi + h phi, and gelu'' = (2 - h^2) phi."""
    density = torch.exp(-h * h / 2) / math.sqrt(2 * math.pi)
    h2 = h * h
    first = 0.5 * (1 + torch.erf(h / math.sqrt(2))) + h * density
    # derivatives of the second, over its factorials
    second, third = (2 - h2) / 2, h * (h2 - 4) / 6
    fourth, fifth = (-4 + 7 * h2 - h2 * h2) / 24, h * (18 - 11 * h2 + h2 * h2) / 120
    return d * (first + density * d * (second + d * (third + d * (fourth + d * fifth))))


def relu_change(h: Tensor, d: Tensor) -> Tensor:
    """relu(h + d) - relu(h), without rounding where both are positive.

    Shapes: any two that broadcast -> the broadcast one.
    """
    after = h + d
    return torch.where((h > 0) & (after > 0), d, F.relu(after) - F.relu(h))


ACTIVATIONS = {"gelu": gelu_change, "relu": relu_change}


def activation_change_rows(
    rows: RaggedRows, h_MD: Tensor, x: Scaled, kind: str = "gelu",
    *, scale: float, dtype: torch.dtype = torch.float16, backend: str | None = None,
) -> Scaled:  # fmt: skip
    """`gelu_change` or `relu_change` of ragged rows. The kernel has not run on a GPU yet.

    Shapes: (M, D) float16 or float32, (T, D) -> (T, D) of the dtype, times the scale.
    Raises ValueError for shapes that do not match and for another kind.
    """
    if kind not in ACTIVATIONS:
        raise ValueError(f'activation is "{kind}"; allowed: {", ".join(ACTIVATIONS)}')
    if x.values.shape != (rows.n_rows, h_MD.shape[1]):
        shapes = [tuple(t.shape) for t in (h_MD, x.values)]
        raise ValueError(f"h, x have shapes {shapes}; they must be (M, D), (T, D) with T = {rows.n_rows}")
    if choose(h_MD, backend) == "torch":
        return scaled(activation_change_rows_reference(rows, h_MD, x, kind), scale, dtype)
    from screen_kernels.delta import _activation_triton

    change = Scaled(torch.empty(x.values.shape, dtype=dtype, device=h_MD.device), scale)
    _activation_triton.launch(rows, h_MD, x, kind, change)
    return change


def activation_change_rows_reference(rows: RaggedRows, h_MD: Tensor, x: Scaled, kind: str = "gelu") -> Tensor:
    """The definition of `activation_change_rows`, unscaled; float64 in, float64 out."""
    d_TD = x.unscaled()
    change_TD = torch.empty_like(d_TD)
    for _, of_item, of_cell in rows.spans():
        change_TD[of_item] = ACTIVATIONS[kind](h_MD[of_cell].to(d_TD.dtype), d_TD[of_item])
    return change_TD


def activation_change_rows_bytes(n_rows: int, n_control: int, width: int, itemsize: int = 2) -> int:
    """Bytes moved at least: differences read and written once, M rows of the control read once, T places of it."""
    return n_rows * (2 * width * itemsize + 8) + n_control * width * itemsize


def activation_change_rows_flops(n_rows: int, width: int, kind: str = "gelu") -> int:
    """Of gelu two values, five derivatives and their sum; of relu three comparisons and two sums; two for scales."""
    return n_rows * width * (48 if kind == "gelu" else 7)
