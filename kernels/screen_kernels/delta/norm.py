"""Norm: how much LayerNorm's output changes where its input does."""

from typing import NamedTuple

import torch
from torch import Tensor

from screen_kernels.backend import choose
from screen_kernels.delta.ragged import RaggedRows
from screen_kernels.delta.scaled import Scaled, scaled


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


def norm_change_rows(
    rows: RaggedRows, unit_MD: Tensor, deviation_M: Tensor, weight_D: Tensor, x: Scaled, update: Scaled | None = None,
    *, scale: float, dtype: torch.dtype = torch.float16, backend: str | None = None,
) -> Scaled:  # fmt: skip
    """`norm_change` of ragged rows where x changes, and the update added to it before. The kernel has not run on a GPU yet.

    Shapes: (M, D) float16 or float32, (M,) and (D,) float32, (T, D) twice -> (T, D) of the dtype, times the scale.
    Raises ValueError for shapes that do not match.
    """
    shape, (n_control, width) = (rows.n_rows, unit_MD.shape[1]), unit_MD.shape
    others = [tuple(t.shape) for t in (x.values, x.values if update is None else update.values, deviation_M, weight_D)]
    if others != [shape, shape, (n_control,), (width,)]:
        raise ValueError(f"x, update, deviation, weight have shapes {others}; they must be (T, D) twice, (M,), (D,)")
    if choose(unit_MD, backend) == "torch":
        return scaled(norm_change_rows_reference(rows, unit_MD, deviation_M, weight_D, x, update), scale, dtype)
    from screen_kernels.delta import _norm_triton

    change = Scaled(torch.empty(shape, dtype=dtype, device=unit_MD.device), scale)
    _norm_triton.launch(rows, unit_MD, deviation_M, weight_D, x, update, change)
    return change


def norm_change_rows_reference(
    rows: RaggedRows, unit_MD: Tensor, deviation_M: Tensor, weight_D: Tensor, x: Scaled, update: Scaled | None = None
) -> Tensor:
    """The definition of `norm_change_rows`, unscaled; float64 in, float64 out."""
    d_TD = x.unscaled() if update is None else x.unscaled() + update.unscaled()
    unit_MD, deviation_M, weight_D = (t.to(d_TD.dtype) for t in (unit_MD, deviation_M, weight_D))
    change_TD = torch.empty_like(d_TD)
    for _, of_item, of_cell in rows.spans():
        control = NormControl(unit_MD[of_cell][None], deviation_M[of_cell][None, :, None])
        change_TD[of_item] = norm_change(control, d_TD[of_item][None], weight_D)[0]
    return change_TD


def norm_change_rows_bytes(n_rows: int, n_control: int, width: int, n_inputs: int = 2, itemsize: int = 2) -> int:
    """Bytes moved at least: differences read and written once, the control of M rows read once, T places of it."""
    control = n_control * (width * itemsize + 4) + width * 4
    return n_rows * (width * itemsize * (n_inputs + 1) + 8) + control


def norm_change_rows_flops(n_rows: int, width: int, n_inputs: int = 2) -> int:
    """Unscaling and adding inputs, mean, centring, two dot products, the change, its scale: per number."""
    return n_rows * width * (2 * n_inputs - 1 + 11)
