"""Plotted: what a finished screen says as figures for papers, the methods `plot_...` of Results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import polars as pl

from screen.errors import ConfigError, NothingToDrawError, some
from screen.results import views
from screen.results.sentences import STANDS_OUT, named_group
from screen.stats.hits import KEY
from screen.store.find import find

if TYPE_CHECKING:
    from screen.plots.style import PaperFigure
    from screen.results.results import Results


class Plotted:
    """Figures of matplotlib, 89 or 183 mm wide, in 7 point text: `.savefig("x.pdf")` writes one. They open no window.

    Where several perturbations, strata or time points fit what is asked for, the strongest is drawn, and the title says which.
    All raise GeneError and ConfigError as `Results.differential`, StoreError for what the screen does not hold, and
    NothingToDrawError where nothing is there to be shown.
    """

    @property
    def _all(self) -> Results:
        return cast("Results", self)

    def plot_ranking(self, mode: str | None = None, stratum: str | None = None, time: int | None = None) -> PaperFigure:
        """Strength of every ranked perturbation of a group against its gene's rank position, and against presence.

        Grey squares are null perturbations; diamonds, with names, stand out (q < 0.1); where none does, the strongest are named.

        >>> import screen
        >>> figure = screen.open_results("runs/demo").plot_ranking(mode="overexpress")
        >>> figure.get_suptitle()
        'src:overexpress in CD14+ Monocytes at t1: 4 perturbations'
        """
        from screen.plots.ranking import ranking

        group = self._group(mode, stratum, time)
        rows = self._all.hits.filter(**group)
        ranked = rows.drop_nulls("strength_rank")
        fewest = int(ranked["n_cells"].to_numpy().min())
        nulls = rows.filter(pl.col("is_null"), pl.col("n_cells") >= fewest, pl.col("strength").is_not_null())
        title = f"{_named(group)}: {ranked.height:,} perturbation{'s' * (ranked.height != 1)}"
        return ranking(pl.concat([ranked, nulls]), title, STANDS_OUT, self._all.has_counts)

    def plot_volcano(
        self, perturbation: str, stratum: str | None = None, time: int | None = None, mode: str | None = None
    ) -> PaperFigure:
        """Mean change of every gene by one perturbation against -log10 of its false discovery rate.

        Predictions have no noise: a tiny change can be sure. Look across first, then up.

        >>> import screen
        >>> figure = screen.open_results("runs/demo").plot_volcano("CCL2", mode="mask")
        >>> figure.axes[0].get_ylabel()
        '−log₁₀ FDR'
        """
        from screen.plots.volcano import volcano

        one = self._one(perturbation, stratum, time, mode)
        title = self._title(one)
        genes = self._all.changes_where(*_is(one, "perturbation", "stratum", "time"))
        if genes.is_empty():
            raise NothingToDrawError(
                f"no gene of {title} is in the tables ({self._all.settings}); `perturbscreen deg {self._all.asked_by} --reset top "
                "max_fdr min_delta` keeps all of them"
            )
        if genes["fdr"].drop_nulls().is_empty():
            raise NothingToDrawError(
                f"no gene has a p by {title}, of {one['n_cells']} cell{'s' * (one['n_cells'] != 1)}: there is no volcano; "
                "`.differential(...)` has the mean changes"
            )
        return volcano(genes, title)

    def plot_heatmap(self, mode: str | None = None, stratum: str | None = None, time: int | None = None) -> PaperFigure:
        """The 30 strongest perturbations of a group against the 40 genes that they change most, clustered.

        >>> import screen
        >>> figure = screen.open_results("runs/demo").plot_heatmap(mode="overexpress")
        >>> figure.axes[0].images[0].get_array().shape
        (4, 40)
        """
        from screen.plots.heatmap import heatmap

        self._all.check_counts()
        group = self._group(mode, stratum, time)
        matrix = views.change_matrix(self._all, **group)
        if not matrix.change_PG.size:
            raise NothingToDrawError(
                f"the tables have no gene of {_named(group)} ({self._all.settings}); `perturbscreen deg {self._all.asked_by} "
                "--reset top max_fdr min_delta` keeps all of them"
            )
        title = f"{_named(group)}: the strongest perturbations, and the genes that they change most"
        return heatmap(matrix.change_PG, matrix.symbol_P, matrix.feature_symbol_G, title)

    def plot_cells(
        self, perturbation: str, stratum: str | None = None, time: int | None = None, mode: str | None = None
    ) -> PaperFigure:
        """How strongly every cell answers one perturbation: a strip per stratum and time point, a bar at the median.

        >>> import screen
        >>> figure = screen.open_results("runs/demo").plot_cells("CCL2", mode="mask")
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['CD14+ Monocytes (3)']
        """
        from screen.plots.cells import cells

        one = self._one(perturbation, stratum, time, mode)
        rows = self._all.cells(one["perturbation"], stratum, time)
        there = set(rows["stratum"].to_list())
        strata = [s for s in self._all.strata if s in there]
        title = f"{one['target_symbol']}, {one['site']}:{one['mode']}"
        return cells(rows, title, strata, sorted(set(rows["time"].to_list())), self._all.has_counts)

    def plot_times(
        self, mode: str | None = None, stratum: str | None = None, first: int | None = None, second: int | None = None
    ) -> PaperFigure:
        """Strength of every perturbation of a group at one time point against another; without saying which, first and last.

        >>> import screen
        >>> screen.open_results("runs/demo").plot_times()
        Traceback (most recent call last):
        ...
        screen.errors.NothingToDrawError: the screen reads out one time point, t1: two are needed to be compared
        """
        from screen.plots.times import times

        there = self._all.times
        if len(there) < 2:
            raise NothingToDrawError(f"the screen reads out one time point, t{there[0]}: two are needed to be compared")
        pair = (there[0] if first is None else first, there[-1] if second is None else second)
        for time in pair:
            self._all.check_place(stratum, time)
        if pair[0] == pair[1]:
            raise ConfigError(f"time point {pair[0]} is given twice; there are {some(there, 20)}")
        group = self._group(mode, stratum, None)
        place = {k: group[k] for k in ("mode", "site", "stratum")}
        rows = self._all.hits.filter(**place).filter(pl.col("strength_rank").is_not_null() | pl.col("is_null"))
        title = f"{group['site']}:{group['mode']} in {group['stratum']}"
        return times(rows, title, *pair, self._all.has_counts)

    def plot_gene(
        self, gene: str, stratum: str | None = None, time: int | None = None, mode: str | None = None, n: int = 20
    ) -> PaperFigure:
        """What moves a gene: the n perturbations that change it most, as bars; `movers` is the table.

        >>> import screen
        >>> screen.open_results("runs/demo").plot_gene("LYZ", mode="overexpress").get_suptitle()
        'what moves LYZ: overexpress, CD14+ Monocytes, t1'
        """
        from screen.plots.genes import gene as bars

        rows = self._all.movers(gene, stratum, time, mode, n).drop_nulls("mean_delta")
        if rows.is_empty():
            raise NothingToDrawError(
                f'the tables have no row of "{gene}" as asked for ({self._all.settings}): nothing changes it, or settings leave it '
                f"out; `perturbscreen deg {self._all.asked_by} --reset top max_fdr min_delta` keeps all rows"
            )
        symbols = rows["feature_symbol"].cast(pl.String).unique(maintain_order=True).to_list()
        parts = (("mode", ""), ("stratum", ""), ("time", "t"))
        same = [f"{t}{rows[c][0]}" for c, t in parts if rows[c].n_unique() == 1]
        return bars(rows, f"what moves {', '.join(symbols)}{': ' * bool(same)}{', '.join(same)}")

    def plot_gene_sets(
        self, perturbation: str, stratum: str | None = None, time: int | None = None, mode: str | None = None
    ) -> PaperFigure:
        """The gene sets that one perturbation shifts farthest, beside what null perturbations do to the same sets.

        >>> import screen
        >>> screen.open_results("runs/demo").plot_gene_sets("CCL2", mode="mask").get_suptitle()
        'CCL2, src:mask in CD14+ Monocytes at t1'
        """
        from screen.plots.gene_sets import gene_sets

        if not self._all.has_gene_sets:
            # says how to test them
            self._all.gene_sets()
        one = self._one(perturbation, stratum, time, mode)
        rows = self._all.gene_sets(one["perturbation"], one["stratum"], one["time"]).drop_nulls("score")
        if rows.is_empty():
            raise NothingToDrawError(
                f"no gene set was tested for {self._title(one)}; `.gene_sets()` has those that were"
            )
        return gene_sets(rows, self._title(one), STANDS_OUT)

    def _group(self, mode: str | None, stratum: str | None, time: int | None) -> dict[str, Any]:
        """Mode, site, stratum and time point of the strongest ranked perturbation of those asked for."""
        self._all.check_place(stratum, time)
        if mode is not None:
            find(self._all.store, mode=mode)
        wanted = {k: v for k, v in {"mode": mode, "stratum": stratum, "time": time}.items() if v is not None}
        groups = views.groups_of(self._all).filter(**wanted)
        if groups.is_empty():
            asked = ", ".join(f"{k} {v}" for k, v in wanted.items()) or "the screen"
            raise NothingToDrawError(
                f"no perturbation of {asked} has a rank: none is in {self._all.min_cells} cells or more; "
                "`.coverage` says in how many each is"
            )
        return groups.row(0, named=True)

    def _one(self, perturbation: str, stratum: str | None, time: int | None, mode: str | None) -> dict[str, Any]:
        """The row of the ranking of the strongest perturbation, stratum and time point of those asked for, ranked ones first."""
        self._all.check_place(stratum, time)
        numbers = find(self._all.store, perturbation, mode)
        ids = self._all.store.perturbations("id")[numbers].tolist()
        wanted = {k: v for k, v in {"stratum": stratum, "time": time}.items() if v is not None}
        rows = self._all.hits.filter(pl.col("perturbation").is_in(ids), pl.col("strength").is_not_null()).filter(
            **wanted
        )
        if rows.is_empty():
            where = f" ({', '.join(f'{k} {v}' for k, v in wanted.items())})" if wanted else ""
            raise NothingToDrawError(f'no cell{where} allows "{perturbation}"; `.coverage` says why not')
        ranked = rows.drop_nulls("strength_rank")
        return (rows if ranked.is_empty() else ranked).row(0, named=True)

    def _title(self, one: dict[str, Any]) -> str:
        return f"{one['target_symbol']}, {_named(one)}"


def _named(group: dict[str, Any]) -> str:
    return named_group(tuple(group[k] for k in KEY))


def _is(one: dict[str, Any], *columns: str) -> list[pl.Expr]:
    return [pl.col(c) == one[c] for c in columns]
