"""Effect: what an edit changed against the same cell's control, at one time point."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

SCALE = 1e4
"""Counts are scaled to this total before the logarithm (counts per ten thousand)."""

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Expression:
    """Log expression of one cell and the total it was scaled from (NaN where the model gives no counts)."""

    log_G: NDArray[np.float64]
    total: float


def log_expression(value_G: Tensor, size_factor: float, scale: str) -> Expression:
    """log1p of counts per 10,000, natural logarithm, in float64; a model's own log expression is passed through.

    `value_G` times `size_factor` are expected counts; the logarithm does not depend on the size factor.
    """
    value = value_G.double().numpy()
    if scale == "model":
        return Expression(value, float("nan"))
    total = float(value.sum())
    return Expression(np.log1p(value / max(total, 1e-300) * SCALE), total * size_factor)


def counts(log_G: NDArray[np.floating], total: float) -> NDArray[np.float64]:
    """The inverse of log_expression: expected counts."""
    return np.expm1(log_G.astype(np.float64)) * (total / SCALE)


def cosine(before_D: Tensor, after_D: Tensor) -> float:
    """Cosine of two pooled embeddings, (D,) and (D,)."""
    return float(F.cosine_similarity(before_D, after_D, dim=0))


def gene_cosine(
    before_L: Tensor,
    before_LD: Tensor,
    after_L: Tensor,
    after_LD: Tensor,
    column_of_token: NDArray[np.int64],
    n_genes: int,
    n_skipped: int,
) -> Float:
    """Cosine of each gene's embedding in the control and in the perturbed row, (G,); 0 where it is not in both.

    before/after are ids (L,) and last-layer embeddings (L, D), condition tokens cut off. `n_skipped` leading positions of
    the perturbed row are left out (the genes that overexpression inserted). A gene is compared with its first position
    in the control.
    """
    first: dict[int, int] = {}
    for position, token in enumerate(before_L.tolist()):
        first.setdefault(token, position)
    pairs = [
        (first[t], j, t)
        for j, t in enumerate(after_L.tolist())
        if j >= n_skipped and t in first and t < len(column_of_token)
    ]
    out = np.zeros(n_genes, dtype=np.float32)
    pairs = [(i, j, int(column_of_token[t])) for i, j, t in pairs if column_of_token[t] >= 0]
    if pairs:
        i, j, column = (torch.tensor(x) for x in zip(*pairs, strict=True))
        out[column.numpy()] = F.cosine_similarity(before_LD[i], after_LD[j], dim=-1).numpy()
    return out


@dataclass(frozen=True)
class Effect:
    """One item at one time point.

    delta_G           log-expression change (float32), None without counts
    total             expected library size of the perturbed prediction, NaN without counts
    embedding_D       perturbed pooled embedding
    embedding_cosine  cosine to the control's
    gene_cosine_G     see gene_cosine; None unless asked for
    """

    delta_G: Float | None
    total: float
    embedding_D: Float
    embedding_cosine: float
    gene_cosine_G: Float | None

    @property
    def rms_delta(self) -> float:
        """Root mean square of the log-expression change over genes; NaN without counts."""
        return float("nan") if self.delta_G is None else float(np.sqrt(np.mean(self.delta_G.astype(np.float64) ** 2)))
