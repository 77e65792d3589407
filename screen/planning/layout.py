"""Layout: which arrays a library block of a store holds, how wide they are and how deltas are stored."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from screen.directory import PROVENANCE
from screen.errors import StoreError, some

SCALE = 1e4
"""Counts are scaled to this total before the logarithm (counts per ten thousand)."""
COUNTS, LOG1P = "counts", "log1p_cp10k"
SCALES = {
    COUNTS: "predicted counts",
    LOG1P: "log1p of predicted counts per 10,000 of the model's genes (natural logarithm)",
}
"""Scale of an export -> what it is."""
FLOAT16_SCALE = 4096.0
SUMMARIES = ("mean_delta", "m2_delta", "target_mean", "ref_mean")
"""Sufficient statistics of a group of items, per gene; what each is stands in docs/store.md."""
MOMENTS = {"delta": "float64", "counts": "float32"}
"""Array of partial moments, beside the changes -> its dtype; each holds two numbers per group and gene, docs/store.md."""
MOMENT_BYTES = sum(2 * np.dtype(dtype).itemsize for dtype in MOMENTS.values())
"""Of one group and gene."""
REQUIRED = ("pred_tps", "width", "expression_scale")
KEYS = (*REQUIRED, "dtype", "keep_embeddings", "keep_gene_cosine", "keep")
"""What a store says of its layout."""


@dataclass(frozen=True)
class Layout:
    """Dtype of deltas, optional arrays, expression scale, and whether items or only summaries of them are kept."""

    pred_tps: tuple[int, ...]
    width: int
    expression_scale: str | None
    dtype: str = "float16"
    keep_embeddings: bool = False
    keep_gene_cosine: bool = False
    keep: Literal["predictions", "summaries"] = "predictions"

    def as_json(self) -> dict[str, Any]:
        """What a store says of its layout, and a screen's identity of it; the keys are the store's format, docs/store.md."""
        return {
            "pred_tps": list(self.pred_tps),
            "width": self.width,
            "expression_scale": self.expression_scale,
            "dtype": self.dtype,
            "keep_embeddings": self.keep_embeddings,
            "keep_gene_cosine": self.keep_gene_cosine,
            "keep": self.keep,
        }

    @staticmethod
    def from_json(found: Mapping[str, Any], place: object) -> "Layout":
        """The layout that a store at `place` says it has. Raises StoreError for a key that is unknown or missing."""
        unknown, missing = [n for n in found if n not in KEYS], [n for n in REQUIRED if n not in found]
        if unknown:
            raise StoreError(
                f"{place} has a layout with {some(unknown)}, of which this perturbscreen knows nothing; it knows "
                f"{some(KEYS, len(KEYS))}. Read it with the version that wrote it, which {PROVENANCE} names, or a newer one"
            )
        if missing:
            raise StoreError(
                f"{place} has a layout without {some(missing)}: its zarr.json is damaged; restore it from a copy, or screen "
                "again into another --out"
            )
        # what early stores do not say is what they all had
        return Layout(
            pred_tps=tuple(found["pred_tps"]),
            width=found["width"],
            expression_scale=found["expression_scale"],
            dtype=found.get("dtype", "float16"),
            keep_embeddings=found.get("keep_embeddings", False),
            keep_gene_cosine=found.get("keep_gene_cosine", False),
            keep=found.get("keep", "predictions"),
        )

    @property
    def has_counts(self) -> bool:
        """Whether anything is said about genes."""
        return self.expression_scale is not None

    @property
    def keeps_summaries(self) -> bool:
        """Whether the moments of groups take the place of every item's genes."""
        return self.has_counts and self.keep == "summaries"

    @property
    def delta_scale(self) -> float:
        """What deltas are multiplied by before they are stored."""
        return FLOAT16_SCALE if self.dtype == "float16" else 1.0

    @property
    def effects(self) -> tuple[str, ...]:
        """Columns of `items/effects`: what is one number per item."""
        names = ["embedding_cosine", *(["total", "rms_delta"] if self.has_counts else [])]
        return "rank", "length", *(f"{n}_t{t}" for t in self.pred_tps for n in names)

    def matrices(self, n_genes: int) -> dict[str, tuple[int, str]]:
        """Group of one array per time point with a row per item -> its width and dtype."""
        wanted: dict[str, tuple[int, str]] = {}
        if self.has_counts and not self.keeps_summaries:
            wanted["delta"] = n_genes, self.dtype
        if self.keep_embeddings:
            wanted["embedding"] = self.width, "float32"
        if self.keep_gene_cosine:
            wanted["gene_cosine"] = n_genes, "float32"
        return wanted

    def controls(self, n_genes: int) -> dict[str, tuple[int | None, str]]:
        """Array of the unedited predictions, one row per cell -> width (None: one number) and dtype."""
        wanted: dict[str, tuple[int | None, str]] = {}
        for t in self.pred_tps:
            wanted |= {f"embedding_t{t}": (self.width, "float32"), f"is_predicted_t{t}": (None, "bool")}
            if self.has_counts:
                wanted |= {f"expression_t{t}": (n_genes, "float32"), f"total_t{t}": (None, "float32")}
        return wanted

    def row_bytes(self, n_genes: int) -> int:
        """Bytes of one item's row in the store; summaries, which are not per item, aside."""
        sizes = {"float16": 2, "float32": 4}
        wide = sum(width * sizes[dtype] for width, dtype in self.matrices(n_genes).values())
        return len(self.pred_tps) * wide + 4 * len(self.effects)

    def held_bytes(self, n_genes: int) -> int:
        """Bytes of one item's row in memory, before it is written or summarised."""
        summarised = 4 * len(self.pred_tps) * n_genes if self.keeps_summaries else 0
        return self.row_bytes(n_genes) + summarised

    def control_bytes(self, n_genes: int) -> int:
        """Bytes of one cell's unedited predictions."""
        return sum((width or 1) * (1 if dtype == "bool" else 4) for width, dtype in self.controls(n_genes).values())

    def files_per_unit(self, n_genes: int, has_moments: bool) -> int:
        """Files that a unit adds: its matrices and what is known of its groups, its effects and its commit marker."""
        n_of_groups = len(SUMMARIES) if self.keeps_summaries else len(MOMENTS) if has_moments else 0
        return len(self.pred_tps) * (len(self.matrices(n_genes)) + n_of_groups) + 2

    def files_per_block(self, n_genes: int) -> int:
        """Files that the controls of a block of cells add, their commit marker included."""
        return len(self.controls(n_genes)) + 1


def counts(log_BG: NDArray[np.floating], total_B: NDArray[np.floating]) -> NDArray[np.float64]:
    """The inverse of log_expression: expected counts."""
    return np.expm1(log_BG.astype(np.float64)) * (np.asarray(total_B, dtype=np.float64)[:, None] / SCALE)
