"""Which backend runs: the one rule."""

from functools import cache
from importlib.util import find_spec
from typing import Literal

from torch import Tensor

Backend = Literal["triton", "torch"]
BACKENDS: tuple[Backend, ...] = ("triton", "torch")


@cache
def has_triton() -> bool:
    """True where Triton is installed; it is not imported."""
    return find_spec("triton") is not None


def choose(tensor: Tensor, requested: str | None = None) -> Backend:
    """What was requested, else "triton" if the tensor is on a CUDA device and Triton is installed, else "torch".

    Raises ValueError for a request that is no backend.
    """
    for name in BACKENDS:
        if requested == name:
            return name
    if requested is not None:
        raise ValueError(f'backend is "{requested}"; allowed: {", ".join(BACKENDS)}, or None to let the device decide')
    return "triton" if tensor.is_cuda and has_triton() else "torch"
