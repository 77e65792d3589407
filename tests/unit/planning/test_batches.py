"""Row lengths and batches: lengths and ranks equal the edited rows, batches hold every item once, within budget, almost without pads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from screen_kernels import edit_row_reference
from torch import from_numpy

from screen.cells.bank import SOURCE, Ragged, State, TokenBank
from screen.cells.vocabulary import PAD, Vocabulary
from screen.engine.rows import RowBuilder
from screen.planning.batches import (
    FEWEST_ITEMS,
    MAX_PADDED,
    MAX_PADDED_CELLS,
    Batch,
    pack,
    pack_controls,
    pack_parts,
    pack_unit,
    padded_share,
)
from screen.planning.index import BankIndex
from screen.planning.perturbations import Library, Perturbation, edited_states, make_perturbation
from screen.planning.plan import order
from screen.planning.row_lengths import NO_PERTURBATION, RowLengths
from screen.planning.selection import select_items
from screen.planning.window import Window
from tests.support.modes import EVERY

N_GENES, MAX_LEN, N_CELLS = 6, 5, 4
TIMES = (1, 2)
SOURCE_TOKEN, TARGET_TOKEN = np.array([14, 9, 11, 7, 12, 5]), np.arange(N_GENES) + 4
VOCABULARY = Vocabulary(*[tuple(f"ENSG{i}" for i in range(N_GENES))] * 3, SOURCE_TOKEN, TARGET_TOKEN)
WINDOW = Window((1,), (2,), MAX_LEN)

perturbations = st.builds(
    lambda genes, mode, sites, tps: make_perturbation(genes, mode, sites, tps, VOCABULARY),
    st.lists(st.integers(0, N_GENES - 1), min_size=1, max_size=N_GENES, unique=True),
    st.sampled_from(EVERY),
    st.sampled_from([["src"], ["tgt"], ["src", "tgt"]]),
    st.lists(st.sampled_from(TIMES), min_size=1, max_size=2, unique=True),
)
libraries = st.lists(perturbations, min_size=1, max_size=4, unique=True).map(
    lambda x: Library(tuple(x), (True,) * len(x))
)


def rows_of(token_G: np.ndarray, special: list[int]) -> st.SearchStrategy[list[list[int]]]:
    """Rows as they should be, or of anything: repeats, pads inside, ids of no gene, longer than the model reads."""
    regular = st.lists(st.sampled_from(token_G.tolist()), max_size=N_GENES, unique=True)
    anything = st.lists(st.sampled_from([0, 0, 1, 99, *special, *token_G.tolist()]), max_size=8)
    with_special = regular.map(lambda genes: [*special[:1], *genes, *special[1:]])
    return st.lists(with_special | anything, min_size=N_CELLS, max_size=N_CELLS)


def bank_of(*rows: list[list[int]]) -> TokenBank:
    states = {n: State(Ragged.from_rows(r), np.arange(len(r))) for n, r in enumerate(rows)}
    return TokenBank(states, tuple(f"cell{i}" for i in range(len(rows[0]))))


banks = st.builds(bank_of, rows_of(SOURCE_TOKEN, [2, 3]), rows_of(TARGET_TOKEN, []), rows_of(TARGET_TOKEN, []))


def edited_row(p: Perturbation, bank: TokenBank, cell: int, state: int) -> np.ndarray:
    """The row of one state by the definition, padded to the model's longest."""
    row, site = bank.padded_row(state, cell, MAX_LEN), "src" if state == SOURCE else "tgt"
    if site not in p.sites or (site == "tgt" and state not in p.pert_tps):
        return row
    return edit_row_reference(from_numpy(row), p.tokens(VOCABULARY, site), p.mode, site).numpy()


def every_item(library: Library) -> tuple[np.ndarray, np.ndarray]:
    """(cell_I, perturbation_I) of every cell under every perturbation."""
    return np.tile(np.arange(N_CELLS), len(library)), np.repeat(np.arange(len(library)), N_CELLS)


@given(banks, libraries)
def test_lengths_are_those_of_the_edited_rows(bank: TokenBank, library: Library) -> None:
    cell_I, perturbation_I = every_item(library)
    found = RowLengths(BankIndex(bank, VOCABULARY, MAX_LEN), WINDOW, library, TIMES).edited(cell_I, perturbation_I)
    assert list(found) == [SOURCE, *TIMES]
    for state, (length_I, is_full_I) in found.items():
        for i, (cell, p) in enumerate(zip(cell_I, (library.perturbations[j] for j in perturbation_I), strict=True)):
            row = edited_row(p, bank, cell, state)
            exact = int(np.flatnonzero(row != PAD).max(initial=-1)) + 1
            assert is_full_I[i] == (exact > 0 and bool((row[: length_I[i]] != PAD).all()) and length_I[i] == exact)
            hits = edited_row(p, bank, cell, state).tolist() != bank.padded_row(state, cell, MAX_LEN).tolist()
            is_bound = p.mode == "pad" and hits
            assert exact <= length_I[i] <= MAX_LEN if is_bound else length_I[i] == exact


@given(banks, libraries)
def test_ranks_are_those_of_the_row_builder(bank: TokenBank, library: Library) -> None:
    cell_I, perturbation_I = every_item(library)
    rank_I, length_I = RowLengths(BankIndex(bank, VOCABULARY, MAX_LEN), WINDOW, library, TIMES).rank(
        cell_I, perturbation_I
    )
    rows = RowBuilder(bank, VOCABULARY, WINDOW, {t: np.zeros((N_CELLS, 1), dtype=np.int64) for t in TIMES})
    expected = [rows.rank(c, library.perturbations[i]) for c, i in zip(cell_I, perturbation_I, strict=True)]
    assert list(zip(rank_I.tolist(), length_I.tolist(), strict=True)) == expected


def is_regular(row: list[int], column_of_token: np.ndarray, is_edited: bool) -> bool:
    """Special ids, genes, special ids, no pad between; where it is edited, no gene of the vocabulary twice."""
    ids = row[: max((i for i, t in enumerate(row) if t != PAD), default=-1) + 1]
    genes = [i for i, t in enumerate(ids) if t > 3]
    known = [t for t in ids if t < len(column_of_token) and column_of_token[t] >= 0]
    is_one_run = genes == list(range(genes[0], genes[-1] + 1)) if genes else True
    return PAD not in ids and is_one_run and not (is_edited and len(set(known)) < len(known))


@given(banks, libraries)
def test_a_row_is_regular_if_the_kernels_may_edit_it(bank: TokenBank, library: Library) -> None:
    lengths = RowLengths(BankIndex(bank, VOCABULARY, MAX_LEN), WINDOW, library, TIMES)
    edited = {s for p in library.perturbations for s in edited_states(p)}
    for s in (SOURCE, *TIMES):
        table = VOCABULARY.column_of_token("src" if s == SOURCE else "tgt")
        rows = [bank.states[s].tokens[c][:MAX_LEN].tolist() for c in range(N_CELLS)]
        assert lengths.is_regular_C(s).tolist() == [is_regular(row, table, s in edited) for row in rows]


def test_a_source_that_is_left_out_is_an_empty_row() -> None:
    bank = bank_of([[2, 14, 3]], [[4, 5]])
    library = Library((make_perturbation([0], "mask", ["tgt"], [1], VOCABULARY),), (True,))
    lengths = RowLengths(BankIndex(bank, VOCABULARY, MAX_LEN), WINDOW, library, [1], exclude_src=True)
    (batch,) = pack(lengths, np.array([0]), np.array([0]), np.array([0]), 10)
    assert (batch.n_source, batch.source_is_full, batch.n_target, batch.target_is_full) == (1, False, {1: 2}, {1: True})


def widths(batch: Batch) -> dict[int, tuple[int, bool]]:
    return {SOURCE: (batch.n_source, batch.source_is_full)} | {
        t: (batch.n_target[t], batch.target_is_full[t]) for t in batch.n_target
    }


@given(banks, libraries, st.integers(1, 60), st.booleans(), st.randoms(use_true_random=False), st.data())
def test_batches_hold_every_item_once_within_the_budget(bank, library, budget, by_cell, random, data) -> None:  # type: ignore[no-untyped-def]
    cell_I, perturbation_I = every_item(library)
    chosen = np.array(data.draw(st.lists(st.integers(0, len(cell_I) - 1), unique=True, min_size=1)))
    item_B = np.sort(chosen)
    lengths = RowLengths(BankIndex(bank, VOCABULARY, MAX_LEN), WINDOW, library, TIMES)
    batches = pack(lengths, item_B, cell_I[item_B], perturbation_I[item_B], budget, by_cell)
    assert sorted(i for b in batches for i in b.item_B.tolist()) == item_B.tolist()
    for b in batches:
        assert b.cell_B.tolist() == cell_I[b.item_B].tolist()
        assert b.perturbation_B.tolist() == perturbation_I[b.item_B].tolist()
        assert b.n_items == 1 or b.n_items * max(w for w, _ in widths(b).values()) <= budget
        for state, (width, is_full) in widths(b).items():
            for cell, p in zip(b.cell_B, (library.perturbations[i] for i in b.perturbation_B), strict=True):
                row = edited_row(p, bank, int(cell), state)
                assert width >= 1
                assert not row[width:].any()
                assert not is_full or (row[:width] != PAD).all()
        length_BS = np.stack([x for x, _ in lengths.edited(b.cell_B, b.perturbation_B).values()], axis=1)
        assert b.n_tokens == b.n_items * sum(w for w, _ in widths(b).values())
        assert b.n_padded_tokens == b.n_tokens - length_BS.sum()
        is_one_shape = (np.maximum(length_BS, 1) == np.maximum(length_BS[0], 1)).all()
        assert by_cell or is_one_shape or b.n_padded_tokens <= MAX_PADDED * b.n_tokens
        if by_cell and len(set(b.cell_B.tolist())) > 1:
            # whoever shares a batch is in no other
            assert sorted(b.item_B.tolist()) == item_B[np.isin(cell_I[item_B], b.cell_B)].tolist()
    random.shuffle(chosen)
    again = pack(lengths, chosen, cell_I[chosen], perturbation_I[chosen], budget, by_cell)
    assert [b.item_B.tolist() for b in again] == [b.item_B.tolist() for b in batches]


@given(banks, libraries, st.integers(1, 7), st.integers(1, N_CELLS))
def test_a_unit_is_packed_block_by_block_and_apart_by_what_is_edited(bank, library, unit_rows, per_block) -> None:  # type: ignore[no-untyped-def]
    lengths = RowLengths(BankIndex(bank, VOCABULARY, MAX_LEN), WINDOW, library, TIMES)
    stratum_C = np.zeros(N_CELLS, dtype=np.int64)
    selection = select_items(library, BankIndex(bank, VOCABULARY, MAX_LEN), WINDOW, stratum_C, ["all"])
    plan = order(selection, unit_rows=unit_rows, cells_per_block=per_block)
    for number in range(plan.n_units):
        packed = pack_unit(lengths, plan, number, 40)
        items = [i for _, batches in packed for b in batches for i in b.item_B.tolist()]
        assert sorted(items) == list(range(plan.unit(number).start, plan.unit(number).stop))
        assert [block for block, _ in packed] == sorted({block for block, _ in packed})
        for block, batches in packed:
            for b in batches:
                assert set((b.cell_B // per_block).tolist()) == {block}
                assert len({edited_states(library.perturbations[i]) for i in b.perturbation_B}) == 1
        in_parts = pack_parts(lengths, plan, number, 40, n_parts=3)
        assert [block for block, _ in in_parts] == [block for block, _ in packed]
        assert sorted(
            i for _, parts in in_parts for bs in parts.values() for b in bs for i in b.item_B.tolist()
        ) == sorted(items)
        for _, parts in in_parts:
            for part, batches in parts.items():
                assert {(c % per_block) * 3 // per_block for b in batches for c in b.cell_B.tolist()} == {part}


@given(banks, libraries)
def test_controls_have_the_lengths_of_unedited_rows(bank: TokenBank, library: Library) -> None:
    lengths = RowLengths(BankIndex(bank, VOCABULARY, MAX_LEN), WINDOW, library, TIMES)
    for b in pack_controls(lengths, np.arange(N_CELLS), 1):
        assert (b.n_items, b.item_B.tolist(), set(b.perturbation_B.tolist())) == (
            1,
            b.cell_B.tolist(),
            {NO_PERTURBATION},
        )
        for state, (width, is_full) in widths(b).items():
            row = bank.padded_row(state, int(b.cell_B[0]), MAX_LEN)
            used = int(np.flatnonzero(row != PAD).max(initial=-1)) + 1
            assert (width, is_full) == (max(used, 1), used > 0 and bool((row[:used] != PAD).all()))


def test_cells_share_batches_until_there_are_enough_items() -> None:
    """Cells of 10 to 99 genes with 16 edits each: four share a batch, whatever their lengths; equal ones fill it."""
    n_cells, n_edits = 90, 16
    vocabulary, library = singles(99, ["mask"])
    tokens = vocabulary.tokens("tgt")

    def batches(lengths: list[int], budget: int) -> list[Batch]:
        bank = bank_of([[2, 3]] * n_cells, [tokens[:n].tolist() for n in lengths])
        known = RowLengths(BankIndex(bank, vocabulary, 99), Window((1,), (1,), 99), library, (1,))
        item_I = np.arange(n_cells * n_edits)
        return pack(known, item_I, item_I // n_edits, item_I % n_edits, budget, by_cell=True)

    unequal, equal = batches(list(range(10, 100)), 10**5), batches([50] * n_cells, 50 * 100)
    assert min(b.n_items for b in unequal[:-1]) >= FEWEST_ITEMS
    assert padded_share(unequal) <= MAX_PADDED_CELLS
    assert [b.n_items for b in equal] == [96] * 15


def test_no_item_makes_no_batch() -> None:
    bank = bank_of([[2, 14, 3]], [[4, 5]])
    library = Library((make_perturbation([0], "mask", ["tgt"], [1], VOCABULARY),), (True,))
    nothing = np.zeros(0, dtype=np.int64)
    assert (
        pack(RowLengths(BankIndex(bank, VOCABULARY, MAX_LEN), WINDOW, library, [1]), nothing, nothing, nothing, 10)
        == []
    )
    assert padded_share([]) == 0.0


def singles(n_genes: int, modes: list[str]) -> tuple[Vocabulary, Library]:
    names = tuple(f"ENSG{i}" for i in range(n_genes))
    vocabulary = Vocabulary(names, names, names, np.arange(n_genes) + 4, np.arange(n_genes) + 4)
    made = tuple(make_perturbation([g], m, ["src"], [], vocabulary) for m in modes for g in range(n_genes))  # type: ignore[arg-type]
    return vocabulary, Library(made, (False,) * len(made))


def real_bank(n_cells: int, n_genes: int, n_states: int = 3) -> TokenBank:
    """Rows whose lengths spread as in real cells: median 350, 5-95 % 150 to 700; genes in random order."""
    random = np.random.default_rng(0)
    rows = []
    for _ in range(n_states):
        length_C = np.exp(random.normal(np.log(350), 0.45, n_cells)).astype(int).clip(20, min(1200, n_genes))
        rows.append([random.choice(n_genes, n, replace=False) + 4 for n in length_C])
    return bank_of(*rows)


@pytest.mark.parametrize("modes", [["mask"], ["pad"], ["delete"], ["overexpress"], ["mask", "delete"]], ids="+".join)
def test_a_unit_of_many_items_per_cell_is_packed_almost_without_pads(modes: list[str]) -> None:
    vocabulary, library = singles(400 if modes == ["overexpress"] else 2000, modes)
    bank = real_bank(64, 2000)
    lengths = RowLengths(BankIndex(bank, vocabulary, 1024), Window((1, 2), (), 1024), library, (1, 2))
    cell_I, perturbation_I = (x.ravel() for x in np.meshgrid(np.arange(64), np.arange(len(library))))
    is_item_I = (
        np.ones(len(cell_I), dtype=bool) if modes == ["overexpress"] else lengths.rank(cell_I, perturbation_I)[0] >= 0
    )
    item_I = np.flatnonzero(is_item_I)[:8192]
    assert np.bincount(cell_I[item_I]).mean() >= 40
    batches = pack(lengths, item_I, cell_I[item_I], perturbation_I[item_I], 16384)
    assert padded_share(batches) < 0.01
    assert np.mean([b.n_items for b in batches]) >= 8


def test_small_groups_of_nearly_equal_shape_share_a_batch_that_needs_a_key_mask() -> None:
    vocabulary, library = singles(100, ["mask"])
    bank = bank_of([list(range(4, n)) for n in (103, 102, 60)], [list(range(4, 90))] * 3)
    lengths = RowLengths(BankIndex(bank, vocabulary, 128), Window((1,), (), 128), library, (1,))
    item_I = np.arange(9)
    batches = pack(lengths, item_I, item_I % 3, item_I // 3, 99 * 40)
    assert [b.cell_B.tolist() for b in batches] == [[2] * 3, [1] * 3 + [0] * 3]
    assert [(b.n_source, b.source_is_full, b.target_is_full[1]) for b in batches] == [
        (56, True, True),
        (99, False, True),
    ]
    assert [b.n_padded_tokens for b in batches] == [0, 3]


def test_a_group_is_cut_into_batches_of_nearly_equal_size() -> None:
    vocabulary, library = singles(100, ["mask"])
    bank = bank_of([list(range(4, 54))], [list(range(4, 44))])
    lengths = RowLengths(BankIndex(bank, vocabulary, 128), Window((1,), (), 128), library, (1,))
    item_I = np.arange(50)
    sizes = [b.n_items for b in pack(lengths, item_I, np.zeros(50, dtype=int), item_I, 50 * 20)]
    assert sizes == [16, 17, 17]
    assert [b.n_items for b in pack(lengths, item_I[:2], np.zeros(2, dtype=int), item_I[:2], 7)] == [1, 1]
