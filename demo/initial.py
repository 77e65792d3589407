"""Initial weights: embeddings and count head from a singular value decomposition of the training cells.

With so few cells and minutes this decides the outcome: genes that vary together start close together.
"""

import numpy as np
import torch
from torch import Tensor, nn

from demo.cells import FIRST_GENE_ID, DemoCells, log_cp10k
from screen.models.perturbgen.network.model import PerturbGen

HEAD_SCALE = 0.3
PROFILE_FLOOR = 1e-6


def gene_coordinates(cells: DemoCells, width: int, seed: int) -> Tensor:
    """(G, width) coordinates of unit spread: leading right singular vectors of scaled log1p CP10K, rotated at random.

    Each vector is weighted by the root of its singular value. Training cells only. The rotation makes seeds differ
    without changing any distance between genes.
    """
    log_CG = log_cp10k(cells.counts_CG[~cells.is_held_out])
    scale_G = log_CG.std(axis=0)
    scaled_CG = (log_CG - log_CG.mean(axis=0)) / np.where(scale_G > 0, scale_G, 1.0)
    square_G, axes_GG = np.linalg.eigh(scaled_CG.T @ scaled_CG)
    leading_GD = axes_GG[:, -width:] * square_G[-width:] ** 0.25
    rotation_DD, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))
    rotated_GD = leading_GD @ rotation_DD
    return torch.from_numpy(rotated_GD / rotated_GD.std()).float()


@torch.no_grad()
def initialise(model: PerturbGen, token_head: nn.Linear, cells: DemoCells, seed: int) -> None:
    """Sets gene embeddings of both vocabularies, the count head, and the biases to the training cells' averages."""
    coordinate_GD = gene_coordinates(cells, model.sizes.width, seed)
    encoder = model.get_submodule("encoder_layers.model.token_embedding")
    head = model.get_submodule("count_decoder.softmax_output.0")
    assert isinstance(encoder, nn.Embedding)
    assert isinstance(head, nn.Linear)
    model.token_embedding.weight[torch.from_numpy(cells.genes.row_id)] = coordinate_GD
    encoder.weight[torch.from_numpy(cells.genes.token_id)] = coordinate_GD
    head.weight.copy_(HEAD_SCALE * coordinate_GD)

    training = cells.counts_CG[~cells.is_held_out]
    share_G = np.asarray(training.sum(axis=0)).ravel() / training.sum()
    seen_G = np.asarray((training > 0).mean(axis=0)).ravel()
    head.bias.copy_(torch.from_numpy(np.log(share_G + PROFILE_FLOOR)))
    token_head.bias[FIRST_GENE_ID : FIRST_GENE_ID + len(seen_G)] = torch.from_numpy(
        np.log(seen_G + PROFILE_FLOOR)
    ).float()
