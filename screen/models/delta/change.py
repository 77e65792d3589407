"""Change: an activation of one cell, and by how much the edits of its items change it."""

from dataclasses import dataclass

from screen_kernels.delta import AttentionControl, FewKeys, Scaled
from torch import Tensor


@dataclass(frozen=True)
class Change:
    """An activation of one cell, and by how much B items change it.

    x           the control's, (1, L, D)
    d           the difference, (B, L, D); None: nothing changes
    anew_BL     rows that the edits fill; None: none
    places_BL2  each row's place before and after, until positions are added
    at_BM       where there is one, d is (B, M, D), of these rows alone: the others do not change
    few         the difference after an attention in which few keys changed, which has no `d` until it is asked for
    """

    x: Tensor
    d: Tensor | None = None
    anew_BL: Tensor | None = None
    places_BL2: Tensor | None = None
    at_BM: Tensor | None = None
    few: tuple[FewKeys, AttentionControl] | None = None

    def whole(self) -> "Change":
        """The same with all rows of the difference."""
        if self.few is not None:
            return Change(self.x, merged(self.few[0].whole()), self.anew_BL)
        if self.d is None or self.at_BM is None:
            return self
        d = self.d.new_zeros((len(self.d), self.x.shape[1], self.d.shape[2]))
        return Change(self.x, d.scatter(1, self.at_BM[..., None].expand_as(self.d), self.d), self.anew_BL)

    def difference(self) -> Tensor | None:
        """(B, L, D) or, pooled, (B, D); None: nothing changes."""
        return self.whole().d

    def of_rows(self, x: Tensor) -> Tensor:
        """Numbers of the control's rows (1, L, ...), at the rows that `d` is of."""
        if self.at_BM is None:
            return x
        return x.expand(len(self.at_BM), -1, -1).gather(1, self.at_BM[..., None].expand(-1, -1, x.shape[-1]))


@dataclass(frozen=True)
class CellsChange:
    """An activation of C cells, and by how much their B items change it, as memory keeps it.

    x           the controls', (C, L, D)
    d           the difference, (B, L, D); None: nothing changes
    anew_BL     rows that the edits fill; None: none
    places_BL2  each row's place before and after, until positions are added
    """

    x: Tensor
    d: Scaled | None = None
    anew_BL: Tensor | None = None
    places_BL2: Tensor | None = None

    def difference(self) -> Tensor | None:
        """(B, L, D) or, pooled, (B, D), float32 or float64; None: nothing changes."""
        return None if self.d is None else self.d.unscaled()


AnyChange = Change | CellsChange


def merged(x_BHLA: Tensor) -> Tensor:
    """(B, H, L, A) -> (B, L, I), heads side by side."""
    return x_BHLA.transpose(1, 2).flatten(2)
