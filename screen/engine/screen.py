"""Screen: model, cells, perturbations and plan, read and checked, ready to run."""

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from screen.cells.bank import TokenBank, site_of
from screen.cells.vocabulary import Vocabulary
from screen.config.sections import DegConfig, EnrichConfig, OutputConfig
from screen.engine.executor import AnyPrecision, Executor
from screen.engine.rows import RowBuilder
from screen.models.adapter import Batching, ModelAdapter, PackedModel
from screen.models.delta.forward import DeltaForward
from screen.models.delta.rounding import HalfRounding, Rounding
from screen.models.ops import Arithmetic, product_ops
from screen.planning.index import BankIndex
from screen.planning.layout import Layout
from screen.planning.perturbations import Library, edited_states
from screen.planning.plan import Plan
from screen.planning.row_lengths import RowLengths
from screen.planning.window import Window

NUMERICS_VERSION = 2
"""Changes when the same inputs give other numbers beyond rounding; part of a screen's identity."""


@dataclass(frozen=True)
class Screen:
    """Everything a run needs; made by `screen.running.prepare`. `notes` are sentences for the user."""

    output: OutputConfig
    vocabulary: Vocabulary
    bank: TokenBank
    index: BankIndex
    library: Library
    plan: Plan
    window: Window
    adapter: ModelAdapter
    rows: RowBuilder
    layout: Layout
    notes: tuple[str, ...] = ()
    deg: DegConfig = field(default_factory=DegConfig)
    enrich: EnrichConfig | None = None

    def __post_init__(self) -> None:
        assert self.rows.condition_ids == self.adapter.condition_ids

    @cached_property
    def lengths(self) -> RowLengths:
        """Lengths of edited rows, for packing."""
        # planning may have looked at states that no perturbation edits
        self.index.keep({s for states in self.edits for s in states})
        window = self.window
        return RowLengths(self.index, window, self.library, window.times, exclude_src=self.rows.exclude_src)

    @cached_property
    def edits(self) -> frozenset[frozenset[int]]:
        """The different sets of states that perturbations edit."""
        return frozenset(frozenset(edited_states(p)) for p in self.library.perturbations)

    def altered(self, *, plan: Plan | None = None, layout: Layout | None = None) -> "Screen":
        """The same screen with another plan or layout; row lengths, which depend on neither, are not read again."""
        changed = replace(self, plan=plan or self.plan, layout=layout or self.layout)
        changed.__dict__["lengths"] = self.lengths
        return changed

    def packed(self, executor: Executor) -> PackedModel:
        """The model made ready for batches."""
        batching = Batching(self.edits, self.layout.keep_gene_cosine, self.window.pool_everywhere)
        packed = self.adapter.packed(executor.device, executor.arithmetic, batching)
        if not executor.is_delta:
            return packed
        exact = self.adapter.in_double().on(executor.device)
        own = exact if executor.precision == "delta64" else self.adapter.on(executor.device)
        rounding = (
            HalfRounding(executor.scales)
            if executor.precision == "delta16"
            else Rounding(next(own.model.parameters()).dtype)
        )
        is_gpu = executor.device.type == "cuda"
        n_ids = {s: self.rows.n_ids(site_of(s)) for s in self.bank.states}
        ops = product_ops(Arithmetic(), executor.device)
        return DeltaForward(own, exact, packed, batching, self._slots(), n_ids, rounding, ops, at_once=is_gpu)

    def _slots(self) -> dict[int, int]:
        """State -> most genes that an edit brings into its rows."""
        found = dict.fromkeys(self.bank.states, 0)
        for p in self.library.perturbations:
            for s in edited_states(p):
                found[s] = max(found[s], p.n_inserted)
        return found

    def identity(self, precision: AnyPrecision) -> dict[str, Any]:
        """What must agree for a run to continue another: fingerprints of all that changes results, perturbations aside."""
        return {
            "model": self.adapter.fingerprint,
            "vocabulary": self.vocabulary.fingerprint,
            "cells": self.bank.fingerprint(),
            "conditions": self._conditions(),
            "layout": self.layout.as_json(),
            "strata": self._strata() if self.layout.keeps_summaries else None,
            "upstream_pooling": self.window.pool_everywhere,
            "exclude_src": self.rows.exclude_src,
            "precision": precision,
            "numerics_version": NUMERICS_VERSION,
        }

    def _strata(self) -> str:
        plan = self.plan
        return hashlib.sha256("\n".join(plan.coverage.stratum).encode() + plan.stratum_C.tobytes()).hexdigest()

    def _conditions(self) -> str:
        digest = hashlib.sha256()
        for t, id_CN in sorted(self.rows.condition_CN.items()):
            digest.update(f"{t}{id_CN.shape[1:]}".encode() + id_CN.tobytes())
        return digest.hexdigest()

    def unscreened(self) -> list[int]:
        """Perturbations the user named that have no item."""
        n_items = np.bincount(self.plan.perturbation_I, minlength=len(self.library))
        return [int(i) for i in np.flatnonzero(n_items == 0) if self.library.must_screen[i]]
