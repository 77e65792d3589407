"""Recipe: one way in which people's files differ from the plain one, and what becomes of it."""

import contextlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np

import screen as package
from screen.cells.bank import SOURCE, TokenBank
from screen.cells.h5ad import cells_of_h5ad
from screen.cells.vocabulary import Vocabulary, read_tsv
from screen.errors import ScreenError
from screen.planning.index import BankIndex
from screen.planning.library import expand
from screen.planning.null_genes import NullPlan
from screen.planning.window import Window
from screen.running.configuration import load_config

MODEL = Path(package.__file__).parent / "demo" / "data"
N_OF_EACH = 24
"""Cells of each state and type."""

Changes = Mapping[str, Any]
"""Section of the configuration -> keys that differ from the plain one."""


@dataclass(frozen=True)
class Recipe:
    """A variant: `make` writes its files into a folder and returns what it changes in the configuration.

    failed_before  what was wrong with the answer before these were looked at; "" where it was right
    """

    kind: str
    words: str
    failed_before: str
    make: Callable[["Place"], Changes]


@dataclass(frozen=True)
class Answer:
    """What the user is told of a variant.

    result   "as the plain file", what differs, or the exit code
    message  the error, or the notes that the plain file does not have
    """

    result: str
    message: str


@dataclass(frozen=True)
class Place:
    """A folder in which one variant after another is made of the same cells."""

    folder: Path

    @cached_property
    def _plain(self) -> ad.AnnData:
        cells = ad.read_h5ad(MODEL / "cells.h5ad")
        of_state = [
            np.flatnonzero((cells.obs["condition"] == state) & (cells.obs["cell_type"] == kind))[:N_OF_EACH]
            for state in ("control", "stimulated")
            for kind in ("CD14+ Monocytes", "B")
        ]
        chosen = cells[np.sort(np.concatenate(of_state))].copy()
        # so that every type of number holds them
        chosen.X.data = np.minimum(chosen.X.data, 100)
        return chosen

    @property
    def cells(self) -> ad.AnnData:
        """The plain cells, to be changed at will: counts (float32 CSR), Ensembl IDs as var names, symbols beside them."""
        return self._plain.copy()

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """That of the demo's model."""
        return read_tsv(MODEL / "genes.tsv")

    @cached_property
    def plain(self) -> TokenBank:
        """What the plain file gives."""
        return self._read(self.h5ad(self.cells))[0]

    def h5ad(self, cells: ad.AnnData, name: str = "cells.h5ad") -> Changes:
        """Writes an h5ad and names it."""
        cells.write_h5ad(self.folder / name)
        return {"cells": {"h5ad": name}}

    def answer(self, recipe: Recipe) -> Answer:
        """Makes the variant and reads it, as `plan` and `run` do."""
        expected = self.plain
        with contextlib.chdir(self.folder), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            changes = recipe.make(self)
        try:
            if "upstream" in changes:
                return self._upstream(changes["upstream"])
            found, edited = self._read(changes)
        except ScreenError as error:
            return Answer(f"exit code {error.exit_code}", self._said(str(error)))
        except Exception as error:
            return Answer("a fault of ours", f"{type(error).__name__}: {self._said(str(error))}")
        notes = [n for n in found.notes if n not in expected.notes]
        result = f"edits {', '.join(edited)}" if "library" in changes else _compared(found, expected)
        return Answer(result, self._said(" ".join(notes)))

    def _upstream(self, given: Mapping[str, Any]) -> Answer:
        with contextlib.chdir(given["from"]):
            config = load_config(given["yaml"])
        notes = [n for n in config.notes if not n.startswith("no effect")]
        result = f"reads {config.model.checkpoint}, writes {config.output.directory}"
        return Answer(self._said(result), self._said(" ".join(notes)))

    def _read(self, changes: Changes) -> tuple[TokenBank, list[str]]:
        """The cells, and the genes that are edited."""
        config = load_config(self.configuration(changes))
        bank, window = cells_of_h5ad(config.cells, self.vocabulary), Window((1,), (), 512, False)
        null = NullPlan(config.null, np.zeros(bank.n_cells, dtype=np.int64), ("all",), 1, {})
        library = expand(config.library, BankIndex(bank, self.vocabulary, 512), window, null)
        return bank, [self.vocabulary.symbol[g] for p in library.perturbations for g in p.genes]

    def configuration(self, changes: Changes) -> dict[str, Any]:
        """The plain configuration with changes."""
        made: dict[str, Any] = {
            "model": {"checkpoint": str(MODEL / "demo.ckpt"), "vocabulary": str(MODEL / "genes.tsv")},
            "cells": {
                "h5ad": "cells.h5ad", "state_column": "condition", "source": "control", "targets": {1: "stimulated"},
                "filters": {"cell_type": ["CD14+ Monocytes"]}, "special_tokens": False,
            },
            "library": {"genes": ["STAT1", "IRF7", "CD14"], "modes": ["overexpress"]},
            "predict": {"pred_tps": [1]}, "null": {"n": 0},
        }  # fmt: skip
        for section, keys in changes.items():
            made[section] = {**made[section], **keys}
        made["cells"]["h5ad"] = str(self.folder / made["cells"]["h5ad"])
        if isinstance(made["library"]["genes"], str) and made["library"]["genes"] != "all":
            made["library"]["genes"] = str(self.folder / made["library"]["genes"])
        return made

    def _said(self, text: str) -> str:
        return text.replace(f"{self.folder}/", "").replace(str(self.folder), ".")


def _compared(found: TokenBank, expected: TokenBank) -> str:
    if found.n_cells != expected.n_cells:
        return f"read: {found.n_cells} cells"
    for state, mine in found.states.items():
        theirs = expected.states[state]
        if state != SOURCE and not np.array_equal(mine.cell_index_C, theirs.cell_index_C):
            return "as the plain file, paired otherwise"
        if not np.array_equal(mine.tokens.token_T, theirs.tokens.token_T):
            rows = range(found.n_cells)
            if any(set(mine.tokens[c].tolist()) != set(theirs.tokens[c].tolist()) for c in rows):
                return "read, other genes expressed"
            n_same = int((mine.tokens.token_T == theirs.tokens.token_T).sum())
            return f"read, {n_same / len(mine.tokens.token_T):.1%} of ranks as in the plain file"
        if mine.counts is not None and abs(mine.counts - theirs.counts).max() > 0:
            return "ranks as in the plain file, counts differ"
    return "as the plain file"


RECIPES: list[Recipe] = []
"""Every variant, in the order of the page."""


def recipe(
    kind: str, words: str, failed_before: str = ""
) -> Callable[[Callable[[Place], Changes]], Callable[[Place], Changes]]:
    """Adds a variant to the list."""

    def add(make: Callable[[Place], Changes]) -> Callable[[Place], Changes]:
        RECIPES.append(Recipe(kind, words, failed_before, make))
        return make

    return add
