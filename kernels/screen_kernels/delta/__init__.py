"""Kernels of differences: what an operation's output changes by, given its input in the control and by how much that changes.

Throughout x is the control's, d the difference, and exact means in real arithmetic. C cells (1 serves every item), B items.
`..._rows` work on ragged rows, `frame_rows` on rows filled up with pads, and have Triton kernels; the rest are their definitions,
in plain torch.
"""

from screen_kernels.delta.activation import (
    activation_change_rows,
    activation_change_rows_bytes,
    activation_change_rows_flops,
    activation_change_rows_reference,
    gelu_change,
    relu_change,
)
from screen_kernels.delta.attention import (
    AttentionControl,
    AttentionRows,
    attention_change,
    attention_change_rows,
    attention_change_rows_bytes,
    attention_change_rows_flops,
    attention_change_rows_reference,
    attention_control,
)
from screen_kernels.delta.few_keys import FewKeys, few_keys_change, product_of_out
from screen_kernels.delta.frame import (
    Frame,
    columns_by_id,
    frame_rows,
    frame_rows_bytes,
    frame_rows_reference,
)
from screen_kernels.delta.norm import (
    NormControl,
    norm_change,
    norm_change_rows,
    norm_change_rows_bytes,
    norm_change_rows_flops,
    norm_change_rows_reference,
    norm_control,
)
from screen_kernels.delta.pool import (
    pool_change,
    pool_change_rows,
    pool_change_rows_bytes,
    pool_change_rows_flops,
    pool_change_rows_reference,
    pool_total,
)
from screen_kernels.delta.ragged import (
    RaggedRows,
    even_rows,
    ragged_rows,
)
from screen_kernels.delta.scaled import (
    Scaled,
    scaled,
)

__all__ = [
    "AttentionControl",
    "AttentionRows",
    "FewKeys",
    "Frame",
    "NormControl",
    "RaggedRows",
    "Scaled",
    "activation_change_rows",
    "activation_change_rows_bytes",
    "activation_change_rows_flops",
    "activation_change_rows_reference",
    "attention_change",
    "attention_change_rows",
    "attention_change_rows_bytes",
    "attention_change_rows_flops",
    "attention_change_rows_reference",
    "attention_control",
    "columns_by_id",
    "even_rows",
    "few_keys_change",
    "frame_rows",
    "frame_rows_bytes",
    "frame_rows_reference",
    "gelu_change",
    "norm_change",
    "norm_change_rows",
    "norm_change_rows_bytes",
    "norm_change_rows_flops",
    "norm_change_rows_reference",
    "norm_control",
    "pool_change",
    "pool_change_rows",
    "pool_change_rows_bytes",
    "pool_change_rows_flops",
    "pool_change_rows_reference",
    "pool_total",
    "product_of_out",
    "ragged_rows",
    "relu_change",
    "scaled",
]
