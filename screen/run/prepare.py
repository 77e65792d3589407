"""prepare: reads the files of a configuration and checks that they fit each other."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from screen.cells.bank import SOURCE, TokenBank, combined
from screen.cells.h5ad import read_h5ad_cells
from screen.cells.vocabulary import Vocabulary
from screen.config.screen_config import ScreenConfig
from screen.config.sections import EnrichConfig, ModelConfig, PredictConfig
from screen.engine.rows import RowBuilder
from screen.engine.screen import Prepared
from screen.errors import CellError, CheckpointError, ConfigError, GeneError, some
from screen.models.perturbgen.adapter import PerturbGenAdapter, SizeFactor
from screen.models.perturbgen.conditions import check_levels, read_conditions
from screen.models.perturbgen.files.cells import gene_columns, read_tokenised_cells, time_points
from screen.models.perturbgen.files.checkpoint import Checkpoint, load_model
from screen.models.perturbgen.files.read_sizes import Declared, guess_encoder_heads
from screen.models.perturbgen.files.vocabulary import check_gene_order, load_vocabulary
from screen.models.perturbgen.network.model import PerturbGen
from screen.models.perturbgen.network.sizes import CONDITION_SLOTS, SCMASKGIT_HEADS, Sizes
from screen.planning.layout import Layout
from screen.planning.library import expand
from screen.planning.perturbations import MANY_JOINT_GENES, Library
from screen.planning.plan import Window, select_items
from screen.run.unit_sizes import planned
from screen.stats.gene_sets import GeneSets
from screen.stats.tests.table import named


def prepare(config: ScreenConfig) -> Prepared:
    """Reads model, vocabulary and cells, checks that they fit each other, and plans. Raises RequestError."""
    # better now than when everything is computed
    named(config.deg.test)
    model, checkpoint = load_model(config.model.checkpoint, _declared(config), config.model.encoder_path)
    sizes = model.sizes
    vocabulary = _vocabulary(config, sizes)
    bank = _cells(config, vocabulary, sizes)
    if config.output.keep == "summaries":
        # a unit summarises its cells by stratum: cells of one stratum side by side make few groups
        bank = bank.take(np.argsort(_strata(bank, config.output.strata, config.predict.pred_tps)[0], kind="stable"))
    _check_fit(vocabulary, bank, sizes, config)
    predict = config.predict
    hyper = checkpoint.hyper_parameters
    conditions = read_conditions(
        bank, config.cells.cond_list, hyper.get("condition_dict"), sizes.n_tokens, predict.pad_condition
    )
    levels = config.cells.conditions_combined or hyper.get("conditions_combined")
    check_levels(bank, config.cells.condition_keys, levels, sizes.dispersion_levels, predict.pred_tps[0])
    _check_vocabulary_size(config.model, sizes, len(conditions.all_ids), config.model.checkpoint)
    context = tuple(sorted(predict.context_tps or predict.pred_tps)) if predict.context_mode else ()
    window = Window(tuple(predict.pred_tps), context, sizes.max_len, predict.upstream_pooling)
    library = expand(config.library, bank, vocabulary, window, config.null)
    stratum_C, strata = _strata(bank, config.output.strata, window.pred_tps)
    adapter = _adapter(config, model, checkpoint, window, conditions.all_ids)
    layout = _layout(config, window, adapter)
    selection = select_items(library, bank, vocabulary, window, stratum_C, strata)
    n_conditions = conditions.id_CN[window.pred_tps[0]].shape[1]
    plan = planned(selection, bank, adapter, n_conditions, layout)
    rows = RowBuilder(bank, vocabulary, window, conditions.id_CN, predict.exclude_src)
    notes = (*_notes(config, bank, sizes), *_idle(config, checkpoint.has_own_encoder), *_joint(library))
    if config.deg.replicate is not None:
        _strata(bank, [config.deg.replicate], window.pred_tps)
    return Prepared(
        config.output, vocabulary, bank, library, plan, window, adapter, rows, layout,
        (*notes, *_gene_sets(config.enrich, vocabulary, layout)), config.deg, config.enrich,
    )  # fmt: skip


def _gene_sets(config: EnrichConfig | None, vocabulary: Vocabulary, layout: Layout) -> list[str]:
    """What is left of the gene sets; better now than when everything is computed. Raises ConfigError."""
    if config is None:
        return []
    if not layout.has_counts:
        raise ConfigError(
            "enrich needs predicted counts, and this screen has embeddings only; remove the section `enrich`"
        )
    sizes = config.min_size, config.max_size
    sets = GeneSets.read(config.gene_sets, vocabulary.ensembl_id, vocabulary.symbol, *sizes)
    files = ", ".join(p.name for p in config.gene_sets)
    return [
        f"{len(sets):,} gene sets of {files} have {sizes[0]} to {sizes[1]} of the model's {len(vocabulary):,} genes"
    ]


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


def _layout(config: ScreenConfig, window: Window, adapter: PerturbGenAdapter) -> Layout:
    output, schema = config.output, adapter.schema
    keeps_embeddings = output.keep_embeddings or schema.expression_scale is None
    return Layout(
        window.pred_tps,
        schema.width,
        schema.expression_scale,
        "float32" if output.keep == "summaries" else output.store_dtype,
        keeps_embeddings,
        output.keep_gene_cosine,
        output.keep,
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


def _cells(config: ScreenConfig, vocabulary: Vocabulary, sizes: Sizes) -> TokenBank:
    cells = config.cells
    if cells.h5ad is None:
        needs_counts = cells.tgt_adata_folder is not None or config.predict.size_factor in ("auto", "observed")
        count_tps = config.predict.pred_tps if config.predict.use_count_decoder and needs_counts else []
        return read_tokenised_cells(cells, count_tps, sizes.loss_mode == "mse", len(vocabulary))
    assert cells.state_column is not None and cells.source is not None
    pairing: str | Path = cells.pairing if cells.pairing in ("stratified", "random") else Path(cells.pairing)
    return read_h5ad_cells(
        cells.h5ad, vocabulary, state_column=cells.state_column, source=cells.source, targets=cells.targets, pairing=pairing,
        strata=cells.strata, seed=cells.seed, filters=cells.filters, max_cells=cells.max_cells, layer=cells.layer,
        special_tokens=cells.special_tokens,
    )  # fmt: skip


def _check_fit(vocabulary: Vocabulary, bank: TokenBank, sizes: Sizes, config: ScreenConfig) -> None:
    """Refuses ids that the model has no row for, and time points that it or the cells do not have."""
    predict = config.predict
    for t in sorted({*predict.pred_tps, *(predict.context_tps or ())}):
        if t not in bank.target_tps:
            raise CellError(
                f"time point {t} is asked for, but the cells have target time points {some(bank.target_tps)}"
            )
        if t > sizes.n_time_points:
            raise CheckpointError(
                f"time point {t} is asked for, but the model was trained with {sizes.n_time_points} time point(s)"
            )
    for column in config.output.var_list or ():
        for t in predict.pred_tps:
            bank.obs_value(column, t)
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


def _strata(bank: TokenBank, columns: Sequence[str], pred_tps: Sequence[int]) -> tuple[NDArray[np.int64], list[str]]:
    """(group of each cell, names) by metadata of the source, or of the first predicted time point."""
    values = [bank.obs_value(c, SOURCE if c in bank.states[SOURCE].obs else pred_tps[0]) for c in columns]
    return combined(values, bank.n_cells)


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
    if config.output.keep == "summaries" and not predict.use_count_decoder:
        idle.append("keep: summaries has no effect: without a count head embeddings are kept")
    if cells.h5ad is not None and cells.strata and cells.pairing not in ("stratified", "random"):
        idle.append("cells.strata has no effect: pairs come from a file")
    return idle


def _joint(library: Library) -> list[str]:
    """What to know about edits of many genes at once."""
    largest = max((len(p.genes) for p in library.perturbations), default=0)
    if largest <= MANY_JOINT_GENES:
        return []
    return [
        f"{largest} genes are ONE joint edit; for one edit per gene write a file of our own format with "
        "`library: {genes: [...], combos: singles}`"
    ]


def _notes(config: ScreenConfig, bank: TokenBank, sizes: Sizes) -> tuple[str, ...]:
    notes = [*config.notes, *bank.notes]
    if (
        sizes.encoder.kind == "scmaskgit"
        and config.model.encoder_num_heads is None
        and sizes.encoder.n_heads != SCMASKGIT_HEADS
    ):
        inner = sizes.encoder.n_heads * sizes.encoder.head_width
        notes.append(
            f"upstream's encoder has {SCMASKGIT_HEADS} heads, which do not fit this one's attention width {inner}: "
            f"{guess_encoder_heads(inner)} heads are assumed; set model.encoder_num_heads to say otherwise"
        )
    cut = {s: int((state.tokens.length_C > sizes.max_len).sum()) for s, state in bank.states.items()}
    if any(cut.values()):
        rows = ", ".join(f"{'source' if s == SOURCE else f'time point {s}'}: {n}" for s, n in cut.items() if n)
        notes.append(
            f"rows longer than the model's {sizes.max_len} tokens are cut at that rank ({rows}); lower-ranked genes count as truncated"
        )
    return tuple(notes)
