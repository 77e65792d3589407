"""Workload: the batches that a screen runs, and the operations they take."""

from collections.abc import Iterable, Iterator

from screen.engine.screen import Screen
from screen.planning.batches import Batch, pack_controls, pack_unit
from screen.planning.perturbations import edited_states


def batches_by_block(
    screen: Screen, batch_tokens: int, numbers: Iterable[int], by_cell: bool = False
) -> Iterator[tuple[list[Batch], list[Batch]]]:
    """The batches of some units, block of cells by block: (of its controls, of its items). `by_cell`: as `pack` does."""
    items: dict[int, list[Batch]] = {}
    for number in numbers:
        for block, batches in pack_unit(screen.lengths, screen.plan, number, batch_tokens, by_cell):
            items.setdefault(block, []).extend(batches)
    for block, batches in items.items():
        yield pack_controls(screen.lengths, screen.plan.cells_of_block(block), batch_tokens), batches


def item_flops(screen: Screen, batch: Batch) -> float:
    """Operations of one batch of items, its padding included."""
    edited = edited_states(screen.library.perturbations[int(batch.perturbation_B[0])])
    cost, target = screen.adapter.cost, _target(screen, batch)
    first = float(cost.items(edited, batch.n_source, target))
    # items of one cell ask the context the same first question, once
    is_one_cell = bool((batch.cell_B == batch.cell_B[0]).all())
    return first + (batch.n_items - 1) * float(cost.items(edited, batch.n_source, target, shares_queries=is_one_cell))


def control_flops(screen: Screen, batch: Batch) -> float:
    """Operations of one batch of controls, its padding included."""
    return batch.n_items * float(screen.adapter.cost.control(batch.n_source, _target(screen, batch)))


def total_flops(screen: Screen, batch_tokens: int, by_cell: bool = False) -> float:
    """Operations of every batch of a screen."""
    return float(
        sum(
            sum(control_flops(screen, b) for b in controls) + sum(item_flops(screen, b) for b in items)
            for controls, items in batches_by_block(screen, batch_tokens, range(screen.plan.n_units), by_cell)
        )
    )


def _target(screen: Screen, batch: Batch) -> dict[int, int]:
    """Width of every target row, condition tokens included."""
    return {t: n + screen.rows.n_conditions(t) for t, n in batch.n_target.items()}


def most_rows(screen: Screen) -> int:
    """Most rows of the table of genes: every perturbation, gene, stratum and time point."""
    n_strata, n_times = len(screen.plan.coverage.stratum), len(screen.layout.pred_tps)
    return len(screen.library) * len(screen.vocabulary) * n_strata * n_times
