"""Activation: how much gelu and relu change where their input does."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

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
