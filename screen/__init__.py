"""perturbscreen: batched in-silico perturbation screens over rank-token transformers."""

__version__ = "0.1.0"
