"""Kernels of perturbscreen, each beside the plain-torch reference that defines it."""

from screen_kernels.edit_tokens import MASK, PAD, edit_row_reference

__all__ = ["MASK", "PAD", "edit_row_reference"]
