"""Edits of one row: golden rows of the upstream model, and the definition said again in plain lists."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from screen_kernels import edit_row_reference

from screen.edits import parse
from tests.support.golden import golden, golden_json
from tests.support.modes import EVERY

MODES = ("mask", "pad", "delete", "overexpress")
"""Those of the upstream model."""
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
    if mode.startswith("shift"):
        return shifted_step_by_step(row, genes, parse(mode).parameter)
    if mode in ("mask", "pad"):
        return [(MASK if mode == "mask" else PAD) if t in genes else t for t in row]
    rest = [t for t in row if t not in genes and t != PAD]
    if mode == "delete":
        return rest + [PAD] * (width - len(rest))
    rest = (rest + [PAD] * width)[: max(width - len(genes), 0)]
    front, behind = (rest[:1], rest[1:]) if site == "src" else ([], rest)
    return (front + genes + behind)[:width]


def shifted_step_by_step(row: list[int], genes: list[int], n_places: int) -> list[int]:
    """One place at a time, the foremost first, each unless another listed gene or the end of the row is in its way."""
    at = [i for i, t in enumerate(row) if t > 3]
    ids = [row[i] for i in at][:: 1 if n_places > 0 else -1]
    for _ in range(min(abs(n_places), len(ids))):
        for rank in range(1, len(ids)):
            if ids[rank] in genes and ids[rank - 1] not in genes:
                ids[rank - 1 : rank + 1] = ids[rank], ids[rank - 1]
    moved = dict(zip(at, ids[:: 1 if n_places > 0 else -1], strict=True))
    return [moved.get(i, t) for i, t in enumerate(row)]


rows_of_ids = st.lists(st.one_of(st.just(PAD), st.integers(0, 12)), min_size=1, max_size=12)


@given(
    rows_of_ids,
    st.lists(st.integers(2, 14), min_size=1, max_size=4),
    st.sampled_from(EVERY),
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
    for mode in ("mask", "pad", "shift+2", "shift-1"):
        assert edit_row_reference(torch.tensor(without), genes, mode, site).tolist() == without
    closed = [t for t in without if t != PAD]
    expected = closed + [PAD] * (len(without) - len(closed))
    assert edit_row_reference(torch.tensor(without), genes, "delete", site).tolist() == expected


def test_an_unknown_mode_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match='mode is "knockdown"'):
        edit_row_reference(torch.tensor([4, 5]), [4], "knockdown", "src")


SHIFTS = {
    "one gene": ([2, 4, 5, 6, 7, 8, 3, 0], [7], "shift+2", [2, 4, 7, 5, 6, 8, 3, 0]),
    "towards the end": ([2, 4, 5, 6, 7, 8, 3, 0], [5], "shift-2", [2, 4, 6, 7, 5, 8, 3, 0]),
    "not past <cls>": ([2, 4, 5, 6, 3], [5], "shift+10", [2, 5, 4, 6, 3]),
    "not past <eos>": ([2, 4, 5, 6, 3, 0], [4], "shift-10", [2, 5, 6, 4, 3, 0]),
    "no special ids": ([4, 5, 6, 7], [6], "shift+9999", [6, 4, 5, 7]),
    "not into padding": ([4, 5, 6, 0, 0], [4], "shift-9999", [5, 6, 4, 0, 0]),
    "in front already": ([2, 4, 5, 3], [4], "shift+1", [2, 4, 5, 3]),
    "joint genes keep their distance": ([4, 5, 6, 7, 8, 9], [6, 8], "shift+1", [4, 6, 5, 8, 7, 9]),
    "joint genes queue at the front": ([4, 5, 6, 7, 8, 9], [8, 5, 6], "shift+3", [5, 6, 8, 4, 7, 9]),
    "joint genes queue at the end": ([4, 5, 6, 7, 8], [4, 7], "shift-3", [5, 6, 8, 4, 7]),
    "a repeated gene": ([4, 5, 6, 5, 7], [5], "shift-1", [4, 6, 5, 7, 5]),
    "holes and special ids inside keep their places": (
        [2, 4, 0, 5, 1, 6, 7, 3],
        [7],
        "shift+2",
        [2, 4, 0, 7, 1, 5, 6, 3],
    ),
    "a special id does not move": ([4, 2, 5], [2], "shift+1", [4, 2, 5]),
    "every gene is listed": ([4, 5, 6], [6, 4, 5], "shift+2", [4, 5, 6]),
    "nothing to shift": ([2, 3, 0], [4], "shift+1", [2, 3, 0]),
}


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_moves_genes_among_genes(name: str) -> None:
    row, genes, mode, expected = SHIFTS[name]
    for site in ("src", "tgt"):
        assert edit_row_reference(torch.tensor(row), genes, mode, site).tolist() == expected


rows_of_genes = st.lists(st.integers(4, 14), min_size=1, max_size=9, unique=True)


@given(rows_of_genes, st.data(), st.sampled_from(["src", "tgt"]), st.integers(1, 4))
def test_a_shift_to_the_front_is_what_overexpressing_a_present_gene_does(row, data, site, n_places) -> None:  # type: ignore[no-untyped-def]
    gene = data.draw(st.sampled_from(row))
    whole = torch.tensor([2, *row, 3, PAD] if site == "src" else [*row, PAD])
    front = edit_row_reference(whole, [gene], "shift+9999", site)
    assert torch.equal(front, edit_row_reference(whole, [gene], "overexpress", site))
    there = edit_row_reference(whole, [gene], f"shift-{n_places}", site)
    if row.index(gene) + n_places < len(row):
        assert torch.equal(edit_row_reference(there, [gene], f"shift+{n_places}", site), whole)
