"""ControlCache: the unedited prediction of each cell, computed once."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

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


BUDGET_BYTES = 2 * 2**30


class ControlCache:
    """Cell -> its controls per predicted time point, computed when first asked for.

    Keeps the most recently used cells within `budget_bytes`; a cell that was dropped is computed again, to the same
    bytes. Remembers, without their per-token embeddings, the controls that the store does not have yet.
    """

    def __init__(self, compute: Callable[[int], dict[int, Control]], budget_bytes: int = BUDGET_BYTES) -> None:
        self._compute, self._budget_bytes = compute, budget_bytes
        self._known: OrderedDict[int, dict[int, Control]] = OrderedDict()
        self._new: dict[int, dict[int, Control]] = {}
        self._stored: set[int] = set()
        self._held_bytes = 0
        self._lock = threading.Lock()

    def __getitem__(self, cell: int) -> dict[int, Control]:
        with self._lock:
            if cell in self._known:
                self._known.move_to_end(cell)
                return self._known[cell]
        computed = self._compute(cell)
        with self._lock:
            if cell not in self._known:
                self._known[cell] = computed
                self._held_bytes += _bytes(computed)
            if cell not in self._stored:
                self._new[cell] = {t: replace(c, id_L=None, hidden_LD=None) for t, c in computed.items()}
            while self._held_bytes > self._budget_bytes and len(self._known) > 1:
                self._held_bytes -= _bytes(self._known.popitem(last=False)[1])
        return computed

    def take_new(
        self, pred_tps: tuple[int, ...], n_genes: int, width: int
    ) -> tuple[NDArray[np.int64], dict[str, NDArray[np.generic]]]:
        """(cells, arrays) computed since the last call, ascending by cell, named as in the store's `control/`."""
        cells = sorted(self._new)
        arrays: dict[str, NDArray[np.generic]] = {}
        for t in pred_tps:
            found = [self._new[c].get(t) for c in cells]
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
        self._stored.update(cells)
        self._new = {}
        return np.array(cells, dtype=np.int64), arrays


def _bytes(controls: dict[int, Control]) -> int:
    tensors = [x for c in controls.values() for x in (c.embedding_D, c.id_L, c.hidden_LD) if x is not None]
    logs = [c.expression.log_G.nbytes for c in controls.values() if c.expression is not None]
    return sum(x.numel() * x.element_size() for x in tensors) + sum(logs)
