"""Bytes per second of every kernel of the packed engine, beside a copy on the same device."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from screen_kernels import add_norm, align_rows, edit_tokens, pool_shift, split_half
from screen_kernels.add_norm import add_norm_bytes
from screen_kernels.backend import BACKENDS
from screen_kernels.edit_tokens import MODES, edit_tokens_bytes
from screen_kernels.pool_shift import pool_shift_bytes
from screen_kernels.split_half import split_half_bytes

from benchmarks.gpu.job import Job, say, seconds_of

LENGTH = 352
Kernel = tuple[int, Callable[..., object]]
"""Bytes declared, and the call, which takes a backend."""


def row_kernels(device: torch.device, n_rows: int, width: int) -> dict[str, Kernel]:
    """Kernels that read activations, at the size of a batch."""
    x_TD, update_TD = torch.randn(2, n_rows, width, device=device)
    one_D, zero_D = torch.ones(width, device=device), torch.zeros(width, device=device)
    n_items = max(n_rows // LENGTH, 1)
    hidden_BLD = torch.randn(n_items, LENGTH, width, device=device)
    counted_BL = torch.ones(n_items, LENGTH, dtype=torch.bool, device=device)
    counted_BL[:, ::50] = False
    item_B, n_counted = torch.zeros(n_items, dtype=torch.int64, device=device), int(counted_BL.sum())
    normed, half = partial(add_norm, x_TD, update_TD, one_D, zero_D), split_half_bytes(n_rows, width)
    return {
        "add_norm": (add_norm_bytes(n_rows, width), normed),
        "split_half": (half, partial(split_half, x_TD)),
        "split_half, gelu": (half, partial(split_half, x_TD, "gelu")),
        "pool_shift": (
            pool_shift_bytes(n_counted, n_items, LENGTH, width, 4),
            partial(pool_shift, hidden_BLD, counted_BL, one_D[None], item_B),
        ),
    }


def edit_kernels(device: torch.device, sizes: Sequence[int]) -> dict[str, Kernel]:
    """Edits of one gene in rows of LENGTH tokens, for so many items."""
    rng = np.random.default_rng(0)
    found: dict[str, Kernel] = {}
    token_CL = np.stack([rng.permutation(2000)[:LENGTH] + 4 for _ in range(64)]).astype(np.int32)
    rows = align_rows(token_CL.ravel(), np.arange(65) * LENGTH, device)
    for n in sizes:
        cell_B = torch.arange(n, device=device) % 64
        gene_BK = torch.from_numpy(token_CL[np.arange(n) % 64, rng.integers(0, LENGTH, n)][:, None]).to(device)
        for mode in ("mask", "overexpress"):
            mode_B = torch.full((n,), MODES.index(mode), dtype=torch.int8, device=device)
            edit = partial(edit_tokens, rows, cell_B, gene_BK, mode_B, site="src", width=2 * LENGTH, out_width=LENGTH)
            found[f"edit_tokens, {mode}, {n:,} items"] = edit_tokens_bytes(n * LENGTH, n, LENGTH, 1), edit
    return found


def bandwidth(job: Job) -> None:
    """Bytes per second of every kernel by each backend, and their share of a copy on the same device."""
    n = 2**20 if job.is_quick else 2**28
    x, y = torch.randn(2, n, device=job.device)
    copy = 2 * x.nbytes / seconds_of(job.device, lambda: y.copy_(x)) / 1e9
    job.figures["copy GB/s"] = copy
    say(f"\ndevice copy {copy:,.0f} GB/s")
    found = job.figures.setdefault("kernels", {})
    backends = BACKENDS if job.device.type == "cuda" else ("torch",)
    n_items = max(job.batch_tokens // LENGTH, 1)
    # those of a batch, and so many that launching the kernel does not count
    edits = edit_kernels(job.device, (n_items,) if job.is_quick else (n_items, 64 * n_items))
    for name, (n_bytes, call) in {**row_kernels(job.device, job.batch_tokens, job.sizes.width), **edits}.items():
        for backend in backends:
            with job.part(f"bandwidth of {name} by {backend}"), torch.inference_mode():
                taken = seconds_of(job.device, partial(call, backend=backend))
                speed = n_bytes / taken / 1e9
                figures = {"microseconds": taken * 1e6, "GB/s": speed, "share of copy": speed / copy}
                found.setdefault(name, {"bytes": n_bytes})[backend] = figures
                say(
                    f"{name:<38} {backend:<7} {taken * 1e6:>10,.1f} us {speed:>8,.0f} GB/s {speed / copy:>6.0%} of copy"
                )
