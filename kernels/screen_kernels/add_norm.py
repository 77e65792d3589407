"""Residual and LayerNorm in one pass over memory."""

import torch
from torch import Tensor
from torch.nn import functional as F

from screen_kernels.backend import choose


def add_norm(
    x_TD: Tensor, update_TD: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float = 1e-5, backend: str | None = None
) -> Tensor:
    """layer_norm(x + update), computed in float32.

    Shapes: (..., D) and (..., D), any float, (D,), (D,) -> (..., D) float32.
    Raises ValueError for shapes that do not match.
    """
    if x_TD.shape != update_TD.shape or not x_TD.shape[-1:] == weight_D.shape == bias_D.shape:
        shapes = [tuple(t.shape) for t in (x_TD, update_TD, weight_D, bias_D)]
        raise ValueError(f"x, update, weight, bias have shapes {shapes}; they must be (..., D), (..., D), (D,), (D,)")
    if choose(x_TD, backend) == "torch":
        return add_norm_reference(x_TD, update_TD, weight_D, bias_D, eps)
    from screen_kernels import _add_norm_triton

    normed_TD = torch.empty(x_TD.shape, dtype=torch.float32, device=x_TD.device)
    _add_norm_triton.launch(x_TD, update_TD, weight_D, bias_D, eps, normed_TD)
    return normed_TD


def add_norm_reference(x_TD: Tensor, update_TD: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float = 1e-5) -> Tensor:
    """The definition of `add_norm`; float64 in, float64 out."""
    dtype = torch.promote_types(x_TD.dtype, torch.float32)
    x_TD, update_TD, weight_D, bias_D = (t.to(dtype) for t in (x_TD, update_TD, weight_D, bias_D))
    return F.layer_norm(x_TD + update_TD, weight_D.shape, weight_D, bias_D, eps)


def add_norm_bytes(n_rows: int, width: int, itemsize: int = 4) -> int:
    """Bytes moved at least: both inputs read once, the result written once, weight and bias read once."""
    return n_rows * width * (2 * itemsize + 4) + 2 * width * 4


def add_norm_flops(n_rows: int, width: int) -> int:
    """The sum, mean, centring, squares and their sum, scaling, weight and bias: eight per number."""
    return n_rows * width * 8
