"""ControlCache: the unedited prediction of each cell, computed once."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from screen.effects import Expression


@dataclass(frozen=True)
class Control:
    """One cell and time point, unedited: None stands for nothing to predict from.

    hidden_LD and id_L (condition tokens cut off) are kept only where gene cosines are asked for.
    """

    expression: Expression | None
    embedding_D: Tensor
    id_L: Tensor | None = None
    hidden_LD: Tensor | None = None


class ControlCache:
    """Cell -> its controls per predicted time point; computes what it lacks and remembers which cells are new."""

    def __init__(self, compute: Callable[[int], dict[int, Control]]) -> None:
        self._compute = compute
        self._known: dict[int, dict[int, Control]] = {}
        self._new: list[int] = []
        self._lock = threading.Lock()

    def __getitem__(self, cell: int) -> dict[int, Control]:
        if cell not in self._known:
            computed = self._compute(cell)
            with self._lock:
                if cell not in self._known:
                    self._known[cell] = computed
                    self._new.append(cell)
        return self._known[cell]

    def take_new(
        self, pred_tps: tuple[int, ...], n_genes: int, width: int
    ) -> tuple[NDArray[np.int64], dict[str, NDArray[np.generic]]]:
        """(cells, arrays) computed since the last call, ascending by cell, named as in the store's `control/`."""
        cells = sorted(self._new)
        self._new = []
        arrays: dict[str, NDArray[np.generic]] = {}
        for t in pred_tps:
            found = [self._known[c].get(t) for c in cells]
            arrays[f"is_predicted_t{t}"] = np.array([f is not None for f in found], dtype=bool)
            embedding = np.zeros((len(cells), width), dtype=np.float32)
            log = np.zeros((len(cells), n_genes), dtype=np.float32)
            total = np.zeros(len(cells), dtype=np.float32)
            for row, control in enumerate(found):
                if control is not None:
                    embedding[row] = control.embedding_D.numpy()
                    if control.expression is not None:
                        log[row], total[row] = control.expression.log_G, control.expression.total
            arrays[f"embedding_t{t}"] = embedding
            if any(f is not None and f.expression is not None for f in found):
                arrays |= {f"expression_t{t}": log, f"total_t{t}": total}
        return np.array(cells, dtype=np.int64), arrays
