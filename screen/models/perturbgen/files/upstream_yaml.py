"""Upstream's own `perturbation.yaml`, unchanged -> ScreenConfig. Every key is honoured, named as having no effect, or refused."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from screen.config.screen_config import ScreenConfig, parse_config
from screen.errors import ConfigError, nearest, some
from screen.models.perturbgen.files.upstream_paths import UpstreamPaths

SECTIONS = ("data", "trainer", "datamodule", "model")
# Keys that change nothing in an inference run, here or upstream (where `d_condc`, in its shipped example, is an error).
NO_EFFECT = {
    "data": "src_adata conditions",
    "trainer": """dropout mask_scheduler temperature iterations use_positional_encoding layer_norm batch_size precision seed
        d_condc lr weight_decay return_rouge_score sequence_length""",
    "datamodule": "num_workers shuffle max_len",
    "model": "precision",
}
HONOURED = {
    "data": """src_dataset_file tgt_dataset_folder tgt_adata_folder cond_list condition_keys conditions_combined filter_var
        filter_cond perturb_genes_file perturb_cluster perturb_colname""",
    "trainer": """genes_to_perturb mapping_dict_path tokenid_to_rowid_path output_dir perturbation_sequence perturbation_mode
        validation_mode d_model num_heads num_layers d_ff pred_tps pert_tps context_tps context_mode encoder encoder_path
        pos_encoding_mode loss_mode exclude_src pad_condition use_count_decoder n_samples use_size_factor
        use_observed_size_factor var_list tgt_vocab_size max_seq_length generate""",
    "datamodule": "batch_size pred_tps context_tps var_list split use_weighted_sampler",
    "model": "ckpt_masking_path encoder_num_heads",
}
REQUIRED = {
    "data": ("src_dataset_file", "tgt_dataset_folder", "tgt_adata_folder"),
    "trainer": ("mapping_dict_path", "perturbation_sequence", "perturbation_mode", "pred_tps", "context_mode"),
    "model": ("ckpt_masking_path",),
}
# Files and folders that are read.
READ = {
    "data": ("src_dataset_file", "tgt_dataset_folder", "tgt_adata_folder", "perturb_genes_file"),
    "trainer": ("mapping_dict_path", "tokenid_to_rowid_path", "encoder_path"),
    "model": ("ckpt_masking_path",),
}
# Where a value of our own configuration comes from, for messages.
THEIR_NAMES = {
    "model.checkpoint": "model.ckpt_masking_path",
    "library.0.modes": "trainer.perturbation_mode",
    "library.0.genes": "trainer.genes_to_perturb",
    "library.0.perturbation_sequence": "trainer.perturbation_sequence",
    "library.0.pert_tps": "trainer.pert_tps",
    "output.directory": "trainer.output_dir",
    "output": "trainer",
    "predict": "trainer",
    "model": "trainer",
    "cells": "data",
}


def is_upstream(raw: Mapping[str, Any]) -> bool:
    """True for a file with upstream's sections."""
    return "trainer" in raw or "datamodule" in raw


def from_upstream(raw: Mapping[str, Any], path: Path) -> ScreenConfig:
    """The screen that upstream's YAML describes. Raises ConfigError naming the key, its value and what is allowed."""
    _check_keys(raw, path)
    paths = UpstreamPaths(path)
    data, trainer, datamodule, model = (_with_paths(s, raw.get(s) or {}, paths) for s in SECTIONS)
    _check_values(trainer, datamodule, path)
    _refuse(trainer, datamodule, path)
    notes = [*_notes(raw, data, trainer, datamodule), *paths.notes]
    sites = _as_list(trainer["perturbation_sequence"])
    keys = data.get("condition_keys")
    own = {
        "model": {
            "checkpoint": model["ckpt_masking_path"],
            **_given(model, "encoder_num_heads"),
            **_given(trainer, "encoder_path", "mapping_dict_path", "tokenid_to_rowid_path", "num_heads"),
            "use_size_factor": trainer.get("use_size_factor") is not False,
            **_given(trainer, "encoder", "loss_mode", "pos_encoding_mode", "d_model", "num_layers", "d_ff"),
            **_given(trainer, "tgt_vocab_size", "max_seq_length"),
        },
        "cells": {
            **_given(
                data, "src_dataset_file", "tgt_dataset_folder", "tgt_adata_folder", "filter_var", "conditions_combined"
            ),
            "filter_cond": [str(v) for v in _as_list(data.get("filter_cond"))],
            "cond_list": _as_list(data.get("cond_list")),
            "condition_keys": _as_list(keys),
        },
        "library": {
            "genes": _genes(data, trainer, path),
            "modes": [trainer["perturbation_mode"]],
            "combos": "joint",
            "perturbation_sequence": sites,
            "pert_tps": trainer.get("pert_tps") if "tgt" in sites else None,
        },
        "predict": {
            "pred_tps": _as_list(trainer["pred_tps"]),
            "context_tps": trainer.get("context_tps"),
            **_given(trainer, "context_mode", "exclude_src", "pad_condition"),
            "use_count_decoder": trainer.get("use_count_decoder") or False,
            "readout": "mu" if int(trainer.get("n_samples") or 1) == 1 else "expected",
            "size_factor": "observed",
            "upstream_pooling": True,
        },
        "null": {"n": 0},
        "output": {
            **({"directory": paths.output(trainer["output_dir"])} if trainer.get("output_dir") else {}),
            "var_list": _as_list(trainer.get("var_list")),
            "store_dtype": "float32",
            "keep_embeddings": True,
            "keep_gene_cosine": True,
            "h5ad": True,
            "export_batch_size": int(datamodule.get("batch_size") or 64),
        },
        "notes": notes,
    }
    return parse_config(own, path, THEIR_NAMES)


def _with_paths(section: str, keys: Mapping[str, Any], paths: UpstreamPaths) -> dict[str, Any]:
    """A section whose paths are absolute."""
    named = {k: keys[k] for k in READ.get(section, ()) if isinstance(keys.get(k), str)}
    return {**keys, **{k: paths.find(f"{section}.{k}", value) for k, value in named.items()}}


def _check_values(trainer: Mapping[str, Any], datamodule: Mapping[str, Any], path: Path) -> None:
    """Numbers that are read here rather than by our own configuration."""
    for key, value in (
        ("trainer.n_samples", trainer.get("n_samples")),
        ("datamodule.batch_size", datamodule.get("batch_size")),
    ):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(f"{key} in {path.name} must be a whole number, 1 or more; it is {value!r}")
    for key in ("pred_tps", "context_tps", "pert_tps"):
        for value in (*_as_list(trainer.get(key)), *_as_list(datamodule.get(key))):
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError(f"{key} in {path.name} must hold time points, whole numbers 1-9; it holds {value!r}")


def _given(section: Mapping[str, Any], *keys: str | tuple[str, str]) -> dict[str, Any]:
    """The keys that are set to something, renamed where a pair (theirs, ours) says so."""
    pairs = [(k, k) if isinstance(k, str) else k for k in keys]
    return {ours: section[theirs] for theirs, ours in pairs if section.get(theirs) is not None}


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _check_keys(raw: Mapping[str, Any], path: Path) -> None:
    for section, keys in raw.items():
        if section not in SECTIONS:
            raise ConfigError(
                f'unknown section "{section}" in {path.name}{nearest(str(section), SECTIONS)}; allowed: {some(SECTIONS)}'
            )
        if keys is not None and not isinstance(keys, dict):
            raise ConfigError(f'section "{section}" of {path.name} must hold keys; it holds {keys!r}')
        known = f"{HONOURED[section]} {NO_EFFECT[section]}".split()
        for key in keys or {}:
            if key not in known:
                raise ConfigError(f'unknown key "{section}.{key}" in {path.name}{nearest(str(key), known)}')
    for section, needed in REQUIRED.items():
        missing = [k for k in needed if (raw.get(section) or {}).get(k) is None]
        if missing:
            raise ConfigError(f'"{section}.{missing[0]}" is missing in {path.name}')


def _refuse(trainer: Mapping[str, Any], datamodule: Mapping[str, Any], path: Path) -> None:
    """What upstream's file can say and this engine does not do, each by name."""
    if trainer.get("validation_mode", "inference") != "inference":
        raise ConfigError(
            f'trainer.validation_mode is "{trainer["validation_mode"]}" in {path.name}; only "inference" is supported'
        )
    refused = [("trainer.generate", trainer.get("generate")), ("datamodule.split", datamodule.get("split"))]
    for key, value in [*refused, ("datamodule.use_weighted_sampler", datamodule.get("use_weighted_sampler"))]:
        if value:
            raise ConfigError(f"{key} is {value!r} in {path.name}; it is not supported: set it to false")
    if (trainer.get("tgt_vocab_size") is None) != (trainer.get("max_seq_length") is None):
        raise ConfigError(f"{path.name}: give both trainer.tgt_vocab_size and trainer.max_seq_length, or neither")
    for key in ("pred_tps", "context_tps"):
        theirs, ours = datamodule.get(key), trainer.get(key)
        if theirs is not None and ours is not None and sorted(_as_list(theirs)) != sorted(_as_list(ours)):
            raise ConfigError(
                f"datamodule.{key} is {theirs} but trainer.{key} is {ours} in {path.name}; they must agree"
            )
    loaded = datamodule.get("var_list")
    unloaded = [c for c in _as_list(trainer.get("var_list")) if loaded is not None and c not in _as_list(loaded)]
    if unloaded:
        raise ConfigError(
            f"trainer.var_list names {some(unloaded)}, which datamodule.var_list {loaded} in {path.name} does not load"
        )


def _notes(
    raw: Mapping[str, Any], data: dict[str, Any], trainer: dict[str, Any], datamodule: dict[str, Any]
) -> list[str]:
    idle = [f"{s}.{k}" for s in SECTIONS for k in (raw.get(s) or {}) if k in NO_EFFECT[s].split()]
    notes = [f"no effect on an inference run, as upstream: {', '.join(idle)}"] if idle else []
    if int(trainer.get("n_samples") or 1) > 1:
        notes.append(
            f"n_samples {trainer['n_samples']}: expected counts are written, the noise-free limit of upstream's average of draws"
        )
    if trainer.get("use_size_factor") is False or trainer.get("use_observed_size_factor") is False:
        notes.append(
            "use_size_factor / use_observed_size_factor: counts are multiplied by the observed library size all the same, as upstream's "
            "perturbation does; in a file of our own format say `predict: {size_factor: predicted}` or `none`"
        )
    if data.get("filter_var"):
        notes.append("filter_var keeps a row if any time point's value is listed, source included, as upstream")
    if trainer.get("pert_tps") is not None and "tgt" not in _as_list(trainer["perturbation_sequence"]):
        notes.append("pert_tps has no effect: only the source is edited")
    if isinstance(trainer.get("perturbation_sequence"), str):
        notes.append("perturbation_sequence is one word and is read as a list of that word")
    return notes


def _genes(data: Mapping[str, Any], trainer: Mapping[str, Any], path: Path) -> list[str]:
    """genes_to_perturb, or the genes of some clusters of a CSV file, which wins as upstream."""
    if not data.get("perturb_genes_file"):
        genes = [str(g) for g in _as_list(trainer.get("genes_to_perturb"))]
        if not genes:
            raise ConfigError(f"{path.name} names no genes: set trainer.genes_to_perturb or data.perturb_genes_file")
        return genes
    file = Path(data["perturb_genes_file"])
    column, clusters = data.get("perturb_colname"), [str(c) for c in _as_list(data.get("perturb_cluster"))]
    if not column or not clusters:
        raise ConfigError(
            f"data.perturb_genes_file in {path.name} needs data.perturb_colname and data.perturb_cluster beside it"
        )
    return genes_of_clusters(file, str(column), clusters)


def genes_of_clusters(file: Path, column: str, clusters: list[str]) -> list[str]:
    """Names in the first column of a CSV whose `column` holds one of the cluster numbers. Raises ConfigError."""
    try:
        with file.open(newline="") as handle:
            rows = list(csv.reader(handle))
    except OSError as error:
        raise ConfigError(f"cannot read perturb_genes_file {file}: {error.strerror}") from error
    if not rows or column not in rows[0]:
        raise ConfigError(f'{file} has no column "{column}"{nearest(column, rows[0] if rows else [])}')
    position = rows[0].index(column)
    wanted = {_as_number(c) for c in clusters}
    genes = [r[0] for r in rows[1:] if len(r) > position and _as_number(r[position]) in wanted]
    if not genes:
        seen = some(sorted({r[position] for r in rows[1:] if len(r) > position}))
        raise ConfigError(f"no gene of {file} is in cluster {some(clusters)} of {column}; clusters there: {seen}")
    return genes


def _as_number(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value.strip()
