"""Prepared: a configuration with its files read and checked, ready to run."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.config import LibraryConfig, ModelConfig, PredictConfig, ScreenConfig
from screen.errors import CellError, CheckpointError, ConfigError, GeneError, some
from screen.genes import NO_TOKEN, Vocabulary
from screen.importers.anndata import read_h5ad_cells
from screen.importers.perturbgen_cells import gene_columns, read_tokenised_cells, time_points
from screen.importers.perturbgen_vocabulary import check_gene_order, load_vocabulary
from screen.models.perturbgen.adapter import PerturbGenAdapter, SizeFactor
from screen.models.perturbgen.checkpoint import Checkpoint, load_model
from screen.models.perturbgen.conditions import check_levels, read_conditions
from screen.models.perturbgen.model import PerturbGen
from screen.models.perturbgen.read_sizes import CONDITION_SLOTS, Declared, guess_encoder_heads
from screen.models.perturbgen.sizes import SCMASKGIT_HEADS, Sizes
from screen.perturbations import Library, Perturbation, Site, make_library, make_perturbation
from screen.plan import Plan, Window, index_genes, make_plan
from screen.rows import RowBuilder
from screen.store import Layout
from screen.tokens import SOURCE, TokenBank

NUMERICS_VERSION = 1
"""Changes when the same inputs give other numbers beyond rounding; part of a screen's identity."""


@dataclass(frozen=True)
class Prepared:
    """Everything a run needs. `notes` are sentences for the user."""

    config: ScreenConfig
    vocabulary: Vocabulary
    bank: TokenBank
    library: Library
    plan: Plan
    window: Window
    adapter: PerturbGenAdapter
    rows: RowBuilder
    layout: Layout
    notes: tuple[str, ...]

    def identity(self) -> dict[str, Any]:
        """What must agree for a run to continue another: fingerprints of all that changes results."""
        return {
            "model": self.adapter.fingerprint,
            "vocabulary": self.vocabulary.fingerprint,
            "cells": self.bank.fingerprint(),
            "library": self.library.fingerprint(self.vocabulary),
            "plan": self.plan.fingerprint(),
            "layout": self.layout.__dict__,
            "upstream_pooling": self.window.pool_everywhere,
            "exclude_src": self.rows.exclude_src,
            "precision": "float32",
            "numerics_version": NUMERICS_VERSION,
        }

    def unscreened(self) -> list[int]:
        """Perturbations the user named that have no item."""
        n_items = np.bincount(self.plan.perturbation_I, minlength=len(self.library))
        return [int(i) for i in np.flatnonzero(n_items == 0) if self.library.must_screen[i]]


def prepare(config: ScreenConfig) -> Prepared:
    """Reads model, vocabulary and cells, checks that they fit each other, and plans. Raises RequestError."""
    model, checkpoint = load_model(config.model.checkpoint, _declared(config), config.model.encoder_path)
    sizes = model.sizes
    vocabulary = _vocabulary(config, sizes)
    bank = _cells(config, vocabulary, sizes)
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
    library = _expand(config.library, bank, vocabulary, window)
    stratum_C, strata = _strata(bank, config.output.strata, window.pred_tps)
    plan = make_plan(library, bank, vocabulary, window, stratum_C=stratum_C, stratum=strata)
    adapter = PerturbGenAdapter(
        model, window.pred_tps, window.context_tps, predict.context_mode, predict.readout, _size_factor(predict, checkpoint, model),
        predict.use_count_decoder, conditions.all_ids,
    )  # fmt: skip
    if predict.use_count_decoder and sizes.loss_mode is None:
        raise CheckpointError(
            f"{config.model.checkpoint} has no count head; set use_count_decoder: false to screen embeddings only"
        )
    output = config.output
    layout = Layout(
        window.pred_tps, sizes.width, adapter.schema.expression_scale, output.store_dtype,
        output.keep_embeddings or adapter.schema.expression_scale is None, output.keep_gene_cosine,
    )  # fmt: skip
    rows = RowBuilder(bank, vocabulary, window, conditions.id_CN, predict.exclude_src)
    return Prepared(
        config,
        vocabulary,
        bank,
        library,
        plan,
        window,
        adapter,
        rows,
        layout,
        _notes(config, bank, sizes),
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
        count_tps = config.predict.pred_tps if config.predict.use_count_decoder else []
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
    """(code of each cell, names); several columns are joined by '|'; no column means one stratum, 'all'."""
    if not columns:
        return np.zeros(bank.n_cells, dtype=np.int64), ["all"]
    values = [bank.obs_value(c, SOURCE if c in bank.states[SOURCE].obs else pred_tps[0]) for c in columns]
    names, codes = np.unique(["|".join(map(str, row)) for row in zip(*values, strict=True)], return_inverse=True)
    return codes.astype(np.int64), [str(n) for n in names]


def _expand(blocks: Sequence[LibraryConfig], bank: TokenBank, vocabulary: Vocabulary, window: Window) -> Library:
    """What the user wrote -> perturbations."""
    return make_library((list(_block(b, bank, vocabulary, window)), b.genes != "all") for b in blocks)


def _block(block: LibraryConfig, bank: TokenBank, vocabulary: Vocabulary, window: Window) -> list[Perturbation]:
    sites: list[Site] = block.perturbation_sequence
    tps = block.pert_tps or sorted({*window.pred_tps, *window.context_tps})
    if block.genes == "all":
        if block.combos == "joint":
            raise ConfigError("library: `genes: all` with `combos: joint` would edit every gene at once; use `singles`")
        genes_of = {
            mode: _all_genes(mode == "overexpress", sites, tps, bank, vocabulary, window) for mode in block.modes
        }
    else:
        columns = vocabulary.columns(_read_genes(block.genes) if isinstance(block.genes, Path) else block.genes)
        genes_of = dict.fromkeys(block.modes, columns)
    groups = {m: [g] if block.combos == "joint" else [[x] for x in g] for m, g in genes_of.items()}
    made = [make_perturbation(g, m, sites, tps, vocabulary) for m in block.modes for g in groups[m]]
    for p, site in product(made, sites):
        p.tokens(vocabulary, site)
    return made


def _all_genes(
    overexpress: bool,
    sites: Sequence[Site],
    tps: Sequence[int],
    bank: TokenBank,
    vocabulary: Vocabulary,
    window: Window,
) -> list[int]:
    """Knock-outs: every gene expressed in an edited state of some cell. Overexpression: every gene that has a token there."""
    has_token = (vocabulary.source_token_G != NO_TOKEN) if "src" in sites else np.ones(len(vocabulary), dtype=bool)
    if overexpress:
        return [int(g) for g in np.flatnonzero(has_token)]
    states = ([SOURCE] if "src" in sites else []) + (list(tps) if "tgt" in sites else [])
    index = index_genes(bank, vocabulary, window.max_len, states)
    expressed = [g for g in np.flatnonzero(has_token) if any(len(i.cells(int(g))) for i in index.values())]
    if not expressed:
        raise CellError("no gene of the vocabulary is expressed in the edited state of any cell")
    return [int(g) for g in expressed]


def _read_genes(path: Path) -> list[str]:
    """One gene name per line; blank lines and `#` comments are skipped."""
    try:
        lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f'library.genes: cannot read "{path}" ({error}); write `all`, a list, or a file with one gene per line'
        ) from error
    genes = [line for line in lines if line]
    if not genes:
        raise ConfigError(f"library.genes: {path} holds no gene")
    return genes


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
