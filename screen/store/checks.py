"""Checks: what a store says of itself, and the numbers that other arrays are indexed by, before either is used."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from screen.config.sections import DegConfig, EnrichConfig
from screen.planning.layout import Layout

LARGEST = 2**48
"""No number of items, rows or cells is above this."""
VIEW = {"strata": list, "deg": dict, "min_cells": int, "export_batch_size": int}
"""What a store's view must have, by type."""


def check_layout(layout: Layout) -> None:
    """Raises ValueError naming a value that no layout has."""
    times = layout.pred_tps
    wrong = {
        "pred_tps": not times or len(set(times)) < len(times) or not all(_is_count(t) and t <= 9 for t in times),
        "width": not _is_count(layout.width) or layout.width < 1,
        "expression_scale": not isinstance(layout.expression_scale, str | None),
        "dtype": layout.dtype not in ("float16", "float32"),
        "keep": layout.keep not in ("predictions", "summaries"),
        "keep_embeddings": not isinstance(layout.keep_embeddings, bool),
        "keep_gene_cosine": not isinstance(layout.keep_gene_cosine, bool),
    }
    found = [f"{name} is {getattr(layout, name)!r:.60}" for name, is_wrong in wrong.items() if is_wrong]
    if found:
        raise ValueError(f"in its layout {'; '.join(found)}")


def check_provenance(provenance: Any) -> None:
    """Raises ValueError or TypeError where what later steps read of it is missing or is something else."""
    for part in ("view", "identity"):
        if not isinstance(provenance, dict) or not isinstance(provenance.get(part), dict):
            raise ValueError(f"its provenance has no {part}")
    check_view(provenance["view"])


def check_view(view: Any, needed: Mapping[str, type] = VIEW) -> None:
    """Raises ValueError or TypeError where how tables present the results is missing or is something else."""
    if not isinstance(view, dict):
        raise ValueError(f"its view is {view!r:.60}")
    for name, kind in needed.items():
        if not isinstance(view.get(name), kind) or (kind is int and not 0 < int(view[name]) < LARGEST):
            raise ValueError(f"{name} in its view is {view.get(name)!r:.60}")
    for name in ("strata", "var_list", "named"):
        if not all(isinstance(v, str) for v in view.get(name) or ()) or not isinstance(view.get(name), list | None):
            raise ValueError(f"{name} in its view is {view.get(name)!r:.60}")
    DegConfig.model_validate(view["deg"])
    enrich = view.get("enrich")
    if enrich is not None:
        EnrichConfig.model_validate({k: v for k, v in enrich.items() if k != "files"})
        check_files(enrich.get("files"))


def check_files(files: Any) -> None:
    """Raises ValueError where it is no list of files with their checksums."""
    if not isinstance(files, dict) or not all(isinstance(c, str) for c in files.values()):
        raise ValueError("its checksums of files are none")


def count_in(attributes: Mapping[str, Any], name: str, least: int) -> int:
    """A number of things among attributes. Raises ValueError."""
    value: Any = attributes.get(name)
    if not _is_count(value) or not least <= int(value) < LARGEST:
        raise ValueError(f"{name} is {value!r:.60}; it must be a whole number from {least}")
    return int(value)


def check_range(name: str, values: NDArray[Any], low: int, stop: int) -> None:
    """Numbers that index something lie within it. Raises ValueError."""
    if values.dtype.kind not in "iu":
        raise ValueError(f"{name} must hold whole numbers; it holds {values.dtype}")
    if values.size and not low <= values.min() <= values.max() < stop:
        raise ValueError(f"{name} runs from {values.min()} to {values.max()}; it must be {low} to {stop - 1}")


def check_starts(start_BP: NDArray[Any], n_items: int) -> None:
    """Items of perturbations follow one another from 0 to the end, block of cells after block of cells. Raises ValueError."""
    check_range("items/start", start_BP, 0, n_items + 1)
    flat = start_BP.reshape(-1)
    joins = bool((start_BP[:-1, -1] == start_BP[1:, 0]).all()) if start_BP.size else False
    if not joins or flat[0] != 0 or flat[-1] != n_items or (flat[1:] < flat[:-1]).any():
        raise ValueError(f"items/start must rise from 0 to {n_items}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
