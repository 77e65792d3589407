"""Settings of every test, and models read from golden checkpoints."""

import os
from functools import cache
from typing import Any

# before torch is imported: bytes must not depend on how many tests run at once
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

from screen.models.perturbgen.files.checkpoint import load_model
from screen.models.perturbgen.files.read_sizes import Declared
from screen.models.perturbgen.network.model import PerturbGen
from tests.support.golden import golden_json, variant_checkpoint

# the same examples at every commit; `make test-long` draws others, and ten times as many
settings.register_profile("quick", deadline=None, derandomize=True, max_examples=40)
settings.register_profile("long", deadline=None, max_examples=400, print_blob=True)
settings.load_profile("quick")
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden_model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """variant -> model, read through the checkpoint reader."""
    folder = tmp_path_factory.mktemp("variants")

    @cache
    def load(variant: str) -> PerturbGen:
        is_torch = golden_json("config")["variants"][variant]["encoder"] == "Transformer_encoder"
        declared = Declared(encoder_num_heads=None if is_torch else 2)
        return load_model(variant_checkpoint(variant, folder / f"{variant}.ckpt"), declared)[0]

    return load
