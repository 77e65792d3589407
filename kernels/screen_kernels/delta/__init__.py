"""Kernels of differences: what an operation's output changes by, given its input in the control and by how much that changes.

Throughout x is the control's, d the difference, and exact means in real arithmetic. C cells (1 serves every item), B items.
"""

from screen_kernels.delta.activation import gelu_change, relu_change
from screen_kernels.delta.attention import AttentionControl, attention_change, attention_control
from screen_kernels.delta.few_keys import FewKeys, few_keys_change, product_of_out
from screen_kernels.delta.norm import NormControl, norm_change, norm_control
from screen_kernels.delta.pool import pool_change

__all__ = [
    "AttentionControl",
    "FewKeys",
    "NormControl",
    "attention_change",
    "attention_control",
    "few_keys_change",
    "gelu_change",
    "norm_change",
    "norm_control",
    "pool_change",
    "product_of_out",
    "relu_change",
]
