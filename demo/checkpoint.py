"""The demo's model: its sizes, and its file in the layout of an upstream count-stage checkpoint."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from demo.cells import FIRST_GENE_ID, MAX_LEN
from screen.models.perturbgen.network.model import PerturbGen
from screen.models.perturbgen.network.sizes import CONDITION_SLOTS, POSITION_SLOTS, SCMASKGIT_HEADS, EncoderSizes, Sizes

WIDTH = 64
N_HEADS = 4
HEAD_WIDTH = 16
N_BLOCKS = 2
N_TIMES = 1
MODEL, HEAD = "decoder.pretrained_model.", "decoder.count_decoder."


def demo_sizes(n_genes: int) -> Sizes:
    """Sizes of the demo's model; both vocabularies hold four special tokens and every gene."""
    n_tokens, n_positions = n_genes + FIRST_GENE_ID, MAX_LEN + POSITION_SLOTS
    encoder = EncoderSizes(
        kind="scmaskgit",
        n_tokens=n_tokens + 3,
        width=WIDTH,
        n_heads=SCMASKGIT_HEADS,
        head_width=WIDTH // SCMASKGIT_HEADS,
        n_blocks=1,
        n_positions=n_positions,
        n_times=3,
        feed_forward_width=WIDTH,
    )
    return Sizes(
        encoder=encoder,
        n_tokens=n_tokens + CONDITION_SLOTS,
        width=WIDTH,
        n_heads=N_HEADS,
        head_width=HEAD_WIDTH,
        n_blocks=N_BLOCKS,
        n_positions=n_positions,
        n_time_points=N_TIMES,
        n_genes=n_genes,
        position_mode="time_pos_sin",
        loss_mode="nb",
        dispersion_levels=1,
    )


def _hyper_parameters(sizes: Sizes, seed: int, learning_rate: float) -> dict[str, Any]:
    """What upstream's count stage would have stored; None where the demo has no such thing."""
    unused = (
        *("encoder_path", "var_list", "tgt_adata", "ckpt_masking_path", "ckpt_count_path", "condition_dict"),
        *("unique_gene_list", "shared_gene_list", "context_tps", "mapping_dict_path", "tokenid_to_rowid_path"),
    )
    return {
        "tgt_vocab_size": sizes.n_tokens,
        "d_model": sizes.width,
        "num_heads": sizes.n_heads,
        "num_layers": sizes.n_blocks,
        "d_ff": sizes.head_width,
        "max_seq_length": sizes.n_positions,
        "loss_mode": sizes.loss_mode,
        "use_positional_encoding": False,
        "layer_norm": False,
        "lr": learning_rate,
        "weight_decay": 0.01,
        "dropout": 0.0,
        "generate": False,
        "pred_tps": [1],
        "n_total_tps": sizes.n_time_points,
        "temperature": 1.5,
        "iterations": 19,
        "n_samples": 1,
        "precision": "medium",
        "output_dir": "",
        "encoder": sizes.encoder.kind,
        "seed": seed,
        "n_genes": sizes.n_genes,
        "pos_encoding_mode": sizes.position_mode,
        "mask_scheduler": "pow",
        "sequence_length": MAX_LEN,
        "return_rouge_score": False,
        "context_mode": False,
        "conditions": {"tmp_batch": [1]},
        "conditions_combined": [1],
        "use_size_factor": True,
        "use_observed_size_factor": True,
        **dict.fromkeys(unused),
    }


def _upstream_state(model: PerturbGen, token_head: nn.Linear) -> dict[str, Tensor]:
    """The weights under upstream's keys; keys that upstream repeats share one storage.

    The encoder's own token head, which neither training nor prediction touches, is zero.
    """
    own = {key: value.detach() for key, value in model.state_dict().items()}
    encoder = model.sizes.encoder
    n_logits = encoder.n_tokens - encoder.n_times
    inner = {key: value for key, value in own.items() if not key.startswith(("count_decoder.", "theta"))}
    inner["decoder_fc.weight"], inner["decoder_fc.bias"] = token_head.weight.detach(), token_head.bias.detach()
    inner["encoder_layers.model.decoder_fc.weight"] = torch.zeros(n_logits, encoder.width)
    inner["encoder_layers.model.decoder_fc.bias"] = torch.zeros(n_logits)
    for prefix in ("pos_embedding.", "encoder_layers.model.pos_embedding."):
        inner[f"{prefix}pe"] = inner[f"{prefix}pos_pe"]
    return {
        "theta": own["theta"],
        **{f"pretrained_model.{key}": value for key, value in inner.items()},
        **{f"{MODEL}{key}": value for key, value in inner.items()},
        **{f"decoder.{key}": value for key, value in own.items() if key.startswith("count_decoder.")},
    }


def write_checkpoint(
    path: Path, model: PerturbGen, token_head: nn.Linear, *, epoch: int, step: int, seed: int, learning_rate: float
) -> None:
    """Saves the model as an upstream count-stage checkpoint of a few MB."""
    content = {
        "epoch": epoch,
        "global_step": step,
        "pytorch-lightning_version": "none; written by screen.demo.train",
        "state_dict": _upstream_state(model, token_head),
        "hyper_parameters": _hyper_parameters(model.sizes, seed, learning_rate),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
