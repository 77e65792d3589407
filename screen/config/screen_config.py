"""ScreenConfig: what the user asks for, from YAML, checked once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from screen.config.inputs import CellsConfig, ModelConfig
from screen.config.problems import described
from screen.config.section import Section
from screen.config.sections import (
    CheckConfig,
    ClusterConfig,
    ComputeConfig,
    DegConfig,
    EnrichConfig,
    LibraryConfig,
    NullConfig,
    OutputConfig,
    PredictConfig,
    SlurmConfig,
)
from screen.errors import ConfigError


class ScreenConfig(Section):
    """One screen, section by section, checked and frozen. `notes` is what an importer wants said to the user.

    >>> import screen
    >>> config = screen.load_config("demo.yaml")
    >>> isinstance(config, screen.ScreenConfig)
    True
    >>> config.predict.pred_tps, config.output.min_cells, config.null.n
    ([1], 5, 0)
    """

    model: ModelConfig
    """The weights, and the vocabulary that they were trained with."""
    cells: CellsConfig
    """The cells: either one h5ad of raw counts, or upstream's tokenised folders."""
    library: list[LibraryConfig]
    """What is edited: one block of genes, modes and sites, or a list of such blocks."""
    predict: PredictConfig = PredictConfig()
    """What is predicted of every cell, with and without the edit."""
    null: NullConfig = NullConfig()
    """Random perturbations beside a list of genes, against which it is judged."""
    output: OutputConfig = OutputConfig()
    """What is stored, and how the tables are grouped."""
    deg: DegConfig = DegConfig()
    """Differential expression: tests, replicates, which rows are written."""
    enrich: EnrichConfig | None = None
    """Gene sets that are tested; by default none."""
    check: CheckConfig = CheckConfig()
    """What `perturbscreen check` looks at."""
    compute: ComputeConfig = ComputeConfig()
    """How results are computed."""
    cluster: ClusterConfig | None = None
    """Who computes them, if not this process alone."""
    expect: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(default_factory=dict)
    """Positive controls that `perturbscreen evaluate` looks up: an edited gene and the genes that must respond to it, as
    `{IFNAR1: [STAT1, IRF9]}`."""
    notes: list[str] = Field(default_factory=list)
    """Sentences that are said when the screen begins, and recorded with it."""

    @field_validator("predict", "null", "output", "deg", "check", "compute", mode="before")
    @classmethod
    def _empty_is_default(cls, value: object) -> object:
        return {} if value is None else value

    @field_validator("library", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return [value] if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _time_points(self) -> "ScreenConfig":
        if not self.library:
            raise ValueError("the library is empty: it needs at least one block with `genes`")
        self._comparisons()
        for block in self.library:
            late = sorted(set(block.pert_tps or ()) - set(self.predict.pred_tps or ()))
            if late:
                raise ValueError(
                    f"pert_tps {late} are not among pred_tps {self.predict.pred_tps or []}; edit only predicted time points"
                )
            if block.pert_tps and "tgt" not in block.perturbation_sequence:
                raise ValueError("pert_tps is for edits of the target; add `tgt` to perturbation_sequence or remove it")
            if self.predict.exclude_src and "src" in block.perturbation_sequence:
                raise ValueError(
                    "exclude_src removes the source, so an edit of the source has no effect; remove one of them"
                )
        return self

    def _comparisons(self) -> None:
        times, asked = self.predict.pred_tps or [], sorted({t for pair in self.deg.compare for t in pair})
        if late := [t for t in asked if t not in times]:
            raise ValueError(f"deg.compare asks for time points {late}, which are not among pred_tps {times}")
        if asked and (self.output.keep == "summaries" or not self.predict.use_count_decoder):
            why = "keeps sums alone" if self.predict.use_count_decoder else "predicts no counts"
            raise ValueError(f"deg.compare needs the change of every cell, and this screen {why}; remove it")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError for a missing or malformed file or a repeated key."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    try:
        raw = yaml.load(text, Loader=_StrictLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold sections such as `model:` and `cells:`; it holds a {type(raw).__name__}")
    return raw


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice instead of keeping the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            if key_node.tag == "tag:yaml.org,2002:null":
                # the section `null`, unless it is quoted
                key_node.tag = "tag:yaml.org,2002:str"
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a word or a number", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f'the key "{key}" is written twice', key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def parse_config(raw: Mapping[str, Any], path: Path, names: Mapping[str, str] | None = None) -> ScreenConfig:
    """Validates our own YAML. Raises one ConfigError that lists every problem with its place and value.

    `names` translates places into the words of the file the user wrote, where that is another format.
    """
    try:
        return ScreenConfig.model_validate(raw, context={"base": path.resolve().parent})
    except ValidationError as error:
        raise ConfigError(described(error.errors(), path, names or {}, _keys())) from error


S = TypeVar("S", bound=Section)


def parse_section(section: type[S], given: Mapping[str, object], path: Path) -> S:
    """One section with the command line's overrides. Raises ConfigError."""
    try:
        return section.model_validate(given)
    except ValidationError as error:
        raise ConfigError(described(error.errors(), path, {}, _keys())) from error


def _keys() -> dict[str, list[str]]:
    """Section ("": the file itself) -> the keys that it may have."""
    sections: dict[str, type[Section]] = {
        "": ScreenConfig,
        "model": ModelConfig,
        "cells": CellsConfig,
        "library": LibraryConfig,
        "predict": PredictConfig,
        "null": NullConfig,
        "output": OutputConfig,
        "deg": DegConfig,
        "enrich": EnrichConfig,
        "check": CheckConfig,
        "compute": ComputeConfig,
        "cluster": ClusterConfig,
        "cluster.slurm": SlurmConfig,
    }
    return {name: list(section.model_fields) for name, section in sections.items()}
