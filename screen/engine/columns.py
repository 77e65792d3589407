"""Columns: effects and controls as the arrays that a store keeps, by their names there."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from screen.engine.effects import Effect, Expression
from screen.planning.layout import Layout

DTYPES = {"float16": torch.float16, "float32": torch.float32}


def item_columns(effects: Mapping[int, Effect], is_screened_BT: Tensor, layout: Layout) -> dict[str, Tensor]:
    """Names below the library block -> values of B items; zero at time points without a prediction."""
    columns: dict[str, Tensor] = {}
    for k, t in enumerate(layout.pred_tps):
        effect, is_screened_B = effects[t], is_screened_BT[:, k]
        found = {f"items/embedding_cosine_t{t}": effect.embedding_cosine_B.float()}
        if effect.delta_BG is not None and effect.total_B is not None:
            scaled = effect.delta_BG * layout.delta_scale
            found[f"delta/t{t}"] = scaled.to(DTYPES[layout.dtype])
            found[f"items/total_t{t}"] = effect.total_B.float()
            found[f"items/rms_delta_t{t}"] = effect.rms_delta_B
        if layout.keep_embeddings:
            found[f"embedding/t{t}"] = effect.embedding_BD.float()
        if effect.gene_cosine_BG is not None:
            found[f"gene_cosine/t{t}"] = effect.gene_cosine_BG.float()
        for name, x in found.items():
            shape = (-1,) + (1,) * (x.ndim - 1)
            columns[name] = torch.where(is_screened_B.view(shape), x, torch.zeros((), dtype=x.dtype, device=x.device))
    return columns


def control_columns(
    embedding: Mapping[int, Tensor],
    expression: Mapping[int, Expression],
    is_predicted: Mapping[int, Tensor],
    pred_tps: Sequence[int],
) -> dict[str, Tensor]:
    """Names below `control/` -> values of C cells; zero where there is nothing to predict from."""
    columns: dict[str, Tensor] = {}
    for t in pred_tps:
        is_predicted_C = is_predicted[t]
        columns[f"is_predicted_t{t}"] = is_predicted_C
        columns[f"embedding_t{t}"] = torch.where(is_predicted_C[:, None], embedding[t], 0.0).float()
        if t in expression:
            columns[f"expression_t{t}"] = torch.where(is_predicted_C[:, None], expression[t].log_BG, 0.0).float()
            columns[f"total_t{t}"] = torch.where(is_predicted_C, expression[t].total_B, 0.0).float()
    return columns
