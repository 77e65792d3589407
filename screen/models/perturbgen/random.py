"""Random weights of any size, for benchmarks and for trying a machine out."""

import torch
from torch import nn

from screen.models.perturbgen.adapter import PerturbGenAdapter
from screen.models.perturbgen.network.model import PerturbGen
from screen.models.perturbgen.network.sizes import POSITION_SLOTS, EncoderSizes, Sizes
from screen.models.synthetic import FIRST_TOKEN, SyntheticSizes
from screen.planning.window import Window

LOGIT_SPREAD = 2.0


def sizes_of(synthetic: SyntheticSizes) -> Sizes:
    """As a checkpoint of this family would declare them."""
    inner = synthetic.encoder_head_width
    n_positions = max(4096, synthetic.max_len)
    encoder = EncoderSizes(
        "scmaskgit",
        synthetic.n_source_tokens,
        synthetic.width,
        synthetic.n_heads,
        inner,
        synthetic.n_encoder_blocks,
        n_positions,
        3,
        synthetic.width,
    )
    return Sizes(
        encoder, synthetic.n_genes + FIRST_TOKEN + 50, synthetic.width, synthetic.n_heads, synthetic.head_width, synthetic.n_blocks,
        synthetic.max_len + POSITION_SLOTS, synthetic.n_times, synthetic.n_genes, "time_pos_sin", "zinb", 1,
    )  # fmt: skip


def random_model(sizes: Sizes, seed: int = 0) -> PerturbGen:
    """A model with random weights, spread so that genes differ in expression as they do in cells (logits of 2)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PerturbGen(sizes).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith("token_embedding.weight"):
                    weight.normal_(0.0, 0.5)
                elif name.endswith("_output.0.weight"):
                    # the count head reads vectors of unit length
                    weight.normal_(0.0, LOGIT_SPREAD)
    return model.requires_grad_(False)


def synthetic(
    sizes: SyntheticSizes, window: Window, seed: int = 0, model: nn.Module | None = None
) -> PerturbGenAdapter:
    """An adapter of a random model, or of the one given."""
    found = random_model(sizes_of(sizes), seed) if model is None else model
    assert isinstance(found, PerturbGen)
    return PerturbGenAdapter(found, window.pred_tps, window.context_tps, bool(window.context_tps))
