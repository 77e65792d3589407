"""Mean of the hidden states that count, and its cosine to a control: how far a cell moved, in one pass over memory."""

import torch
from torch import Tensor
from torch.nn import functional as F

from screen_kernels.backend import choose

EPS = 1e-8
"""No norm counts as less, as in torch's cosine_similarity."""


def pool_shift(
    hidden_BLD: Tensor, counted_BL: Tensor, control_CD: Tensor, control_B: Tensor, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """Mean of each item over its counted positions, and cosine between that and the item's control.

    Shapes: (B, L, D) float32, float16 or bfloat16, (B, L) bool, (C, D) float32, (B,) integer rows of control_CD
    -> (B, D) and (B,) float32, accumulated in float32.
    NaN where nothing counts or the control is NaN; what is not counted is never read by the kernel, so NaN there stays.
    Raises ValueError for shapes that do not match, TypeError unless counted_BL is bool.
    """
    n_items, n_places, width = hidden_BLD.shape
    if counted_BL.shape != (n_items, n_places) or control_B.shape != (n_items,) or control_CD.shape[1:] != (width,):
        shapes = [tuple(t.shape) for t in (hidden_BLD, counted_BL, control_CD, control_B)]
        raise ValueError(
            f"hidden_BLD, counted_BL, control_CD, control_B have shapes {shapes}; "
            "they must be (B, L, D), (B, L), (C, D), (B,)"
        )
    if counted_BL.dtype != torch.bool:
        raise TypeError(f"counted_BL is {counted_BL.dtype}; it must be torch.bool")
    if choose(hidden_BLD, backend) == "torch":
        return pool_shift_reference(hidden_BLD, counted_BL, control_CD, control_B)
    from screen_kernels import _pool_shift_triton

    pooled_BD = torch.empty(n_items, width, dtype=torch.float32, device=hidden_BLD.device)
    cosine_B = pooled_BD.new_empty(n_items)
    _pool_shift_triton.launch(hidden_BLD, counted_BL, control_CD, control_B, pooled_BD, cosine_B)
    return pooled_BD, cosine_B


def pool_shift_reference(
    hidden_BLD: Tensor, counted_BL: Tensor, control_CD: Tensor, control_B: Tensor
) -> tuple[Tensor, Tensor]:
    """The definition of `pool_shift`; float64 in, float64 out."""
    dtype = torch.promote_types(hidden_BLD.dtype, torch.float32)
    total_BD = torch.where(counted_BL[:, :, None], hidden_BLD, 0).sum(1, dtype=dtype)
    pooled_BD = total_BD / counted_BL.sum(1, keepdim=True)
    return pooled_BD, F.cosine_similarity(pooled_BD, control_CD.to(dtype)[control_B.long()], dim=1, eps=EPS)


def pool_shift_bytes(n_counted: int, n_items: int, n_places: int, width: int, itemsize: int) -> int:
    """Bytes moved at least: counted rows and controls read once, both results written once."""
    return n_counted * width * itemsize + n_items * (n_places + 8 + 2 * width * 4 + 4)


def pool_shift_flops(n_counted: int, n_items: int, width: int) -> int:
    """Additions of the mean; division, three dot products per item."""
    return n_counted * width + n_items * 7 * width
