"""Golden data of the upstream model, and checkpoints written from them in its layout."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests.support.places import GOLDEN


@cache
def golden(name: str) -> dict[str, NDArray[Any]]:
    """The arrays of one golden npz file."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


@cache
def golden_json(name: str) -> Any:
    """One golden JSON file."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def variant_checkpoint(variant: str, path: Path) -> Path:
    """A Lightning-like checkpoint of one golden variant, every key that upstream writes included."""
    weights = {k: torch.from_numpy(v) for k, v in golden(f"weights_{variant}").items()}
    weights |= {k.removeprefix("decoder."): v for k, v in weights.items() if k.startswith("decoder.pretrained_model.")}
    spec = golden_json("config")["variants"][variant]
    hyper = {"num_heads": 3, "n_total_tps": 3, "use_size_factor": spec["use_size_factor"]}
    hyper["use_observed_size_factor"] = spec["use_observed_size_factor"]
    torch.save({"state_dict": weights, "hyper_parameters": hyper, "epoch": 1}, path)
    return path


def scale_error(ours: NDArray[Any], reference: NDArray[Any]) -> float:
    """Worst absolute difference over the largest reference value; infinite if NaN is not at the same places."""
    ours, reference = np.asarray(ours, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if ours.shape != reference.shape or not np.array_equal(np.isnan(ours), np.isnan(reference)):
        return float("inf")
    if np.isnan(reference).all():
        return 0.0
    return float(np.nanmax(np.abs(ours - reference)) / max(np.nanmax(np.abs(reference)), 1e-30))
