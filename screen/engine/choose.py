"""decide: which executor runs a screen. What a store was created with wins over what would be chosen now."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from screen.config.sections import ComputeConfig
from screen.engine.executor import Executor, default_batch_tokens, fastest_product, find_device, onednn_attention_from
from screen.engine.screen import Prepared
from screen.errors import ConfigError
from screen.models.products import has_onednn_products


def decide(compute: ComputeConfig, screen: Prepared, decided: Mapping[str, Any] | None = None) -> Executor:
    """The executor of a configuration; `decided` is what an existing store was created with. Raises ConfigError."""
    if compute.engine == "reference":
        return Executor(torch.device("cpu"), n_lanes=compute.lanes)
    device = find_device(compute.device)
    if decided is not None:
        if decided["cpu_products"] == "onednn" and device.type == "cpu" and not has_onednn_products():
            raise ConfigError(
                f"the output directory was created with oneDNN products, which torch {torch.__version__} lacks here; "
                "continue on a machine like the first, or choose another --out"
            )
        for name in ("precision", "batch_tokens", "cpu_products"):
            asked = getattr(compute, name)
            if asked not in (None, "auto", decided[name]):
                raise ConfigError(
                    f"compute.{name} is {asked}, but the output directory was created with {decided[name]}; "
                    "remove the setting, or choose another --out"
                )
        return Executor(device, **decided, n_lanes=compute.lanes)
    precision = compute.precision
    if precision == "auto":
        precision = "float32" if device.type == "cpu" else "fp16x2"
    batch_tokens = compute.batch_tokens or default_batch_tokens(device)
    if device.type != "cpu":
        return Executor(device, precision, batch_tokens=batch_tokens, n_lanes=compute.lanes)
    return replace(_on_cpu(compute, screen), precision=precision, batch_tokens=batch_tokens, n_lanes=compute.lanes)


def _on_cpu(compute: ComputeConfig, screen: Prepared) -> Executor:
    """What multiplies and attends on this CPU, by the clock unless the user says so."""
    plain = Executor(torch.device("cpu"))
    if compute.cpu_products == "torch":
        return plain
    if compute.cpu_products == "onednn" and not has_onednn_products():
        raise ConfigError(
            f"compute.cpu_products is onednn, but torch {torch.__version__} has none here; use auto or torch"
        )
    sizes, longest = screen.adapter.model.sizes, screen.window.max_len
    return replace(
        plain,
        cpu_products="onednn" if compute.cpu_products == "onednn" else fastest_product(sizes.width),
        onednn_attention_from=onednn_attention_from(sizes.n_heads, sizes.head_width, longest),
        onednn_encoder_attention_from=onednn_attention_from(sizes.encoder.n_heads, sizes.encoder.head_width, longest),
    )
