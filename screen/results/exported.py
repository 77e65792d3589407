"""What of a finished screen is exported, in the words of whoever asks."""

from collections.abc import Sequence

from screen.errors import ConfigError, nearest, some
from screen.stats.groups import Strata
from screen.stats.tables import strata_of
from screen.store.lines import Wanted
from screen.store.reader import StoreReader


def wanted_of(
    store: StoreReader,
    names: Sequence[str] = (),
    mode: str | None = None,
    stratum: str | None = None,
    time: int | None = None,
    strata: Strata | None = None,
) -> Wanted:
    """The choice, with the cells of the stratum; `strata`: those of the tables, by default of the first ones.

    Raises ConfigError for a stratum that is not there, naming what is; names, mode and time are looked up by the export.
    """
    if stratum is None:
        return Wanted(tuple(names), mode, None, time)
    view = store.provenance["view"]
    strata = strata_of(store, view["strata"], None, view.get("where")) if strata is None else strata
    if stratum not in strata.name_S:
        there = f"there are {some(strata.name_S, 20)}{nearest(stratum, strata.name_S)}"
        raise ConfigError(f'no stratum "{stratum}"; {there}')
    return Wanted(tuple(names), mode, stratum, time, strata.stratum_C == strata.name_S.index(stratum))
