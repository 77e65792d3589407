"""Rows: the ids a model reads for one item, built from the TokenBank by the definition of each edit."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from screen_kernels import edit_row_reference
from torch import Tensor

from screen.cells.bank import SOURCE, TokenBank, site_of
from screen.cells.vocabulary import EOS, PAD, SPECIAL_IDS, Vocabulary
from screen.edits import Site
from screen.models.adapter import Row, Rows, row_of
from screen.planning.perturbations import Perturbation
from screen.planning.window import Window


def trim(ids_BL: Tensor) -> Tensor:
    """Cuts trailing columns that are pads in every row; at least one column stays."""
    used = (ids_BL != PAD).any(0).nonzero()
    return ids_BL[:, : int(used.max()) + 1 if len(used) else 1]


@dataclass(frozen=True)
class RowBuilder:
    """Builds the rows of single items.

    condition_CN   condition ids per time point
    condition_ids  every condition id there is: pooling leaves them out
    """

    bank: TokenBank
    vocabulary: Vocabulary
    window: Window
    condition_CN: Mapping[int, NDArray[np.int64]]
    exclude_src: bool = False
    condition_ids: tuple[int, ...] = ()

    def n_conditions(self, state: int) -> int:
        """Condition tokens in front of every row of a state."""
        return 0 if state == SOURCE else int(self.condition_CN[state].shape[1])

    def n_ids(self, site: Site) -> int:
        """1 + the highest id that a row of one side can hold."""
        of_side = [x.tokens.token_T for s, x in self.bank.states.items() if site_of(s) == site]
        highest: list[NDArray[np.integer]] = [*of_side, self.vocabulary.tokens(site), np.array(SPECIAL_IDS)]
        if site == "tgt":
            highest += [np.array(self.condition_ids), *self.condition_CN.values()]
        return 1 + max(int(x.max(initial=0)) for x in highest)

    def control(self, cell: int) -> Rows:
        """The unedited rows of one cell."""
        return self._rows(cell, None)

    def edited(self, cell: int, perturbation: Perturbation) -> Rows:
        """The rows of one item."""
        return self._rows(cell, perturbation)

    def rank(self, cell: int, perturbation: Perturbation) -> tuple[int, int]:
        """(rank of the first perturbed gene, genes in that row) in the first edited row; rank 0 is highest, -1 absent."""
        site, state = ("src", SOURCE) if "src" in perturbation.sites else ("tgt", perturbation.pert_tps[0])
        row = self.bank.states[state].tokens[cell][: self.window.max_len]
        genes = row[row > EOS]
        hits = np.flatnonzero(np.isin(genes, perturbation.tokens(self.vocabulary, site)))  # type: ignore[arg-type]
        return (int(hits[0]) if len(hits) else -1), len(genes)

    def _rows(self, cell: int, p: Perturbation | None) -> Rows:
        source = row_of(trim(self._source(cell, p)[None]))
        target = {t: row_of(trim(self._target(cell, t, p)[None])) for t in self.window.times}
        size_factor, counted = {}, {}
        for s in self.window.pred_tps:
            size_C = self.bank.states[s].size_factor_C
            if size_C is not None:
                size_factor[s] = torch.tensor([float(size_C[cell])])
            counted[s] = self._counted(source if s == SOURCE else target[s], p, s)
        return Rows(source, target, counted, size_factor)

    def _source(self, cell: int, p: Perturbation | None) -> Tensor:
        row_L = torch.from_numpy(self.bank.padded_row(SOURCE, cell, self.window.max_len))
        if self.exclude_src:
            return torch.zeros_like(row_L)
        if p is None or "src" not in p.sites:
            return row_L
        return edit_row_reference(row_L, p.tokens(self.vocabulary, "src"), p.mode, "src")

    def _target(self, cell: int, time: int, p: Perturbation | None) -> Tensor:
        row_L = torch.from_numpy(self.bank.padded_row(time, cell, self.window.max_len))
        if p is not None and time in p.pert_tps:
            row_L = edit_row_reference(row_L, p.tokens(self.vocabulary, "tgt"), p.mode, "tgt")
        return torch.cat([torch.from_numpy(self.condition_CN[time][cell]), row_L])

    def _counted(self, row: Row, p: Perturbation | None, state: int) -> Tensor:
        """Positions that pooling counts: genes, and of these not the perturbed ones where the window says so."""
        never = [*SPECIAL_IDS, *(self.condition_ids if state != SOURCE else ())]
        if p is not None and self.window.excludes_genes(p, state):
            never += p.tokens(self.vocabulary, site_of(state))
        return ~torch.isin(row.ids_BL, torch.tensor(never))
