"""Inputs: the sections that say which model reads which cells."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from screen.config.section import FilePath, OneOrMore, Section, TimePoint, Value, beside_yaml


class ModelConfig(Section):
    """The weights and the vocabulary they were trained with. What is left out is read off the checkpoint."""

    kind: str | None = None
    """Family of models that reads these files, of this package or an installed one; by default the built-in family."""
    checkpoint: FilePath
    """Weights: a Lightning `.ckpt` or a bare `.bin`. Sizes are read off the tensors."""
    encoder_path: FilePath | None = None
    """Weights of the source encoder, read only where the checkpoint holds none."""
    vocabulary: FilePath | None = None
    """TSV of the model's genes in output order: ensembl_id, symbol, token_id, row_id [, aliases, median]."""
    mapping_dict_path: FilePath | None = None
    """Upstream's pickle of row id -> gene name, in place of `vocabulary`."""
    tokenid_to_rowid_path: FilePath | None = None
    """Upstream's pickle of token id -> row id; needed to edit the source. Goes with `mapping_dict_path`."""
    gene_median_path: FilePath | None = None
    """Upstream's pickle of gene -> median expression; ranking an h5ad needs medians from here or `vocabulary`."""
    gene_table: FilePath | None = None
    """TSV of ensembl_id, symbol [, aliases]: other names by which genes are found and shown."""
    num_heads: Annotated[int, Field(ge=1)] | None = None
    """Attention heads of the decoder, which no tensor shows; by default what the checkpoint's hyper-parameters say."""
    encoder_num_heads: Annotated[int, Field(ge=1)] | None = None
    """Attention heads of the encoder, which no file records; by default upstream's: 8 (fewer where it is too narrow), or 4."""
    chained: bool = False
    """Run the encoder's blocks one after another. Upstream feeds the embedding to each and keeps the last: false."""
    use_size_factor: bool | None = None
    """Whether the count head ends in a softmax (true) or in softplus; by default as the checkpoint says."""
    encoder: Literal["scmaskgit", "Transformer_encoder"] | None = None
    """Kind of encoder, as a check: an error names both if the checkpoint has the other."""
    loss_mode: Literal["mse", "nb", "zinb"] | None = None
    """Kind of count head, as a check against the checkpoint."""
    pos_encoding_mode: str | None = None
    """Kind of positional encoding, as a check against the checkpoint."""
    d_model: int | None = None
    """Width of the decoder, as a check against the checkpoint."""
    num_layers: int | None = None
    """Blocks of the decoder, as a check against the checkpoint."""
    d_ff: int | None = None
    """Width of one attention head of the decoder (upstream's word), as a check against the checkpoint."""
    tgt_vocab_size: int | None = None
    """Target vocabulary without condition tokens and spare rows, as a check against the checkpoint."""
    max_seq_length: int | None = None
    """Longest row of tokens before spare positions are added, as a check against the checkpoint."""

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
    "counts",
    "duplicates",
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
    """One file of raw counts with all states of all cells, h5ad or AnnData Zarr directory; it is ranked with the model's medians."""
    layer: str | None = None
    """Layer of the h5ad that holds the raw counts, or `X` or `raw`; by default X, or `raw` where X does not hold counts."""
    counts: Literal["raw", "fractional"] = "raw"
    """`raw`: whole numbers; `fractional`: values of 0 or more (ambient RNA removed, reads shared among genes), ranked as they are."""
    duplicates: Literal["error", "sum"] = "error"
    """What becomes of a gene that stands in several columns of the h5ad: an `error` that names it, or their `sum`."""
    state_column: str | None = None
    """obs column that says which state a cell is in; without it every cell is a source cell."""
    source: Value | None = None
    """Value of `state_column` of the source cells: the state before, which is edited."""
    targets: dict[TimePoint, Value] = {}
    """Time point (1 to 9) -> value of `state_column`: the states after, which are predicted."""
    pairing: str = "stratified"
    """Who becomes whom: `stratified` (drawn within `strata`), `random`, or a TSV with columns source and target."""
    strata: OneOrMore = []
    """obs columns within whose combinations cells are paired; only with `pairing: stratified`."""
    seed: int = 0
    """Seed of the pairing and of `max_cells`."""
    filters: dict[str, OneOrMore] = {}
    """obs column -> allowed values; other cells are left out."""
    max_cells: Annotated[int, Field(ge=1)] | None = None
    """Keep so many pairings, drawn at random, in their order; by default all."""
    special_tokens: bool = True
    """Put `<cls>` first and `<eos>` last in source rows, as the model was trained; false if it was trained without."""
    src_dataset_file: FilePath | None = None
    """Upstream's tokenised source: one Hugging Face dataset saved to disk."""
    tgt_dataset_folder: FilePath | None = None
    """Folder of upstream's tokenised targets, `*.dataset`; the first character of a name is the time point."""
    tgt_adata_folder: FilePath | None = None
    """Folder of the targets' raw counts, `*.h5ad`, row by row as the datasets; needed for observed counts."""
    filter_var: str | None = None
    """Column of the tokenised cells by which rows are kept; a row stays if any of its states has a listed value."""
    filter_cond: OneOrMore = []
    """Values of `filter_var` that are kept."""
    cond_list: OneOrMore = []
    """Columns whose values the model was given as condition tokens in front of the target row."""
    condition_keys: OneOrMore = []
    """Columns, joined, that name the group a cell's count dispersion belongs to; checked against the checkpoint."""
    conditions_combined: list[str] | None = None
    """Those groups in the order of training; by default as the checkpoint says."""

    @field_validator("pairing")
    @classmethod
    def _pairing_file(cls, value: str, info: ValidationInfo) -> str:
        return value if value in ("stratified", "random") else str(beside_yaml(Path(value), info))

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
