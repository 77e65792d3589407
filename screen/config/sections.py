"""Sections: what is asked of the model, what is kept of it, and who computes it."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from screen.config.section import FilePath, Mode, OneOrMore, Section, TimePoint
from screen.edits import Site

FEWEST_NULLS, MANY_NULLS = 20, 200


class LibraryConfig(Section):
    """Genes x modes at a site. `library` is one such block or a list of them."""

    genes: Literal["all"] | list[str] | FilePath
    """Genes to edit: `all`, a list of Ensembl IDs, symbols or aliases, or a file: a name per line, or a CSV or TSV."""
    modes: Annotated[list[Mode], Field(min_length=1)] = ["mask"]
    """What is done to a gene's token: mask, pad, delete, overexpress, shift+K (K ranks up) or shift-K (down)."""
    combos: Literal["singles", "joint", "pairs"] = "singles"
    """`singles`: one perturbation per gene. `joint`: all genes of the list in one edit. `pairs`: every two genes of the list in
    one edit, and each gene alone, with which the pairs are compared."""
    anchor: str | None = None
    """A gene that is edited together with each gene of the list; it alone and each of them alone are screened too."""
    perturbation_sequence: Annotated[list[Site], Field(min_length=1)] = ["src"]
    """Where: `src` edits the state before, `tgt` the state after as the model is shown it, both edits both."""
    pert_tps: list[TimePoint] | None = None
    """Time points whose target row is edited, with site `tgt`; by default all that are predicted or context."""

    @field_validator("genes", mode="before")
    @classmethod
    def _no_empty_list(cls, value: object) -> object:
        if isinstance(value, list):
            if not value:
                raise ValueError("the list of genes is empty")
            return [str(v) for v in value]
        return value

    @model_validator(mode="after")
    def _one_kind_of_pairs(self) -> "LibraryConfig":
        if self.anchor is not None and self.combos != "singles":
            raise ValueError(
                f"`anchor` makes pairs of its own and does not go with `combos: {self.combos}`; give one of the two"
            )
        return self


class NullConfig(Section):
    """Random perturbations that are screened beside the user's, for the matched null: `n` of use in every stratum, for every
    mode and site that is asked for.

    Without n: 200, or as many as there are, or those that an output directory has already; none beside `genes: all`,
    which is its own null. 0: none.
    """

    n: Annotated[int, Field(ge=0)] | None = None
    """Null perturbations of use in every stratum, for each mode and site: 0 for none, otherwise 20 or more; by default 200."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed by which null genes are drawn."""

    @field_validator("n")
    @classmethod
    def _enough(cls, value: int | None) -> int | None:
        if value is not None and 0 < value < FEWEST_NULLS:
            raise ValueError(f"{value} give no p-value; ask for {FEWEST_NULLS} or more, or for 0")
        return value


class PredictConfig(Section):
    """What is predicted, and how upstream's ambiguities are read. A model without target states needs no `pred_tps`."""

    pred_tps: Annotated[list[TimePoint], Field(min_length=1)] | None = None
    """Time points that are predicted; a model without target states needs none."""
    context_tps: list[TimePoint] | None = None
    """Time points whose target rows the prediction is shown; by default those of `pred_tps`. Needs `context_mode`."""
    context_mode: bool = False
    """Show the model the other time points' target rows too, as a model trained so expects."""
    exclude_src: bool = False
    """Hide the source from the model: its row is all padding."""
    pad_condition: bool = False
    """Put padding in place of condition tokens."""
    use_count_decoder: bool = True
    """Predict counts; false: embeddings only, as for a checkpoint without a count head."""
    readout: Literal["expected", "mu"] = "expected"
    """`expected` counts, or `mu`, which leaves out zero inflation as upstream's single sample does."""
    size_factor: Literal["auto", "observed", "predicted", "none"] = "auto"
    """What counts are multiplied by: the cell's observed total, the predicted one, nothing; auto: as trained."""
    upstream_pooling: bool = False
    """Leave edited target genes out of the pooled embedding at every time point, not only where they are edited."""

    @field_validator("pred_tps", "context_tps")
    @classmethod
    def _no_repeats(cls, value: list[int] | None) -> list[int] | None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError(f"time points repeat: {value}")
        return value


class OutputConfig(Section):
    """What is stored and how it is grouped in the tables."""

    strata: OneOrMore = []
    """obs columns within whose combinations the tables count, rank and test; by default all cells are one group."""
    var_list: list[str] | None = None
    """obs columns that are kept for exports; by default all."""
    keep: Literal["predictions", "summaries"] = "predictions"
    """`predictions`: the change of every gene in every cell. `summaries`: moments per perturbation and stratum only."""
    store_dtype: Literal["float16", "float32"] = "float16"
    """Number type of stored changes; float16 is scaled by 4096."""
    keep_embeddings: bool = False
    """Also store the pooled embedding of every edited cell."""
    keep_gene_cosine: bool = False
    """Also store how far every gene's own embedding moved in every edited cell."""
    allow_missing: bool = False
    """Exit with 0 even though a gene that was named could not be screened."""
    directory: FilePath | None = None
    """Where results go if the command names no `--out`; by default `runs/` and the name of this file."""
    min_cells: Annotated[int, Field(ge=1)] = 5
    """Fewest cells in which an edit must be screened to be ranked; the mean of fewer is mostly noise."""
    export_batch_size: Annotated[int, Field(ge=1)] = 64
    """Rows per batch in the order of an exported h5ad, which follows upstream's."""
    report: bool = True
    """Also make report.html, one page with figures and tables; `perturbscreen report DIR` makes it later."""
    h5ad: bool = False
    """Also write predictions.h5ad, all predictions in upstream's layout; `perturbscreen export DIR` does it later, and by parts."""

    @model_validator(mode="after")
    def _has_predictions(self) -> "OutputConfig":
        if self.h5ad and self.keep == "summaries":
            raise ValueError(
                "h5ad needs the change of every cell, and `keep: summaries` keeps sums alone; remove one of them"
            )
        return self


class DegConfig(Section):
    """Differential expression: which test fills p_value and fdr, what counts as independent, which rows are written."""

    test: str | None = None
    """Test that fills p_value and fdr: paired_t, moderated_t, signed_rank, sign, rank_sum; auto: moderated_t with replicates,
    else paired_t."""
    signed_rank: bool = False
    """Also compute Wilcoxon's signed-rank test, which reads every change again."""
    rank_sum: Literal["off", "plain", "tie_corrected"] = "off"
    """Also compute the unpaired rank-sum, as scanpy does: `plain`, or `tie_corrected`. Reads every change again."""
    replicate: str | None = None
    """obs column of what is independent (donor): tests are over its means; without it cells count as independent."""
    top: Annotated[int, Field(ge=0)] | None = None
    """Genes written per group, those that change most; 0: the ranking alone; by default all."""
    max_fdr: Annotated[float, Field(gt=0, le=1)] | None = None
    """Write only genes up to this false discovery rate."""
    min_delta: Annotated[float, Field(ge=0)] | None = None
    """Write only genes whose mean change of log1p CP10K is as large, either way."""
    compare: tuple[tuple[TimePoint, TimePoint], ...] = ()
    """Pairs of time points, `[[1, 2]]`: per gene, is the change at the second another than at the first, in the same cells?"""

    relations: bool = False
    """Also write `relations/`, what perturbations have to do with each other: similarity, modules, halves, epistasis; seconds."""

    def recorded(self) -> dict[str, Any]:
        """What a store records: what earlier versions did not know only where it is asked for, so that their stores stay as they are."""
        return {k: v for k, v in self.model_dump().items() if v or k not in ("compare", "relations")}

    @field_validator("compare")
    @classmethod
    def _pairs(cls, value: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        same = [list(pair) for pair in value if pair[0] == pair[1]]
        if same:
            raise ValueError(f"{same[0]} compares a time point with itself")
        if len({frozenset(pair) for pair in value}) < len(value):
            raise ValueError(f"pairs repeat: {[list(pair) for pair in value]}")
        return value

    @property
    def test_name(self) -> str:
        """The test that fills p_value and fdr."""
        return self.test or ("paired_t" if self.replicate is None else "moderated_t")

    @field_validator("test", mode="before")
    @classmethod
    def _auto(cls, value: object) -> object:
        return None if value == "auto" else value

    @model_validator(mode="after")
    def _computed(self) -> "DegConfig":
        if self.test == "rank_sum" and self.rank_sum == "off":
            raise ValueError("`test: rank_sum` needs `rank_sum: plain` (scanpy's default) or `tie_corrected`")
        return self


class EnrichConfig(Section):
    """Gene sets that perturbations shift, and that the targets of strong perturbations belong to."""

    gene_sets: Annotated[list[FilePath], Field(min_length=1)]
    """GMT files, genes by symbol or Ensembl ID."""
    min_size: Annotated[int, Field(ge=1)] = 5
    """Smallest set that is tested, counting the model's genes."""
    max_size: Annotated[int, Field(ge=1)] = 500
    """Largest set that is tested, counting the model's genes."""
    max_fdr: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Scores and over-representation are written up to this false discovery rate."""
    best: Annotated[int, Field(ge=1)] = 10
    """So many of each perturbation's sets are written whatever their false discovery rate."""
    targets: Annotated[int, Field(ge=1)] = 50
    """The targets of so many of the strongest perturbations are tested together."""
    ranked: Annotated[int, Field(ge=0)] = 0
    """So many of the strongest of each mode, site, stratum and time get a permutation test (GSEA), seconds each."""


class CheckConfig(Section):
    """What `perturbscreen check` looks at; `run` does not read it."""

    cells: Annotated[int, Field(ge=1)] = 600
    """Cells that predictions are judged on, at most, whatever `cells.max_cells` says; drawn as that draws them."""
    models: list[FilePath] = []
    """Checkpoints of other training seeds, whose rankings are compared with that of `model.checkpoint`."""


class ComputeConfig(Section):
    """How results are computed. `auto` is decided once, when the output directory is created, and kept there."""

    engine: Literal["auto", "packed", "reference"] = "auto"
    """`packed` batches, or the `reference`: one cell, one edit, the plain model; auto: packed, or changes for delta*."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; auto: the first GPU there is, else the CPU."""
    precision: Literal["auto", "float32", "fp16x2", "tf32", "bf16", "delta16", "delta32", "float64"] = "auto"
    """Arithmetic of products or changes; auto: float32 on a CPU, on a GPU what a pilot finds to agree with it."""
    batch_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens per batch in its widest state; by default by the memory of the device."""
    cpu_products: Literal["auto", "torch", "onednn"] = "auto"
    """Library of float32 products on a CPU; auto: whichever is faster here."""
    lanes: Annotated[int, Field(ge=1)] | None = None
    """Batches computed at a time; by default one per core, on a GPU a few."""

    @model_validator(mode="after")
    def _engine_has_precision(self) -> "ComputeConfig":
        if self.engine == "reference" and (
            self.precision not in ("auto", "float32", "float64") or self.device not in ("auto", "cpu")
        ):
            raise ValueError(
                f"the reference engine computes in float32 or float64 on the CPU; precision is {self.precision}, device is "
                f"{self.device}: remove them, or `engine`"
            )
        if self.engine != "reference" and self.precision == "float64":
            raise ValueError(
                "precision float64 is the reference engine's alone; add `engine: reference`, or use delta32"
            )
        if self.engine == "packed" and self.precision.startswith("delta"):
            raise ValueError(
                f"precision {self.precision} carries changes, which the packed engine does not; remove `engine`"
            )
        return self


class SlurmConfig(Section):
    """One Slurm job per worker."""

    queue: str | None = None
    """Partition."""
    account: str | None = None
    """Account that jobs are charged to."""
    walltime: str = "24:00:00"
    """Longest time of a job, hh:mm:ss."""
    cores: Annotated[int, Field(ge=1)] = 8
    """Cores of a job."""
    memory: str = "64GB"
    """Memory of a job, with its unit."""
    gpus: Annotated[int, Field(ge=0, le=1)] = 1
    """GPUs of a job, one worker each: 1, or 0 for CPU jobs."""
    interface: str | None = None
    """Network that jobs reach each other over; needed only where there are several."""
    directives: list[str] = []
    """Further #SBATCH lines of the job's head."""
    prologue: list[str] = []
    """Lines of the job's script before the worker starts."""
    log_directory: FilePath | None = None
    """Where jobs write their logs."""

    @field_validator("gpus", mode="before")
    @classmethod
    def _one_per_job(cls, gpus: object) -> object:
        if isinstance(gpus, int) and gpus > 1:
            raise ValueError(
                f"a job is one worker, which uses one GPU; for {gpus} GPUs write `workers: {gpus}` beside `slurm:` and "
                "`gpus: 1` in it, or run `cluster: {kind: gpus}` inside one job of your own"
            )
        return gpus


class ClusterConfig(Section):
    """Who computes units: worker processes here, one per GPU here, Slurm jobs, or the workers of a running scheduler."""

    kind: Literal["local", "gpus", "slurm"] = "local"
    """`local` processes here, `gpus`: one process per GPU here, `slurm`: one job per worker."""
    scheduler: str | None = None
    """Address of a running Dask scheduler, whose workers compute; then no `kind` and no `workers`."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """How many processes or jobs; by default 1, with `gpus` one per visible GPU."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """Cores of a worker; by default the machine's divided (local), else all of the worker's."""
    retries: Annotated[int, Field(ge=0)] = 3
    """How often units are tried again after a worker died or failed."""
    wait_s: Annotated[int, Field(ge=1)] = 600
    """Seconds to wait for the first worker."""
    slurm: SlurmConfig | None = None
    """What a job asks for; only with `kind: slurm`."""

    @model_validator(mode="after")
    def _fits(self) -> "ClusterConfig":
        if (self.kind == "slurm") != (self.slurm is not None):
            raise ValueError("`kind: slurm` and the section `slurm` belong together; give both or none")
        if self.scheduler is not None and (self.kind != "local" or self.workers is not None):
            raise ValueError("`scheduler` is one that runs already, with its own workers; remove `kind` and `workers`")
        return self
