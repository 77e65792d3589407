"""Results: a finished screen, by its directory: the only place that reads what `run` wrote there."""

from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from screen.directory import (
    GENE_SETS,
    GENES,
    PARTS,
    RANKED,
    SCORES,
    STAMP,
    STORE,
    TARGETS,
)
from screen.errors import ConfigError, RequestError, StoreError, nearest, some
from screen.results import related, views
from screen.results import times as by_time
from screen.results.exported import wanted_of
from screen.results.finished import Finished
from screen.results.plotted import Plotted
from screen.results.sentences import described_results
from screen.stats.again import analysis
from screen.store.export import in_memory
from screen.store.store import ScreenStore

GENE_SET_TABLES = {"scores": SCORES, "changed": f"{GENE_SETS}/{PARTS}", "targets": TARGETS, "ranked": RANKED}
"""What the tables of gene sets are called here -> their files."""


def open_results(directory: str | Path, name: str | None = None) -> "Results":
    """The results of a finished screen, by the directory that `run` wrote. Reads no table yet, and needs no torch.

    name  of an analysis that `perturbscreen deg DIR --name NAME` made: its tables, in place of the first ones
    Raises StoreError where there is no screen or analysis, or a screen that is not finished: it says how far it is.

    >>> import screen
    >>> results = screen.open_results("runs/demo")
    >>> results.hits.columns[:4]
    ['strength_rank', 'perturbation', 'target', 'target_symbol']
    >>> results.analyses
    ['signed']
    >>> screen.open_results("runs/demo", name="signed").differential("CCL2")["test"].unique().to_list()
    ['signed_rank']
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
    if name is None:
        return Results(directory, store)
    view = analysis.recorded(directory, name)
    analysis.check_results(store, directory, name)
    return Results(directory, store, view)


class Results(Finished, Plotted):
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
    >>> results.wide().filter(target_symbol="CD14", mode="mask").select("strength_rank_t1", "n_cells_t1").rows()
    [(1, 6)]
    >>> results.compared("CCL2")
    Traceback (most recent call last):
    ...
    screen.errors.StoreError: no time points were compared in runs/demo; it has one time point, 1
    >>> results.coverage.filter(perturbation="src:mask:ENSG00000108691").select("n_screened", "n_absent").rows()
    [(3, 5)]
    >>> results.provenance["decided"]["precision"]
    'float32'
    >>> results.anndata("CCL2", mode="mask").obs["target_gene"].unique().tolist()
    ['CCL2']
    """

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
        return self.rows_of(f"{GENES}/{PARTS}", perturbation, stratum, time, mode)

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

    def wide(self, table: str = "hits") -> pl.DataFrame:
        """The time points side by side: a row per perturbation and stratum, in the order of `hits`.

        table  "hits": strength_rank, strength, null_z, q_value, n_deg and n_cells, each as `..._t1`, `..._t2`;
               "gene_sets": a row per set as well, with score, null_z and q_value; null where a set has no row at a time point
        Raises ConfigError for another table, StoreError where no gene sets were tested.
        """
        return by_time.wide(self, table)

    def compared(
        self,
        perturbation: str | None = None,
        stratum: str | None = None,
        times: tuple[int, int] | None = None,
        mode: str | None = None,
    ) -> pl.DataFrame:
        """What differs between time points: a row per gene, perturbation, stratum and pair; `screen.stats.times.rows.pair_schema`.

        `mean_delta` is the mean over cells of the change at `time` minus the same cell's at `time_before`.
        times  one pair (before, after) only; the other arguments are those of `differential`
        Raises StoreError where no time points were compared, otherwise as `differential`.
        """
        return by_time.compared(self, perturbation, stratum, times, mode)

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
                f"no gene sets were tested in {self.tables}; `perturbscreen deg {self.asked_by} --gene-sets FILE.gmt` does"
            )
        if table == "ranked" and not (self.tables / RANKED).is_file():
            raise StoreError(f"no running-sum tests were asked for in {self.tables}; `enrich: {{ranked: N}}` does")
        if table == "targets" and perturbation is not None:
            raise ConfigError('the table "targets" is of no single perturbation; leave it out, or take another table')
        return self.rows_of(GENE_SET_TABLES[table], perturbation, stratum, time, mode)

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

    def anndata(
        self,
        perturbation: str | None = None,
        mode: str | None = None,
        stratum: str | None = None,
        time: int | None = None,
    ) -> Any:
        """Predictions as an AnnData, what `perturbscreen export` writes: one row per cell and time point.

        X perturbed counts, layers control and observed ones, obs the cells' metadata; `screen.store.export.UpstreamRows` has
        all. Arguments are those of `differential`; several edits follow one another.
        Raises GeneError and ConfigError for what is not there, StoreError for a screen that kept summaries only or that does
        not fit in memory.
        """
        names = () if perturbation is None else (perturbation,)
        strata = None if stratum is None else self.cell_strata
        return in_memory(self.store, wanted_of(self.store, names, mode, stratum, time, strata))

    def __repr__(self) -> str:
        try:
            return "\n".join(described_results(self))
        except RequestError as error:
            return f"Results of {self.tables}: {error}"
