"""Synthetic screens: random weights and cells at any size, in memory."""

from collections.abc import Sequence

import numpy as np
from torch import nn

from screen.cells.vocabulary import Vocabulary
from screen.config.sections import OutputConfig
from screen.edits import Site
from screen.engine.rows import RowBuilder
from screen.engine.screen import Screen
from screen.models.registry import synthetic_adapter
from screen.models.synthetic import SyntheticSizes, random_bank, synthetic_vocabulary
from screen.planning.index import BankIndex
from screen.planning.layout import Layout
from screen.planning.perturbations import Library, make_library, make_perturbation
from screen.planning.selection import select_items
from screen.planning.window import Window
from screen.running.unit_sizes import plan_units


def every_gene(
    vocabulary: Vocabulary,
    modes: Sequence[str],
    sites: Sequence[Site],
    pert_tps: Sequence[int] = (),
    genes: Sequence[int] | None = None,
) -> Library:
    """One perturbation per gene and mode."""
    chosen = range(len(vocabulary)) if genes is None else genes
    edits = [make_perturbation([g], mode, sites, pert_tps, vocabulary) for mode in modes for g in chosen]
    return make_library([(edits, False)])


def synthetic_screen(
    sizes: SyntheticSizes,
    n_cells: int,
    *,
    modes: Sequence[str] = ("mask",),
    sites: Sequence[Site] = ("src",),
    pert_tps: Sequence[int] = (),
    context_mode: bool = False,
    genes: Sequence[int] | None = None,
    model: nn.Module | None = None,
    seed: int = 0,
) -> Screen:
    """A whole screen in memory, ready for an engine."""
    vocabulary = synthetic_vocabulary(sizes)
    bank = random_bank(n_cells, vocabulary, sizes.n_times, sizes.max_len, seed)
    times = tuple(range(1, sizes.n_times + 1))
    window = Window(times, times if context_mode else (), sizes.max_len)
    library = every_gene(vocabulary, modes, sites, pert_tps, genes)
    adapter = synthetic_adapter(sizes, window, seed, model)
    none = {t: np.zeros((n_cells, 0), dtype=np.int64) for t in times}
    layout = Layout(times, sizes.width, adapter.schema.expression_scale)
    index = BankIndex(bank, vocabulary, window.max_len)
    selection = select_items(library, index, window, np.zeros(n_cells, np.int64), ["all"])
    plan = plan_units(selection, bank, adapter, 0, layout)
    rows = RowBuilder(bank, vocabulary, window, none)
    return Screen(OutputConfig(), vocabulary, bank, index, library, plan, window, adapter, rows, layout)
