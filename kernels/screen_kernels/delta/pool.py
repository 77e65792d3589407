"""Pool: how much the mean over counted rows changes where rows change, come or leave."""

import torch
from torch import Tensor


def pool_change(x: Tensor, d: Tensor, before_CL: Tensor, after_BL: Tensor) -> Tensor:
    """Mean of x + d over the rows counted after, minus mean of x over those counted before, exact.

    Shapes: (C, L, D), (B, L, D), (C, L) and (B, L) bool -> (B, D) float64, in which rows are added: the mean of the control's
    over another number is larger than the change. C is 1 or B. NaN where no row counts before or after.
    """
    stays, comes, leaves = before_CL & after_BL, ~before_CL & after_BL, before_CL & ~after_BL
    nothing = d.new_zeros(())
    moved_BD = torch.where(stays[..., None], d, nothing).sum(1, dtype=torch.float64)
    moved_BD = moved_BD + torch.where(comes[..., None], x + d, nothing).sum(1, dtype=torch.float64)
    moved_BD = moved_BD - torch.where(leaves[..., None], x, nothing).sum(1, dtype=torch.float64)
    n_before, n_after = (c.sum(1, keepdim=True).double() for c in (before_CL, after_BL))
    total_CD = torch.where(before_CL[..., None], x, nothing).sum(1, dtype=torch.float64)
    return moved_BD / n_after + total_CD * (1 / n_after - 1 / n_before)
