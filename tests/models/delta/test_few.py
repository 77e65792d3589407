"""A few changed tokens, taken one by one, give what the network gives for the whole edited row."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from screen_kernels import edit_row_reference

from screen.models.adapter import row_of
from screen.models.delta.few import few_rows
from screen.models.delta.ops import Recording
from screen.models.ops import PLAIN
from screen.models.perturbgen.random import random_model, sizes_of
from screen.models.products import Pair
from screen.models.synthetic import SyntheticSizes

SIZES = SyntheticSizes(
    width=32, n_heads=2, encoder_head_width=24, head_width=8, n_encoder_blocks=2, n_blocks=1, n_genes=40,
    n_source_tokens=60, max_len=30, n_times=2,
)  # fmt: skip


def model_of(kind: str) -> Any:
    sizes = sizes_of(SIZES)
    encoder = replace(sizes.encoder, chained=kind == "chained")
    if kind == "Transformer_encoder":
        encoder = replace(encoder, kind="Transformer_encoder", feed_forward_width=48)
    return random_model(replace(sizes, encoder=encoder)).double()


MODELS = {kind: model_of(kind) for kind in ("scmaskgit", "chained", "Transformer_encoder")}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([*MODELS]),
    st.lists(st.integers(4, 40), min_size=1, max_size=20, unique=True),
    st.lists(
        st.tuples(st.sampled_from(["mask", "pad"]), st.lists(st.integers(4, 40), min_size=1, max_size=3)), min_size=1
    ),
    st.integers(0, 3),
)
def test_few_rows_are_the_networks(kind: str, ids: list[int], edits: list[tuple[str, list[int]]], n_more: int) -> None:
    model, row = MODELS[kind], torch.tensor(ids)
    wide = torch.cat([row, row.new_zeros(n_more)])
    edited = torch.stack([edit_row_reference(wide, genes, mode, "src") for mode, genes in edits])
    found = few_rows(lambda ops, r: model.encoded(ops, r), PLAIN, Recording(), row, edited)
    assert found is not None
    exact = model.encoded(PLAIN, row_of(edited))
    is_token = edited != 0
    assert float((found - exact)[is_token].abs().max() if is_token.any() else 0.0) <= 1e-10


def test_a_row_left_without_a_key_attends_to_nothing() -> None:
    row = torch.tensor([7, 9])
    empty = torch.zeros(1, 2, dtype=torch.long)
    found = few_rows(lambda ops, r: MODELS["scmaskgit"].encoded(ops, r), PLAIN, Recording(), row, empty)
    assert found is not None
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("mode", ["delete", "overexpress", "shift+1"])
def test_edits_that_move_other_tokens_are_not_few(mode: str) -> None:
    row = torch.tensor([7, 9, 11, 13])
    edited = edit_row_reference(row, [11], mode, "tgt")[None]
    assert few_rows(lambda ops, r: MODELS["scmaskgit"].encoded(ops, r), PLAIN, Recording(), row, edited) is None


def test_a_recording_serves_edits_that_leave_the_few_at_different_places() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value, out, aside = (
        Pair(torch.randn(8, 8, generator=generator, dtype=torch.float64), None) for _ in range(5)
    )
    table = torch.randn(40, 8, generator=generator, dtype=torch.float64)

    def network(ops: Any, row: Any) -> Any:
        x = ops.add_position(ops.embed(row.ids_BL, table), lambda n: torch.zeros(n, 8, dtype=torch.float64))
        attended = ops.attend(*(ops.product(x, w) for w in (query, key, value)), 2, row.keep_BL)
        # the second product is of x itself, which is a change whatever became of attention
        return ops.add(ops.product(attended, out), ops.product(x, aside))

    row, recording = torch.tensor([7]), Recording()
    for mode in ("pad", "mask"):
        edited = edit_row_reference(row, [7], mode, "src")[None]
        found = few_rows(network, PLAIN, recording, row, edited)
        assert found is not None
        if mode == "mask":
            assert float((found - network(PLAIN, row_of(edited))).abs().max()) <= 1e-12
