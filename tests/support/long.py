"""What of many cases every run of the tests tries, and what only the long one does."""

from collections.abc import Iterable
from itertools import product
from typing import Any

import pytest


def some_long(values: Iterable[Any], every: int) -> list[Any]:
    """Parameters, all but every so manieth of them marked long."""
    return [pytest.param(v, marks=() if i % every == 0 else pytest.mark.long) for i, v in enumerate(values)]


def combinations(*axes: Iterable[Any], every: int) -> list[Any]:
    """The product of some parameters. `every` shares no factor with the later axes' sizes: each case meets another combination."""
    return [
        pytest.param(*v, id="-".join(map(name_of, v)), marks=() if i % every == 0 else pytest.mark.long)
        for i, v in enumerate(product(*axes))
    ]


def name_of(value: Any) -> str:
    """Of a case, its own name."""
    return str(value["name"]) if isinstance(value, dict) else str(value)
