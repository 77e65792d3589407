"""Restricted unpickler: builds data, never calls anything that is not on its list.

Tensors, builtin containers and scalars, numpy arrays and scalars are built. Every other name in the pickle becomes an
inert placeholder: the real object is not imported, not called, and its state is thrown away. Real count
checkpoints pickle a whole AnnData into their hyper-parameters, which is why torch's own `weights_only` refuses them.
"""

import pickle
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any, BinaryIO, ClassVar

import numpy as np
from numpy._core import multiarray, numeric

from screen.errors import CheckpointError, RequestError

_BUILTINS: dict[str, Any] = {
    t.__name__: t
    for t in (dict, list, set, frozenset, tuple, int, float, complex, bool, str, bytes, bytearray, slice, range)
}
_PYTHON2 = {"xrange": "range", "unicode": "str", "long": "int"}
_COLLECTIONS: dict[str, Any] = {
    "OrderedDict": OrderedDict,
    "defaultdict": defaultdict,
    "Counter": Counter,
    "deque": deque,
}
_NUMPY_TYPES = ("ndarray", "dtype")


class Placeholder:
    """Stands for whatever a pickle names that is not plain data. Accepts every construction and keeps nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> "Placeholder":
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __call__(self, *args: object, **kwargs: object) -> "Placeholder":
        return Placeholder()

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, item: object) -> None:
        """Ignores the item."""

    def extend(self, items: object) -> None:
        """Ignores the items."""

    def add(self, item: object) -> None:
        """Ignores the item."""


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """What old pickles use to spell bytes; only the one encoding they use."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"unexpected encoding {encoding!r}")
    return text.encode("latin1")


def _numpy_global(module: str, name: str) -> Any:
    if module == "numpy" and (name in _NUMPY_TYPES or isinstance(getattr(np, name, None), type)):
        kind = getattr(np, name)
        return kind if name in _NUMPY_TYPES or issubclass(kind, np.generic) else None
    if module == "numpy.dtypes":
        kind = getattr(np.dtypes, name, None)
        return kind if isinstance(kind, type) and issubclass(kind, np.dtype) else None
    if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in ("_reconstruct", "scalar"):
        return getattr(multiarray, name)
    if module in ("numpy.core.numeric", "numpy._core.numeric") and name == "_frombuffer":
        return getattr(numeric, name)
    return None


def _torch_global(module: str, name: str) -> Any:
    if module not in ("torch", "torch._utils", "torch.serialization"):
        return None
    import torch

    if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor", "_rebuild_parameter"):
        return getattr(torch._utils, name)
    if module == "torch" and (name.endswith("Storage") or name in ("Size", "device")):
        return getattr(torch, name, None)
    kind = getattr(torch, name, None) if module == "torch" else None
    return kind if isinstance(kind, torch.dtype) else None


class RestrictedUnpickler(pickle._Unpickler):
    """Unpickler whose find_class knows plain data only; state is given to instances, never to a class or a function.

    The Python implementation, because the C one does not let BUILD be refused.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def load_build(self) -> None:
        """Refuses to set attributes of what `find_class` returned."""
        if isinstance(self.stack[-2], type | FunctionType | BuiltinFunctionType):  # type: ignore[attr-defined]
            raise pickle.UnpicklingError(f"state for {self.stack[-2]!r}, which is no instance")  # type: ignore[attr-defined]
        super().load_build()  # type: ignore[misc]

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> Any:
        found: Any = None
        if module in ("builtins", "__builtin__"):
            found = _BUILTINS.get(_PYTHON2.get(name, name))
        elif module == "collections":
            found = _COLLECTIONS.get(name)
        elif module == "_codecs" and name == "encode":
            found = _encode
        elif module.startswith("numpy"):
            found = _numpy_global(module, name)
        elif module.startswith("torch"):
            found = _torch_global(module, name)
        return Placeholder if found is None else found


class RestrictedPickle:
    """What torch.load takes as `pickle_module`."""

    Unpickler = RestrictedUnpickler
    __name__ = "screen.models.unpickle"

    @staticmethod
    def load(file: BinaryIO, **kwargs: Any) -> Any:
        return RestrictedUnpickler(file, **kwargs).load()


def load_pickle(path: Path, error: type[RequestError]) -> Any:
    """The plain data in a pickle file. Raises `error` if it cannot be read."""
    try:
        with path.open("rb") as handle:
            return RestrictedUnpickler(handle).load()
    except OSError as problem:
        raise error(f"cannot read {path}: {problem.strerror}") from problem
    except Exception as problem:
        raise error(f"{path} is not a readable pickle of plain data ({type(problem).__name__}: {problem})") from problem


def load_torch(path: Path) -> Any:
    """What `torch.save` wrote, on the CPU, memory-mapped. Raises CheckpointError for a damaged or foreign file."""
    import torch

    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    with path.open("rb") as handle:
        is_old = handle.read(1) == b"\x80"
    if is_old:
        raise CheckpointError(
            f"{path} is in torch's old format (before 1.6); load it there and write it with torch.save again"
        )
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path} is not a torch checkpoint, or is truncated (no zip directory in {path.stat().st_size} bytes)"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(
                f"{path} is damaged: the checksum of its part {damaged} is wrong; copy it again, or save it again if it was "
                "written without checksums"
            )
        if any(
            n.split("/")[0] == "code" or n == "constants.pkl"
            for n in torch._C.PyTorchFileReader(str(path)).get_all_records()
        ):
            raise CheckpointError(
                f"{path} is a TorchScript archive, which carries code; save its state_dict with torch.save"
            )
        return torch.load(path, map_location="cpu", pickle_module=RestrictedPickle, weights_only=False, mmap=True)
    except CheckpointError:
        raise
    except Exception as problem:
        raise CheckpointError(f"cannot read the checkpoint {path}: {type(problem).__name__}: {problem}") from problem
