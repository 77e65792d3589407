"""Norm: how much LayerNorm's output changes where its input does."""

from typing import NamedTuple

import torch
from torch import Tensor


class NormControl(NamedTuple):
    """What a control's pass leaves: unit (C, L, D), the centred input over its deviation, and deviation (C, L, 1)."""

    unit: Tensor
    deviation: Tensor


def norm_control(x: Tensor, eps: float) -> NormControl:
    """Of inputs (C, L, D)."""
    centred = x - x.mean(-1, keepdim=True)
    deviation = torch.sqrt(centred.square().mean(-1, keepdim=True) + eps)
    return NormControl(centred / deviation, deviation)


def norm_change(control: NormControl, d: Tensor, weight_D: Tensor) -> Tensor:
    """By how much weight * (x - mean) / deviation + bias changes, exact.

    With c = d - mean d: the variance changes by v = 2 deviation mean(unit c) + mean(c^2), the deviation from s to
    s' = sqrt(s^2 + v), and the output by weight (c / s' - unit v / (s' (s + s'))).
    Shapes: (C, L, D) and (C, L, 1), (B, L, D), (D,) -> (B, L, D); C is 1 or B.
    """
    centred = d - d.mean(-1, keepdim=True)
    before = control.deviation
    by = 2 * before * (control.unit * centred).mean(-1, keepdim=True) + centred.square().mean(-1, keepdim=True)
    after = torch.sqrt((before.square() + by).clamp_min(0))
    return weight_D * (centred / after - control.unit * (by / (after * (before + after))))
