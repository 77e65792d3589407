"""Reads every size of a model off its tensors, and checks what a configuration claims against them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from screen.errors import CheckpointError
from screen.models.perturbgen.network.layers import PositionMode
from screen.models.perturbgen.network.sizes import (
    POSITION_SLOTS,
    SCMASKGIT_HEADS,
    TRANSFORMER_ENCODER_HEADS,
    EncoderSizes,
    LossMode,
    Sizes,
)

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Declared:
    """What a configuration says about the model. None means not said. Only head counts are believed, the rest is checked.

    max_seq_length is the longest row (upstream's position table is 100 longer). `n_tps_hint` is the number of target time
    points of the data: it is used, unchecked, only where a position table leaves it open.
    """

    num_heads: int | None = None
    encoder_num_heads: int | None = None
    chained: bool = False
    use_size_factor: bool | None = None
    n_total_tps: int | None = None
    n_tps_hint: int | None = None
    encoder: str | None = None
    loss_mode: str | None = None
    pos_encoding_mode: str | None = None
    d_model: int | None = None
    num_layers: int | None = None
    d_ff: int | None = None
    max_seq_length: int | None = None
    n_genes: int | None = None


def _shape(weights: Weights, name: str, path: Path, n_dims: int = 2) -> tuple[int, ...]:
    if name not in weights:
        raise CheckpointError(f"{path} does not fit a PerturbGen model: missing {name}")
    shape = tuple(weights[name].shape)
    if len(shape) != n_dims or 0 in shape:
        raise CheckpointError(
            f"{path} does not fit a PerturbGen model: {name} is {shape}; it must have {n_dims} dimensions, none of them 0"
        )
    return shape


def _n_blocks(weights: Weights, prefix: str, path: Path) -> int:
    named = {k.removeprefix(prefix).split(".")[0] for k in weights if k.startswith(prefix)}
    numbers = {int(n) if n.isdecimal() and len(n) < 10 else -1 for n in named}
    if numbers != set(range(len(numbers))) or not numbers:
        raise CheckpointError(
            f"{path} does not fit a PerturbGen model: blocks {sorted(numbers)} of {prefix}* are not 0, 1, 2, ..."
        )
    return len(numbers)


def _position_table(weights: Weights, prefix: str, path: Path, n_times: int | None) -> tuple[PositionMode, int, int]:
    """(mode, rows of the time table, rows of the position table); comb_sin holds their product only."""
    if prefix + "time_encoding.weight" in weights:
        times = _shape(weights, prefix + "time_encoding.weight", path)[0]
        return "time_pos_learnt", times, _shape(weights, prefix + "pos_encoding.weight", path)[0]
    if prefix + "pos_encoding.weight" in weights:
        return (
            "sin_learnt",
            _shape(weights, prefix + "time_pe", path, 3)[1],
            _shape(weights, prefix + "pos_encoding.weight", path)[0],
        )
    if prefix + "pos_pe" in weights:
        times = _shape(weights, prefix + "time_pe", path, 3)[1]
        return "time_pos_sin", times, _shape(weights, prefix + "pos_pe", path, 3)[1]
    rows = _shape(weights, prefix + "pe", path, 3)[1]
    if n_times is None or rows % n_times:
        raise CheckpointError(
            f"{path} has a combined position table of {rows} rows, which {n_times} time rows do not divide; "
            "say how many target time points the model was trained with (n_total_tps)"
        )
    return "comb_sin", n_times, rows // n_times


def _plus(n: int | None, extra: int) -> int | None:
    return None if n is None else n + extra


def _heads(inner: int, n_heads: int, what: str, path: Path) -> int:
    if n_heads < 1 or inner % n_heads:
        raise CheckpointError(
            f"{what} {n_heads} does not divide the attention width {inner} of {path}; correct the head count"
        )
    return inner // n_heads


def guess_encoder_heads(inner: int) -> int:
    """Upstream's fixed 8 heads, or for an encoder too small for that the largest power of two that leaves an even width."""
    return next((n for n in (SCMASKGIT_HEADS, 4, 2) if inner % (2 * n) == 0), 1)


def read_encoder_sizes(weights: Weights, path: Path, declared: Declared) -> EncoderSizes:
    """Sizes of whichever encoder the weights hold. Raises CheckpointError naming the tensor that does not fit."""
    is_torch = any(k.startswith("encoder_layers.transformer_encoder.") for k in weights)
    kind = "Transformer_encoder" if is_torch else "scmaskgit"
    if declared.encoder not in (None, kind):
        raise CheckpointError(f'encoder is "{declared.encoder}" in the configuration but {path} holds a "{kind}"')
    if is_torch:
        return _torch_encoder_sizes(weights, path, declared)
    prefix = "encoder_layers.model."
    n_tokens, width = _shape(weights, prefix + "token_embedding.weight", path)
    n_blocks = _n_blocks(weights, prefix + "decoder_block.", path)
    inner = _shape(weights, f"{prefix}decoder_block.{n_blocks - 1}.self_attn.to_q.weight", path)[0]
    n_heads = declared.encoder_num_heads or guess_encoder_heads(inner)
    head_width = _heads(inner, n_heads, "encoder_num_heads", path)
    _, n_times, n_positions = _position_table(weights, prefix + "pos_embedding.", path, None)
    return EncoderSizes(
        "scmaskgit", n_tokens, width, n_heads, head_width, n_blocks, n_positions, n_times, width, declared.chained
    )


def _torch_encoder_sizes(weights: Weights, path: Path, declared: Declared) -> EncoderSizes:
    prefix, layers = "encoder_layers.", "encoder_layers.transformer_encoder.layers."
    n_tokens, width = _shape(weights, prefix + "token_embedding.weight", path)
    n_heads = declared.encoder_num_heads or TRANSFORMER_ENCODER_HEADS
    head_width = _heads(width, n_heads, "encoder_num_heads", path)
    n_times = _plus(declared.n_total_tps or declared.n_tps_hint, 1)
    _, times, n_positions = _position_table(weights, prefix + "pos_embedding.", path, n_times)
    forward = _shape(weights, layers + "0.linear1.weight", path)[0]
    n_blocks = _n_blocks(weights, layers, path)
    return EncoderSizes(
        "Transformer_encoder", n_tokens, width, n_heads, head_width, n_blocks, n_positions, times, forward, chained=True
    )


def read_sizes(weights: Weights, path: Path, encoder: EncoderSizes, declared: Declared) -> Sizes:
    """Sizes of decoder and count head, checked against the declaration."""
    extra = 2 if encoder.kind == "scmaskgit" else 1
    n_tokens, width = _shape(weights, "token_embedding.weight", path)
    if declared.num_heads is None:
        raise CheckpointError(f"{path} does not say how many attention heads its decoder has; set num_heads")
    inner = _shape(weights, "decoder_block.0.self_attn.to_q.weight", path)[0]
    n_times = _plus(declared.n_total_tps or declared.n_tps_hint, extra)
    mode, times, n_positions = _position_table(weights, "pos_embedding.", path, n_times)
    loss_mode = _loss_mode(weights)
    dispersion = _shape(weights, "theta", path)[1] if loss_mode in ("nb", "zinb") else 0
    sizes = Sizes(
        encoder=encoder,
        n_tokens=n_tokens,
        width=width,
        n_heads=declared.num_heads,
        head_width=_heads(inner, declared.num_heads, "num_heads", path),
        n_blocks=_n_blocks(weights, "decoder_block.", path),
        n_positions=n_positions,
        n_time_points=times - extra,
        n_genes=_n_genes(weights, loss_mode, path),
        position_mode=mode,
        loss_mode=loss_mode,
        dispersion_levels=dispersion,
        count_activation="softplus" if declared.use_size_factor is False else "softmax",
        predicts_size_factor="count_decoder.size_factor_decoder.0.weight" in weights,
    )
    if sizes.max_len < 1 or sizes.n_time_points < 1:
        raise CheckpointError(
            f"{path} does not fit a PerturbGen model: its position table has {n_positions} rows (upstream: the longest row plus "
            f"{POSITION_SLOTS}) and its time table {times} (target time points plus {extra})"
        )
    _check_declared(sizes, declared, path)
    return sizes


def _loss_mode(weights: Weights) -> LossMode | None:
    """Which count head the weights hold; None for a masking-stage checkpoint without one."""
    if "count_decoder.relu_output.0.weight" in weights:
        return "mse"
    if "count_decoder.softmax_output.0.weight" in weights:
        return "zinb" if "count_decoder.linear_output.weight" in weights else "nb"
    return None


def _n_genes(weights: Weights, loss_mode: LossMode | None, path: Path) -> int:
    if loss_mode is None:
        return 0
    output = "relu_output" if loss_mode == "mse" else "softmax_output"
    return _shape(weights, f"count_decoder.{output}.0.weight", path)[0]


def _check_declared(sizes: Sizes, declared: Declared, path: Path) -> None:
    seen: dict[str, object] = {
        "d_model": sizes.width,
        "num_layers": sizes.n_blocks,
        "d_ff": sizes.head_width,
        "max_seq_length": sizes.n_positions - POSITION_SLOTS,
        "pos_encoding_mode": sizes.position_mode,
        "n_total_tps": sizes.n_time_points,
    }
    if sizes.loss_mode is not None:
        seen |= {"loss_mode": sizes.loss_mode, "n_genes": sizes.n_genes}
    for key, value in seen.items():
        said = getattr(declared, key)
        if said is not None and said != value:
            raise CheckpointError(f"{key} is {said} in the configuration but {value} in {path}; they must agree")
