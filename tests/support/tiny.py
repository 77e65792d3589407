"""A tiny screen in our own format over the golden artefacts: 61 genes, 11 cells, two predicted time points."""

from pathlib import Path
from typing import Any

import yaml

from tests.support.places import GOLDEN

E2E = GOLDEN / "e2e"


def tiny(**changes: dict[str, Any]) -> dict[str, Any]:
    """The configuration, sections updated by keyword: tiny(library={"genes": "all"})."""
    config: dict[str, Any] = {
        "model": {
            "checkpoint": str(E2E / "ckpt" / "count_zinb.ckpt"),
            "mapping_dict_path": str(E2E / "token_id_to_genename_61_hvg.pkl"),
            "tokenid_to_rowid_path": str(E2E / "tokenid_to_rowid_61_hvg.pkl"),
            "encoder_num_heads": 2,
        },
        "cells": {
            "src_dataset_file": str(E2E / "dataset_src" / "t0.dataset"),
            "tgt_dataset_folder": str(E2E / "dataset_tgt"),
            "tgt_adata_folder": str(E2E / "h5ad_tgt"),
        },
        "library": {"genes": "all", "modes": ["mask"]},
        "predict": {"pred_tps": [1, 2]},
        "output": {"store_dtype": "float32", "report": False},
        "null": {"n": 0},
    }
    for section, keys in changes.items():
        config[section] = {**config[section], **keys}
    return config


def write(config: dict[str, Any], path: Path) -> Path:
    """The configuration as a YAML file."""
    path.write_text(yaml.safe_dump(config))
    return path
