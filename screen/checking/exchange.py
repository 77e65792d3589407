"""Exchange: every cell predicted from another cell's source, one of its own stratum."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from screen.cells.bank import SOURCE
from screen.cells.pairing import shuffled
from screen.checking.cells import SEED
from screen.models.registry import Loaded

Ints = NDArray[np.int64]
NOBODY = -1


def partners(stratum_C: Ints, source_C: Ints, steps: int) -> Ints:
    """(C,) for each cell another of its stratum, NOBODY where there is none.

    A stratum's cells stand in a ring in a random order, the same every time, and everyone looks `steps` further; so no
    source serves twice. `source_C` tells which cell of the data each source is: the same one in two pairs is no other.
    """
    partner_C = np.full(len(stratum_C), NOBODY, dtype=np.int64)
    for stratum in np.unique(stratum_C).tolist():
        ring = shuffled(np.flatnonzero(stratum_C == stratum), SEED, "exchange", stratum)
        partner_C[ring] = np.roll(ring, steps)
    partner_C[source_C[partner_C] == source_C] = NOBODY
    return partner_C


def exchanged(loaded: Loaded, partner_C: Ints) -> Loaded:
    """The same cells with their partners' sources; those without a partner keep their own."""
    own_C = np.arange(len(partner_C))
    bank = loaded.bank
    source = bank.take(np.where(partner_C == NOBODY, own_C, partner_C)).states[SOURCE]
    return replace(loaded, bank=replace(bank, states={**bank.states, SOURCE: source}))
