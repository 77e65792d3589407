"""The loop: for each unit, edit, predict, compare, commit."""

import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from screen.control import Control, ControlCache
from screen.effects import Effect, cosine, gene_cosine, log_expression, require_finite
from screen.errors import StoreError
from screen.perturbations import Perturbation
from screen.prepare import Prepared
from screen.rows import Rows
from screen.store import FORMAT_VERSION, ScreenStore, encode

Progress = Callable[[int, int], None]
"""Called after each item with (items done now, tokens read now)."""


@dataclass(frozen=True)
class ReferenceEngine:
    """One cell, one perturbation, the plain model, nothing shared but the cell's control: the definition of a result."""

    screen: Prepared

    def run(self, store: ScreenStore, progress: Progress) -> None:
        """Computes and commits every unit that the store lacks. Raises PredictionError at the first NaN."""
        plan, layout = self.screen.plan, store.layout
        controls = ControlCache(self.control)
        done = set(store.committed())
        for number in range(plan.n_units):
            if number in done:
                continue
            rows = plan.unit(number)
            items = [self._item(i, controls, progress) for i in range(rows.start, rows.stop)]
            columns = encode([effects for effects, _, _ in items], layout, len(self.screen.vocabulary))
            columns["items/rank"] = np.array([rank for _, rank, _ in items], dtype=np.int16)
            columns["items/length"] = np.array([length for _, _, length in items], dtype=np.int16)
            cells, arrays = controls.take_new(layout.pred_tps, len(self.screen.vocabulary), layout.width)
            store.write_controls(cells, arrays)
            store.write_unit(rows, columns, {"executor": executor()})

    def control(self, cell: int) -> dict[int, Control]:
        """The unedited prediction of one cell at every predicted time point where it has any gene."""
        rows = self.screen.rows.control(cell)
        readout = self.screen.adapter.predict(rows, keep_hidden=self.screen.layout.keep_gene_cosine)
        name, found = self.screen.bank.cell_id_C[cell], {}
        for t in self.screen.window.pred_tps:
            if not bool((rows.target_BL[t][:, rows.n_conditions :] > 3).any()):
                continue
            expression = None
            if t in readout.value_BG:
                expression = log_expression(readout.value_BG[t][0], str(self.screen.layout.expression_scale))
                require_finite(expression.log_G, f"time point {t}", name, "none (control)")
            require_finite(readout.embedding_BD[t].numpy(), f"embedding, time point {t}", name, "none (control)")
            hidden = readout.hidden_BLD[t][0, rows.n_conditions :] if t in readout.hidden_BLD else None
            ids = rows.target_BL[t][0, rows.n_conditions :] if hidden is not None else None
            found[t] = Control(expression, readout.embedding_BD[t][0], ids, hidden)
        return found

    def _item(self, i: int, controls: ControlCache, progress: Progress) -> tuple[list[Effect | None], int, int]:
        """(one effect per predicted time point or None, rank of the first edited gene, genes in that row)."""
        plan = self.screen.plan
        cell = int(plan.cell_I[i])
        perturbation = self.screen.library.perturbations[int(plan.perturbation_I[i])]
        effects = self.effects(cell, perturbation, controls[cell], plan.is_screened_IT[i], progress)
        return effects, *self.screen.rows.rank(cell, perturbation)

    def effects(
        self, cell: int, p: Perturbation, control: Mapping[int, Control], is_screened_T: Any, progress: Progress
    ) -> list[Effect | None]:
        """What the edit changes in one cell, per predicted time point; None where nothing is left to predict from."""
        rows = self.screen.rows.edited(cell, p)
        readout = self.screen.adapter.predict(rows, keep_hidden=self.screen.layout.keep_gene_cosine)
        effects: list[Effect | None] = []
        for k, t in enumerate(self.screen.window.pred_tps):
            if not is_screened_T[k]:
                effects.append(None)
                continue
            value = readout.value_BG[t][0] if t in readout.value_BG else None
            hidden = readout.hidden_BLD[t][0] if t in readout.hidden_BLD else None
            effects.append(self._effect(cell, p, t, control[t], rows, readout.embedding_BD[t][0], value, hidden))
        progress(1, rows.source_BL.numel() + sum(x.numel() for x in rows.target_BL.values()))
        return effects

    def _effect(
        self,
        cell: int,
        p: Perturbation,
        time: int,
        control: Control,
        rows: Rows,
        after_D: Tensor,
        value_G: Tensor | None,
        hidden_LD: Tensor | None,
    ) -> Effect:
        vocabulary, total, delta = self.screen.vocabulary, float("nan"), None
        check = partial(require_finite, cell=self.screen.bank.cell_id_C[cell], perturbation=p.id(vocabulary))
        if value_G is not None and control.expression is not None:
            expression = log_expression(value_G, str(self.screen.layout.expression_scale))
            total, delta = expression.total, (expression.log_G - control.expression.log_G).astype(np.float32)
            check(delta, f"time point {time}")
        check(after_D.numpy(), f"embedding, time point {time}")
        gene_cosine_G = None
        if hidden_LD is not None and control.id_L is not None and control.hidden_LD is not None:
            n_skipped = len(p.genes) if p.mode == "overexpress" and self.screen.window.excludes_genes(p, time) else 0
            table, ids_L = vocabulary.column_of_token("tgt"), rows.target_BL[time][0]
            n = rows.n_conditions
            gene_cosine_G = gene_cosine(
                control.id_L, control.hidden_LD, ids_L[n:], hidden_LD[n:], table, len(vocabulary), n_skipped
            )
        return Effect(delta, total, after_D.numpy(), cosine(control.embedding_D, after_D), gene_cosine_G)


def executor() -> dict[str, Any]:
    """Where and with what a unit was computed; may differ between units of one screen."""
    return {
        "engine": "reference",
        "device": "cpu",
        "precision": "float32",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "perturbscreen": version("perturbscreen"),
        "machine": platform.machine(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def open_store(screen: Prepared, directory: Path, config_text: str) -> ScreenStore:
    """The store of this screen in `directory`: continued if it is the same screen, created if there is none.

    Raises StoreError saying what differs if another screen is there.
    """
    path = directory / "screen.zarr"
    identity = json.loads(json.dumps(screen.identity()))
    if ScreenStore.exists(path):
        store = ScreenStore.open(path, "r+")
        theirs = store.provenance["identity"]
        different = sorted(k for k in {*identity, *theirs} if identity.get(k) != theirs.get(k))
        if different:
            raise StoreError(
                f"{path} holds another screen: {', '.join(different)} differ(s); choose another --out, or remove it to start again"
            )
        return store
    provenance = {
        "format_version": FORMAT_VERSION,
        "identity": identity,
        "config": config_text,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "perturbscreen": version("perturbscreen"),
        "notes": list(screen.notes),
        "var_list": screen.config.output.var_list,
        "export_batch_size": screen.config.output.export_batch_size,
        "sequence_of_sites": sorted({s for p in screen.library.perturbations for s in p.sites}),
    }
    store = ScreenStore.create(
        path, screen.plan, screen.library, screen.vocabulary, screen.bank, screen.layout, provenance
    )
    partial_file = directory / f".provenance.{os.getpid()}"
    partial_file.write_text(json.dumps(store.provenance, indent=2))
    partial_file.replace(directory / "provenance.json")
    return store
