"""Packed batches through the model with only necessary work: every golden case, whatever is shared."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from screen.engine.control import Control, join, padded, predict_controls
from screen.engine.effects import gene_cosine
from screen.engine.resident import Resident
from screen.models.adapter import Batching
from screen.models.ops import Arithmetic, CpuBackend, Precision
from screen.models.perturbgen.adapter import ATTENTION_CHOICES
from screen.models.perturbgen.chains import REUSE
from screen.planning.batches import pack, pack_controls
from screen.planning.index import BankIndex
from screen.planning.perturbations import Library, edited_states
from screen.planning.row_lengths import RowLengths
from tests.models.perturbgen.test_golden_model import CASES, TOLERANCE, engine, perturbation, vocabulary
from tests.support.golden import golden, scale_error
from tests.support.long import combinations

CPU = torch.device("cpu")
N_CELLS = 11


def packed(
    case: dict[str, Any],
    golden_model: Any,
    backend: str,
    budget: int,
    fuse: bool = False,
    precision: Precision = "float32",
    reuse: frozenset[str] | None = None,
) -> dict[str, np.ndarray]:
    """Everything that upstream says of a case's cells, from packed batches."""
    rows, adapter = engine(case, golden_model(case["variant"]))
    p = perturbation(case)
    library, window = Library((p,), (True,)), rows.window
    times = sorted({*window.pred_tps, *window.context_tps})
    index = BankIndex(rows.bank, rows.vocabulary, window.max_len)
    lengths = RowLengths(index, window, library, times, exclude_src=rows.exclude_src)
    resident = Resident(rows, library, lengths, CPU)
    batching = Batching(frozenset({frozenset(edited_states(p))}), True, window.pool_everywhere)
    attention_from = dict.fromkeys(ATTENTION_CHOICES.values(), 1 if backend == "onednn" else None)
    model = adapter.packed(CPU, Arithmetic(precision, backend, attention_from), batching, fuse)
    model = model if reuse is None else replace(model, reuse=reuse)
    controls = [
        predict_controls(model, resident, b, adapter.schema.expression_scale, True)
        for b in pack_controls(lengths, np.arange(N_CELLS), budget)
    ]
    control = join(controls, rows.bank.cell_id_C)
    kept = golden("perturbed")[f"{case['perturbed_key']}/kept_rows"]
    batches = pack(lengths, np.arange(len(kept)), kept.astype(np.int32), np.zeros(len(kept), np.int32), budget)
    found: dict[str, np.ndarray] = {}
    for batch in batches:
        for name, values in predicted(model, resident, control, batch, len(p.genes), p, case).items():
            found.setdefault(name, np.zeros((len(kept), *values.shape[1:]), np.float32))[batch.item_B] = values
    return found


def predicted(
    model: Any, resident: Resident, control: Control, batch: Any, n_genes: int, p: Any, case: dict[str, Any]
) -> dict[str, np.ndarray]:
    cells, index_B = np.unique(batch.cell_B, return_inverse=True)
    rows = resident.rows(batch, index_B)
    before = {t: x[cells] for t, x in control.embedding_CD.items()}
    readout = model.predict(rows, before, [control.shared_C[c] for c in cells])
    found = {}
    table = torch.from_numpy(np.pad(vocabulary(case).column_of_token("tgt"), (0, 20), constant_values=-1))
    skipped = torch.full((len(index_B),), n_genes if p.mode == "overexpress" and "tgt" in p.sites else 0)
    for t in case["pred_tps"]:
        unchanged = t in readout.unchanged
        found[f"mean_t{t}"] = (before[t][index_B] if unchanged else readout.embedding_BD[t]).numpy()
        if not unchanged:
            found[f"mu_t{t}"] = readout.counts(t).numpy()
            found[f"cos_mean_t{t}"] = readout.cosine_B[t].numpy()
        hidden, ids = padded([control.hidden_C[t][c] for c in cells])
        n = resident.n_conditions(t)
        found[f"cos_gene_t{t}"] = gene_cosine(
            ids[index_B],
            hidden[index_B],
            rows.target[t].ids_BL[:, n:],
            readout.hidden_BLD[t][:, n:],
            table,
            len(vocabulary(case)),
            skipped,
        ).numpy()
    return found


@pytest.mark.parametrize(
    ("case", "backend", "budget"), combinations(CASES, ["torch", "onednn"], [1, 60, 100_000], every=7)
)
def test_packed_batches_equal_upstream(
    case: dict[str, Any], backend: CpuBackend, budget: int, golden_model: Any
) -> None:
    perturbed, prefix = golden("perturbed"), case["perturbed_key"]
    found = packed(case, golden_model, backend, budget, fuse=budget == 60)
    assert {f"mean_t{t}" for t in case["pred_tps"]} <= set(found)
    for name, values in found.items():
        assert scale_error(values, perturbed[f"{prefix}/{name}"]) <= TOLERANCE, name


@pytest.mark.parametrize(("case", "left_out"), combinations(CASES[::3], [*sorted(REUSE), "all"], every=6))
def test_what_is_taken_over_from_the_control_is_what_would_be_computed(
    case: dict[str, Any], left_out: str, golden_model: Any
) -> None:
    reuse = frozenset[str]() if left_out == "all" else REUSE - {left_out}
    perturbed, prefix = golden("perturbed"), case["perturbed_key"]
    for name, values in packed(case, golden_model, "torch", 60, reuse=reuse).items():
        assert scale_error(values, perturbed[f"{prefix}/{name}"]) <= TOLERANCE, name
