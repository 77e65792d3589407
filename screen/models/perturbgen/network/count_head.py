"""Count head: from a pooled embedding to expected counts, their dispersion and their likelihood."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from screen.models.perturbgen.network.layers import FeedForward
from screen.models.perturbgen.network.sizes import Sizes

NORM_FLOOR = 1e-12
LOG_FLOOR = 1e-8


@dataclass(frozen=True)
class CountOutput:
    """What the head says for B cells and G genes.

    head_BG          activation before any size factor: softmax shares, softplus means, or log-normalised values (mse)
    dropout_logit_BG zero-inflation logits, zinb only
    size_factor_B1   predicted library size, where the checkpoint has that decoder
    """

    head_BG: Tensor
    dropout_logit_BG: Tensor | None = None
    size_factor_B1: Tensor | None = None


class CountHead(nn.Module):
    """mlp -> unit length -> one output per gene; `loss_mode` decides which outputs exist. Float32, whatever the ops."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.loss_mode, self.activation = sizes.loss_mode, sizes.count_activation
        self.mlp = FeedForward(sizes.width)
        if sizes.loss_mode == "mse":
            self.relu_output = nn.Sequential(nn.Linear(sizes.width, sizes.n_genes))
        else:
            self.softmax_output = nn.Sequential(nn.Linear(sizes.width, sizes.n_genes))
        if sizes.loss_mode == "zinb":
            self.linear_output = nn.Linear(sizes.width, sizes.n_genes)
        if sizes.predicts_size_factor:
            self.size_factor_decoder = nn.Sequential(nn.Linear(sizes.width, 1))

    def forward(self, pooled_BD: Tensor) -> CountOutput:
        """(B, D) pooled embeddings -> CountOutput. A row of NaN stays NaN."""
        hidden_BD = self.mlp.fc2(F.gelu(self.mlp.fc1(pooled_BD)))
        hidden_BD = hidden_BD / torch.linalg.vector_norm(hidden_BD, dim=-1, keepdim=True).clamp_min(NORM_FLOOR)
        if self.loss_mode == "mse":
            return CountOutput(F.relu(self.relu_output(hidden_BD)))
        raw_BG = self.softmax_output(hidden_BD)
        head_BG = F.softmax(raw_BG, dim=-1) if self.activation == "softmax" else F.softplus(raw_BG)
        logit_BG = self.linear_output(hidden_BD) if self.loss_mode == "zinb" else None
        size_B1 = torch.exp(self.size_factor_decoder(hidden_BD)) if hasattr(self, "size_factor_decoder") else None
        return CountOutput(head_BG, logit_BG, size_B1)


def negative_log_likelihood(
    count_BG: Tensor, mu_BG: Tensor, dispersion_BG: Tensor, dropout_logit_BG: Tensor | None = None
) -> Tensor:
    """Summed over genes, per cell: (B,). Negative binomial, zero-inflated where dropout logits are given.

    Mean mu, inverse dispersion `dispersion` (variance mu + mu^2 / dispersion); natural logarithms.
    Source: Lopez et al. 2018 (scVI), equations of the NB and ZINB likelihood.
    """
    log_theta = torch.log(dispersion_BG + LOG_FLOOR)
    log_theta_mu = torch.log(dispersion_BG + mu_BG + LOG_FLOOR)
    log_nb = (
        dispersion_BG * (log_theta - log_theta_mu)
        + count_BG * (torch.log(mu_BG + LOG_FLOOR) - log_theta_mu)
        + torch.lgamma(count_BG + dispersion_BG)
        - torch.lgamma(dispersion_BG)
        - torch.lgamma(count_BG + 1)
    )
    if dropout_logit_BG is None:
        return -log_nb.sum(-1)
    log_pi, log_not_pi = F.logsigmoid(dropout_logit_BG), F.logsigmoid(-dropout_logit_BG)
    zero = torch.logaddexp(log_pi, log_not_pi + dispersion_BG * (log_theta - log_theta_mu))
    return -torch.where(count_BG < LOG_FLOOR, zero, log_not_pi + log_nb).sum(-1)
