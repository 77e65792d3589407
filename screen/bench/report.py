"""What `bench --json` writes; the keys are its format, whatever the fields are called here."""

from typing import Any

from screen.bench.measure import Measured, Projection, Wanted
from screen.models.synthetic import SyntheticSizes


def report(wanted: Wanted, measured: Measured) -> dict[str, Any]:
    """What was wanted, and the figures beside it."""
    return {"wanted": wanted_as_json(wanted), **measured_as_json(measured)}


def wanted_as_json(wanted: Wanted) -> dict[str, Any]:
    return {
        "sizes": sizes_as_json(wanted.sizes),
        "device": wanted.device,
        "precision": wanted.precision,
        "modes": list(wanted.modes),
        "site": wanted.site,
        "edited_tps": list(wanted.edited_tps),
        "n_cells": wanted.n_cells,
        "n_genes": wanted.n_genes,
        "batch_tokens": wanted.batch_tokens,
        "seconds": wanted.seconds,
    }


def sizes_as_json(sizes: SyntheticSizes) -> dict[str, int]:
    return {
        "width": sizes.width,
        "n_heads": sizes.n_heads,
        "encoder_head_width": sizes.encoder_head_width,
        "head_width": sizes.head_width,
        "n_encoder_blocks": sizes.n_encoder_blocks,
        "n_blocks": sizes.n_blocks,
        "n_genes": sizes.n_genes,
        "n_source_tokens": sizes.n_source_tokens,
        "max_len": sizes.max_len,
        "n_times": sizes.n_times,
    }


def measured_as_json(measured: Measured) -> dict[str, Any]:
    """The figures of one run; what each means stands in `Measured`."""
    return {
        "executor": measured.executor,
        "n_lanes": measured.n_lanes,
        "n_edits": measured.n_edits,
        "n_cells": measured.n_cells,
        "n_perturbations": measured.n_perturbations,
        "n_units": measured.n_units,
        "gflop_per_edit": measured.gflop_per_edit,
        "edits_per_s": measured.edits_per_s,
        "tokens_per_s": measured.tokens_per_s,
        "padding_share": measured.padding_share,
        "tflops": measured.tflops,
        "ceiling_tflops": measured.ceiling_tflops,
        "ceiling_by_shape": measured.ceiling_by_shape,
        "share_of_ceiling": measured.share_of_ceiling,
        "outside_model_share": measured.outside_model_share,
        "busy_share": measured.busy_share,
        "peak_memory_bytes": measured.peak_memory_bytes,
        "units_s": measured.units_s,
        "bare_s": measured.bare_s,
        "projection": projection_as_json(measured.projection),
        "circumstances": measured.circumstances,
    }


def projection_as_json(projection: Projection) -> dict[str, Any]:
    return {
        "n_edits": projection.n_edits,
        "n_cells": projection.n_cells,
        "n_genes": projection.n_genes,
        "mean_gflop_per_edit": projection.mean_gflop_per_edit,
        "gflop_per_control": projection.gflop_per_control,
        "device_hours": projection.device_hours,
    }
