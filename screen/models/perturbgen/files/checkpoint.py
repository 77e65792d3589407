"""Checkpoint: a file of weights in upstream's layout -> a PerturbGen model, or a refusal that names the tensors."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

from screen.errors import CheckpointError, some
from screen.models.perturbgen.files.read_sizes import Declared, read_encoder_sizes, read_sizes
from screen.models.perturbgen.network.model import PerturbGen
from screen.models.perturbgen.network.sizes import Sizes
from screen.models.unpickle import load_torch

Weights = dict[str, Tensor]
ENCODER = "encoder_layers."
NESTED = ENCODER + "model."
# In every upstream file, needed by no prediction: token logits, index buffers, the second copy of the sinusoids.
UNUSED_SUFFIXES = ("decoder_fc.weight", "decoder_fc.bias", "pos_ids", "time_pos_ids", "pos_embedding.pe")


@dataclass(frozen=True)
class Checkpoint:
    """Weights under our names (upstream's below `decoder.pretrained_model.` / `decoder.`), and its hyper-parameters."""

    path: Path
    weights: Weights
    hyper_parameters: Mapping[str, Any] = field(default_factory=dict)
    has_own_encoder: bool = True


def read_checkpoint(path: Path, encoder_path: Path | None = None) -> Checkpoint:
    """Weights and hyper-parameters of a Lightning `.ckpt` or bare `.bin`, with no code run.

    `encoder_path` is read only if the file holds no encoder. Raises CheckpointError.
    """
    raw = load_torch(path)
    hyper = raw.get("hyper_parameters", {}) if isinstance(raw, dict) else {}
    weights = _main_weights(_state_dict(raw, path), path)
    has_own_encoder = any(k.startswith(ENCODER) for k in weights)
    if not has_own_encoder:
        if encoder_path is None:
            raise CheckpointError(f"{path} holds no encoder (no tensor {ENCODER}*) and no encoder_path is given")
        weights.update(_encoder_weights(_state_dict(load_torch(encoder_path), encoder_path), encoder_path))
    return Checkpoint(path, weights, hyper if isinstance(hyper, dict) else {}, has_own_encoder)


def _state_dict(raw: object, path: Path) -> Weights:
    """The flat name -> tensor dict, wherever the file keeps it."""
    for key in ("state_dict", "module"):
        if isinstance(raw, dict) and isinstance(raw.get(key), dict):
            raw = raw[key]
    if not isinstance(raw, dict) or not raw:
        raise CheckpointError(f"{path} holds no state_dict; its content is a {type(raw).__name__}")
    odd = [k for k, v in raw.items() if not (isinstance(k, str) and isinstance(v, Tensor))]
    if odd:
        raise CheckpointError(f"{path} is no model checkpoint: {some(odd)} are not named tensors")
    return {k.replace("_orig_mod.", ""): v for k, v in raw.items() if k != "onehot"}


def _main_weights(raw: Weights, path: Path) -> Weights:
    """Strips the prefix of the stage that wrote the file: count stage, or masking stage."""
    if any(k.startswith("decoder.pretrained_model.") for k in raw):
        model = _below(raw, "decoder.pretrained_model.")
    elif any(k.startswith("pretrained_model.") for k in raw):
        model = _below(raw, "pretrained_model.")
    elif any(k.startswith("transformer.cross_attn") or ".cross_attn." in k for k in raw):
        model = _below(raw, "transformer.")
    else:
        raise CheckpointError(
            f"{path} is not a PerturbGen count checkpoint: no tensor decoder.pretrained_model.*; it holds {some(raw)}"
        )
    model.update({k.removeprefix("decoder."): v for k, v in raw.items() if k.startswith("decoder.count_decoder.")})
    if "theta" in raw:
        model["theta"] = raw["theta"]
    return model


def _encoder_weights(raw: Weights, path: Path) -> Weights:
    """A stand-alone encoder file: `transformer.*`, or nested as `transformer.encoder_layers.model.*`."""
    for prefix in ("transformer.encoder_layers.model.", "encoder_layers.model.", "transformer.", ""):
        found = _below(raw, prefix)
        if "token_embedding.weight" in found:
            return {NESTED + k: v for k, v in found.items()}
    raise CheckpointError(f"{path} is no encoder checkpoint: no token_embedding.weight; it holds {some(raw)}")


def _below(raw: Weights, prefix: str) -> Weights:
    return {k.removeprefix(prefix): v for k, v in raw.items() if k.startswith(prefix)}


class _NothingDrawn(TorchFunctionMode):
    """Weights that are read next are not drawn first: without storage, that imports torch's compiler, for two seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (init.normal_, init.uniform_, init.kaiming_uniform_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def build_model(checkpoint: Checkpoint, declared: Declared) -> PerturbGen:
    """The model in eval mode on the CPU, its weights still mapped to the file.

    Every size comes from the tensors; `declared` holds head counts and what a configuration claims, which must agree.
    Raises CheckpointError naming missing, unexpected, mis-shaped or non-finite tensors.
    """
    encoder = read_encoder_sizes(checkpoint.weights, checkpoint.path, declared)
    sizes = read_sizes(checkpoint.weights, checkpoint.path, encoder, declared)
    with _NothingDrawn(), torch.device("meta"):
        model = PerturbGen(sizes)
    weights = _select(checkpoint, model, sizes)
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def _select(checkpoint: Checkpoint, model: PerturbGen, sizes: Sizes) -> Weights:
    """Exactly the tensors the model wants, as float32, after naming everything that is wrong with them."""
    wanted, have = model.state_dict(), checkpoint.weights
    missing = [k for k in wanted if k not in have]
    unexpected = [k for k in have if k not in wanted and not _may_be_ignored(k, sizes)]
    reshaped = [
        f"{k} is {tuple(have[k].shape)}, expected {tuple(v.shape)}"
        for k, v in wanted.items()
        if k in have and have[k].shape != v.shape
    ]
    problems = [f"missing {some(missing)}"] if missing else []
    problems += [f"unexpected {some(unexpected)}"] if unexpected else []
    problems += [some(reshaped)] if reshaped else []
    unlike = _unlike_weights({k: have[k] for k in wanted if k in have})
    problems += [some(unlike)] if unlike else []
    if problems:
        raise CheckpointError(f"{checkpoint.path} does not fit a PerturbGen model: " + "; ".join(problems))
    weights = {k: have[k].to(torch.float32) for k in wanted}
    broken = [k for k, v in weights.items() if not bool(torch.isfinite(v).all())]
    if broken:
        raise CheckpointError(f"{checkpoint.path} holds NaN or infinity in {some(broken)}; train or export it again")
    return weights


def _unlike_weights(weights: Weights) -> list[str]:
    """Tensors that hold no fractions, or that repeat what they hold to seem larger than the file."""
    found = [f"{k} holds {v.dtype}" for k, v in weights.items() if not v.is_floating_point()]
    return found + [
        f"{k} is {tuple(v.shape)} of {v.untyped_storage().nbytes()} bytes"
        for k, v in weights.items()
        if v.numel() * v.element_size() > v.untyped_storage().nbytes()
    ]


def _may_be_ignored(name: str, sizes: Sizes) -> bool:
    """True for what upstream stores and prediction never reads."""
    is_dead_block = sizes.encoder.kind == "scmaskgit" and name.startswith(NESTED + "decoder_block.")
    if name == "pos_embedding.pe" and sizes.position_mode == "comb_sin":
        return False
    return is_dead_block or name.endswith(UNUSED_SUFFIXES)


def fingerprint(model: PerturbGen) -> str:
    """SHA-256 over sizes and every weight in use."""
    digest = hashlib.sha256(repr(model.sizes).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def load_model(path: Path, declared: Declared, encoder_path: Path | None = None) -> tuple[PerturbGen, Checkpoint]:
    """Reads and builds in one go; hyper-parameters fill what `declared` leaves open."""
    checkpoint = read_checkpoint(path, encoder_path)
    hyper = checkpoint.hyper_parameters
    for key in ("num_heads", "n_total_tps"):
        value = hyper.get(key)
        is_flag = isinstance(value, bool)
        is_whole = isinstance(value, Integral) and 0 < int(value) < 2**31
        if value is not None and (is_flag or not is_whole):
            raise CheckpointError(
                f"the hyper-parameter {key} of {path} must be a whole number, 1 or more; it is {value!r:.100}"
            )
    filled = replace(
        declared,
        num_heads=declared.num_heads or hyper.get("num_heads"),
        n_total_tps=declared.n_total_tps or hyper.get("n_total_tps"),
        use_size_factor=hyper.get("use_size_factor") if declared.use_size_factor is None else declared.use_size_factor,
    )
    if declared.num_heads and hyper.get("num_heads") not in (None, declared.num_heads):
        raise CheckpointError(
            f"num_heads is {declared.num_heads} in the configuration but {hyper['num_heads']} in {path}; remove it or correct it"
        )
    return build_model(checkpoint, filled), checkpoint
