"""prepare: a configuration -> a screen, planned; whatever its model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.cells.bank import MISSING, SOURCE, TokenBank, combined
from screen.cells.donors import check_replicates, unused_donors, without_replicate
from screen.cells.vocabulary import Vocabulary
from screen.config.screen_config import ScreenConfig
from screen.config.sections import EnrichConfig
from screen.engine.rows import RowBuilder
from screen.engine.screen import Screen
from screen.errors import CellError, ConfigError, some
from screen.models.adapter import ModelAdapter
from screen.models.registry import Loaded, load
from screen.planning.index import BankIndex
from screen.planning.layout import Layout
from screen.planning.library import expand
from screen.planning.null_genes import NullPlan
from screen.planning.perturbations import MANY_JOINT_GENES, Library
from screen.planning.selection import select_items
from screen.planning.window import Window
from screen.running.unit_sizes import plan_units, unit_flops
from screen.stats.sets.gene_sets import GeneSets
from screen.stats.tests.table import named


def prepare(config: ScreenConfig, there: Mapping[str, bool] | None = None) -> Screen:
    """Reads model, vocabulary and cells, checks that they fit each other, and plans. Raises RequestError.

    `there` are the ids of perturbations that the output directory holds, and whether each is a null one: it keeps its own.
    """
    # better now than when everything is computed
    named(config.deg.test_name)
    loaded, left_out = in_strata(load(config), config)
    return screen_of(_by_stratum(loaded, config), config, there, notes=left_out)


def screen_of(
    loaded: Loaded,
    config: ScreenConfig,
    there: Mapping[str, bool] | None = None,
    library: Library | None = None,
    notes: Sequence[str] = (),
) -> Screen:
    """What `prepare` gives for a model and cells that are read, all of them in strata; `library`: these perturbations."""
    adapter, vocabulary, bank, window = loaded.adapter, loaded.vocabulary, loaded.bank, loaded.window
    _check(config, bank, window)
    of_donors = _donors(config, bank, window, adapter)
    index = BankIndex(bank, vocabulary, window.max_len)
    stratum_C, strata = _strata(bank, config.output.strata, window.pred_tps)
    if library is None:
        null = NullPlan(config.null, stratum_C, tuple(strata), config.output.min_cells, there or {})
        library = expand(config.library, index, window, null)
    layout = _layout(config, window, adapter)
    selection = select_items(library, index, window, stratum_C, strata)
    rows = RowBuilder(bank, vocabulary, window, loaded.conditions, config.predict.exclude_src, adapter.condition_ids)
    n_conditions = max(map(rows.n_conditions, window.pred_tps))
    plan = plan_units(selection, bank, adapter, n_conditions, layout, unit_flops(config))
    said = (
        *config.notes, *bank.notes, *loaded.notes, *_cut(bank, window), *_idle(config, layout), *_joint(library),
        *_gene_sets(config.enrich, vocabulary, layout), *notes, *of_donors,
    )  # fmt: skip
    return Screen(
        config.output,
        vocabulary,
        bank,
        index,
        library,
        plan,
        window,
        adapter,
        rows,
        layout,
        said,
        config.deg,
        config.enrich,
    )


def in_strata(loaded: Loaded, config: ScreenConfig) -> tuple[Loaded, list[str]]:
    """The cells that have a value in every column of `output.strata`, and a note. Raises CellError where there is none."""
    columns, bank = config.output.strata, loaded.bank
    of_column = {c: _values(bank, c, loaded.window.pred_tps) for c in columns}
    has_C = np.all([np.ones(bank.n_cells, bool), *(v != MISSING for v in of_column.values())], axis=0)
    if has_C.all():
        return loaded, []
    lacking = some(f'"{c}"' for c, v in of_column.items() if (v == MISSING).any())
    if not has_C.any():
        raise CellError(
            f"output.strata: none of the {bank.n_cells:,} cells has a value in each of {some(columns)} (missing: {lacking}); "
            "name other columns, or none"
        )
    rows = np.flatnonzero(has_C)
    note = (
        f"{bank.n_cells - len(rows):,} of {bank.n_cells:,} cells have no {lacking} (output.strata); they were left out"
    )
    return taken(loaded, rows), [note]


def taken(loaded: Loaded, rows: NDArray[np.int64]) -> Loaded:
    """The chosen cells, in this order."""
    conditions = {t: id_CN[rows] for t, id_CN in loaded.conditions.items()}
    return replace(loaded, bank=loaded.bank.take(rows), conditions=conditions)


def _donors(config: ScreenConfig, bank: TokenBank, window: Window, adapter: ModelAdapter) -> list[str]:
    """What to know of the replicates, or of a column that could be. Raises ConfigError for fewer than 2 levels."""
    column = config.deg.replicate
    if column is not None:
        value_C = _values(bank, column, window.pred_tps)
        check_replicates(column, value_C)
        return without_replicate(column, value_C)
    if adapter.schema.expression_scale is None:
        return []
    columns = {**bank.states[window.pred_tps[0]].obs, **bank.states[SOURCE].obs}
    return unused_donors({c: v for c, v in columns.items() if c not in config.output.strata})


def _by_stratum(loaded: Loaded, config: ScreenConfig) -> Loaded:
    """Where units summarise their cells by stratum, cells of one stratum stand side by side and make few groups."""
    if config.output.keep != "summaries":
        return loaded
    stratum_C, _ = _strata(loaded.bank, config.output.strata, loaded.window.pred_tps)
    return taken(loaded, np.argsort(stratum_C, kind="stable"))


def _check(config: ScreenConfig, bank: TokenBank, window: Window) -> None:
    """Raises ConfigError for edits of states that the model does not read, CellError for metadata that is not there."""
    has_targets = set(window.pred_tps) != {SOURCE}
    if not has_targets and config.predict.pred_tps:
        raise ConfigError("this model reads out the source itself: remove `pred_tps` from the section `predict`")
    if not has_targets and any("tgt" in block.perturbation_sequence for block in config.library):
        raise ConfigError(
            "this model reads the source alone: remove `tgt` from perturbation_sequence in the section `library`"
        )
    for column in config.output.var_list or ():
        for t in window.pred_tps:
            bank.obs_value(column, t)


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


def _layout(config: ScreenConfig, window: Window, adapter: ModelAdapter) -> Layout:
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


def _strata(bank: TokenBank, columns: Sequence[str], pred_tps: Sequence[int]) -> tuple[NDArray[np.int64], list[str]]:
    """(group of each cell, names) by metadata of the source, or of the first predicted time point."""
    return combined([_values(bank, c, pred_tps) for c in columns], bank.n_cells)


def _values(bank: TokenBank, column: str, pred_tps: Sequence[int]) -> NDArray[Any]:
    """Metadata of the source, or of the first predicted time point. Raises CellError naming the columns there are."""
    return bank.obs_value(column, SOURCE if column in bank.states[SOURCE].obs else pred_tps[0])


def _joint(library: Library) -> list[str]:
    """What to know about edits of many genes at once."""
    largest = max((len(p.genes) for p in library.perturbations), default=0)
    if largest <= MANY_JOINT_GENES:
        return []
    return [
        f"{largest} genes are ONE joint edit; for one edit per gene write a file of our own format with "
        "`library: {genes: [...], combos: singles}`"
    ]


def _idle(config: ScreenConfig, layout: Layout) -> list[str]:
    """Settings that change nothing in this screen, each with the reason."""
    cells, idle = config.cells, []
    if config.output.keep == "summaries" and not layout.has_counts:
        idle.append("keep: summaries has no effect: without a count head embeddings are kept")
    if cells.h5ad is not None and cells.strata and cells.pairing not in ("stratified", "random"):
        idle.append("cells.strata has no effect: pairs come from a file")
    return idle


def _cut(bank: TokenBank, window: Window) -> list[str]:
    """Which rows are longer than the model sees."""
    cut = {s: int((state.tokens.length_C > window.max_len).sum()) for s, state in bank.states.items()}
    if not any(cut.values()):
        return []
    rows = ", ".join(f"{'source' if s == SOURCE else f'time point {s}'}: {n}" for s, n in cut.items() if n)
    return [
        f"rows longer than the model's {window.max_len} tokens are cut at that rank ({rows}); lower-ranked genes count as "
        "truncated"
    ]
