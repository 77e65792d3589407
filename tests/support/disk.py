"""Disk: what a program synced and renamed, in order, and what of it a power cut would leave."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest


@dataclass
class Disk:
    """(path, "synced") and (old path, new path), as they came."""

    events: list[tuple[str, str]] = field(default_factory=list)

    def is_durable(self, path: Path, before: int | None = None) -> bool:
        """Whether a file's content was on the disk before it was named so, and its name, by the event `before`."""
        events = self.events[:before]
        named = [i for i, (_, new) in enumerate(events) if new == str(path)]
        if not named:
            return False
        partial = events[named[-1]][0]
        return (partial, "synced") in events[: named[-1]] and (str(path.parent), "synced") in events[named[-1] :]

    def names(self) -> list[tuple[int, Path]]:
        """(number of the event, path) of everything that was named."""
        return [(i, Path(new)) for i, (_, new) in enumerate(self.events) if new != "synced"]


@contextmanager
def watched() -> Iterator[Disk]:
    """Watches this process; everything is done as ever."""
    disk, fsync, rename = Disk(), os.fsync, os.replace

    def watched_sync(fd: int) -> None:
        fsync(fd)
        disk.events.append((str(Path(f"/proc/self/fd/{fd}").readlink()), "synced"))

    def watched_rename(old: str | Path, new: str | Path) -> None:
        rename(old, new)
        disk.events.append((str(old), str(new)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", watched_sync)
        patch.setattr(os, "replace", watched_rename)
        yield disk
