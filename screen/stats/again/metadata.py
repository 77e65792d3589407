"""Metadata: the columns that are known of a store's cells, state by state, read when they are asked for."""

from collections.abc import Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from screen.planning.layout import Layout
from screen.store.arrays import group_of, stored_name
from screen.store.reader import StoreReader


class Metadata(Mapping[str, NDArray[Any]]):
    """Column -> the text of each cell (C,), empty where it is missing, of one state."""

    def __init__(self, store: StoreReader, state: str) -> None:
        self._store, self._state = store, state
        folders = sorted((store.path / f"cells/{state}/obs").glob("*"))
        # a slash and a per cent sign are written otherwise
        self._names = [p.name.replace("%2F", "/").replace("%25", "%") for p in folders if p.is_dir()]

    def __getitem__(self, column: str) -> NDArray[Any]:
        if column not in self._names:
            raise KeyError(column)
        return self._store.strings(f"cells/{self._state}/obs/{stored_name(column)}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def metadata_of(store: StoreReader) -> dict[str, Metadata]:
    """ "source", then "t1" and so on, each state that the store has -> its columns."""
    return {state: Metadata(store, state) for state in _states(store.layout)}


def _states(layout: Layout) -> list[str]:
    return list(dict.fromkeys(group_of(state) for state in (0, *layout.pred_tps)))
