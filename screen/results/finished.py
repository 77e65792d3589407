"""Finished: the files of a finished screen, or of an analysis of it: what each says, read when it is asked for."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from screen.directory import (
    BACKGROUND,
    CHECK,
    CHECKS,
    COVERAGE,
    EVALUATION,
    EVALUATION_SUMMARY,
    GENES,
    HITS,
    PARTS,
    SCORES,
    SESSIONS,
)
from screen.directory import described as described_files
from screen.errors import ConfigError, StoreError, nearest, some
from screen.stats.again import analysis
from screen.stats.deg import Names
from screen.stats.groups import Strata
from screen.stats.tables import described_view, read_table, strata_of
from screen.store.find import find
from screen.store.store import ScreenStore


class Finished:
    """Tables and facts of a directory whose screen is finished; `Results` is this in the words of whoever asks."""

    def __init__(self, directory: Path, store: ScreenStore, view: Mapping[str, Any] | None = None) -> None:
        self.directory = directory
        self.store = store
        """Every prediction and change as they are stored, opened to be read."""
        self.view: Mapping[str, Any] = store.provenance["view"] if view is None else view
        """How the tables present the results: the recorded settings."""
        self.name: str | None = None if view is None else view["name"]
        """Of the analysis; None for the first tables."""
        self.tables = directory if self.name is None else analysis.place(directory, self.name)
        """The folder that the tables lie in."""

    @property
    def asked_by(self) -> str:
        """What `perturbscreen deg` is given to make these tables again."""
        return str(self.directory) if self.name is None else f"{self.directory} --name {self.name}"

    @property
    def analyses(self) -> list[str]:
        """Names of the tables that were asked for later, each opened by `screen.open_results(DIR, name=...)`."""
        return analysis.names(self.directory)

    @cached_property
    def hits(self) -> pl.DataFrame:
        """One row per perturbation, stratum and time point, strongest first; columns: `screen.stats.hits.SCHEMA`."""
        return self._read(HITS)

    @cached_property
    def coverage(self) -> pl.DataFrame:
        """What became of every cell: a row per perturbation and stratum, numbers of cells.

        n_stratum = n_screened + n_absent (gene not expressed) + n_truncated (beyond the model's longest row) + n_emptied
        (nothing left to predict from). Of an analysis, a reason is null where the store does not tell which cells it was.
        """
        return self._read(COVERAGE)

    @property
    def provenance(self) -> dict[str, Any]:
        """What the screen was made of and with: fingerprints, versions, notes, and each library block's configuration."""
        return self.store.history

    @cached_property
    def sessions(self) -> list[dict[str, Any]]:
        """What each `run` computed: started, elapsed_s, edits, tokens, padding, executor; [] where no file says."""
        try:
            lines = (self.directory / SESSIONS).read_text(encoding="utf-8").splitlines()
            found = [json.loads(line) for line in lines]
        except (OSError, ValueError):
            return []
        counted = ("elapsed_s", "edits", "tokens", "padding")
        return [s for s in found if isinstance(s, dict) and all(isinstance(s.get(n), int | float) for n in counted)]

    @cached_property
    def check(self) -> dict[str, Any] | None:
        """What `perturbscreen check` found of this screen's model, docs/check.md; None where no file says, or of another model.

        `screen.results.checked.described_check` says it in words.
        """
        try:
            found = json.loads((self.directory / CHECKS / CHECK).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        is_of_this = isinstance(found, dict) and found.get("model") == self.provenance["identity"]["model"]
        return found if is_of_this else None

    @cached_property
    def evaluation(self) -> dict[str, Any] | None:
        """What `perturbscreen evaluate` said of these tables when it was asked, docs/evaluate.md; None where no file says.

        summary: the lines that it printed; the others are the facts of `screen.evaluate.evaluation.Evaluation`.
        """
        try:
            found = json.loads((self.tables / EVALUATION_SUMMARY).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and isinstance(found.get("summary"), list) else None

    def evaluated(self, table: str) -> pl.DataFrame | None:
        """A table of that evaluation: "screen", "profiles", "perturbations" or "expected"; None where there was nothing to say.

        Raises StoreError where it is damaged.
        """
        path = self.tables / EVALUATION / f"{table}.parquet"
        try:
            return read_table(path) if path.is_file() else None
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise StoreError(f"cannot read {path} ({reason}); `perturbscreen evaluate` makes it again") from error

    @property
    def strata(self) -> list[str]:
        """Groups of cells, by `output.strata`; ["all"] without."""
        return self.coverage["stratum"].unique(maintain_order=True).to_list()

    @cached_property
    def cell_strata(self) -> Strata:
        """The group of each cell, by number; -1 for a cell that is in none."""
        return strata_of(self.store, self.view["strata"], None, self.view.get("where"))

    @property
    def times(self) -> list[int]:
        """Time points that are read out; [0] for the source itself."""
        return list(self.store.layout.pred_tps)

    @property
    def has_counts(self) -> bool:
        """Whether the model predicts counts; without, there is no table of genes and of gene sets."""
        return self.store.layout.has_counts

    @property
    def min_cells(self) -> int:
        """A perturbation in fewer cells has no rank."""
        return int(self.view["min_cells"])

    @property
    def settings(self) -> str:
        """How the tables present the results, in words."""
        return described_view(self.view)

    @property
    def files(self) -> str:
        """What the directory holds, in a line."""
        return described_files(self.tables, self.has_counts, self.has_gene_sets)

    @property
    def unscreened(self) -> pl.DataFrame:
        """Perturbations that were asked for and that no cell allows, with numbers of cells; `coverage` has the strata."""
        numbers = ["n_absent", "n_truncated", "n_emptied"]
        names = Names(self.store)
        asked = pl.DataFrame({"perturbation": names.id.tolist(), "target_symbol": names.symbol.tolist()}).filter(
            names.must_screen
        )
        # of an analysis not every number may be known
        tallies = [pl.when(pl.col(n).null_count() == 0).then(pl.col(n).sum()).alias(n) for n in numbers]
        total = self.coverage.group_by("perturbation").agg(pl.col("n_screened").sum(), *tallies)
        lost = total.filter(n_screened=0).drop("n_screened")
        return asked.join(lost, on="perturbation", maintain_order="left")

    def changes_where(self, *chosen: pl.Expr, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Rows of the table of genes that fulfil conditions, read where they are; `columns`: these alone.

        Raises StoreError for a screen without counts.
        """
        self.check_counts()
        return self._rows(f"{GENES}/{PARTS}", chosen, columns)

    def check_place(self, stratum: str | None, time: int | None) -> None:
        """Raises ConfigError for a stratum or time point that is not there, naming what is."""
        if stratum is not None and stratum not in self.strata:
            near = nearest(stratum, self.strata)
            raise ConfigError(f'no stratum "{stratum}"; there are {some(self.strata, 20)}{near}')
        if time is not None and time not in self.times:
            raise ConfigError(f"no time point {time}; there are {some(self.times, 20)}")

    @property
    def has_gene_sets(self) -> bool:
        """Whether gene sets were tested."""
        return (self.tables / SCORES).is_file()

    @property
    def has_relations(self) -> bool:
        """Whether it was asked what perturbations have to do with each other."""
        return self.has_counts and (self.tables / BACKGROUND).is_file()

    @property
    def compared_times(self) -> list[tuple[int, int]]:
        """Pairs of time points that were compared, (before, after)."""
        return [(int(before), int(after)) for before, after in self.view["deg"].get("compare", [])]

    def _read(self, name: str) -> pl.DataFrame:
        try:
            return read_table(self.tables / name)
        except (OSError, ValueError) as error:
            raise self._damaged(name, error) from error

    def _damaged(self, name: str, error: Exception) -> StoreError:
        reason = str(error).partition("\n")[0]
        is_first = name == COVERAGE and self.name is None
        command = f"run CONFIG --out {self.directory}" if is_first else f"deg {self.asked_by}"
        return StoreError(
            f"cannot read {self.tables / name} ({reason}); remove it, then `perturbscreen {command}` makes it again"
        )

    def rows_of(
        self, files: str, perturbation: str | None, stratum: str | None, time: int | None, mode: str | None
    ) -> pl.DataFrame:
        """The rows of a table that are asked for, after a look at whether they can be there."""
        self.check_place(stratum, time)
        wanted = {"stratum": stratum, "time": time, "mode": mode}
        chosen = [pl.col(column) == value for column, value in wanted.items() if value is not None]
        if perturbation is not None or mode is not None:
            ids = self.store.perturbations("id")[find(self.store, perturbation, mode)]
            chosen += [] if perturbation is None else [pl.col("perturbation").is_in(ids.tolist())]
        return self._rows(files, chosen)

    def _rows(self, files: str, chosen: Sequence[pl.Expr], columns: Sequence[str] | None = None) -> pl.DataFrame:
        return self.asked(files, lambda rows: rows.filter(*chosen).select(pl.all() if columns is None else columns))

    def asked(self, files: str, question: Callable[[pl.LazyFrame], pl.LazyFrame]) -> pl.DataFrame:
        """What a question to all parts of a table gives, answered where they are. Raises StoreError where one is damaged."""
        paths = sorted(self.tables.glob(files))
        if not paths:
            raise self._damaged(files, FileNotFoundError("it is not there"))
        try:
            return question(pl.scan_parquet(paths, glob=False)).collect()
        except (OSError, pl.exceptions.PolarsError) as error:
            raise self._damaged(files, error) from error

    def check_counts(self) -> None:
        """Raises StoreError where the model predicts no counts."""
        if not self.has_counts:
            raise StoreError(
                f"{self.directory} has no table of genes: its model predicts embeddings only; `hits` has the shift of each "
                "perturbation"
            )
