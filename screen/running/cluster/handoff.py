"""Handoff: a prepared screen on disk, from the process that read it to workers that share its memory.

Arrays and weights lie in one file that every worker maps, so that the workers of a machine hold them once. It is written
by the run itself into its own output directory and gone when the run ends; it is no format to keep.
"""

import io
import mmap
import pickle
from pathlib import Path
from typing import Any

import torch

from screen.engine.screen import Screen

ALIGN = 64
ARRAYS, OBJECTS = "arrays.bin", "objects.pickle"


class _Pickler(pickle.Pickler):
    """Weights go where arrays go."""

    def reducer_override(self, obj: object) -> Any:
        if isinstance(obj, torch.nn.Parameter):
            return _parameter, (obj.detach().cpu().numpy(),)
        if isinstance(obj, torch.Tensor):
            return torch.from_numpy, (obj.detach().cpu().numpy(),)
        return NotImplemented


def _parameter(values: Any) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.from_numpy(values), requires_grad=False)


def write_handoff(screen: Screen, folder: Path) -> Path:
    """Writes a screen into a new folder and returns it."""
    folder.mkdir(parents=True)
    places: list[tuple[int, int]] = []
    objects = io.BytesIO()
    with (folder / ARRAYS).open("wb") as arrays:

        def put(buffer: pickle.PickleBuffer) -> None:
            raw = buffer.raw()
            arrays.write(bytes(-arrays.tell() % ALIGN))
            places.append((arrays.tell(), raw.nbytes))
            arrays.write(raw)

        _Pickler(objects, protocol=5, buffer_callback=put).dump(screen)
        # an empty file cannot be mapped
        arrays.write(bytes(ALIGN))
    (folder / OBJECTS).write_bytes(pickle.dumps((places, objects.getvalue())))
    return folder


def read_handoff(folder: Path) -> Screen:
    """The screen of a folder; its arrays are the mapped file, a worker's own only where it writes to them."""
    # written by write_handoff for this very run
    places, objects = pickle.loads((folder / OBJECTS).read_bytes())  # noqa: S301
    with (folder / ARRAYS).open("rb") as arrays:
        view = memoryview(mmap.mmap(arrays.fileno(), 0, access=mmap.ACCESS_COPY))
    screen = pickle.loads(objects, buffers=[view[at : at + size] for at, size in places])  # noqa: S301
    assert isinstance(screen, Screen)
    return screen
