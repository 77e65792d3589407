"""load_config: a YAML file, ours or one of another tool that a model family reads, with the command line's overrides."""

from collections.abc import Mapping
from pathlib import Path

from screen.config.screen_config import ScreenConfig, parse_config, parse_section, read_yaml
from screen.config.sections import ClusterConfig, ComputeConfig


def load_config(
    path: Path,
    store_dtype: str | None = None,
    allow_missing: bool = False,
    encoder_heads: int | None = None,
    compute: Mapping[str, object] | None = None,
    cluster: Mapping[str, object] | None = None,
) -> tuple[ScreenConfig, str]:
    """(configuration, its text) from our YAML or upstream's, with the command line's overrides. Raises ConfigError."""
    raw = read_yaml(path)
    # families bring torch along, which the tables of a finished directory do without
    from screen.models.registry import foreign_family

    foreign = foreign_family(raw)
    config = parse_config(raw, path) if foreign is None else foreign.from_foreign(raw, path)
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
    return config.model_copy(update=changed), path.read_text(encoding="utf-8")


def cluster_with(config: ClusterConfig | None, given: Mapping[str, object], path: Path) -> ClusterConfig | None:
    """The `cluster` section with the command line's overrides; a scheduler that is named there is taken alone."""
    named = {k: v for k, v in given.items() if v is not None}
    if not named:
        return config
    kept = {} if config is None or "scheduler" in named else config.model_dump()
    return parse_section(ClusterConfig, {**kept, **named}, path)
