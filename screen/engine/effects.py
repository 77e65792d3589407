"""Effects: what edits changed against the same cells' controls, at one time point. B items; on any device."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from screen.planning.layout import SCALE


@dataclass(frozen=True)
class Expression:
    """Log expression of B items and the totals it was scaled from (NaN where the model gives no counts); float64."""

    log_BG: Tensor
    total_B: Tensor

    def take(self, index_N: Tensor) -> "Expression":
        """Some of the items."""
        return Expression(self.log_BG[index_N], self.total_B[index_N])


def log_expression(value_BG: Tensor, size_factor_B: Tensor | None, scale: str) -> Expression:
    """log1p of counts per 10,000, natural logarithm, in float64; a model's own log expression is passed through.

    `value_BG` times `size_factor_B` are expected counts; the logarithm does not depend on the size factor.
    """
    value_BG = value_BG.double()
    if scale == "model":
        return Expression(value_BG, torch.full_like(value_BG[:, 0], torch.nan))
    assert size_factor_B is not None
    total_B = value_BG.sum(1)
    return Expression(
        torch.log1p(value_BG / total_B.clamp_min(1e-300)[:, None] * SCALE), total_B * size_factor_B.double()
    )


@dataclass(frozen=True)
class Effect:
    """B items at one time point.

    embedding_BD       perturbed pooled embedding
    embedding_cosine_B cosine to the control's
    delta_BG           log-expression change (float32), None without counts
    total_B            expected library size of the perturbed prediction (float64), None without counts
    gene_cosine_BG     see gene_cosine; None unless asked for
    """

    embedding_BD: Tensor
    embedding_cosine_B: Tensor
    delta_BG: Tensor | None = None
    total_B: Tensor | None = None
    gene_cosine_BG: Tensor | None = None

    @property
    def rms_delta_B(self) -> Tensor:
        """Root mean square of the log-expression change over genes, float32; needs counts."""
        assert self.delta_BG is not None
        return self.delta_BG.double().square().mean(1).sqrt().float()

    @property
    def is_finite_B(self) -> Tensor:
        """Whether an item is free of NaN and infinity."""
        finite_B = torch.isfinite(self.embedding_BD).all(1)
        return finite_B if self.delta_BG is None else finite_B & torch.isfinite(self.delta_BG).all(1)


def change(before: Expression, after: Expression) -> Tensor:
    """Log-expression change (B, G), subtracted in float64, float32."""
    return (after.log_BG - before.log_BG).float()


def cosine(before_BD: Tensor, after_BD: Tensor) -> Tensor:
    """Cosine of pooled embeddings, (B, D) and (B, D) -> (B,)."""
    return F.cosine_similarity(before_BD, after_BD, dim=1)


def gene_cosine(
    before_BK: Tensor,
    before_BKD: Tensor,
    after_BL: Tensor,
    after_BLD: Tensor,
    column_of_token: Tensor,
    n_genes: int,
    n_skipped_B: Tensor,
) -> Tensor:
    """Cosine of each gene's embedding in the control and in the perturbed row, (B, G); 0 where it is not in both.

    before/after are ids and last-layer embeddings, condition tokens cut off; `column_of_token` is the gene column of an
    id, negative for none. The first `n_skipped_B` positions of a perturbed row are left out (the genes that
    overexpression inserted). A gene is compared with its first position in the control; of a gene repeated in the
    perturbed row the last position counts.
    """
    n_items, n_tokens = len(after_BL), len(column_of_token)
    if before_BK.shape[1] == 0 or after_BL.shape[1] == 0:
        return after_BLD.new_zeros((n_items, n_genes))
    after_BL, before_BK = after_BL.long(), before_BK.long()
    place_BK = torch.arange(before_BK.shape[1], device=before_BK.device).expand_as(before_BK)
    nowhere = before_BK.shape[1]
    first_BV = before_BK.new_full((n_items, n_tokens), nowhere).scatter_reduce_(1, before_BK, place_BK, "amin")
    match_BL = first_BV.gather(1, after_BL)
    place_L = torch.arange(after_BL.shape[1], device=after_BL.device)
    column_BL = column_of_token[after_BL]
    counts_BL = (match_BL < nowhere) & (column_BL >= 0) & (place_L >= n_skipped_B[:, None])
    # the last column is a bin for what does not count
    column_BL = torch.where(counts_BL, column_BL, n_genes)
    last_BG = column_BL.new_full((n_items, n_genes + 1), -1).scatter_reduce_(
        1, column_BL, place_L.expand_as(column_BL), "amax"
    )
    last_BG = last_BG[:, :n_genes]
    at_BG = last_BG.clamp_min(0)
    width = after_BLD.shape[-1]
    unit_after, unit_before = F.normalize(after_BLD, dim=-1, eps=1e-8), F.normalize(before_BKD, dim=-1, eps=1e-8)
    partner_BLD = unit_before.gather(1, match_BL.clamp_max(nowhere - 1)[..., None].expand(-1, -1, width))
    cosine_BL = (unit_after * partner_BLD).sum(-1)
    return torch.where(last_BG >= 0, cosine_BL.gather(1, at_BG), 0.0)
