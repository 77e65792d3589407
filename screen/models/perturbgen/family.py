"""PerturbGen as a family of models: what `model: {kind: perturbgen}` reads, in which order, and what must fit what."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from screen.cells.bank import SOURCE, TokenBank
from screen.cells.h5ad import cells_of_h5ad
from screen.cells.vocabulary import Vocabulary
from screen.config.inputs import ModelConfig
from screen.config.screen_config import ScreenConfig
from screen.config.sections import PredictConfig
from screen.errors import CellError, CheckpointError, ConfigError, GeneError, some
from screen.models.perturbgen import random
from screen.models.perturbgen.adapter import PerturbGenAdapter, SizeFactor
from screen.models.perturbgen.conditions import check_levels, read_conditions
from screen.models.perturbgen.files.cells import gene_columns, read_tokenised_cells, time_points
from screen.models.perturbgen.files.checkpoint import Checkpoint, load_model
from screen.models.perturbgen.files.read_sizes import Declared, guess_encoder_heads
from screen.models.perturbgen.files.upstream_yaml import from_upstream, is_upstream
from screen.models.perturbgen.files.vocabulary import check_gene_order, load_vocabulary
from screen.models.perturbgen.network.model import PerturbGen
from screen.models.perturbgen.network.sizes import CONDITION_SLOTS, SCMASKGIT_HEADS, Sizes
from screen.models.registry import Loaded
from screen.models.synthetic import SyntheticSizes
from screen.planning.window import Window


def load(config: ScreenConfig) -> Loaded:
    """Checkpoint, vocabulary, cells and conditions, checked against each other. Raises RequestError."""
    predict, pred_tps = config.predict, _time_points(config)
    model, checkpoint = load_model(config.model.checkpoint, _declared(config), config.model.encoder_path)
    sizes, hyper = model.sizes, checkpoint.hyper_parameters
    vocabulary = _vocabulary(config, sizes)
    bank = _cells(config, vocabulary, sizes, pred_tps)
    _check_fit(vocabulary, bank, sizes, config, pred_tps)
    conditions = read_conditions(
        bank, config.cells.cond_list, hyper.get("condition_dict"), sizes.n_tokens, predict.pad_condition
    )
    levels = config.cells.conditions_combined or hyper.get("conditions_combined")
    check_levels(bank, config.cells.condition_keys, levels, sizes.dispersion_levels, pred_tps[0])
    _check_vocabulary_size(config.model, sizes, len(conditions.all_ids), config.model.checkpoint)
    context = tuple(sorted(predict.context_tps or pred_tps)) if predict.context_mode else ()
    window = Window(tuple(pred_tps), context, sizes.max_len, predict.upstream_pooling)
    adapter = _adapter(config, model, checkpoint, window, conditions.all_ids)
    notes = [*_guessed(config, sizes), *_idle(config, checkpoint.has_own_encoder), *_not_upstreams(predict, sizes)]
    return Loaded(adapter, vocabulary, bank, window, conditions.id_CN, notes)


def synthetic(sizes: SyntheticSizes, window: Window, seed: int, model: nn.Module | None) -> PerturbGenAdapter:
    """An adapter of random weights, or of the model given."""
    return random.synthetic(sizes, window, seed, model)


def is_foreign(raw: Mapping[str, Any]) -> bool:
    """True for upstream's `perturbation.yaml`."""
    return is_upstream(raw)


def from_foreign(raw: Mapping[str, Any], path: Path) -> ScreenConfig:
    """The screen that upstream's `perturbation.yaml` describes. Raises ConfigError."""
    return from_upstream(raw, path)


def _adapter(
    config: ScreenConfig, model: PerturbGen, checkpoint: Checkpoint, window: Window, condition_ids: tuple[int, ...]
) -> PerturbGenAdapter:
    predict = config.predict
    if predict.use_count_decoder and model.sizes.loss_mode is None:
        raise CheckpointError(
            f"{config.model.checkpoint} has no count head; set use_count_decoder: false to screen embeddings only"
        )
    return PerturbGenAdapter(
        model,
        window.pred_tps,
        window.context_tps,
        predict.context_mode,
        predict.readout,
        _size_factor(predict, checkpoint, model),
        predict.use_count_decoder,
        condition_ids,
    )


def _declared(config: ScreenConfig) -> Declared:
    model, folder = config.model, config.cells.tgt_adata_folder
    return Declared(
        n_tps_hint=len(config.cells.targets) if folder is None else len(time_points(folder, ".h5ad")),
        **{
            name: getattr(model, name)
            for name in Declared.__dataclass_fields__
            if name in ModelConfig.model_fields and getattr(model, name) is not None
        },
    )


def _vocabulary(config: ScreenConfig, sizes: Sizes) -> Vocabulary:
    folder = config.cells.tgt_adata_folder
    columns = gene_columns(folder) if folder is not None else {}
    first = next(iter(columns.values()), None)
    vocabulary = load_vocabulary(config.model, first, sizes.encoder.kind == "Transformer_encoder")
    if sizes.n_genes and len(vocabulary) != sizes.n_genes:
        raise GeneError(
            f"the vocabulary has {len(vocabulary)} genes but {config.model.checkpoint} predicts {sizes.n_genes}; "
            "they do not belong together"
        )
    check_gene_order(vocabulary, columns)
    return vocabulary


def _cells(config: ScreenConfig, vocabulary: Vocabulary, sizes: Sizes, pred_tps: Sequence[int]) -> TokenBank:
    cells = config.cells
    if cells.h5ad is None:
        needs_counts = cells.tgt_adata_folder is not None or config.predict.size_factor in ("auto", "observed")
        count_tps = pred_tps if config.predict.use_count_decoder and needs_counts else []
        return read_tokenised_cells(cells, count_tps, sizes.loss_mode == "mse", len(vocabulary))
    return cells_of_h5ad(cells, vocabulary)


def _check_fit(
    vocabulary: Vocabulary, bank: TokenBank, sizes: Sizes, config: ScreenConfig, pred_tps: Sequence[int]
) -> None:
    """Refuses ids that the model has no row for, and time points that it or the cells do not have."""
    for t in sorted({*pred_tps, *(config.predict.context_tps or ())}):
        if t not in bank.target_tps:
            raise CellError(
                f"time point {t} is asked for, but the cells have target time points {some(bank.target_tps)}"
            )
        if t > sizes.n_time_points:
            raise CheckpointError(
                f"time point {t} is asked for, but the model was trained with {sizes.n_time_points} time point(s)"
            )
    for side, token_G, n_rows in (
        ("source", vocabulary.source_token_G, sizes.encoder.n_tokens),
        ("target", vocabulary.target_token_G, sizes.n_tokens),
    ):
        if int(token_G.max(initial=0)) >= n_rows:
            raise GeneError(
                f"the vocabulary's {side} tokens reach {int(token_G.max())}, but the model has {n_rows} token rows there; "
                "vocabulary and checkpoint do not belong together"
            )
    for number, state in bank.states.items():
        n_rows = sizes.encoder.n_tokens if number == SOURCE else sizes.n_tokens
        highest = int(state.tokens.token_T.max(initial=0))
        if highest >= n_rows:
            where = "source" if number == SOURCE else f"time point {number}"
            raise CellError(
                f"token ids at the {where} reach {highest}, but the model has {n_rows} token rows there; "
                "cells and checkpoint do not belong together"
            )


def _check_vocabulary_size(model: ModelConfig, sizes: Sizes, n_values: int, path: Path) -> None:
    if model.tgt_vocab_size is not None and model.tgt_vocab_size + n_values + CONDITION_SLOTS != sizes.n_tokens:
        raise CheckpointError(
            f"tgt_vocab_size is {model.tgt_vocab_size} in the configuration (with {n_values} condition values and {CONDITION_SLOTS} spare "
            f"rows: {model.tgt_vocab_size + n_values + CONDITION_SLOTS}) but {path} has {sizes.n_tokens} rows; they must agree"
        )


def _size_factor(predict: PredictConfig, checkpoint: Checkpoint, model: PerturbGen) -> SizeFactor:
    if predict.size_factor != "auto":
        return predict.size_factor
    if model.sizes.count_activation == "softplus":
        return "none"
    observes = checkpoint.hyper_parameters.get("use_observed_size_factor", True)
    return "observed" if observes or not model.sizes.predicts_size_factor else "predicted"


def _time_points(config: ScreenConfig) -> list[int]:
    """The time points that are predicted. Raises ConfigError where a configuration leaves the targets out."""
    if config.predict.pred_tps is None:
        raise ConfigError('"predict.pred_tps" is missing: this model predicts target time points; say which, e.g. [1]')
    if config.cells.h5ad is not None and not config.cells.targets:
        raise ConfigError(
            "this model predicts target time points: cells from an h5ad need `state_column`, `source` and `targets` "
            "(time point: value)"
        )
    return config.predict.pred_tps


def _idle(config: ScreenConfig, has_own_encoder: bool) -> list[str]:
    """Settings that change nothing in this screen, each with the reason."""
    cells, predict, idle = config.cells, config.predict, []
    if config.model.encoder_path is not None and has_own_encoder:
        idle.append("encoder_path is not read: the checkpoint holds an encoder of its own")
    if predict.context_tps and not predict.context_mode:
        idle.append("context_tps has no effect: context_mode is off")
    if predict.pad_condition and not cells.cond_list:
        idle.append("pad_condition has no effect: there is no cond_list")
    if cells.conditions_combined and not cells.condition_keys:
        idle.append("conditions_combined has no effect: there are no condition_keys")
    return idle


def _not_upstreams(predict: PredictConfig, sizes: Sizes) -> list[str]:
    """Where numbers are others than upstream's own, by choice."""
    if sizes.loss_mode != "zinb" or not predict.use_count_decoder or predict.readout != "expected":
        return []
    return [
        "predicted counts are expected ones, (1 - pi) mu of the zero-inflated head; upstream writes mu, which is larger "
        "(readout: mu; in upstream's YAML n_samples: 1)"
    ]


def _guessed(config: ScreenConfig, sizes: Sizes) -> list[str]:
    """What the checkpoint does not say and was assumed."""
    encoder = sizes.encoder
    if encoder.kind != "scmaskgit" or config.model.encoder_num_heads is not None or encoder.n_heads == SCMASKGIT_HEADS:
        return []
    inner = encoder.n_heads * encoder.head_width
    return [
        f"upstream's encoder has {SCMASKGIT_HEADS} heads, which do not fit this one's attention width {inner}: "
        f"{guess_encoder_heads(inner)} heads are assumed; `--encoder-heads N` says otherwise"
    ]
