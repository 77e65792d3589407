"""Whole networks by the kernels of differences: `TRITON_INTERPRET=1 python -m tests.support.delta_engine_cases cpu triton`."""

import itertools
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from screen.engine.executor import AnyPrecision, Executor
from screen.engine.precision import find_scales
from screen.engine.resident import Resident
from screen.engine.screen import Screen
from screen.models.adapter import BatchRows, Readout
from screen.models.delta.forward import DeltaForward
from screen.planning.batches import Batch, pack_controls, pack_unit
from tests.unit.engine.test_nasty_screens import nasty_screen

SEEDS = {"three time points": 5, "context mode": 9}
MOST = {"delta32": 2e-6, "delta16": 2e-3}
"""Of the largest change of an item's embedding: sums in another order; another order of what is rounded to float16."""


def model_of(screen: Screen, precision: AnyPrecision, device: str, backend: str | None) -> DeltaForward:
    """All cells of a batch at once, by a backend of the kernels."""
    executor = Executor(torch.device(device), precision)
    if precision == "delta16":
        executor = replace(executor, scales=find_scales(screen, replace(executor, device=torch.device("cpu"))))
    model = screen.packed(executor)
    assert isinstance(model, DeltaForward)
    return replace(model, at_once=True, backend=backend)


def mixed_batches(screen: Screen, batch_tokens: int = 200) -> list[Batch]:
    """A screen's items, by cell: cells of any length share batches while these are small."""
    packed = (pack_unit(screen.lengths, screen.plan, n, batch_tokens, by_cell=True) for n in range(screen.plan.n_units))
    return [b for unit in packed for _, some in unit for b in some]


def predictions(
    screen: Screen, model: DeltaForward, device: str, n_most: int, batch_tokens: int
) -> Iterator[tuple[BatchRows, Readout, dict[int, torch.Tensor]]]:
    """(rows, readout, embeddings before) of at most so many batches of several cells."""
    resident = Resident(screen.rows, screen.library, screen.lengths, torch.device(device))
    several = (b for b in mixed_batches(screen, batch_tokens) if len(set(b.cell_B.tolist())) > 1)
    for batch in itertools.islice(several, n_most):
        cells, index_B = np.unique(batch.cell_B, return_inverse=True)
        controls = [pack_controls(screen.lengths, cells[c : c + 1], 10**6)[0] for c in range(len(cells))]
        found = [model.control(resident.rows(b, np.zeros(1, int)), resident.own_lengths(b)) for b in controls]
        before = {t: torch.cat([readout.embedding_BD[t] for readout, _ in found]) for t in screen.window.pred_tps}
        rows = resident.rows(batch, index_B)
        yield rows, model.predict(rows, before, [cell for _, (cell,) in found]).settled(), before


def worst(
    screen: Screen,
    precision: AnyPrecision,
    device: str,
    backend: str | None,
    n_batches: int = 2,
    batch_tokens: int = 200,
) -> float:
    """Largest difference of a change of a pooled embedding to the one in float64, over the item's largest, median of items."""
    exact = predictions(screen, model_of(screen, "delta64", "cpu", "torch"), "cpu", n_batches, batch_tokens)
    ours = predictions(screen, model_of(screen, precision, device, backend), device, n_batches, batch_tokens)
    errors: list[float] = []
    for (rows, there, before), (_, here, own) in zip(exact, ours, strict=True):
        assert not here.recomputed or here.recomputed == there.recomputed
        for t in screen.window.pred_tps:
            changes = (
                (r.embedding_BD[t].cpu() - b[t].cpu()[rows.index_B]).double() for r, b in ((there, before), (here, own))
            )
            should, found = changes
            assert torch.equal(torch.isnan(should), torch.isnan(found))
            size_B = should.abs().nan_to_num().amax(1)
            off_B = (found - should).abs().nan_to_num().amax(1)
            errors += (off_B / size_B)[size_B > 1e-6].tolist()
    assert len(errors) > 2
    return float(np.median(errors))


def check_a_network(device: str, backend: str) -> None:
    """In the interpreter, half a minute: one small batch is what there is time for."""
    screen = nasty_screen(SEEDS["context mode"])
    assert screen is not None
    found = worst(screen, "delta16", device, backend, n_batches=1, batch_tokens=100)
    assert found <= MOST["delta16"], f"{found} is above {MOST['delta16']}"


CHECKS = (check_a_network,)

if __name__ == "__main__":
    from tests.support.delta_cases import run_checks

    torch.set_num_threads(1)
    run_checks(CHECKS, *sys.argv[1:3])
