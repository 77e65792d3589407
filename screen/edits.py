"""Edits: how a gene's token in a row is changed, and in which row."""

from typing import Literal

Mode = Literal["mask", "pad", "delete", "overexpress"]
Site = Literal["src", "tgt"]
MODES: tuple[Mode, ...] = ("mask", "pad", "delete", "overexpress")
