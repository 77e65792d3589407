"""The arithmetic of costs equals what torch counts, for every way an edit can reach a prediction."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from screen.engine.control import join, predict_controls
from screen.engine.resident import Resident
from screen.models.adapter import Batching
from screen.models.ops import Arithmetic
from screen.models.perturbgen.chains import REUSE
from screen.models.perturbgen.cost import Cost
from screen.planning.batches import pack, pack_controls
from screen.planning.index import BankIndex
from screen.planning.perturbations import Library, edited_states
from screen.planning.row_lengths import RowLengths
from tests.models.perturbgen.test_golden_model import CASES, engine, perturbation
from tests.support.golden import golden
from tests.support.long import combinations

CPU = torch.device("cpu")


@pytest.mark.parametrize(("case", "one_cell"), combinations(CASES, [True, False], every=5))
def test_flops_of_batches_are_what_torch_counts(case: dict[str, Any], one_cell: bool, golden_model: Any) -> None:
    rows, adapter = engine(case, golden_model(case["variant"]))
    p = perturbation(case)
    window, edited = rows.window, frozenset(edited_states(p))
    times = sorted({*window.pred_tps, *window.context_tps})
    index = BankIndex(rows.bank, rows.vocabulary, window.max_len)
    lengths = RowLengths(index, window, Library((p,), (True,)), times, exclude_src=rows.exclude_src)
    resident = Resident(rows, Library((p,), (True,)), lengths, CPU)
    # the plan counts every row, whatever the first attention saves where few tokens change
    model: Any = adapter.packed(CPU, Arithmetic(), Batching(frozenset({edited})))
    model = replace(model, reuse=REUSE - {"few"})
    cost = Cost(adapter.model.sizes, adapter.chains)
    kept = golden("perturbed")[f"{case['perturbed_key']}/kept_rows"][:3].astype(np.int32)
    cells = kept[:1].repeat(3) if one_cell else kept
    parts = []
    for batch in pack_controls(lengths, np.unique(cells), 10**6):
        width = {t: n + resident.n_conditions(t) for t, n in batch.n_target.items()}
        # torch counts the attention it is built of, not its fused kernel for the CPU
        with FlopCounterMode(display=False) as counted, sdpa_kernel(SDPBackend.MATH):
            parts.append(predict_controls(model, resident, batch, adapter.schema.expression_scale, False))
        assert counted.get_total_flops() == batch.n_items * cost.control(batch.n_source, width)
    control = join(parts, rows.bank.cell_id_C)
    for batch in pack(lengths, np.arange(len(cells)), cells, np.zeros(len(cells), np.int32), 10**6):
        chosen, index_B = np.unique(batch.cell_B, return_inverse=True)
        places, edited_rows = control.places(chosen), resident.rows(batch, index_B)
        before = {t: x[places] for t, x in control.embedding_CD.items()}
        with FlopCounterMode(display=False) as counted, sdpa_kernel(SDPBackend.MATH):
            model.predict(edited_rows, before, [control.shared_C[c] for c in places])
        width = {t: n + resident.n_conditions(t) for t, n in batch.n_target.items()}
        per_item = cost.items(edited, batch.n_source, width)
        shared = cost.items(edited, batch.n_source, width, shares_queries=True)
        expected = batch.n_items * per_item
        if len(chosen) == 1:
            expected = batch.n_items * shared + (per_item - shared)
        assert counted.get_total_flops() == expected
