"""JSON on the disk has the keys of the format, docs/store.md, whatever the code calls its fields."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from screen.errors import StoreError
from screen.planning.layout import Layout
from screen.store.store import ScreenStore
from tests.support import places, store_fixture
from tests.support.store_fixture import FIRST, NEW, run, screen_of

ROOT = {"format", "format_version", "layout", "provenance", "files"}
LAYOUT = {"pred_tps", "width", "expression_scale", "dtype", "keep_embeddings", "keep_gene_cosine", "keep"}
PROVENANCE = {
    "format_version", "identity", "decided", "pilot", "created", "perturbscreen", "notes", "view",
}  # fmt: skip
IDENTITY = {
    "model", "vocabulary", "cells", "conditions", "layout", "strata", "upstream_pooling", "exclude_src", "precision",
    "numerics_version",
}  # fmt: skip
DECIDED = {
    "precision", "cpu_products", "onednn_attention_from", "onednn_encoder_attention_from", "batch_tokens",
}  # fmt: skip
VIEW = {"var_list", "export_batch_size", "strata", "min_cells", "deg"}
VIEW_LATER = {"enrich", "named"}
"""What docs/store.md names as added to the view since the first stores of format 2."""
DEG, DEG_LATER = {"test", "rank_sum", "replicate", "top", "max_fdr", "min_delta"}, {"signed_rank"}
BLOCK = {
    "n_items", "unit_rows", "cells_per_block", "created", "library", "plan", "config", "perturbscreen", "files",
}  # fmt: skip
MARKER, CONTROL_MARKER = {"crc32c", "executor", "rows", "files"}, {"crc32c", "files"}
EXECUTOR = {
    "device", "precision", "cpu_products", "onednn_attention_from", "onednn_encoder_attention_from", "batch_tokens",
    "torch", "threads_per_lane", "perturbscreen", "machine", "finished", "engine",
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A screen that was extended, as it is written now."""
    out = tmp_path_factory.mktemp("keys") / "out"
    assert run(screen_of(FIRST, strata=["cell_type"]), out) == 0
    assert run(screen_of(NEW, strata=["cell_type"]), out, "--add") == 0
    return out


def attributes(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "zarr.json").read_text())["attributes"]
    return found


def assert_keys(store: Path, view: set[str], deg: set[str]) -> None:
    root = attributes(store)
    provenance = root["provenance"]
    assert set(root) == ROOT
    assert set(root["layout"]) == set(provenance["identity"]["layout"]) == LAYOUT
    assert set(provenance) == PROVENANCE
    assert set(provenance["identity"]) == IDENTITY
    assert set(provenance["decided"]) == DECIDED
    assert set(provenance["view"]) == view
    assert set(provenance["view"]["deg"]) == deg
    for number in (0, 1):
        block = store / "library" / str(number)
        assert set(attributes(block)) == BLOCK
        for name, keys in (("commits", MARKER), ("control/commits", CONTROL_MARKER)):
            texts = zarr.open_array(block / name, mode="r")[...]
            markers = [json.loads(str(text)) for text in np.asarray(texts)]
            assert markers
            for marker in markers:
                assert set(marker) == keys
                assert keys == CONTROL_MARKER or set(marker["executor"]) == EXECUTOR


def test_json_of_format_2_has_these_keys(tmp_path: Path) -> None:
    assert_keys(store_fixture.unpacked(tmp_path), VIEW, DEG)


def test_json_that_is_written_now_has_the_same_keys_and_the_documented_ones(written: Path) -> None:
    assert_keys(written / "screen.zarr", VIEW | VIEW_LATER, DEG | DEG_LATER)
    provenance = json.loads((written / "provenance.json").read_text())
    assert set(provenance) == PROVENANCE | {"library"}
    assert set(provenance["library"][1]) == BLOCK - {"files"}
    assert set(json.loads((written / "tables.json").read_text())) == {"results", "statistics", "files", "checksums"}


def test_every_key_is_documented() -> None:
    documented = (places.ROOT / "docs" / "store.md").read_text().partition("## Keys")[2]
    keys = ROOT | LAYOUT | PROVENANCE | IDENTITY | DECIDED | VIEW | VIEW_LATER | BLOCK | MARKER | EXECUTOR
    assert [k for k in sorted(keys) if f"`{k}`" not in documented] == []


layouts = st.builds(
    Layout, st.lists(st.integers(1, 9), min_size=1, unique=True).map(tuple), st.integers(1, 2000),
    st.sampled_from([None, "log1p_cp10k", "model"]), st.sampled_from(["float16", "float32"]), st.booleans(), st.booleans(),
    st.sampled_from(["predictions", "summaries"]),
)  # fmt: skip


@given(layouts)
def test_a_layout_is_read_as_it_was_written(layout: Layout) -> None:
    text = json.dumps(layout.as_json())
    assert set(json.loads(text)) == LAYOUT
    assert Layout.from_json(json.loads(text), "a store") == layout


def test_what_an_early_layout_does_not_say_is_what_all_stores_had() -> None:
    early = {"pred_tps": [2], "width": 3, "expression_scale": None}
    assert Layout.from_json(early, "a store") == Layout((2,), 3, None, "float16", False, False, "predictions")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda layout: layout | {"keep_attention": True}, ("keep_attention", "keep_gene_cosine", "provenance.json", "newer")),
        (lambda layout: {k: v for k, v in layout.items() if k != "width"}, ("without width", "damaged", "copy")),
    ],
    ids=["a key of the future", "a key that is gone"],
)  # fmt: skip
def test_another_layout_is_refused_saying_what_to_do(tmp_path: Path, change: Any, words: tuple[str, ...]) -> None:
    store = store_fixture.unpacked(tmp_path)
    metadata = json.loads((store / "zarr.json").read_text())
    metadata["attributes"]["layout"] = change(metadata["attributes"]["layout"])
    (store / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(StoreError) as raised:
        ScreenStore.open(store)
    assert [w for w in (*words, str(store)) if w not in str(raised.value)] == []
