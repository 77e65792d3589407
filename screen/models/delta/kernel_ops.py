"""KernelOps: the arithmetic of changes of many cells' items at once, by the kernels, as a GPU does it.

What `DeltaOps` defines for one cell: the numbers are the same in real arithmetic, and operations have the same names.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from screen_kernels.delta import (
    AttentionRows,
    NormControl,
    RaggedRows,
    Scaled,
    activation_change_rows,
    attention_change_rows,
    attention_control,
    even_rows,
    norm_change_rows,
    norm_control,
    pool_change_rows,
    scaled,
)
from torch import Tensor, nn
from torch.nn import functional as F

from screen.models.delta.change import CellsChange, merged
from screen.models.delta.recording import Places, Recording
from screen.models.delta.rounding import EXACT, UNSEEN_EXPONENT, Rounding
from screen.models.ops import Ops, PlainOps
from screen.models.products import Weights


class ItemsOfCells:
    """Which of C cells each of B items belongs to; every cell has an item."""

    def __init__(self, cell_B: Tensor, n_cells: int) -> None:
        self.cell_B, self.n_cells = cell_B, n_cells
        n_items = len(cell_B)
        item_B = torch.arange(n_items, device=cell_B.device)
        self.first_C = cell_B.new_full((n_cells,), n_items).scatter_reduce(0, cell_B, item_B, "amin")
        """An item of every cell."""
        self._zero: dict[torch.dtype, Tensor] = {}
        self._rows: dict[int, RaggedRows] = {}
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def zero(self, dtype: torch.dtype) -> Tensor:
        """The number, on their device: made once."""
        if dtype not in self._zero:
            self._zero[dtype] = torch.zeros((), dtype=dtype, device=self.cell_B.device)
        return self._zero[dtype]

    def kept_afterwards(self, keep_BK: Tensor) -> Tensor:
        """(B K,) which keys are kept after the edits, one behind the other; all blocks of a network ask for the same."""
        if id(keep_BK) not in self._kept:
            # the mask is kept beside it: its address stands for it
            self._kept[id(keep_BK)] = keep_BK, keep_BK[..., 1].flatten().contiguous()
        return self._kept[id(keep_BK)][1]

    def rows(self, length: int) -> RaggedRows:
        """Their rows in flat tensors, every item and every cell with so many."""
        if length not in self._rows:
            self._rows[length] = even_rows(self.cell_B, self.n_cells, length)
        return self._rows[length]


class KernelOps(Ops[CellsChange]):
    """Differences of B items of C cells; what the controls alone decide is computed once and recorded.

    Rows come from frames: ids are (B, F, 4), or (B, F, 2) where nothing is edited; key masks and counted positions (B, F, 2).
    One object serves one forward pass: operations of one place are told apart by their order.
    `backend` is the kernels': None, Triton on a GPU and their definitions on a CPU.
    """

    def __init__(
        self, plain: PlainOps, recording: Recording, items: ItemsOfCells, rounding: Rounding = EXACT,
        backend: str | None = None, places: Places | None = None,
    ) -> None:  # fmt: skip
        self._plain, self._recording, self._items, self._rounding = plain, recording, items, rounding
        self._backend = backend
        self._places = Places() if places is None else places

    def within(self, *place: object) -> "KernelOps":
        places = self._places.within(*place)
        return KernelOps(self._plain, self._recording, self._items, self._rounding, self._backend, places)

    def embed(self, ids_BL: Tensor, table_VD: Tensor) -> CellsChange:
        x = F.embedding(ids_BL[self._items.first_C, :, 0], table_VD)
        if ids_BL.shape[-1] == 2:
            return CellsChange(x, places_BL2=ids_BL[..., 1:].expand(-1, -1, 2))
        is_new_BL = ids_BL[..., 0] != ids_BL[..., 2]
        d = F.embedding(ids_BL[..., 2], table_VD) - F.embedding(ids_BL[..., 0], table_VD)
        return CellsChange(x, Scaled(d), is_new_BL, ids_BL[..., 1::2])

    def add_position(self, x: CellsChange, position: Callable[[int], Tensor]) -> CellsChange:
        assert x.places_BL2 is not None, "positions are added to embeddings"
        key, (before_BL, after_BL) = self._places.next("position"), x.places_BL2.unbind(-1)
        # a place is a column of the frame, or of the edited row, which is no longer than the frame
        table = position(x.x.shape[1])
        there = x.x + table[before_BL[self._items.first_C]]
        if x.d is None:
            return CellsChange(there, None, x.anew_BL)
        return CellsChange(there, self._stored(key, x.d.unscaled() + (table[after_BL] - table[before_BL])), x.anew_BL)

    def scale(self, x: CellsChange, factor: float) -> CellsChange:
        key = self._places.next("scale")
        d = None if x.d is None else self._stored(key, factor * x.d.unscaled())
        return CellsChange(factor * x.x, d, x.anew_BL, x.places_BL2)

    def product(self, x: CellsChange, linear: Weights) -> CellsChange:
        return self.products(x, linear)[0]

    def products(self, x: CellsChange, *linears: Weights) -> tuple[CellsChange, ...]:
        """As one product, whose numbers are kept at the scale that holds all."""
        keys = [self._places.next("product") for _ in linears]
        there = [
            self._recording.once(key, partial(self._plain.product, x.x, linear))
            for key, linear in zip(keys, linears, strict=True)
        ]
        if x.d is None:
            return tuple(CellsChange(one, None, x.anew_BL) for one in there)
        d, weight = self._operand(x.d), self._rounding.kept_weight(*(linear.weight for linear in linears))
        flat, scale = d.values.reshape(-1, d.values.shape[-1]), min(self._rounding.scale(key) for key in keys)
        # sums are scaled before they are rounded
        values = torch.addmm(self._items.zero(flat.dtype), flat, weight.T, beta=0, alpha=scale / d.scale)
        widths = [len(linear.weight) for linear in linears]
        parts = torch.split(values.view(*d.values.shape[:2], -1), widths, dim=-1)
        return tuple(CellsChange(one, Scaled(v, scale), x.anew_BL) for one, v in zip(there, parts, strict=True))

    def split(self, x: CellsChange, n_parts: int) -> tuple[CellsChange, ...]:
        changes = [None] * n_parts if x.d is None else [Scaled(v, x.d.scale) for v in x.d.values.chunk(n_parts, -1)]
        return tuple(CellsChange(part, d, x.anew_BL) for part, d in zip(x.x.chunk(n_parts, -1), changes, strict=True))

    def attend(
        self, query: CellsChange, key: CellsChange, value: CellsChange, n_heads: int, keep_BK: Tensor | None
    ) -> CellsChange:
        assert keep_BK is not None, "frames say which keys are kept"
        place, asked = self._places.next("attend"), (query, key, value)
        control, there = self._recording.once(place, lambda: self._attention(asked, n_heads, keep_BK))
        if all(c.d is None for c in asked):
            return CellsChange(there, None, query.anew_BL)
        dq, dk, dv = (None if c.d is None else _flat(self._operand(c.d)) for c in asked)
        queries, keys = (self._items.rows(c.x.shape[1]) for c in (query, key))
        anew_T = None if query.anew_BL is None else query.anew_BL.flatten()
        keep_U = self._items.kept_afterwards(keep_BK)
        found = attention_change_rows(queries, keys, control, dq, dk, dv, keep_U, anew_T, **self._kept_as(place))
        return CellsChange(there, self._whole(found), query.anew_BL)

    def _attention(self, asked: Sequence[CellsChange], n_heads: int, keep_BK: Tensor) -> tuple[AttentionRows, Tensor]:
        """(what the controls' pass leaves, its output (C, L, I))."""
        keep_CK = keep_BK[self._items.first_C, :, 0]
        q, k, v = (c.x.view(*c.x.shape[:2], n_heads, -1).transpose(1, 2) for c in asked)
        c = attention_control(q, k, v, keep_CK)
        there = torch.where(keep_CK.any(1)[:, None, None, None], c.out_CHLA + c.value_mean_CH1A, 0.0)
        # scores are made of queries and keys as they are, and keys that come or leave have their values as they are
        key, value, out = (merged(x).flatten(0, 1) for x in (c.key_CHKA, c.value_CHKA, c.out_CHLA))
        mean = merged(c.value_mean_CH1A)[:, 0]
        log_sum_MH = c.log_sum_CHL1[..., 0].transpose(1, 2).flatten(0, 1)
        rows = AttentionRows(asked[0].x.flatten(0, 1), key, value, out, log_sum_MH, mean, keep_CK.flatten())
        return rows, merged(there)

    def add(self, x: CellsChange, update: CellsChange) -> CellsChange:
        some = [c.d for c in (x, update) if c.d is not None]
        d = some[0] if len(some) == 1 else Scaled(some[0].unscaled() + some[1].unscaled()) if some else None
        return CellsChange(x.x + update.x, d, x.anew_BL)

    def norm(self, x: CellsChange, norm: nn.LayerNorm) -> CellsChange:
        return self._normed([x], norm)

    def add_norm(self, x: CellsChange, update: CellsChange, norm: nn.LayerNorm) -> CellsChange:
        return self._normed([x, update], norm)

    def _normed(self, parts: Sequence[CellsChange], norm: nn.LayerNorm) -> CellsChange:
        """LayerNorm of one activation, or of the sum of two; the first says which rows are filled anew."""
        place = self._places.next("norm")

        def of_controls() -> tuple[NormControl, Tensor]:
            x = parts[0].x if len(parts) == 1 else parts[0].x + parts[1].x
            unit, deviation = norm_control(x, norm.eps)
            return NormControl(self._control(unit.flatten(0, 1)), deviation.flatten()), self._plain.norm(x, norm)

        control, there = self._recording.once(place, of_controls)
        some = [_flat(part.d) for part in parts if part.d is not None]
        if not some:
            return CellsChange(there, None, parts[0].anew_BL)
        rows = self._items.rows(there.shape[1])
        found = norm_change_rows(rows, *control, norm.weight, *some, **self._kept_as(place))
        return CellsChange(there, self._whole(found), parts[0].anew_BL)

    def activate(self, x: CellsChange, kind: Literal["gelu", "relu"] = "gelu") -> CellsChange:
        place = self._places.next("activate")

        def of_controls() -> tuple[Tensor, Tensor]:
            return self._control(x.x.flatten(0, 1)), self._plain.activate(x.x, kind)

        control, there = self._recording.once(place, of_controls)
        if x.d is None:
            return CellsChange(there, None, x.anew_BL)
        rows = self._items.rows(x.x.shape[1])
        found = activation_change_rows(rows, control, _flat(x.d), kind, **self._kept_as(place))
        return CellsChange(there, self._whole(found), x.anew_BL)

    def join(self, pieces: Sequence[CellsChange]) -> CellsChange:
        x, some = torch.cat([c.x for c in pieces], dim=1), [c.d for c in pieces if c.d is not None]
        if not some:
            return CellsChange(x)
        # powers of two: the smallest holds all
        scale, n_items = min(d.scale for d in some), len(some[0].values)
        parts = [
            some[0].values.new_zeros(()).expand(n_items, *c.x.shape[1:]) if c.d is None else c.d.values * (scale / c.d.scale)
            for c in pieces
        ]  # fmt: skip
        return CellsChange(x, Scaled(torch.cat(parts, dim=1), scale))

    def pool(self, x: CellsChange, counted_BL: Tensor) -> CellsChange:
        """The change is (B, D), float64."""
        before_BL, after_BL = counted_BL.unbind(-1)
        before_CL = before_BL[self._items.first_C]

        def of_controls() -> tuple[Tensor, Tensor]:
            total_CD = torch.where(before_CL[..., None], x.x, 0.0).sum(1, dtype=torch.float64)
            return self._plain.pool(x.x, before_CL), total_CD

        mean, total_CD = self._recording.once(self._places.next("pool"), of_controls)
        d, rows = None if x.d is None else _flat(x.d), self._items.rows(x.x.shape[1])
        change_BD = pool_change_rows(
            rows, x.x.flatten(0, 1), total_CD, before_CL.flatten(), after_BL.flatten(), d, self._backend
        )
        return CellsChange(mean, Scaled(change_BD))

    def _kept_as(self, key: tuple[object, ...]) -> dict[str, Any]:
        """How a kernel keeps the changes of an operation."""
        return {"scale": self._rounding.scale(key), "dtype": self._rounding.dtype, "backend": self._backend}

    def _stored(self, key: tuple[object, ...], d: Tensor) -> Scaled:
        return scaled(d, self._rounding.scale(key), self._rounding.dtype)

    def _operand(self, d: Scaled) -> Scaled:
        """A change as products read it; sums that were not stored yet are rounded here."""
        is_kept = d.values.dtype == self._rounding.dtype
        return d if is_kept else scaled(d.unscaled(), 2.0**UNSEEN_EXPONENT, self._rounding.dtype)

    def _control(self, x: Tensor) -> Tensor:
        """What only multiplies differences."""
        return x.to(self._rounding.dtype)

    def _whole(self, d: Scaled) -> Scaled:
        """(B L, D) -> (B, L, D)."""
        return Scaled(d.values.view(len(self._items.cell_B), -1, d.values.shape[1]), d.scale)


def _flat(d: Scaled) -> Scaled:
    """(B, L, D) -> (B L, D)."""
    return Scaled(d.values.flatten(0, 1), d.scale)
