"""ScreenNames: what everything in a screen is called, and the number by which the page speaks of it."""

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from screen.stats.deg import Names

if TYPE_CHECKING:
    from screen.results.results import Results


class ScreenNames:
    """Perturbations, edits (site and mode), genes, strata and time points of a screen, numbered as the store does."""

    def __init__(self, results: "Results") -> None:
        stored = Names(results.store)
        self.ids: list[str] = [str(x) for x in stored.id]
        self.symbols, self.targets = ([str(x) for x in column] for column in (stored.symbol, stored.target))
        self.is_null_P: NDArray[np.bool_] = stored.is_null.astype(bool)
        self.is_named_P: NDArray[np.bool_] = stored.must_screen.astype(bool) & ~self.is_null_P
        edit_P = [f"{site}:{mode}" for site, mode in zip(stored.site, stored.mode, strict=True)]
        self.edits = list(dict.fromkeys(edit_P))
        self.edit_P = np.array([self.edits.index(e) for e in edit_P], dtype=np.int64)
        self.features = [str(x) for x in stored.feature]
        self.feature_symbols = [str(x) for x in stored.feature_symbol]
        self.strata, self.times = results.strata, results.times
        self.number = {x: i for i, x in enumerate(self.ids)}
        self.feature_number = {x: i for i, x in enumerate(self.features)}
        self.gene_of = {symbol: i for i, symbol in reversed(list(enumerate(self.feature_symbols)))}
        """Symbol -> number of the first gene that is called so."""

    def perturbations(self, ids: pl.Series) -> NDArray[np.int64]:
        """Numbers of perturbations by id."""
        return _numbers(ids, self.ids)

    def strata_of(self, names: pl.Series) -> NDArray[np.int64]:
        """Numbers of strata by name."""
        return _numbers(names, self.strata)

    def times_of(self, times: pl.Series) -> NDArray[np.int64]:
        """Numbers of time points."""
        return _numbers(times.cast(pl.Int64), self.times)

    def group(self, perturbation: Any, stratum: Any, time: Any) -> Any:
        """One number for a perturbation, stratum and time point, by theirs."""
        return (perturbation * len(self.strata) + stratum) * len(self.times) + time

    @property
    def n_groups(self) -> int:
        return len(self.ids) * len(self.strata) * len(self.times)

    def json(self) -> dict[str, Any]:
        """As the page's scripts read it."""
        return {
            "perturbations": {
                "id": self.ids, "symbol": self.symbols, "target": self.targets, "edit": self.edit_P.tolist(),
                "isNull": self.is_null_P.astype(int).tolist(),
            },
            "edits": self.edits,
            "genes": {"id": self.features, "symbol": self.feature_symbols},
            "strata": self.strata,
            "times": self.times,
        }  # fmt: skip


def _numbers(values: pl.Series, names: list[Any]) -> NDArray[np.int64]:
    if not len(values):
        return np.zeros(0, dtype=np.int64)
    places = pl.Series(range(len(names)), dtype=pl.Int64)
    return values.replace_strict(pl.Series(names, dtype=values.dtype), places).to_numpy()
