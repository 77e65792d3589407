"""Kernels of perturbscreen, each beside the plain-torch reference that defines it."""

from screen_kernels.add_norm import add_norm, add_norm_bytes, add_norm_flops, add_norm_reference
from screen_kernels.backend import BACKENDS, choose
from screen_kernels.edit_tokens import (
    MASK,
    MAX_GENES,
    MODES,
    PAD,
    AlignedRows,
    EditedRows,
    align_rows,
    edit_row_reference,
    edit_tokens,
    edit_tokens_bytes,
    edit_tokens_reference,
)
from screen_kernels.pool_shift import pool_shift, pool_shift_bytes, pool_shift_flops, pool_shift_reference
from screen_kernels.split_half import split_half, split_half_bytes, split_half_flops, split_half_reference

__all__ = [
    "BACKENDS",
    "MASK",
    "MAX_GENES",
    "MODES",
    "PAD",
    "AlignedRows",
    "EditedRows",
    "add_norm",
    "add_norm_bytes",
    "add_norm_flops",
    "add_norm_reference",
    "align_rows",
    "choose",
    "edit_row_reference",
    "edit_tokens",
    "edit_tokens_bytes",
    "edit_tokens_reference",
    "pool_shift",
    "pool_shift_bytes",
    "pool_shift_flops",
    "pool_shift_reference",
    "split_half",
    "split_half_bytes",
    "split_half_flops",
    "split_half_reference",
]
