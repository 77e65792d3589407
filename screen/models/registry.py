"""Registry: which families of models there are. A family is a folder of `screen.models` and a line here.

A family of another package says so by an entry point of the group `perturbscreen.models`: its name is what
`model: {kind: ...}` says, its value the module that `Family` describes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from screen.cells.bank import TokenBank
from screen.cells.vocabulary import Vocabulary
from screen.config.screen_config import ScreenConfig
from screen.errors import ConfigError, nearest, some
from screen.models.adapter import ModelAdapter
from screen.models.synthetic import SyntheticSizes
from screen.planning.window import Window

FAMILIES = {"perturbgen": "screen.models.perturbgen.family"}
DEFAULT = "perturbgen"
"""The family of a configuration that does not say `model: {kind: ...}`."""
GROUP = "perturbscreen.models"


@dataclass(frozen=True)
class Loaded:
    """A model and the cells that it is to predict, read and checked against each other.

    window      which states are read and read out, and how much of each row
    conditions  time point -> (C, N) condition ids in front of each cell's row; empty for a model without
    notes       what the user should know
    """

    adapter: ModelAdapter
    vocabulary: Vocabulary
    bank: TokenBank
    window: Window
    conditions: Mapping[int, NDArray[np.int64]]
    notes: Sequence[str] = ()


class Family(Protocol):
    """What the module of a family holds. Only `load` is needed."""

    def load(self, config: ScreenConfig) -> Loaded:
        """Reads what the configuration names, in the family's own order. Raises RequestError."""


class ForeignFamily(Protocol):
    """What a family's module may hold besides, where the family has a configuration format of its own."""

    def is_foreign(self, raw: Mapping[str, Any]) -> bool:
        """Whether a YAML file is of that format."""

    def from_foreign(self, raw: Mapping[str, Any], path: Path) -> ScreenConfig:
        """The screen that it describes. Raises ConfigError."""


class SyntheticFamily(Protocol):
    """What a family's module may hold besides, so that it can be measured without a checkpoint."""

    def synthetic(self, sizes: SyntheticSizes, window: Window, seed: int, model: nn.Module | None) -> ModelAdapter:
        """An adapter of a random model of these sizes, or of the model given."""


def family(kind: str | None) -> Family:
    """The family of a kind, imported now. Raises ConfigError naming those that there are."""
    name = kind or DEFAULT
    places = {**{e.name: e.value for e in entry_points(group=GROUP)}, **FAMILIES}
    if name not in places:
        raise ConfigError(f'model.kind is "{name}"; there are {some(sorted(places), 20)}{nearest(name, places)}')
    return cast(Family, import_module(places[name]))


def load(config: ScreenConfig) -> Loaded:
    """Model, vocabulary and cells of a configuration. Raises RequestError."""
    return family(config.model.kind).load(config)


def foreign_family(raw: Mapping[str, Any]) -> ForeignFamily | None:
    """The family whose own configuration format a YAML file is of, None for ours."""
    for place in FAMILIES.values():
        found = import_module(place)
        if hasattr(found, "is_foreign") and found.is_foreign(raw):
            return cast(ForeignFamily, found)
    return None


def synthetic_adapter(
    sizes: SyntheticSizes, window: Window, seed: int = 0, model: nn.Module | None = None, kind: str | None = None
) -> ModelAdapter:
    """A random model of a family, or the one given, with the settings of a screen."""
    return cast(SyntheticFamily, family(kind)).synthetic(sizes, window, seed, model)
