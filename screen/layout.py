"""Layout: which arrays a store holds beside the items, and how deltas are stored."""

from dataclasses import dataclass

FLOAT16_SCALE = 4096.0


@dataclass(frozen=True)
class Layout:
    """Dtype of deltas, optional arrays, expression scale."""

    pred_tps: tuple[int, ...]
    width: int
    expression_scale: str | None
    dtype: str = "float16"
    keep_embeddings: bool = False
    keep_gene_cosine: bool = False

    @property
    def delta_scale(self) -> float:
        """What deltas are multiplied by before they are stored."""
        return FLOAT16_SCALE if self.dtype == "float16" else 1.0

    def row_bytes(self, n_genes: int) -> int:
        """Bytes of one item's row in the store."""
        n_counts = 0 if self.expression_scale is None else n_genes * (2 if self.dtype == "float16" else 4) + 8
        n_optional = 4 * (self.width * self.keep_embeddings + n_genes * self.keep_gene_cosine)
        return 4 + len(self.pred_tps) * (n_counts + n_optional + 4)
