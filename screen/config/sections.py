"""Sections: what each part of a configuration may say, and what goes with what."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from screen import edits
from screen.edits import Site

FEWEST_NULLS, MANY_NULLS = 20, 200
TimePoint = Annotated[int, Field(ge=1, le=9)]
Mode = Annotated[str, AfterValidator(edits.canonical)]


def _beside_yaml(path: Path, info: ValidationInfo) -> Path:
    """Relative paths are relative to the YAML file."""
    base: Path = (info.context or {}).get("base", Path())
    return (base / path.expanduser()).resolve()


FilePath = Annotated[Path, AfterValidator(_beside_yaml)]


class Section(BaseModel):
    """A part of the configuration; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Section):
    """The weights and the vocabulary they were trained with. What is None is read off the checkpoint.

    `kind` is the family of models, None for the one that was there first.
    """

    kind: str | None = None
    checkpoint: FilePath
    encoder_path: FilePath | None = None
    vocabulary: FilePath | None = None
    mapping_dict_path: FilePath | None = None
    tokenid_to_rowid_path: FilePath | None = None
    gene_median_path: FilePath | None = None
    gene_table: FilePath | None = None
    num_heads: Annotated[int, Field(ge=1)] | None = None
    encoder_num_heads: Annotated[int, Field(ge=1)] | None = None
    chained: bool = False
    use_size_factor: bool | None = None
    encoder: Literal["scmaskgit", "Transformer_encoder"] | None = None
    loss_mode: Literal["mse", "nb", "zinb"] | None = None
    pos_encoding_mode: str | None = None
    d_model: int | None = None
    num_layers: int | None = None
    d_ff: int | None = None
    tgt_vocab_size: int | None = None
    max_seq_length: int | None = None

    @model_validator(mode="after")
    def _one_vocabulary(self) -> "ModelConfig":
        if (self.vocabulary is None) == (self.mapping_dict_path is None):
            raise ValueError(
                "give either `vocabulary` (a TSV file) or `mapping_dict_path` (upstream's pickle), not both or none"
            )
        if self.vocabulary is not None and self.tokenid_to_rowid_path is not None:
            raise ValueError(
                "`tokenid_to_rowid_path` goes with `mapping_dict_path`; a `vocabulary` file has both tokens"
            )
        return self


_TOKENISED_ONLY = {"src_dataset_file", "tgt_dataset_folder", "tgt_adata_folder", "filter_var", "filter_cond"}
_H5AD_ONLY = {
    "layer",
    "state_column",
    "source",
    "targets",
    "pairing",
    "strata",
    "filters",
    "max_cells",
    "special_tokens",
}


class CellsConfig(Section):
    """The cells: either one h5ad of raw counts, or upstream's tokenised folders."""

    h5ad: FilePath | None = None
    layer: str | None = None
    state_column: str | None = None
    source: str | None = None
    targets: dict[TimePoint, str] = {}
    pairing: str = "stratified"
    strata: list[str] = []
    seed: int = 0
    filters: dict[str, list[str]] = {}
    max_cells: Annotated[int, Field(ge=1)] | None = None
    special_tokens: bool = True
    src_dataset_file: FilePath | None = None
    tgt_dataset_folder: FilePath | None = None
    tgt_adata_folder: FilePath | None = None
    filter_var: str | None = None
    filter_cond: list[str] = []
    cond_list: list[str] = []
    condition_keys: list[str] = []
    conditions_combined: list[str] | None = None

    @field_validator("pairing")
    @classmethod
    def _pairing_file(cls, value: str, info: ValidationInfo) -> str:
        return value if value in ("stratified", "random") else str(_beside_yaml(Path(value), info))

    @model_validator(mode="after")
    def _one_source(self) -> "CellsConfig":
        if self.h5ad is not None and ((self.state_column is None) != (self.source is None)):
            raise ValueError(
                "`state_column` and `source`, its value for source cells, belong together; give both or none"
            )
        if self.h5ad is not None and self.targets and self.state_column is None:
            raise ValueError("`targets` (time point: value) need `state_column` and `source`")
        other = _TOKENISED_ONLY if self.h5ad is not None else _H5AD_ONLY
        misplaced = sorted(other & self.model_fields_set)
        misplaced = [k for k in misplaced if getattr(self, k) not in (None, [], {})]
        if self.pairing == "random" and self.strata:
            raise ValueError("`strata` does not go with `pairing: random`; use `stratified` or remove it")
        if misplaced:
            kind = "an h5ad of raw counts" if self.h5ad is not None else "upstream's tokenised folders"
            raise ValueError(f"`{misplaced[0]}` does not go with {kind}; remove it")
        if (self.filter_var is None) != (not self.filter_cond):
            raise ValueError("filter_var and filter_cond belong together; give both or none")
        if self.h5ad is None and None in (self.src_dataset_file, self.tgt_dataset_folder):
            raise ValueError("give `h5ad`, or `src_dataset_file`, `tgt_dataset_folder` and `tgt_adata_folder`")
        return self


class LibraryConfig(Section):
    """Genes x modes at a site. `genes` is `all`, a list of names, or a file with one name per line.

    What modes there are stands in the table of `screen.edits`.
    """

    genes: Literal["all"] | list[str] | FilePath
    modes: Annotated[list[Mode], Field(min_length=1)] = ["mask"]
    combos: Literal["singles", "joint"] = "singles"
    perturbation_sequence: Annotated[list[Site], Field(min_length=1)] = ["src"]
    pert_tps: list[TimePoint] | None = None

    @field_validator("genes", mode="before")
    @classmethod
    def _no_empty_list(cls, value: object) -> object:
        if isinstance(value, list):
            if not value:
                raise ValueError("the list of genes is empty")
            return [str(v) for v in value]
        return value


class NullConfig(Section):
    """Random perturbations that are screened beside the user's, for the matched null: `n` of use in every stratum, for every
    mode and site that is asked for.

    Without n: MANY_NULLS, or as many as there are, or those that an output directory has already; none beside `genes: all`,
    which is its own null. 0: none.
    """

    n: Annotated[int, Field(ge=0)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("n")
    @classmethod
    def _enough(cls, value: int | None) -> int | None:
        if value is not None and 0 < value < FEWEST_NULLS:
            raise ValueError(f"{value} give no p-value; ask for {FEWEST_NULLS} or more, or for 0")
        return value


class PredictConfig(Section):
    """What is predicted, and how upstream's ambiguities are read. A model without target states needs no `pred_tps`."""

    pred_tps: Annotated[list[TimePoint], Field(min_length=1)] | None = None
    context_tps: list[TimePoint] | None = None
    context_mode: bool = False
    exclude_src: bool = False
    pad_condition: bool = False
    use_count_decoder: bool = True
    readout: Literal["expected", "mu"] = "expected"
    size_factor: Literal["auto", "observed", "predicted", "none"] = "auto"
    upstream_pooling: bool = False

    @field_validator("pred_tps", "context_tps")
    @classmethod
    def _no_repeats(cls, value: list[int] | None) -> list[int] | None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError(f"time points repeat: {value}")
        return value


class OutputConfig(Section):
    """What is stored and how it is grouped in the tables."""

    strata: list[str] = []
    var_list: list[str] | None = None
    keep: Literal["predictions", "summaries"] = "predictions"
    store_dtype: Literal["float16", "float32"] = "float16"
    keep_embeddings: bool = False
    keep_gene_cosine: bool = False
    allow_missing: bool = False
    directory: FilePath | None = None
    min_cells: Annotated[int, Field(ge=1)] = 5
    export_batch_size: Annotated[int, Field(ge=1)] = 64


class DegConfig(Section):
    """Differential expression: which test fills p_value and fdr, what counts as independent, which rows are written.

    test       by its name in screen/stats/tests; checked where a run is prepared, and by `perturbscreen deg`; null or auto:
               moderated_t with replicates, paired_t without
    signed_rank, rank_sum  computed beside the chosen test, which reads every change again
    replicate  obs column (donor, batch): means and tests are over its means; without it cells are treated as independent
    top, max_fdr, min_delta  of every group, only so many genes by |mean change| (0: the ranking alone), within the thresholds
    """

    test: str | None = None
    signed_rank: bool = False
    rank_sum: Literal["off", "plain", "tie_corrected"] = "off"
    replicate: str | None = None
    top: Annotated[int, Field(ge=0)] | None = None
    max_fdr: Annotated[float, Field(gt=0, le=1)] | None = None
    min_delta: Annotated[float, Field(ge=0)] | None = None

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
    """Gene sets that perturbations shift, and that the targets of strong perturbations belong to.

    gene_sets  GMT files, genes by symbol or Ensembl ID
    min_size, max_size  of a set, counting the model's genes
    max_fdr    scores and over-representation are written up to here
    best       so many of each perturbation's sets are written whatever their false discovery rate
    targets    the targets of so many of the strongest are tested together
    ranked     so many of the strongest perturbations of each mode, site, stratum and time point get a permutation test (GSEA),
               which takes seconds each
    """

    gene_sets: Annotated[list[FilePath], Field(min_length=1)]
    min_size: Annotated[int, Field(ge=1)] = 5
    max_size: Annotated[int, Field(ge=1)] = 500
    max_fdr: Annotated[float, Field(gt=0, le=1)] = 0.25
    best: Annotated[int, Field(ge=1)] = 10
    targets: Annotated[int, Field(ge=1)] = 50
    ranked: Annotated[int, Field(ge=0)] = 0


class ComputeConfig(Section):
    """How results are computed. `auto` is decided once, when the output directory is created, and kept there."""

    engine: Literal["auto", "packed", "reference"] = "auto"
    device: str = "auto"
    precision: Literal["auto", "float32", "fp16x2", "tf32", "bf16", "delta16", "delta32", "float64"] = "auto"
    batch_tokens: Annotated[int, Field(ge=1)] | None = None
    cpu_products: Literal["auto", "torch", "onednn"] = "auto"
    lanes: Annotated[int, Field(ge=1)] | None = None

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
    """One Slurm job per worker. `directives` are further lines of the job's head, `prologue` of its script."""

    queue: str | None = None
    account: str | None = None
    walltime: str = "24:00:00"
    cores: Annotated[int, Field(ge=1)] = 8
    memory: str = "64GB"
    gpus: Annotated[int, Field(ge=0, le=1)] = 1
    interface: str | None = None
    directives: list[str] = []
    prologue: list[str] = []
    log_directory: FilePath | None = None


class ClusterConfig(Section):
    """Who computes units: worker processes here, one per GPU here, Slurm jobs, or the workers of a running scheduler.

    workers  how many (gpus: one per visible GPU); threads: cores per worker (local: the machine's divided)
    retries  how often units are tried again after a worker died or failed
    """

    kind: Literal["local", "gpus", "slurm"] = "local"
    scheduler: str | None = None
    workers: Annotated[int, Field(ge=1)] | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    retries: Annotated[int, Field(ge=0)] = 3
    wait_s: Annotated[int, Field(ge=1)] = 600
    slurm: SlurmConfig | None = None

    @model_validator(mode="after")
    def _fits(self) -> "ClusterConfig":
        if (self.kind == "slurm") != (self.slurm is not None):
            raise ValueError("`kind: slurm` and the section `slurm` belong together; give both or none")
        if self.scheduler is not None and (self.kind != "local" or self.workers is not None):
            raise ValueError("`scheduler` is one that runs already, with its own workers; remove `kind` and `workers`")
        return self
