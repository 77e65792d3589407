"""The index says of every gene and cell what looking through the rows says, and is made once."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from screen.cells.bank import Ragged, State, TokenBank
from screen.cells.vocabulary import NO_TOKEN, Vocabulary
from screen.planning import index as module
from screen.planning.index import NOWHERE, BankIndex, GeneIndex

N_GENES = 5
COLUMN_OF_TOKEN = np.array([NO_TOKEN] * 4 + [2, 0, NO_TOKEN, 4, 1, 3])
TOKEN = {int(g): t for t, g in enumerate(COLUMN_OF_TOKEN) if g != NO_TOKEN}
rows_of_ids = st.lists(st.lists(st.integers(0, 12), max_size=12), min_size=1, max_size=7)


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several parts from a few rows."""
    monkeypatch.setattr(module, "CELLS_AT_ONCE", 3)
    monkeypatch.setattr(module, "IDS_AT_ONCE", 4)


def places(row: list[int], gene: int) -> Iterator[tuple[int, int]]:
    """(position, rank among gene ids) of each time that a row holds a gene."""
    rank = 0
    for position, token in enumerate(row):
        if token == TOKEN[gene]:
            yield position, rank
        rank += token > 3


@given(rows_of_ids, st.integers(1, 13))
def test_the_index_says_what_looking_through_the_rows_says(rows: list[list[int]], max_len: int) -> None:
    index = GeneIndex(Ragged.from_rows(rows), COLUMN_OF_TOKEN, N_GENES, max_len)
    within = {(g, c): [r for p, r in places(rows[c], g) if p < max_len] for g in TOKEN for c in range(len(rows))}
    for g in TOKEN:
        assert index.cells(g).tolist() == [c for c in range(len(rows)) if within[g, c]]
        assert index.beyond(g).tolist() == [c for c, r in enumerate(rows) if any(p >= max_len for p, _ in places(r, g))]
        assert index.cells(g).dtype == index.beyond(g).dtype == np.int32
    assert index.is_seen_G.tolist() == [any(within[g, c] for c in range(len(rows))) for g in range(N_GENES)]
    assert index.has_repeat_C.tolist() == [any(len(within[g, c]) > 1 for g in TOKEN) for c in range(len(rows))]
    asked = list(product(range(len(rows)), range(N_GENES)))
    count_B, rank_B = index.find(np.array([c for c, _ in asked]), np.array([g for _, g in asked]))
    assert count_B.tolist() == [len(within[g, c]) for c, g in asked]
    assert rank_B.tolist() == [min(within[g, c], default=NOWHERE) for c, g in asked]


def test_rows_without_any_gene_are_indexed() -> None:
    index = GeneIndex(Ragged.from_rows([[], [], [0, 3]]), COLUMN_OF_TOKEN, N_GENES, 8)
    count_B, rank_B = index.find(np.array([0, 2]), np.array([0, N_GENES - 1]))
    assert (count_B.tolist(), rank_B.tolist()) == ([0, 0], [NOWHERE] * 2)
    assert not index.is_seen_G.any()
    assert [len(x) for x in index.find(np.zeros(0, dtype=int), np.zeros(0, dtype=int))] == [0, 0]


def test_an_id_takes_six_bytes() -> None:
    rows = [np.random.default_rng(c).permutation(900) + 4 for c in range(20)]
    index = GeneIndex(Ragged.from_rows(rows), np.arange(904) - 4, 900, 700)
    assert index.cell_N.nbytes + index.rank_N.nbytes == 6 * 20 * 900


def test_a_state_is_indexed_once_and_on_its_own_side(monkeypatch: pytest.MonkeyPatch) -> None:
    names = tuple("ABC")
    vocabulary = Vocabulary(names, names, names, np.array([9, 8, 7]), np.array([4, 5, 6]))
    states = {s: State(Ragged.from_rows(r), np.arange(2)) for s, r in enumerate(([[9], [8, 9]], [[4], [6, 5]]))}
    index = BankIndex(TokenBank(states, ("a", "b")), vocabulary, 8)
    assert [index[0].cells(g).tolist() for g in range(3)] == [[0, 1], [1], []]
    assert [index[1].cells(g).tolist() for g in range(3)] == [[0], [1], [1]]
    first = index[0]
    index.keep({0})
    monkeypatch.setattr(module, "GeneIndex", lambda *_: "made again")
    assert index[0] is first
    assert index[1] == "made again"
