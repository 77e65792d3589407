"""Residual and LayerNorm in one pass over memory."""

from typing import Literal, overload

import torch
from torch import Tensor
from torch.nn import functional as F

from screen_kernels.backend import choose
from screen_kernels.split_half import halves


@overload
def add_norm(
    x_TD: Tensor,
    update_TD: Tensor,
    weight_D: Tensor,
    bias_D: Tensor,
    eps: float = ...,
    backend: str | None = ...,
    split: Literal[False] = ...,
) -> Tensor: ...
@overload
def add_norm(
    x_TD: Tensor,
    update_TD: Tensor,
    weight_D: Tensor,
    bias_D: Tensor,
    eps: float = ...,
    backend: str | None = ...,
    *,
    split: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def add_norm(
    x_TD: Tensor,
    update_TD: Tensor,
    weight_D: Tensor,
    bias_D: Tensor,
    eps: float = 1e-5,
    backend: str | None = None,
    split: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """layer_norm(x + update), computed in float32; with `split` also as the float16 pair of `split_half`.

    Shapes: (..., D) and (..., D), any float, (D,), (D,) -> (..., D) float32 [and (..., 2D) float16].
    Raises ValueError for shapes that do not match.
    """
    if x_TD.shape != update_TD.shape or not x_TD.shape[-1:] == weight_D.shape == bias_D.shape:
        shapes = [tuple(t.shape) for t in (x_TD, update_TD, weight_D, bias_D)]
        raise ValueError(f"x, update, weight, bias have shapes {shapes}; they must be (..., D), (..., D), (D,), (D,)")
    if choose(x_TD, backend) == "torch":
        normed_TD = add_norm_reference(x_TD, update_TD, weight_D, bias_D, eps)
        return (normed_TD, halves(normed_TD)) if split else normed_TD
    from screen_kernels import _add_norm_triton

    normed_TD = torch.empty(x_TD.shape, dtype=torch.float32, device=x_TD.device)
    if not split:
        _add_norm_triton.launch(x_TD, update_TD, weight_D, bias_D, eps, normed_TD, None)
        return normed_TD
    half_T2D = normed_TD.new_empty(*x_TD.shape[:-1], 2 * x_TD.shape[-1], dtype=torch.float16)
    _add_norm_triton.launch(x_TD, update_TD, weight_D, bias_D, eps, normed_TD, half_T2D)
    return normed_TD, half_T2D


def add_norm_reference(x_TD: Tensor, update_TD: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float = 1e-5) -> Tensor:
    """The definition of `add_norm` without `split`; float64 in, float64 out."""
    dtype = torch.promote_types(x_TD.dtype, torch.float32)
    x_TD, update_TD, weight_D, bias_D = (t.to(dtype) for t in (x_TD, update_TD, weight_D, bias_D))
    return F.layer_norm(x_TD + update_TD, weight_D.shape, weight_D, bias_D, eps)


def add_norm_bytes(n_rows: int, width: int, itemsize: int = 4, split: bool = False) -> int:
    """Bytes moved at least: inputs, weight and bias read once, the result (and its pair) written once."""
    return n_rows * width * (2 * itemsize + 4 + (4 if split else 0)) + 2 * width * 4


def add_norm_flops(n_rows: int, width: int) -> int:
    """The sum, mean, centring, squares and their sum, scaling, weight and bias: eight per number."""
    return n_rows * width * 8
