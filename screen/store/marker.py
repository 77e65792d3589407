"""Marker: what says that a unit, or the controls of a block of cells, is finished: a JSON text in a chunk file of its own.

The keys are those of the store's format, docs/store.md.
"""

import json
import struct
from collections.abc import Mapping
from typing import Any

from screen.files import checksum_of
from screen.store.checks import check_files


def marker_of_unit(executor: Mapping[str, Any], rows: slice, checksums: Mapping[str, str]) -> dict[str, Any]:
    """Who computed a unit, which items it is about, and file -> checksum."""
    return {"executor": dict(executor), "rows": [rows.start, rows.stop], "files": dict(checksums)}


def marker_of_controls(checksums: Mapping[str, str]) -> dict[str, Any]:
    """File -> checksum of a block of cells."""
    return {"files": dict(checksums)}


def sealed(marker: Mapping[str, Any]) -> str:
    """A marker as text, with a checksum of its own."""
    text = json.dumps(marker)
    return json.dumps({"crc32c": checksum_of(text.encode()), **marker})


def unsealed(text: str) -> dict[str, Any]:
    """The marker of a text. Raises ValueError where it is not what was written."""
    marker: Any = json.loads(text)
    if not isinstance(marker, dict) or marker.pop("crc32c", None) != checksum_of(json.dumps(marker).encode()):
        raise ValueError("its checksum differs")
    if not isinstance(marker.get("executor", {}), dict):
        raise ValueError("it does not say who computed")
    check_files(marker.get("files"))
    return marker


def chunk_of(text: str) -> bytes:
    """The file of a chunk that is one text, as zarr writes it: the codec vlen-utf8, without compression."""
    content = text.encode()
    return struct.pack("<II", 1, len(content)) + content
