"""The four edits: golden rows of the upstream model, and the definition said again in plain lists."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from screen_kernels import edit_row_reference

from tests.support.golden import golden, golden_json

MODES = ("mask", "pad", "delete", "overexpress")
PAD, MASK = 0, 1


@pytest.mark.parametrize("site", ["src", "tgt"])
@pytest.mark.parametrize("mode", MODES)
def test_synthetic_rows_equal_upstream(site: str, mode: str) -> None:
    arrays, meta = golden("edited_ids"), golden_json("edited_ids_meta")
    inputs = torch.from_numpy(arrays[f"{site}__input"].astype(np.int64))
    names = [n for n in arrays if n.startswith(f"{site}__{mode}__")]
    assert len(names) == len(meta["gene_ids"])
    for name in names:
        genes = meta["gene_ids"][name.split("__")[2]]
        for row, edited, what in zip(inputs, arrays[name], meta["rows"][site], strict=True):
            np.testing.assert_array_equal(edit_row_reference(row, genes, mode, site), edited, err_msg=f"{name}: {what}")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("genes", ["A", "AB", "CAB"])
def test_real_rows_equal_upstream(mode: str, genes: str) -> None:
    arrays, inputs = golden("edited_ids"), golden("inputs")
    ids = golden_json("edited_ids_meta")["batch_gene_sets"][genes]
    sides = [("src", f"batch_src__{mode}__{genes}", inputs["src_input_ids"], ids["src_token_ids"])]
    sides += [
        ("tgt", f"batch_tgt_t{t}__{mode}__{genes}", inputs[f"tgt_input_ids_t{t}"], ids["row_ids"]) for t in (1, 2, 3)
    ]
    n_rows = 0
    for site, name, rows, tokens in sides:
        for row, edited in zip(rows, arrays.get(name, ()), strict=False):
            ours = edit_row_reference(torch.from_numpy(row.astype(np.int64)), tokens, mode, site)
            np.testing.assert_array_equal(ours, edited, err_msg=name)
            n_rows += 1
    assert n_rows >= 11


def said_again(row: list[int], genes: list[int], mode: str, site: str) -> list[int]:
    """The definition in plain lists, written from the words of the specification."""
    width = len(row)
    if mode in ("mask", "pad"):
        return [(MASK if mode == "mask" else PAD) if t in genes else t for t in row]
    rest = [t for t in row if t not in genes and t != PAD]
    if mode == "delete":
        return rest + [PAD] * (width - len(rest))
    rest = (rest + [PAD] * width)[: max(width - len(genes), 0)]
    front, behind = (rest[:1], rest[1:]) if site == "src" else ([], rest)
    return (front + genes + behind)[:width]


rows_of_ids = st.lists(st.one_of(st.just(PAD), st.integers(0, 12)), min_size=1, max_size=12)


@given(
    rows_of_ids,
    st.lists(st.integers(2, 14), min_size=1, max_size=4),
    st.sampled_from(MODES),
    st.sampled_from(["src", "tgt"]),
)
def test_any_row_equals_the_definition_in_plain_lists(row: list[int], genes: list[int], mode: str, site: str) -> None:
    before = torch.tensor(row)
    edited = edit_row_reference(before, genes, mode, site)
    assert edited.tolist() == said_again(row, genes, mode, site)
    assert before.tolist() == row
    assert edited.dtype == before.dtype


@given(rows_of_ids, st.lists(st.integers(4, 9), min_size=1, max_size=3, unique=True), st.sampled_from(["src", "tgt"]))
def test_a_gene_that_is_absent_changes_nothing_but_holes(row: list[int], genes: list[int], site: str) -> None:
    without = [t for t in row if t not in genes]
    if not without:
        return
    for mode in ("mask", "pad"):
        assert edit_row_reference(torch.tensor(without), genes, mode, site).tolist() == without
    closed = [t for t in without if t != PAD]
    expected = closed + [PAD] * (len(without) - len(closed))
    assert edit_row_reference(torch.tensor(without), genes, "delete", site).tolist() == expected


def test_an_unknown_mode_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match='mode is "knockdown"'):
        edit_row_reference(torch.tensor([4, 5]), [4], "knockdown", "src")
