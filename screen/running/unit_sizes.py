"""planned: how many rows a unit has and how many cells a block, frozen when a store is created."""

import numpy as np
import torch

from screen.cells.bank import SOURCE, TokenBank
from screen.config.screen_config import ScreenConfig
from screen.models.adapter import ModelAdapter
from screen.planning.layout import Layout
from screen.planning.perturbations import edited_states
from screen.planning.plan import Plan, order
from screen.planning.selection import Selection

UNIT_FLOPS, CPU_UNIT_FLOPS = 6e13, 1.2e13
"""Of a GPU, a fraction of a second and many batches; of two CPU cores three quarters of a minute: what an interrupt loses."""
UNIT_BYTES = 64 * 2**20
MAX_UNITS = 10_000
MIN_ROWS, MAX_ROWS = 64, 8192
ROWS_STEP = 256
"""Rows of a chunk of the store: a unit is a whole number of them, or, if smaller, of MIN_ROWS."""
ITEMS_PER_CELL = 48
"""How many items of one cell a unit should hold: they share their length and their control."""
BLOCK_BYTES = 2**30
MIN_CELLS = 16


def unit_flops(config: ScreenConfig) -> float:
    """Work of a unit where the configuration computes; of workers that nobody can know yet as of a GPU."""
    cluster, device = config.cluster, config.compute.device
    if cluster is not None and cluster.slurm is not None:
        is_cpu = cluster.slurm.gpus == 0
    elif cluster is not None and (cluster.kind == "gpus" or cluster.scheduler is not None):
        is_cpu = False
    else:
        is_cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
    return CPU_UNIT_FLOPS if is_cpu else UNIT_FLOPS


def plan_units(
    selection: Selection, bank: TokenBank, adapter: ModelAdapter, n_conditions: int, layout: Layout,
    most_flops: float = UNIT_FLOPS,
) -> Plan:  # fmt: skip
    """The items in store order, cut into units and blocks: a pure function of model, cells, library and a unit's work.

    A unit is `most_flops` or 64 MB, and there are at most 10,000; a block is so many cells that a unit holds some 48 items of
    each, if there are that many, and that what they share stays below 1 GB.
    """
    cost, max_len = adapter.cost, selection.finder.window.max_len
    edits = {frozenset(edited_states(p)) for p in selection.library.perturbations}
    mean = {s: float(np.minimum(state.tokens.length_C, max_len).mean()) for s, state in bank.states.items()}
    n_source, n_target = mean[SOURCE], {t: n + n_conditions for t, n in mean.items() if t != SOURCE}
    flops = max([float(cost.items(e, n_source, n_target)) for e in edits], default=1.0)
    row_bytes = layout.held_bytes(adapter.schema.n_genes)
    affordable = min(most_flops / max(flops, 1.0), UNIT_BYTES / row_bytes, MAX_ROWS)
    step = ROWS_STEP if affordable >= ROWS_STEP else MIN_ROWS
    fewest = -(-selection.n_items // MAX_UNITS)
    unit_rows = max(
        int(affordable) // step * step, MIN_ROWS, -(-fewest // ROWS_STEP) * ROWS_STEP if fewest > MIN_ROWS else 0
    )
    per_cell = min(max(selection.n_items / bank.n_cells, 1.0), ITEMS_PER_CELL)
    fitting = BLOCK_BYTES / max(float(cost.shared_bytes(edits, n_source, n_target)), 1.0)
    cells_per_block = max(min(int(unit_rows / per_cell), int(fitting)), MIN_CELLS)
    return order(selection, unit_rows=unit_rows, cells_per_block=cells_per_block)
