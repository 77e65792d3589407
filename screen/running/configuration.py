"""load_config: a configuration, ours or of another tool that a model family reads; and the command line's overrides."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from screen.config.screen_config import ScreenConfig, parse_config, parse_section, read_yaml
from screen.config.sections import ClusterConfig, ComputeConfig
from screen.errors import ConfigError

MAPPING = Path("the mapping")
"""What errors call a configuration that has no file."""


def load_config(source: str | Path | Mapping[str, Any]) -> ScreenConfig:
    """A screen's configuration, checked, from a YAML file or from a mapping with the same keys.

    Paths in it are relative to the file; in a mapping, to the working directory.
    Raises ConfigError that lists every problem: an unknown key, a value that is not allowed, a file that cannot be read.

    >>> import screen
    >>> config = screen.load_config("demo.yaml")
    >>> config.library[0].modes
    ['mask', 'overexpress']
    >>> screen.load_config({"model": {}, "cells": {}, "libary": []})
    Traceback (most recent call last):
    ...
    screen.errors.ConfigError: ...unknown key "libary" in the mapping; did you mean "library"?...
    """
    if isinstance(source, Mapping):
        raw, path = dict(source), MAPPING
    elif isinstance(source, str | Path):
        raw, path = read_yaml(Path(source)), Path(source)
    else:
        raise ConfigError(f"a configuration is a YAML file's path or a mapping; it is a {type(source).__name__}")
    # families bring torch along, which the tables of a finished directory do without
    from screen.models.registry import foreign_family

    foreign = foreign_family(raw)
    return parse_config(raw, path) if foreign is None else foreign.from_foreign(raw, path)


def text_of(config: ScreenConfig) -> str:
    """A configuration as YAML in our own format, its paths absolute: what was given, without the defaults."""
    return yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True), sort_keys=False)


def overridden(
    config: ScreenConfig,
    path: Path,
    store_dtype: str | None = None,
    allow_missing: bool = False,
    encoder_heads: int | None = None,
    compute: Mapping[str, object] | None = None,
    cluster: Mapping[str, object] | None = None,
) -> ScreenConfig:
    """A configuration, of a file, with the command line's overrides. Raises ConfigError."""
    output: dict[str, object] = {"store_dtype": store_dtype} if store_dtype else {}
    output |= {"allow_missing": True} if allow_missing else {}
    model = {} if encoder_heads is None else {"encoder_num_heads": encoder_heads}
    given = {**config.compute.model_dump(), **{k: v for k, v in (compute or {}).items() if v is not None}}
    changed = {
        "output": config.output.model_copy(update=output),
        "model": config.model.model_copy(update=model),
        "compute": parse_section(ComputeConfig, given, path),
        "cluster": cluster_with(config.cluster, cluster or {}, path),
    }
    return config.model_copy(update=changed)


def cluster_with(config: ClusterConfig | None, given: Mapping[str, object], path: Path) -> ClusterConfig | None:
    """The `cluster` section with the command line's overrides; a scheduler that is named there is taken alone."""
    named = {k: v for k, v in given.items() if v is not None}
    if not named:
        return config
    kept = {} if config is None or "scheduler" in named else config.model_dump()
    return parse_section(ClusterConfig, {**kept, **named}, path)
