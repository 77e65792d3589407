"""Controls: the rows of cells in one state, as frames of items are laid over them."""

from dataclasses import dataclass

from screen_kernels import PAD
from screen_kernels.delta import Frame, columns_by_id, frame_rows
from torch import Tensor


@dataclass(frozen=True)
class Controls:
    """C rows, and what can be said of them before any item is met.

    control_CL  ids, PAD where there is no token
    column_CV   the column of every id in every row
    counted_CL  what pooling counts; None: the state is not read out
    """

    control_CL: Tensor
    column_CV: Tensor
    counted_CL: Tensor | None

    def frame(
        self, cell_B: Tensor, edited_BW: Tensor, counted_BW: Tensor | None, n_slots: int, backend: str | None = None
    ) -> Frame:
        """That of B items of these cells, as `frame_rows` defines it; rows that nothing edits are the cells' own."""
        rows = self.control_CL, self.column_CV, self.counted_CL
        return frame_rows(*rows, cell_B, edited_BW, counted_BW, n_slots, backend)


def controls_of(control_CL: Tensor, counted_CL: Tensor | None, n_ids: int) -> Controls:
    """Of rows, whose ids and those of their items are below `n_ids`."""
    return Controls(control_CL, columns_by_id(control_CL, n_ids), counted_CL)


def frame_of(
    control_CL: Tensor, counted_CL: Tensor | None, cell_B: Tensor, edited_BW: Tensor, counted_BW: Tensor | None,
    n_slots: int,
) -> Frame:  # fmt: skip
    """A frame of rows of any ids: they are looked at, for which the host waits."""
    n_ids = 1 + max(int(x.max()) if x.numel() else PAD for x in (control_CL, edited_BW))
    return controls_of(control_CL, counted_CL, n_ids).frame(cell_B, edited_BW, counted_BW, n_slots)
