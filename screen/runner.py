"""The loop: units are computed, and written behind the computation's back."""

import json
import os
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from screen.engine import Progress, Unit
from screen.errors import StoreError
from screen.executor import Executor, own_version
from screen.prepared import Prepared
from screen.store import FORMAT_VERSION, ScreenStore

STORE = "screen.zarr"
UNITS_WAITING = 1
"""Finished units that may wait for the writer."""


class Engine(Protocol):
    """Computes units of a plan."""

    def units(self, numbers: Iterable[int], progress: Progress) -> Iterator[Unit]:
        """The units, in order. Raises PredictionError at the first NaN."""


def run_units(engine: Engine, store: ScreenStore, progress: Progress) -> None:
    """Computes and commits every unit that the store lacks; what is committed stays whatever happens."""
    done = set(store.committed())
    with _Writer(store) as writer:
        for unit in engine.units([n for n in range(store.n_units) if n not in done], progress):
            writer.put(unit)


class _Writer:
    """Writes units on a thread of its own, in order. The first error stops it and is raised where units come from."""

    def __init__(self, store: ScreenStore) -> None:
        self._store = store
        self._queue: queue.Queue[Unit | None] = queue.Queue(UNITS_WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="store writer")

    def put(self, unit: Unit) -> None:
        """Hands a unit over; waits while too many are waiting. Raises what went wrong with an earlier one."""
        if self._error is not None:
            raise self._error
        self._queue.put(unit)

    def _work(self) -> None:
        while (unit := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._write(unit)
                except BaseException as error:
                    self._error = error

    def _write(self, unit: Unit) -> None:
        for cell_C, columns in unit.controls:
            self._store.write_controls(cell_C, columns)
        self._store.write_unit(unit.rows, unit.columns, {"executor": dict(unit.record)})

    def __enter__(self) -> "_Writer":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error


def open_store(
    screen: Prepared, directory: Path, config_text: str, executor: Executor, pilot: Mapping[str, object] | None = None
) -> ScreenStore:
    """The store of this screen in `directory`: continued if it is the same screen, created if there is none.

    Raises StoreError saying what differs if another screen is there.
    """
    path = directory / STORE
    identity = json.loads(json.dumps(screen.identity(executor.precision)))
    output = screen.output
    view = {name: getattr(output, name) for name in ("var_list", "export_batch_size", "strata", "min_cells")}
    if ScreenStore.exists(path):
        store = ScreenStore.open(path, "r+")
        theirs = store.provenance["identity"]
        different = sorted(k for k in {*identity, *theirs} if identity.get(k) != theirs.get(k))
        if different:
            raise StoreError(
                f"{path} holds another screen: {', '.join(different)} differ(s); choose another --out, or remove it to start again"
            )
        if store.provenance["view"] != view:
            store.set_view(view)
        _write_provenance(store, directory)
        return store
    provenance = {
        "format_version": FORMAT_VERSION,
        "identity": identity,
        "config": config_text,
        "decided": executor.decided(),
        "pilot": pilot,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "perturbscreen": own_version(),
        "notes": list(screen.notes),
        "view": view,
    }
    store = ScreenStore.create(
        path, screen.plan, screen.library, screen.vocabulary, screen.bank, screen.layout, provenance
    )
    _write_provenance(store, directory)
    return store


def _write_provenance(store: ScreenStore, directory: Path) -> None:
    """A copy for people, rewritten where it is missing or differs."""
    path, text = directory / "provenance.json", json.dumps(store.provenance, indent=2)
    if path.is_file() and path.read_text(errors="replace") == text:
        return
    partial_file = directory / f".provenance.{os.getpid()}"
    partial_file.write_text(text)
    partial_file.replace(path)
