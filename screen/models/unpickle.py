"""Restricted unpickler: builds data, never calls anything that is not on its list.

Tensors, builtin containers and scalars, numpy arrays and scalars are built. Every other name in the pickle becomes an
inert placeholder: the real object is not imported, not called, and its state is thrown away. Real count
checkpoints pickle a whole AnnData into their hyper-parameters, which is why torch's own `weights_only` refuses them.
"""

import pickle
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
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


LARGEST_COMPRESSED = 64 * 2**20
"""Bytes that are unpacked to see whether a file that torch.save did not write carries code."""


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

    if module == "torch._utils" and name in _TENSORS:
        return _TENSORS[name] or getattr(torch._utils, name)
    if module == "torch" and (name.endswith("Storage") or name in ("Size", "device")):
        return getattr(torch, name, None)
    kind = getattr(torch, name, None) if module == "torch" else None
    return kind if isinstance(kind, torch.dtype) else None


class RestrictedUnpickler(pickle._Unpickler):
    """Unpickler whose find_class knows plain data only; state is given to instances, never to a class or a function.

    The Python implementation, because the C one does not let BUILD be refused.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)
    storage_bytes: ClassVar[Mapping[str, int]] = {}
    """Key -> bytes of the storages that tensors may be made of."""

    def load_build(self) -> None:
        """Refuses to set attributes of what `find_class` returned, and dtypes that would lie about their memory."""
        built, state = self.stack[-2:]  # type: ignore[attr-defined]
        if isinstance(built, type | FunctionType | BuiltinFunctionType):
            raise pickle.UnpicklingError(f"state for {built!r}, which is no instance")
        if isinstance(built, np.dtype):
            _check_dtype_state(built, state)
        super().load_build()  # type: ignore[misc]

    dispatch[pickle.BUILD[0]] = load_build

    def load_binpersid(self) -> None:
        """A tensor's storage, which must be as long in the file as the pickle says."""
        _check_storage(self.stack[-1], self.storage_bytes)  # type: ignore[attr-defined]
        super().load_binpersid()  # type: ignore[misc]

    dispatch[pickle.BINPERSID[0]] = load_binpersid

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
    """What torch.load takes as `pickle_module`, for a file with these storages."""

    __name__ = "screen.models.unpickle"

    def __init__(self, storage_bytes: Mapping[str, int]) -> None:
        self.Unpickler = type("Unpickler", (RestrictedUnpickler,), {"storage_bytes": storage_bytes})

    def load(self, file: BinaryIO, **kwargs: Any) -> Any:
        return self.Unpickler(file, **kwargs).load()


def _check_dtype_state(dtype: np.dtype[Any], state: Any) -> None:
    """A pickled dtype's own flags and sizes decide how numpy reads memory: they must be those numpy would give it."""
    if not isinstance(state, tuple) or len(state) not in (8, 9):
        raise pickle.UnpicklingError("a dtype whose state is none")
    _, order, subdtype, names, fields, size, alignment, flags = state[:8]
    honest: np.dtype[Any] = dtype
    if subdtype is not None:
        honest = np.dtype(subdtype)
    elif names is None and fields is None:
        if dtype.kind in "SUV":
            honest = np.dtype(f"{dtype.kind}{size // 4 if dtype.kind == 'U' else size}")
    else:
        formats, offsets = [fields[n][0] for n in names], [fields[n][1] for n in names]
        honest = np.dtype(
            {"names": list(names), "formats": formats, "offsets": offsets, "itemsize": size}, align=bool(flags & 0x80)
        )
    sizes = (-1, -1) if dtype.kind not in "SUV" else (honest.itemsize, honest.alignment)
    if order not in ("<", ">", "|", "=") or (size, alignment) != sizes or flags != honest.flags:
        raise pickle.UnpicklingError(f"a dtype that lies about its memory: {state!r:.200}")


def _check_storage(named: Any, storage_bytes: Mapping[str, int]) -> None:
    """What torch names a storage by: ("storage", type, key, location, number of elements)."""
    kind, storage_type, key, _, n_elements = named
    n_bytes = n_elements * getattr(getattr(storage_type, "dtype", None), "itemsize", 1)
    if kind != "storage" or not isinstance(n_elements, int) or n_bytes != storage_bytes.get(key):
        raise pickle.UnpicklingError(
            f"storage {key!r:.60} is said to have {n_bytes!r:.60} bytes; it has {storage_bytes.get(key, 'none')}"
        )


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *more: Any) -> Any:
    """torch's own, of a tensor that lies within its storage: torch would make the storage larger, or read beyond it."""
    import torch

    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(isinstance(n, int) and 0 <= n < 2**62 for n in numbers):
        raise pickle.UnpicklingError(f"a tensor at {offset!r:.60} of shape {size!r:.60} and strides {stride!r:.60}")
    n_needed = 0 if 0 in size else offset + 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    n_bytes, n_there = n_needed * storage.dtype.itemsize, storage._untyped_storage.nbytes()
    if n_bytes > n_there:
        raise pickle.UnpicklingError(f"a tensor of shape {tuple(size)} needs {n_bytes} bytes; {n_there} are there")
    rebuild: Callable[..., Any] = torch._utils._rebuild_tensor_v2
    return rebuild(storage, offset, size, stride, *more)


def _rebuild_old_tensor(storage: Any, offset: Any, size: Any, stride: Any) -> Any:
    return _rebuild_tensor(storage, offset, size, stride, False, OrderedDict())


_TENSORS: dict[str, Callable[..., Any] | None] = {
    "_rebuild_tensor_v2": _rebuild_tensor,
    "_rebuild_tensor": _rebuild_old_tensor,
    "_rebuild_parameter": None,
}
"""What builds tensors, None where torch's own does."""


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
            parts = archive.infolist()
            if sum(p.file_size for p in parts if p.compress_type != zipfile.ZIP_STORED) > LARGEST_COMPRESSED:
                raise CheckpointError(
                    f"{path} has compressed parts, which torch.save never writes; save it again with it"
                )
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
        if any(p.compress_type != zipfile.ZIP_STORED or p.file_size != p.compress_size for p in parts):
            raise CheckpointError(f"{path} has compressed parts, which torch.save never writes; save it again with it")
        storage_bytes = {key: p.file_size for p in parts for _, _, key in [p.filename.partition("/data/")] if key}
        restricted = RestrictedPickle(storage_bytes)
        return torch.load(path, map_location="cpu", pickle_module=restricted, weights_only=False, mmap=True)
    except CheckpointError:
        raise
    except Exception as problem:
        raise CheckpointError(f"cannot read the checkpoint {path}: {type(problem).__name__}: {problem}") from problem
