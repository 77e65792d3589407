"""Resident: the bank and the library on one device; turns batches of integers into rows there.

The host sends cell and perturbation numbers only, never edited sequences.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from screen_kernels import EditedRows, align_rows, edit_tokens
from torch import Tensor

from screen.cells.bank import SOURCE, site_of
from screen.cells.vocabulary import NO_TOKEN, PAD, SPECIAL_IDS
from screen.edits import NO_EDIT, Site
from screen.engine.lanes import to_device
from screen.engine.rows import RowBuilder
from screen.models.adapter import BatchRows, Row
from screen.planning.batches import Batch
from screen.planning.perturbations import Library, edited_states
from screen.planning.row_lengths import RowLengths

SITES: tuple[Site, ...] = ("src", "tgt")


class Resident:
    """Token rows, edits, conditions and size factors of one screen on `device`.

    `builder` is the definition of a row, from which everything here is taken.
    """

    def __init__(
        self,
        builder: RowBuilder,
        library: Library,
        lengths: RowLengths,
        device: torch.device,
    ) -> None:
        window, bank = builder.window, builder.bank
        self.device, self.window, self.exclude_src = device, window, builder.exclude_src
        self.n_conditions, self.times = builder.n_conditions, window.times
        self._rows = {s: align_rows(*_arrays(bank.states[s].tokens), device) for s in (SOURCE, *self.times)}
        self._lengths = lengths
        self._is_regular_C = {s: lengths.is_regular_C(s) for s in self._rows}
        self._condition_CN = {t: torch.from_numpy(builder.condition_CN[t]).int().to(device) for t in self.times}
        self._has_conditions_C = {t: (builder.condition_CN[t] != PAD).all(1) for t in self.times}
        self._size_factor_C = {
            t: torch.from_numpy(size_C).to(device)
            for t in window.pred_tps
            if (size_C := bank.states[t].size_factor_C) is not None
        }
        self._edits = Edits(builder, library, self.times, device)
        self._is_counted_V = {site: _counted(builder, site, device) for site in SITES}

    def own_lengths(self, batch: Batch) -> dict[int, list[int]]:
        """State -> length of each row of a batch as the model reads it, condition tokens included, at least 1."""
        found = self._lengths.edited(batch.cell_B, batch.perturbation_B)
        return {s: np.maximum(length_B + self.n_conditions(s), 1).tolist() for s, (length_B, _) in found.items()}

    def n_tokens(self, state: int) -> int:
        """1 + the highest id that a row of a state can hold."""
        return len(self._is_counted_V[site_of(state)])

    def rows(self, batch: Batch, index_B: NDArray[np.int64]) -> BatchRows:
        """What the model reads for a batch; `index_B` numbers its different cells."""
        edits = self._edits
        cell_B = to_device(batch.cell_B.astype(np.int64), self.device)
        # the row after the last perturbation is "no edit"
        number_B = to_device(batch.perturbation_B.astype(np.int64), self.device) % edits.n_rows
        edited = edits.states(batch.perturbation_B)
        source = self._source(batch, cell_B, number_B)
        target = {t: self._target(t, batch, cell_B, number_B) for t in self.times}
        counted_BL = {
            s: self._counted(s, (source if s == SOURCE else target[s]).ids_BL, batch, number_B)
            for s in self.window.pred_tps
        }
        size_factor = {t: size_C[cell_B] for t, size_C in self._size_factor_C.items()}
        return BatchRows(source, target, counted_BL, size_factor, edited, to_device(index_B, self.device))

    def _source(self, batch: Batch, cell_B: Tensor, number_B: Tensor) -> Row:
        if self.exclude_src:
            nothing_BL = torch.zeros(len(cell_B), 1, dtype=torch.int32, device=self.device)
            return Row(nothing_BL, nothing_BL != PAD)
        edited = self._edited(SOURCE, batch.cell_B, cell_B, number_B, batch.n_source)
        return Row(edited.ids_BL, None if batch.source_is_full else edited.keep_BL)

    def _target(self, time: int, batch: Batch, cell_B: Tensor, number_B: Tensor) -> Row:
        edited = self._edited(time, batch.cell_B, cell_B, number_B, batch.n_target[time])
        ids_BL, keep_BL, is_full = edited.ids_BL, edited.keep_BL, batch.target_is_full[time]
        if self.n_conditions(time):
            condition_BN = self._condition_CN[time][cell_B]
            ids_BL = torch.cat([condition_BN, ids_BL], dim=1)
            is_full = is_full and bool(self._has_conditions_C[time][batch.cell_B].all())
            keep_BL = keep_BL if is_full else torch.cat([condition_BN != PAD, keep_BL], dim=1)
        return Row(ids_BL, None if is_full else keep_BL)

    def _edited(self, state: int, cells: NDArray[np.int32], cell_B: Tensor, number_B: Tensor, width: int) -> EditedRows:
        edits = self._edits
        site = site_of(state)
        backend = None if bool(self._is_regular_C[state][cells].all()) else "torch"
        return edit_tokens(
            self._rows[state], cell_B, edits.gene_PK[site][number_B], edits.mode_P[state][number_B],
            edits.parameter_P[number_B], site=site, width=self.window.max_len, out_width=width, backend=backend,
        )  # fmt: skip

    def _counted(self, state: int, ids_BL: Tensor, batch: Batch, number_B: Tensor) -> Tensor:
        site = site_of(state)
        counted_BL = self._is_counted_V[site][ids_BL]
        excluded_P = self._edits.excluded_PT[state]
        if excluded_P[batch.perturbation_B].any():
            gene_BK = torch.where(
                self._edits.is_excluded_PT[state][number_B][:, None], self._edits.gene_PK[site][number_B], -1
            )
            for k in range(gene_BK.shape[1]):
                counted_BL &= ids_BL != gene_BK[:, k : k + 1]
        return counted_BL


class Edits:
    """The library as tables, one row per perturbation and a last one for "no edit"."""

    def __init__(self, builder: RowBuilder, library: Library, times: Sequence[int], device: torch.device) -> None:
        ps, vocabulary, window = library.perturbations, builder.vocabulary, builder.window
        self.n_rows = len(ps) + 1
        width = max((len(p.genes) for p in ps), default=1)
        self.gene_PK: Mapping[str, Tensor] = {}
        for site in SITES:
            token_G = vocabulary.tokens(site)
            table = np.full((self.n_rows, width), -1, dtype=np.int32)
            for i, p in enumerate(ps):
                if site in p.sites:
                    table[i, : len(p.genes)] = token_G[list(p.genes)]
            assert NO_TOKEN < 0
            self.gene_PK = {**self.gene_PK, site: torch.from_numpy(table).to(device)}
        states = [edited_states(p) for p in ps]
        self.mode_P = {
            s: torch.tensor(
                [p.edit.mode.code if s in edited else NO_EDIT for p, edited in zip(ps, states, strict=True)]
                + [NO_EDIT],
                dtype=torch.int8,
            ).to(device)
            for s in (SOURCE, *times)
        }
        parameters = [*(p.edit.parameter for p in ps), 0]
        self.parameter_P = torch.tensor(parameters, dtype=torch.int32).to(device)
        self.excluded_PT = {
            t: np.array([window.excludes_genes(p, t) for p in ps] + [False], dtype=bool) for t in window.pred_tps
        }
        self.is_excluded_PT = {t: torch.from_numpy(x).to(device) for t, x in self.excluded_PT.items()}
        self._states = [frozenset(s) for s in states] + [frozenset[int]()]

    def states(self, perturbation_B: NDArray[np.int32]) -> frozenset[int]:
        """The states that any of these perturbations edits."""
        return frozenset[int]().union(*(self._states[p] for p in set(perturbation_B.tolist())))


def _arrays(tokens: object) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    return tokens.token_T, tokens.offset_C1  # type: ignore[attr-defined]


def _counted(builder: RowBuilder, site: Site, device: torch.device) -> Tensor:
    """(V,) bool: whether pooling counts an id of one side."""
    never = [*SPECIAL_IDS, *(builder.condition_ids if site == "tgt" else ())]
    counted_V = torch.ones(builder.n_ids(site), dtype=torch.bool)
    counted_V[never] = False
    return counted_V.to(device)
