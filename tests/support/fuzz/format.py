"""Format: small valid files, what can be done to them, and the reading that must refuse them or be right."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Damage = Callable[[Path, random.Random], str]


@dataclass(frozen=True)
class Format:
    """make: writes valid files into a folder; damage: changes one of them; read: uses them, raising what it raises.

    share   of the time that all formats have together
    """

    make: Callable[[Path], object]
    damage: Damage
    read: Callable[[Path], object]
    share: float
