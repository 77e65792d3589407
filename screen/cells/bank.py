"""TokenBank: every cell's token rows in flat arrays with offsets, and what is known about the cells."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.edits import Site
from screen.errors import CellError, nearest, some

MISSING = ""
"""What stands for a value that is missing from the metadata of a cell; text that is empty is missing too."""
SOURCE = 0
"""The state number of the source; target states are numbered by their time point, 1..9."""


def site_of(state: int) -> Site:
    """Which side's tokens a state's rows hold."""
    return "src" if state == SOURCE else "tgt"


@dataclass(frozen=True)
class Ragged:
    """C rows of token ids: row c is token_T[offset_C1[c] : offset_C1[c + 1]]."""

    token_T: NDArray[np.int32]
    offset_C1: NDArray[np.int64]

    @staticmethod
    def from_rows(rows: Sequence[Sequence[int] | NDArray[np.integer]]) -> "Ragged":
        """Packs rows of ids; an empty row is allowed."""
        offset_C1 = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(r) for r in rows], out=offset_C1[1:])
        flat = np.concatenate([np.asarray(r, dtype=np.int32) for r in rows]) if rows else np.zeros(0, np.int32)
        return Ragged(flat, offset_C1)

    def __len__(self) -> int:
        return len(self.offset_C1) - 1

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        return self.token_T[self.offset_C1[row] : self.offset_C1[row + 1]]

    @property
    def length_C(self) -> NDArray[np.int64]:
        """Tokens per row."""
        return np.diff(self.offset_C1)

    def take(self, rows: NDArray[np.integer]) -> "Ragged":
        """The chosen rows, in the given order."""
        return Ragged.from_rows([self[int(r)] for r in rows])


@dataclass(frozen=True)
class State:
    """One state (source, or one target time point) of the C cells, row c of every state being the same pairing.

    tokens        rank-ordered ids; targets without <cls> and <eos>
    cell_index_C  the cell's row in the user's full data set (`cell_pairing_index`)
    obs           metadata columns, each (C,) of strings, MISSING where a cell has no value
    counts        observed counts, CSR [C, G] (scipy) or None; size_factor_C is its row sum
    barcode_C     the cell's name in the user's data set, or None where that has no names
    """

    tokens: Ragged
    cell_index_C: NDArray[np.int64]
    obs: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    counts: Any = None
    size_factor_C: NDArray[np.float32] | None = None
    barcode_C: NDArray[Any] | None = None


@dataclass(frozen=True)
class Unfiltered:
    """What upstream numbers condition tokens from: the cells before any filter.

    first_seen  every value of some metadata columns, in order of first appearance over source and targets
    vocab_size  1 + the highest id of the lexicographically largest target row, upstream's reckoning of its gene ids
    """

    first_seen: Mapping[str, tuple[str, ...]]
    vocab_size: int


@dataclass(frozen=True)
class TokenBank:
    """Source (state 0) and target states (1..9) of C paired cells, before any truncation.

    cell_id_C names each pairing in messages; `notes` is what the importer wants the user to know.
    """

    states: Mapping[int, State]
    cell_id_C: tuple[str, ...]
    notes: tuple[str, ...] = ()
    unfiltered: "Unfiltered | None" = None

    def __post_init__(self) -> None:
        sizes = {s: len(state.tokens) for s, state in self.states.items()}
        if len(set(sizes.values())) > 1:
            raise CellError(f"states hold different numbers of cells: {sizes}; row i of each must be the same pairing")
        if self.n_cells == 0:
            raise CellError("no cells are left to screen; check the filter and the pairing")

    @property
    def n_cells(self) -> int:
        return len(self.cell_id_C)

    @property
    def target_tps(self) -> tuple[int, ...]:
        """The target time points that have data, ascending."""
        return tuple(sorted(s for s in self.states if s != SOURCE))

    def take(self, rows: NDArray[np.integer]) -> "TokenBank":
        """The chosen cells only."""
        states = {}
        for number, s in self.states.items():
            states[number] = State(
                s.tokens.take(rows),
                s.cell_index_C[rows],
                {k: v[rows] for k, v in s.obs.items()},
                None if s.counts is None else s.counts[rows],
                None if s.size_factor_C is None else s.size_factor_C[rows],
                None if s.barcode_C is None else s.barcode_C[rows],
            )
        return TokenBank(states, tuple(self.cell_id_C[int(r)] for r in rows), self.notes, self.unfiltered)

    def values_in_order(self, column: str) -> tuple[str, ...]:
        """Values of a metadata column in order of first appearance over source, then targets. Raises CellError."""
        if self.unfiltered is not None and column in self.unfiltered.first_seen:
            return self.unfiltered.first_seen[column]
        seen: dict[str, None] = {}
        for number in sorted(self.states):
            seen.update(dict.fromkeys(str(v) for v in self.states[number].obs.get(column, ())))
        if not seen:
            self.obs_value(column, min(self.target_tps))
        return tuple(seen)

    def obs_value(self, column: str, state: int) -> NDArray[Any]:
        """Metadata of one state. Raises CellError naming the columns there are."""
        obs = self.states[state].obs
        if column not in obs:
            where = "source" if state == SOURCE else f"time point {state}"
            raise CellError(
                f'cells have no column "{column}" at the {where}; columns: {some(obs, 20) or "none"}{nearest(column, obs)}'
            )
        return obs[column]

    def padded_row(self, state: int, cell: int, width: int) -> NDArray[np.int64]:
        """One row cut or right-padded with 0 to `width` ids."""
        out = np.zeros(width, dtype=np.int64)
        row = self.states[state].tokens[cell][:width]
        out[: len(row)] = row
        return out

    def fingerprint(self) -> str:
        """SHA-256 over tokens, cell indices and size factors of every state."""
        digest = hashlib.sha256()
        for number in sorted(self.states):
            s = self.states[number]
            digest.update(f"{number};".encode() + s.tokens.token_T.tobytes() + s.tokens.offset_C1.tobytes())
            digest.update(s.cell_index_C.tobytes())
            if s.size_factor_C is not None:
                digest.update(s.size_factor_C.tobytes())
            for column in sorted(s.obs):
                # as it was written when a missing value was a value "nan": directories of then go on
                text = ("nan" if v == MISSING else str(v) for v in s.obs[column])
                digest.update("\n".join(text).encode())
        return digest.hexdigest()


def combined(columns: Sequence[NDArray[Any]], n_cells: int) -> tuple[NDArray[np.int64], list[str]]:
    """(group of each cell, names): cells with the same values; several columns are joined by '|'; of none, all are one.

    Cells without a value are to be left out before.
    """
    if not columns:
        return np.zeros(n_cells, dtype=np.int64), ["all"]
    names, codes = np.unique(["|".join(map(str, row)) for row in zip(*columns, strict=True)], return_inverse=True)
    return codes.astype(np.int64), [str(n) for n in names]


def distinct_tokens(tokens: Ragged, max_len: int, without: Sequence[int]) -> NDArray[np.int64]:
    """Number of different ids per row, within the first `max_len`, not counting those in `without`."""
    row_T = np.repeat(np.arange(len(tokens)), tokens.length_C)
    position_T = np.arange(len(tokens.token_T)) - tokens.offset_C1[row_T]
    counted_T = (position_T < max_len) & ~np.isin(tokens.token_T, without)
    span = int(tokens.token_T.max(initial=0)) + 1
    # np.unique hashes integers, which takes many times as long as sorting them
    key_N = np.sort(row_T[counted_T] * span + tokens.token_T[counted_T])
    different = key_N[np.diff(key_N, prepend=-1) != 0]
    return np.bincount(different // span, minlength=len(tokens))
