"""The loop: for each unit, edit, predict, compare, commit."""

import json
import os
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from screen.control import Control, ControlCache
from screen.effects import Effect, Expression, Float, cosine, gene_cosine, log_expression
from screen.errors import PredictionError, StoreError
from screen.genes import EOS
from screen.models.adapter import Readout
from screen.perturbations import Perturbation
from screen.prepare import Prepared
from screen.rows import Rows
from screen.store import FORMAT_VERSION, ScreenStore, encode

Progress = Callable[[int, int], None]
"""Called after each item with (items done now, tokens read now)."""


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Item:
    """What the engine says of one item: an effect per predicted time point (None: nothing left to predict from)."""

    effects: list[Effect | None]
    rank: int
    length: int
    n_tokens: int


@dataclass(frozen=True)
class ReferenceEngine:
    """One cell, one perturbation, the plain model, nothing shared but the cell's control: the definition of a result.

    `n_workers` items are computed at once (default: one per available core), each with one torch thread, so that the
    bytes of a result do not depend on how many there are.
    """

    screen: Prepared
    n_workers: int = field(default_factory=available_cores)

    def run(self, store: ScreenStore, progress: Progress) -> None:
        """Computes and commits every unit that the store lacks. Raises PredictionError at the first NaN."""
        n_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        pool = ThreadPoolExecutor(self.n_workers)
        try:
            self._run(store, pool, progress)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(n_threads)

    def _run(self, store: ScreenStore, pool: ThreadPoolExecutor, progress: Progress) -> None:
        plan, layout, n_genes = self.screen.plan, store.layout, len(self.screen.vocabulary)
        controls = ControlCache(self.control)
        done = set(store.committed())
        for number in (n for n in range(plan.n_units) if n not in done):
            rows, items = plan.unit(number), []
            for item in pool.map(partial(self.item, controls=controls), range(rows.start, rows.stop)):
                items.append(item)
                progress(1, item.n_tokens)
            columns = encode([i.effects for i in items], layout, n_genes)
            columns["items/rank"] = np.array([i.rank for i in items], dtype=np.int16)
            columns["items/length"] = np.array([i.length for i in items], dtype=np.int16)
            store.write_controls(*controls.take_new(layout.pred_tps, n_genes, layout.width))
            store.write_unit(rows, columns, {"executor": executor()})

    def control(self, cell: int) -> dict[int, Control]:
        """The unedited prediction of one cell at every predicted time point where it has any gene."""
        rows = self.screen.rows.control(cell)
        readout = self.screen.adapter.predict(rows, keep_hidden=self.screen.layout.keep_gene_cosine)
        found: dict[int, Control] = {}
        for t in self.screen.window.pred_tps:
            if not bool((rows.target_BL[t][:, rows.n_conditions :] > EOS).any()):
                continue
            expression = None
            if t in readout.value_BG:
                expression = self._expression(readout, t)
                self._require_finite(expression.log_G, f"time point {t}", cell, None)
            self._require_finite(readout.embedding_BD[t].numpy(), f"embedding, time point {t}", cell, None)
            hidden = readout.hidden_BLD[t][0, rows.n_conditions :] if t in readout.hidden_BLD else None
            ids = rows.target_BL[t][0, rows.n_conditions :] if hidden is not None else None
            found[t] = Control(expression, readout.embedding_BD[t][0], ids, hidden)
        return found

    def item(self, i: int, controls: ControlCache) -> Item:
        """What the edit of plan item `i` changes in its cell."""
        plan, window = self.screen.plan, self.screen.window
        cell, p = int(plan.cell_I[i]), self.screen.library.perturbations[int(plan.perturbation_I[i])]
        control, rows = controls[cell], self.screen.rows.edited(cell, p)
        readout = self.screen.adapter.predict(rows, keep_hidden=self.screen.layout.keep_gene_cosine)
        effects = [
            self._effect(cell, p, t, control[t], rows, readout) if is_screened else None
            for t, is_screened in zip(window.pred_tps, plan.is_screened_IT[i], strict=True)
        ]
        n_tokens = rows.source_BL.numel() + sum(x.numel() for x in rows.target_BL.values())
        return Item(effects, *self.screen.rows.rank(cell, p), n_tokens)

    def _effect(self, cell: int, p: Perturbation, time: int, control: Control, rows: Rows, readout: Readout) -> Effect:
        total, delta = float("nan"), None
        if control.expression is not None:
            expression = self._expression(readout, time)
            total, delta = expression.total, (expression.log_G - control.expression.log_G).astype(np.float32)
            self._require_finite(delta, f"time point {time}", cell, p)
        after_D = readout.embedding_BD[time][0]
        self._require_finite(after_D.numpy(), f"embedding, time point {time}", cell, p)
        gene_cosine_G = self._gene_cosine(p, time, control, rows, readout) if control.hidden_LD is not None else None
        return Effect(delta, total, after_D.numpy(), cosine(control.embedding_D, after_D), gene_cosine_G)

    def _require_finite(self, array: NDArray[np.floating], what: str, cell: int, p: Perturbation | None) -> None:
        if not np.isfinite(array).all():
            name = "none (control)" if p is None else p.id(self.screen.vocabulary)
            raise PredictionError(
                f"the model gave NaN or infinity ({what}) for cell {self.screen.bank.cell_id_C[cell]}, perturbation {name}; "
                "nothing of its unit is stored"
            )

    def _expression(self, readout: Readout, time: int) -> Expression:
        scale = str(self.screen.layout.expression_scale)
        return log_expression(readout.value_BG[time][0], float(readout.size_factor_B[time][0]), scale)

    def _gene_cosine(self, p: Perturbation, time: int, control: Control, rows: Rows, readout: Readout) -> Float:
        assert control.id_L is not None
        assert control.hidden_LD is not None
        n_skipped = len(p.genes) if p.mode == "overexpress" and self.screen.window.excludes_genes(p, time) else 0
        n, vocabulary = rows.n_conditions, self.screen.vocabulary
        ids_L, hidden_LD = rows.target_BL[time][0, n:], readout.hidden_BLD[time][0, n:]
        table = vocabulary.column_of_token("tgt")
        return gene_cosine(control.id_L, control.hidden_LD, ids_L, hidden_LD, table, len(vocabulary), n_skipped)


def executor() -> dict[str, Any]:
    """Where and with what a unit was computed; may differ between units of one screen."""
    return {
        "engine": "reference",
        "device": "cpu",
        "precision": "float32",
        "torch": torch.__version__,
        "threads_per_item": torch.get_num_threads(),
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
    output = screen.config.output
    view = {name: getattr(output, name) for name in ("var_list", "export_batch_size", "strata", "min_cells")}
    if ScreenStore.exists(path):
        store = ScreenStore.open(path, "r+")
        theirs = store.provenance["identity"]
        different = sorted(k for k in {*identity, *theirs} if identity.get(k) != theirs.get(k))
        if different:
            raise StoreError(
                f"{path} holds another screen: {', '.join(different)} differ(s); choose another --out, or remove it to start again"
            )
        if store.provenance["view"] != view:
            store.set_view(view)
        _write_provenance(store, directory)
        return store
    provenance = {
        "format_version": FORMAT_VERSION,
        "identity": identity,
        "config": config_text,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "perturbscreen": version("perturbscreen"),
        "notes": list(screen.notes),
        "view": view,
    }
    store = ScreenStore.create(
        path, screen.plan, screen.library, screen.vocabulary, screen.bank, screen.layout, provenance
    )
    _write_provenance(store, directory)
    return store


def _write_provenance(store: ScreenStore, directory: Path) -> None:
    """A copy for people, rewritten where it is missing or differs."""
    path, text = directory / "provenance.json", json.dumps(store.provenance, indent=2)
    if path.is_file() and path.read_text(errors="replace") == text:
        return
    partial_file = directory / f".provenance.{os.getpid()}"
    partial_file.write_text(text)
    partial_file.replace(path)
