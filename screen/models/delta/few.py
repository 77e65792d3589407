"""FewOps: changes as long as only a few rows of an item change, plain activations from where more do.

An edit of one token in its place changes one query, key and value of the first attention: what that does to all other rows
costs next to nothing (`screen_kernels.delta.few_keys`). What follows is computed as ever.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from screen_kernels.delta import Frame
from torch import Tensor, nn
from torch.nn import functional as F

from screen.models.adapter import Row
from screen.models.delta.change import Change
from screen.models.delta.frame import frame_of
from screen.models.delta.ops import MOST_FEW, DeltaOps
from screen.models.delta.recording import Recording
from screen.models.ops import Ops, PlainOps
from screen.models.products import Weights

Activation = Change | Tensor


def few_rows(
    run: Callable[[Ops[Activation], Row], Activation], ops: PlainOps, recording: Recording, control_L: Tensor,
    edited_BW: Tensor,
) -> Tensor | None:  # fmt: skip
    """(B, W, D) what part of a network makes of the edited rows of one cell; None where an edit changes more than a few.

    run        the part, given ops and a row
    recording  of this part, for the cell's own row `control_L`
    """
    n = min(len(control_L), edited_BW.shape[1])
    if int((edited_BW[:, :n] != control_L[:n]).sum(1).max()) > MOST_FEW:
        # most edits that move tokens are told from this alone
        return None
    control_CL, cell_B = control_L[None], torch.zeros(len(edited_BW), dtype=torch.long, device=edited_BW.device)
    frame = frame_of(control_CL, None, cell_B, edited_BW, None, 0)
    if not _is_in_place(frame):
        return None
    found = plain(run(FewOps(ops, DeltaOps(ops, recording)), Row(frame.ids_BF4, frame.keep_BF2)))
    # pads beyond the cell's own row are read by nobody
    n_more = edited_BW.shape[1] - found.shape[1]
    return F.pad(found, (0, 0, 0, n_more)).expand(len(edited_BW), -1, -1)


def _is_in_place(frame: Frame) -> bool:
    """Whether all tokens stay where they are, so that columns are positions, and few are others or leave."""
    places = torch.arange(frame.column_BW.shape[1], device=frame.column_BW.device)
    stays = (frame.column_BW == places) | (frame.column_BW < 0)
    before, after = frame.keep_BF2.unbind(-1)
    changed_BF = (before != after) | (frame.ids_BF4[..., 0] != frame.ids_BF4[..., 2])
    return bool(frame.is_carried_B.all() & stays.all()) and int(changed_BF.sum(1).max()) <= MOST_FEW


class FewOps(Ops[Activation]):
    """Items of one cell, whose rows come from a frame as those of `DeltaOps` do; results are plain, (B, F, D).

    What is done of plain activations is counted as well: a recording's places must not depend on the edits.
    """

    def __init__(self, plain: PlainOps, delta: DeltaOps) -> None:
        self._plain, self._delta = plain, delta

    def within(self, *place: object) -> "FewOps":
        return FewOps(self._plain.within(*place), self._delta.within(*place))

    def embed(self, ids_BL: Tensor, table_VD: Tensor) -> Activation:
        return self._delta.embed(ids_BL, table_VD)

    def add_position(self, x: Activation, position: Callable[[int], Tensor]) -> Activation:
        assert isinstance(x, Change), "positions are added to embeddings"
        return self._delta.add_position(x, position)

    def scale(self, x: Activation, factor: float) -> Activation:
        if isinstance(x, Change):
            return self._delta.scale(x, factor)
        self._delta.skip("scale")
        return self._plain.scale(x, factor)

    def product(self, x: Activation, linear: Weights) -> Activation:
        if isinstance(x, Change):
            return self._delta.product(x, linear)
        self._delta.skip("product")
        return self._plain.product(x, linear)

    def products(self, x: Activation, *linears: Weights) -> tuple[Activation, ...]:
        if isinstance(x, Change):
            return self._delta.products(x, *linears)
        self._delta.skip(*["product"] * len(linears))
        return self._plain.products(x, *linears)

    def split(self, x: Activation, n_parts: int) -> tuple[Activation, ...]:
        return self._delta.split(x, n_parts) if isinstance(x, Change) else self._plain.split(x, n_parts)

    def attend(
        self, query: Activation, key: Activation, value: Activation, n_heads: int, keep_BK: Tensor | None
    ) -> Activation:
        assert keep_BK is not None, "frames say which keys are kept"
        if isinstance(query, Change) and isinstance(key, Change) and isinstance(value, Change):
            found = self._delta.attend_few(query, key, value, n_heads, keep_BK)
            if found is not None:
                return found
        else:
            self._delta.skip("attend")
        q, k, v = (plain(x).expand(len(keep_BK), -1, -1) for x in (query, key, value))
        return self._plain.attend(q, k, v, n_heads, keep_BK[..., 1])

    def add(self, x: Activation, update: Activation) -> Activation:
        return self._plain.add(plain(x), plain(update))

    def norm(self, x: Activation, norm: nn.LayerNorm) -> Activation:
        if isinstance(x, Change):
            return self._delta.norm(x, norm)
        self._delta.skip("norm")
        return self._plain.norm(x, norm)

    def activate(self, x: Activation, kind: Literal["gelu", "relu"] = "gelu") -> Activation:
        if isinstance(x, Change):
            return self._delta.activate(x, kind)
        self._delta.skip("activate")
        return self._plain.activate(x, kind)

    def join(self, pieces: Sequence[Activation]) -> Activation:
        return self._plain.join([plain(x) for x in pieces])

    def pool(self, x: Activation, counted_BL: Tensor) -> Activation:
        return self._plain.pool(plain(x), counted_BL[..., 1])

    def add_norm(self, x: Activation, update: Activation, norm: nn.LayerNorm) -> Activation:
        self._delta.skip("norm")
        before, by = plain(x), plain(update)
        n_items = max(len(before), len(by))
        return self._plain.add_norm(before.expand(n_items, -1, -1), by.expand(n_items, -1, -1), norm)

    def feed_forward(self, x: Activation, first: Weights, second: Weights) -> Activation:
        if isinstance(x, Change):
            return self._delta.feed_forward(x, first, second)
        self._delta.skip("product", "activate", "product")
        return self._plain.feed_forward(x, first, second)


def plain(x: Activation) -> Tensor:
    """The activation itself: (B, L, D), or (1, L, D) where nothing changes."""
    if isinstance(x, Tensor):
        return x
    whole = x.whole()
    return whole.x if whole.d is None else whole.x + whole.d
