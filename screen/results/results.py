"""Results: a finished screen, by its directory: the only place that reads what `run` wrote there."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from screen.directory import (
    CHECK,
    CHECKS,
    COVERAGE,
    GENE_SETS,
    GENES,
    HITS,
    PARTS,
    RANKED,
    SCORES,
    SESSIONS,
    STAMP,
    STORE,
    TARGETS,
)
from screen.directory import described as described_files
from screen.errors import ConfigError, RequestError, StoreError, nearest, some
from screen.results import related, views
from screen.results.plotted import Plotted
from screen.results.sentences import described_results
from screen.stats.deg import Names
from screen.stats.tables import described_view, read_table
from screen.store.find import find
from screen.store.store import ScreenStore

GENE_SET_TABLES = {"scores": SCORES, "changed": f"{GENE_SETS}/{PARTS}", "targets": TARGETS, "ranked": RANKED}
"""What the tables of gene sets are called here -> their files."""


def open_results(directory: str | Path) -> "Results":
    """The results of a finished screen, by the directory that `run` wrote. Reads no table yet, and needs no torch.

    Raises StoreError where there is no screen, or one that is not finished: it says how far it is.

    >>> import screen
    >>> results = screen.open_results("runs/demo")
    >>> results.hits.columns[:4]
    ['strength_rank', 'perturbation', 'target', 'target_symbol']
    """
    directory = Path(directory)
    store = ScreenStore.open(directory / STORE)
    if not store.is_complete:
        raise StoreError(
            f"{directory} is unfinished: {store.n_committed} of {store.n_units} units are done; the same "
            "`perturbscreen run` (screen.run) continues it"
        )
    if not (directory / STAMP).is_file():
        raise StoreError(
            f"{directory} has every result, but its tables are not whole; `perturbscreen deg {directory}` or the same "
            "`perturbscreen run` makes them"
        )
    return Results(directory, store)


class Results(Plotted):
    """A finished screen: `open_results(DIR)` and `run(...)` give one. Tables are polars frames, read when asked for.

    >>> import screen
    >>> results = screen.open_results("runs/demo")
    >>> results
    Results of runs/demo
      8 perturbations (mask 4, overexpress 4) of 8 cells in 1 stratum, time point 1: 49 edits
      ...
      strongest by overexpress: CCL2 ...
    >>> results.hits.filter(strength_rank=1).select("mode", "target_symbol", "n_cells").rows()
    [('overexpress', 'CCL2', 8), ('mask', 'CD14', 6)]
    >>> results.differential("CCL2", mode="mask").select("perturbation", "n_cells", "time").unique().rows()
    [('src:mask:ENSG00000108691', 3, 1)]
    >>> results.differential("CCL3")
    Traceback (most recent call last):
    ...
    screen.errors.GeneError: "CCL3" was not perturbed in this screen (4 genes were; see the hits); did you mean "CCL2"?
    >>> results.movers("LYZ", n=1).select("feature_symbol", "n_cells").rows()
    [('LYZ', 8)]
    >>> results.cells("CCL2", mode="mask").columns[5:9]
    ['stratum', 'time', 'cell', 'cell_idx']
    >>> results.gene_sets("CCL2", mode="mask").columns[7:10]
    ['collection', 'gene_set', 'n_set']
    >>> results.relations("targets", "CCL2", mode="mask").select("feature_symbol", "expected", "is_as_expected").rows()
    [('CCL2', -1, True)]
    >>> results.null_z("CCL2", mode="mask").columns[-4:]
    ['share_top', 'null_mean', 'null_sd', 'null_z']
    >>> results.strength_intervals(mode="mask").filter(target_symbol="CD14").select("rank_low", "rank_high").rows()
    [(1, 1)]
    >>> results.coverage.filter(perturbation="src:mask:ENSG00000108691").select("n_screened", "n_absent").rows()
    [(3, 5)]
    >>> results.provenance["decided"]["precision"]
    'float32'
    >>> results.anndata("CCL2", mode="mask").obs["target_gene"].unique().tolist()
    ['CCL2']
    """

    def __init__(self, directory: Path, store: ScreenStore) -> None:
        self.directory = directory
        self.store = store
        """Every prediction and change as they are stored, opened to be read."""

    @cached_property
    def hits(self) -> pl.DataFrame:
        """One row per perturbation, stratum and time point, strongest first; columns: `screen.stats.hits.SCHEMA`."""
        return self._read(HITS)

    @cached_property
    def coverage(self) -> pl.DataFrame:
        """What became of every cell: a row per perturbation and stratum, numbers of cells.

        n_stratum = n_screened + n_absent (gene not expressed) + n_truncated (beyond the model's longest row) + n_emptied
        (nothing left to predict from).
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

    @property
    def strata(self) -> list[str]:
        """Groups of cells, by `output.strata`; ["all"] without."""
        return self.coverage["stratum"].unique(maintain_order=True).to_list()

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
        return int(self.store.provenance["view"]["min_cells"])

    @property
    def settings(self) -> str:
        """How the tables present the results, in words."""
        return described_view(self.store.provenance["view"])

    @property
    def files(self) -> str:
        """What the directory holds, in a line."""
        return described_files(self.directory, self.has_counts, self.has_gene_sets)

    @property
    def unscreened(self) -> pl.DataFrame:
        """Perturbations that were asked for and that no cell allows, with numbers of cells; `coverage` has the strata."""
        numbers = ["n_absent", "n_truncated", "n_emptied"]
        names = Names(self.store)
        asked = pl.DataFrame({"perturbation": names.id.tolist(), "target_symbol": names.symbol.tolist()}).filter(
            names.must_screen
        )
        total = self.coverage.group_by("perturbation").agg(pl.col("n_screened", *numbers).sum())
        lost = total.filter(n_screened=0).drop("n_screened")
        return asked.join(lost, on="perturbation", maintain_order="left")

    def differential(
        self,
        perturbation: str | None = None,
        stratum: str | None = None,
        time: int | None = None,
        mode: str | None = None,
    ) -> pl.DataFrame:
        """What happens to every gene: a row per gene, perturbation, stratum and time point; `screen.stats.deg.SCHEMA`.

        perturbation  a gene's symbol or Ensembl ID (all edits of it), joint ones as "A+B", or a perturbation's id; None: all,
                      which may not fit in memory: `screen.stats.deg.scan(DIR)` is the same, lazily
        stratum, time, mode  one of these only
        Empty where no cell allows the perturbation (`coverage` says why), or where `deg.top` or thresholds leave nothing.
        Raises GeneError for a gene or mode that is not there, ConfigError for such a stratum or time point, each naming
        what is; StoreError for a screen without counts.
        """
        self.check_counts()
        return self.collect(f"{GENES}/{PARTS}", perturbation, stratum, time, mode)

    def movers(
        self, gene: str, stratum: str | None = None, time: int | None = None, mode: str | None = None, n: int = 20
    ) -> pl.DataFrame:
        """What moves a gene: the n perturbations, strata and time points in which it changes most, strongest first.

        gene  a symbol or Ensembl ID of any gene that the model predicts, perturbed or not
        stratum, time, mode  one of these only
        Columns: those of `differential` that say how much, and of `hits` the perturbation's strength_rank, q_value and is_null.
        Perturbations in fewer than `min_cells` cells are left out, unless all are.
        Raises GeneError, ConfigError and StoreError as `differential`.
        """
        return views.movers(self, gene, stratum, time, mode, n)

    def cells(
        self,
        perturbation: str | None = None,
        stratum: str | None = None,
        time: int | None = None,
        mode: str | None = None,
    ) -> pl.DataFrame:
        """What happens to every cell: a row per perturbation, cell and time point; `screen.results.views.CELLS_SCHEMA`.

        strength is the root mean square over genes of this cell's change, embedding_shift 1 - cosine to its own control.
        Arguments and errors are those of `differential`; embeddings-only screens have it too.
        """
        return views.cells(self, perturbation, stratum, time, mode)

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
        return (self.directory / SCORES).is_file()

    def gene_sets(
        self,
        perturbation: str | None = None,
        stratum: str | None = None,
        time: int | None = None,
        mode: str | None = None,
        table: str = "scores",
    ) -> pl.DataFrame:
        """A table of gene sets (`screen.stats.enrich` has the columns); the first arguments are those of `differential`.

        table  "scores": how far each perturbation shifts each set, beside what null perturbations do; "changed": sets among
               the genes that it changes; "targets": sets of the strongest perturbations' own genes (of no single
               perturbation); "ranked": running-sum tests of the strongest, where `enrich.ranked` asked for them
        Raises StoreError where no gene sets, or no such tests, were asked for; otherwise as `differential`.
        """
        if table not in GENE_SET_TABLES:
            raise ConfigError(
                f'no table "{table}" of gene sets; there are {some(GENE_SET_TABLES)}{nearest(table, GENE_SET_TABLES)}'
            )
        if not self.has_gene_sets:
            raise StoreError(
                f"no gene sets were tested in {self.directory}; `perturbscreen deg {self.directory} --gene-sets FILE.gmt` does"
            )
        if table == "ranked" and not (self.directory / RANKED).is_file():
            raise StoreError(f"no running-sum tests were asked for in {self.directory}; `enrich: {{ranked: N}}` does")
        if table == "targets" and perturbation is not None:
            raise ConfigError('the table "targets" is of no single perturbation; leave it out, or take another table')
        return self.collect(GENE_SET_TABLES[table], perturbation, stratum, time, mode)

    @cached_property
    def shifted(self) -> pl.DataFrame | None:
        """For each perturbation the gene set that it shifts most, what can be believed most first; None without gene sets.

        By q, then by distance from the null; where there is no null, by score.
        """
        if not self.has_gene_sets:
            return None
        far = [-pl.col(name).abs() for name in ("null_z", "score")]
        by = [pl.col("q_value"), *far, pl.col("perturbation"), pl.col("gene_set")]
        table = self.gene_sets().sort(by, nulls_last=True)
        return table.unique(["perturbation", "stratum", "time"], keep="first", maintain_order=True)

    def relations(
        self,
        table: str,
        perturbation: str | None = None,
        stratum: str | None = None,
        time: int | None = None,
        mode: str | None = None,
    ) -> pl.DataFrame:
        """What perturbations have to do with each other, docs/relations.md; the last arguments are those of `differential`.

        table  "genes": what each gene does under null perturbations; "targets": what becomes of the edited gene; "halves":
               whether half of the cells show what the other half shows; "similarity": the nearest others of each; "modules":
               groups that do the same; "factors": how few directions there are; "epistasis": joint edits beside the sum of
               their single ones; "epistasis_genes": the genes that differ most from it
        Raises StoreError where there is no such table; otherwise as `differential`.
        """
        return related.table_of(self, table, perturbation, stratum, time, mode)

    def null_z(
        self,
        perturbation: str,
        stratum: str | None = None,
        time: int | None = None,
        mode: str | None = None,
    ) -> pl.DataFrame:
        """Rows of `differential` beside what null perturbations do to each gene: null_mean, null_sd, null_z, share_top.

        With `genes: all` the others are the null. A gene that everybody changes has a small null_z and a large share_top, the
        share of perturbations by which it is among the 5 genes that change most. Null where fewer than 20 can tell.
        """
        return related.null_z(self, perturbation, stratum, time, mode)

    def strength_intervals(
        self,
        stratum: str | None = None,
        time: int | None = None,
        mode: str | None = None,
        n_draws: int = 200,
        seed: int = 0,
    ) -> pl.DataFrame:
        """95 % intervals of strength and rank over the cells (over replicates, where the tables have some), from the changes.

        Columns: `screen.stats.relations.intervals.INTERVALS_SCHEMA`; at most the 2,000 first of each mode, site, stratum and
        time point. Raises StoreError for a screen that keeps summaries or has no counts, ConfigError for what is not there.
        """
        return related.strength_intervals(self, stratum, time, mode, n_draws, seed)

    def anndata(self, perturbation: str | None = None, mode: str | None = None) -> Any:
        """Predictions as an AnnData, what `perturbscreen export` writes: one row per cell and time point.

        X perturbed counts, layers control and observed ones, obs the cells' metadata; `screen.store.export.anndata_of` has
        all. Names are those of `differential`; several edits follow one another.
        Raises GeneError for an unknown one, StoreError for a screen that kept summaries only or that does not fit in memory.
        """
        return self.store.to_anndata(perturbation, mode)

    def __repr__(self) -> str:
        try:
            return "\n".join(described_results(self))
        except RequestError as error:
            return f"Results of {self.directory}: {error}"

    def _read(self, name: str) -> pl.DataFrame:
        try:
            return read_table(self.directory / name)
        except (OSError, ValueError) as error:
            raise self._damaged(name, error) from error

    def _damaged(self, name: str, error: Exception) -> StoreError:
        reason, command = str(error).partition("\n")[0], "run CONFIG --out" if name == COVERAGE else "deg"
        return StoreError(
            f"cannot read {self.directory / name} ({reason}); remove it, then `perturbscreen {command} {self.directory}` "
            "makes it again"
        )

    def collect(
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
        paths = sorted(self.directory.glob(files))
        if not paths:
            raise self._damaged(files, FileNotFoundError("it is not there"))
        try:
            rows = pl.scan_parquet(paths, glob=False).filter(*chosen)
            return (rows if columns is None else rows.select(columns)).collect()
        except (OSError, pl.exceptions.PolarsError) as error:
            raise self._damaged(files, error) from error

    def check_counts(self) -> None:
        """Raises StoreError where the model predicts no counts."""
        if not self.has_counts:
            raise StoreError(
                f"{self.directory} has no table of genes: its model predicts embeddings only; `hits` has the shift of each "
                "perturbation"
            )
