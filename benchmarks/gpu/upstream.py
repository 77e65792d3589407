"""The upstream-shaped loop on the same device: what the engine's edits per second are compared with."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from benchmarks.engine.upstream_shaped import Edit, PaddedCells, Settings, UpstreamShaped
from benchmarks.gpu.job import Job, say, twin
from screen.engine.screen import Screen
from screen.models.perturbgen.random import random_model, sizes_of

LONGEST = (1233, 797)
"""Padded lengths: of upstream's example, and of the file it ships."""
N_EDITS = 5
"""Genes."""


def upstream(job: Job) -> None:
    """Edits per second of masks in the source, 64 cells at a time: float32, tf32, float16 autocast."""
    found = job.figures.setdefault("upstream-shaped, edits/s", {})
    for longest in (64,) if job.is_quick else LONGEST:
        sizes = replace(job.sizes, max_len=longest)
        model = random_model(sizes_of(sizes)).to(job.device)
        genes = range(0, sizes.n_genes, sizes.n_genes // N_EDITS)
        screen, loop = twin(sizes, 4 if job.is_quick else 64, genes), UpstreamShaped.random(model)
        for name in ("float32", "tf32", "autocast"):
            with job.part(f"upstream-shaped, {name}, padded to {longest:,}"), products_in(name, job.device):
                rate = edits_per_s(loop, screen, longest, job.device)
                found[f"{name}, {longest}"] = rate
                say(f"upstream-shaped, {name}, padded to {longest:,}: {rate:.1f} edits/s")


@contextmanager
def products_in(name: str, device: torch.device) -> Iterator[None]:
    """Float32 products as they are, in tf32, or whatever autocast takes float16 for."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    try:
        with torch.autocast(device.type, half, enabled=name == "autocast"):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def edits_per_s(loop: UpstreamShaped, screen: Screen, longest: int, device: torch.device) -> float:
    """Of one gene after another, the first of which warms up."""
    cells, n, start = PaddedCells.from_bank(screen.bank, (1,), longest), 0, 0.0
    for k, p in enumerate(screen.library.perturbations):
        edit = Edit(tuple(p.tokens(screen.vocabulary, "src")), (), p.mode, p.sites)
        n_edits = sum(len(result.row_B) for result in loop.run(cells, edit, Settings()))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        n, start = (n + n_edits, start) if k else (0, time.perf_counter())
    return n / (time.perf_counter() - start)
