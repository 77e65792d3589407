"""Planning equals the definition, cell by cell, on random rows; coverage accounts for every cell."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from screen_kernels import edit_row_reference
from torch import from_numpy

from screen.cells.bank import SOURCE, Ragged, State, TokenBank, distinct_tokens
from screen.cells.vocabulary import SPECIAL_IDS, Vocabulary
from screen.errors import CellError
from screen.planning.index import CELLS_AT_ONCE, BankIndex
from screen.planning.perturbations import Library, Perturbation, make_perturbation
from screen.planning.plan import Plan, order
from screen.planning.selection import select_items
from screen.planning.window import Window
from tests.support.modes import EVERY

N_GENES, MAX_LEN = 6, 5
SOURCE_TOKEN = np.array([14, 9, 11, 7, 12, 5])
TARGET_TOKEN = np.arange(N_GENES) + 4
VOCABULARY = Vocabulary(*[tuple(f"ENSG{i}" for i in range(N_GENES))] * 3, SOURCE_TOKEN, TARGET_TOKEN)


def rows_of(token_G: np.ndarray, with_special: bool) -> st.SearchStrategy[list[list[int]]]:
    genes = st.lists(st.sampled_from(token_G.tolist()), max_size=N_GENES, unique=True)
    return st.lists(genes.map(lambda g: [2, *g, 3] if with_special else g), min_size=4, max_size=4)


perturbations = st.builds(
    lambda genes, mode, sites, tps: make_perturbation(genes, mode, sites, tps, VOCABULARY),
    st.lists(st.integers(0, N_GENES - 1), min_size=1, max_size=3, unique=True),
    st.sampled_from(EVERY),
    st.sampled_from([["src"], ["tgt"], ["src", "tgt"]]),
    st.lists(st.integers(1, 2), min_size=1, max_size=2, unique=True),
)


def bank_of(source: list[list[int]], *targets: list[list[int]]) -> TokenBank:
    states = {n: State(Ragged.from_rows(rows), np.arange(len(rows))) for n, rows in enumerate((source, *targets))}
    return TokenBank(states, tuple(f"cell{i}" for i in range(len(source))))


def naive(p: Perturbation, bank: TokenBank, cell: int, window: Window) -> tuple[str, list[bool]]:
    """(class, predicted time points with something left), by editing the rows and looking."""
    edited = ([SOURCE] if "src" in p.sites else []) + (list(p.pert_tps) if "tgt" in p.sites else [])
    tokens = {s: p.tokens(VOCABULARY, "src" if s == SOURCE else "tgt") for s in edited}
    seen = any(set(tokens[s]) & set(bank.states[s].tokens[cell][: window.max_len].tolist()) for s in edited)
    whole = any(set(tokens[s]) & set(bank.states[s].tokens[cell].tolist()) for s in edited)
    if p.edit.mode.needs_gene and not seen:
        return ("truncated" if whole else "absent"), []
    source = from_numpy(bank.padded_row(SOURCE, cell, window.max_len))
    if "src" in p.sites and not edit_row_reference(source, tokens[SOURCE], p.mode, "src").any():
        return "emptied", []
    left = []
    for t in window.pred_tps:
        row = bank.padded_row(t, cell, window.max_len)
        if "tgt" in p.sites and t in p.pert_tps:
            row = edit_row_reference(from_numpy(row), p.tokens(VOCABULARY, "tgt"), p.mode, "tgt").numpy()
        gone = p.tokens(VOCABULARY, "tgt") if window.excludes_genes(p, t) else []
        left.append(any(x > 3 and x not in gone for x in row.tolist()))
    return ("screened" if any(left) else "emptied"), left


@given(
    st.booleans().flatmap(lambda with_special: rows_of(SOURCE_TOKEN, with_special)),
    rows_of(TARGET_TOKEN, False),
    rows_of(TARGET_TOKEN, False),
    st.lists(perturbations, min_size=1, max_size=4, unique=True),
    st.booleans(),
    st.integers(1, 3),
)
def test_items_and_coverage_equal_the_definition(source, one, two, library, everywhere, per_block) -> None:  # type: ignore[no-untyped-def]
    bank = bank_of(source, one, two)
    window = Window((1, 2), (), MAX_LEN, everywhere)
    stratum_C = np.array([0, 1, 0, 1])
    wanted = Library(tuple(library), (True,) * len(library))
    selection = select_items(wanted, BankIndex(bank, VOCABULARY, MAX_LEN), window, stratum_C, ["a", "b"])
    plan = order(selection, unit_rows=2, cells_per_block=per_block)
    expected = []
    tally = {n: np.zeros((len(library), 2), dtype=int) for n in ("screened", "absent", "truncated", "emptied")}
    for i, p in enumerate(library):
        for cell in range(4):
            kind, left = naive(p, bank, cell, window)
            tally[kind][i, stratum_C[cell]] += 1
            if kind == "screened":
                expected.append((cell // per_block, i, cell, left, n_edited(p, bank, cell)))
    expected.sort(key=lambda x: x[:3])
    assert plan.perturbation_I.tolist() == [x[1] for x in expected]
    assert plan.cell_I.tolist() == [x[2] for x in expected]
    assert plan.is_screened_IT.tolist() == [x[3] for x in expected]
    assert plan.n_edited_I.tolist() == [x[4] for x in expected]
    arrays = (plan.perturbation_I, plan.cell_I, plan.n_edited_I, plan.is_screened_IT)
    assert [a.dtype.name for a in arrays] == ["int32", "int32", "int16", "bool"]
    for name, counts in tally.items():
        assert_array_equal(getattr(plan.coverage, f"{name}_PS"), counts, err_msg=name)
    total = sum(getattr(plan.coverage, f"{n}_PS") for n in tally)
    assert_array_equal(total, np.broadcast_to(plan.coverage.n_cells_S, total.shape))
    assert_units_cover_every_item_once(plan)
    assert_starts_find_every_item(plan, len(library))
    assert_blocks_cut_units_where_the_cells_change(plan)


def n_edited(p: Perturbation, bank: TokenBank, cell: int) -> int:
    """How many of the genes are in any edited row, where the model sees them."""
    seen = set()
    for site, states in (("src", [SOURCE]), ("tgt", p.pert_tps)):
        for s in states if site in p.sites else []:
            row = bank.states[s].tokens[cell][:MAX_LEN].tolist()
            seen |= {g for g, token in zip(p.genes, p.tokens(VOCABULARY, site), strict=True) if token in row}  # type: ignore[arg-type]
    return len(seen)


def assert_blocks_cut_units_where_the_cells_change(plan: Plan) -> None:
    block_I = plan.cell_I // plan.cells_per_block
    for u in range(plan.n_units):
        pieces = plan.blocks(u)
        assert [r for p in pieces for r in range(p.start, p.stop)] == list(range(plan.unit(u).start, plan.unit(u).stop))
        numbers = [set(block_I[p].tolist()) for p in pieces]
        assert all(len(n) == 1 for n in numbers)
        assert all(a != b for a, b in pairwise(numbers))
    for block in range(-(-len(plan.stratum_C) // plan.cells_per_block)):
        cells = plan.cells_of_block(block)
        assert cells.tolist() == sorted(set(plan.cell_I[block_I == block].tolist()))


def assert_starts_find_every_item(plan: Plan, n_perturbations: int) -> None:
    start_BP = plan.starts(n_perturbations)
    assert start_BP.shape == (plan.n_blocks, n_perturbations + 1)
    for block, row in enumerate(start_BP.tolist()):
        for p, (a, b) in enumerate(pairwise(row)):
            here = (plan.cell_I // plan.cells_per_block == block) & (plan.perturbation_I == p)
            assert np.flatnonzero(here).tolist() == list(range(a, b))


def assert_units_cover_every_item_once(plan: Plan) -> None:
    rows = [r for u in range(plan.n_units) for r in range(plan.unit(u).start, plan.unit(u).stop)]
    assert rows == list(range(plan.n_items))


def test_the_number_of_edited_genes_counts_each_gene_once() -> None:
    bank = bank_of([[14, 9], [14], [14], [11]], [[4, 5, 6], [5, 6], [6], [4, 5]])
    p = make_perturbation([0, 1], "mask", ["src", "tgt"], [1], VOCABULARY)
    window = Window((1,), (), MAX_LEN)
    selection = select_items(
        Library((p,), (True,)), BankIndex(bank, VOCABULARY, MAX_LEN), window, np.zeros(4, int), ["all"]
    )
    plan = order(selection, unit_rows=8, cells_per_block=8)
    assert dict(zip(plan.cell_I.tolist(), plan.n_edited_I.tolist(), strict=True)) == {0: 2, 1: 2, 2: 1}
    assert plan.coverage.emptied_PS.tolist() == [[1]]


def many_cells(n_cells: int) -> TokenBank:
    """More rows than are looked at together, one of them empty, one with a gene twice, some longer than the model reads."""
    random = np.random.default_rng(0)
    rows = [[random.permutation(n)[: random.integers(1, N_GENES + 1)] for _ in range(n_cells)] for n in [N_GENES] * 2]
    source, target = (
        [token_G[r].tolist() for r in side] for token_G, side in zip((SOURCE_TOKEN, TARGET_TOKEN), rows, strict=True)
    )
    source[3], target[-1] = [14, 14, 9], []
    return bank_of(source, target)


def test_a_bank_of_many_rows_is_planned_as_its_cells_are_one_by_one() -> None:
    bank, window = many_cells(2 * CELLS_AT_ONCE + 5), Window((1,), (), MAX_LEN)
    made = [
        make_perturbation([g], m, [s], [1], VOCABULARY)
        for g in range(2)
        for m, s in (("delete", "src"), ("mask", "tgt"))
    ]  # type: ignore[arg-type, list-item]
    library = Library((*made, make_perturbation([1, 0], "overexpress", ["tgt"], [1], VOCABULARY)), (True,) * 5)
    stratum_C = np.zeros(bank.n_cells, dtype=np.int64)
    selection = select_items(library, BankIndex(bank, VOCABULARY, MAX_LEN), window, stratum_C, ["all"])
    plan = order(selection, unit_rows=64, cells_per_block=100)
    kinds = [[naive(p, bank, c, window)[0] for c in range(bank.n_cells)] for p in library.perturbations]
    items = [(c // 100, i, c) for i, row in enumerate(kinds) for c, kind in enumerate(row) if kind == "screened"]
    assert list(zip(plan.perturbation_I.tolist(), plan.cell_I.tolist(), strict=True)) == [x[1:] for x in sorted(items)]
    for name in ("screened", "absent", "truncated", "emptied"):
        assert getattr(plan.coverage, f"{name}_PS")[:, 0].tolist() == [row.count(name) for row in kinds]


def test_a_selection_knows_its_items_before_they_are_ordered() -> None:
    bank, window = many_cells(20), Window((1,), (), MAX_LEN)
    library = Library(
        tuple(make_perturbation([g], "mask", ["src"], [], VOCABULARY) for g in range(N_GENES)), (True,) * N_GENES
    )
    selection = select_items(
        library, BankIndex(bank, VOCABULARY, MAX_LEN), window, np.zeros(20, dtype=np.int64), ["all"]
    )
    plans = [order(selection, unit_rows=7, cells_per_block=n) for n in (3, 20)]
    assert [p.n_items for p in plans] == [selection.n_items] * 2
    for number in range(N_GENES):
        for p in plans:
            assert sorted(p.cell_I[p.perturbation_I == number].tolist()) == selection.items(number)[0].tolist()


def test_the_fingerprint_tells_content_order_units_and_blocks() -> None:
    library = Library((make_perturbation([0], "mask", ["src"], [], VOCABULARY),), (True,))
    selection = select_items(
        library, BankIndex(many_cells(20), VOCABULARY, MAX_LEN), Window((1,), (), MAX_LEN), np.zeros(20, int), ["all"]
    )
    plan, again = (order(selection, unit_rows=7, cells_per_block=3) for _ in range(2))
    assert plan.fingerprint() == again.fingerprint()
    others = [replace(plan, unit_rows=8), replace(plan, cells_per_block=4), replace(plan, cell_I=plan.cell_I[::-1])]
    assert len({p.fingerprint() for p in (plan, *others)}) == 4


@given(st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=5), st.integers(1, 8))
def test_gene_tokens_are_counted_within_the_cut(rows: list[list[int]], max_len: int) -> None:
    counted = distinct_tokens(Ragged.from_rows(rows), max_len, SPECIAL_IDS)
    assert counted.tolist() == [len({t for t in row[:max_len] if t > 3}) for row in rows]


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=5), st.data())
def test_taken_rows_are_the_rows(rows: list[list[int]], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=6))
    taken = Ragged.from_rows(rows).take(np.array(chosen))
    assert [taken[i].tolist() for i in range(len(taken))] == [rows[c] for c in chosen]


def test_states_of_different_size_are_refused() -> None:
    with pytest.raises(CellError, match="same pairing"):
        bank_of([[4], [5]], [[4]])
