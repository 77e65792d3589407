"""What is no count is told from counts, and fractional counts are taken on request."""

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from screen.cells.amounts import Totals
from screen.errors import CellError
from tests.support.h5ad_files import VOCABULARY, file, naive_tokens, read, some_counts, write

__all__ = ["file"]

N_CELLS, N_GENES = 60, 480


def counts(seed: int, depth: float = 900) -> np.ndarray:
    """Counts (60, 480) of cells whose sizes differ."""
    rng = np.random.Generator(np.random.Philox(seed))
    return rng.poisson(np.outer(depth * rng.lognormal(0, 0.4, N_CELLS), levels(seed)))


def levels(seed: int) -> np.ndarray:
    """Shares of genes (480,)."""
    level_G = np.random.Generator(np.random.Philox([seed, 1])).lognormal(0, 1.5, N_GENES)
    return level_G / level_G.sum()


def totals(values_CG: Any) -> Totals:
    return Totals.of(sparse.csr_matrix(np.asarray(values_CG, dtype=np.float64)))


def scaled(count_CG: np.ndarray, to: float) -> np.ndarray:
    return count_CG / count_CG.sum(axis=1, keepdims=True) * to


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.sampled_from([30.0, 900.0, 20_000.0]))
def test_counts_are_never_taken_for_rounded_values(seed: int, depth: float) -> None:
    rng = np.random.Generator(np.random.Philox(seed))
    of_one_depth = rng.poisson(np.outer(np.full(N_CELLS, depth), levels(seed)))
    downsampled = rng.multinomial(int(depth), levels(seed), N_CELLS)
    for made in (counts(seed, depth), of_one_depth, downsampled):
        assert totals(made).why_rounded() is None


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e4, 1e5, 1e6]), st.sampled_from([np.rint, np.floor]))
def test_rounded_values_are_never_taken_for_counts(seed: int, to: float, rounded: Any) -> None:
    assert totals(rounded(scaled(counts(seed), to))).why_rounded() is not None
    assert "where counts have ones" in str(totals(rounded(scaled(counts(seed), to))[:, ::2]).why_rounded())


@pytest.mark.parametrize("to", [1e4, 1e6])
def test_logarithms_and_scaled_values_are_known_by_their_totals(to: float) -> None:
    found = totals(np.log1p(scaled(counts(1), 1e4)))
    assert found.are_logarithms and not found.are_equal
    found = totals(scaled(counts(1), to))
    assert found.are_equal and not found.are_logarithms
    found = totals(counts(1))
    assert not found.are_equal and not found.are_logarithms


def test_a_few_cells_say_nothing() -> None:
    assert totals(np.rint(scaled(counts(1), 1e6))[:19]).why_rounded() is None


def test_totals_of_blocks_are_those_of_the_whole() -> None:
    count_CG = counts(3) * (np.random.Generator(np.random.Philox(4)).random((N_CELLS, N_GENES)) < 0.2)
    count_CG[[0, 7]] = 0
    whole, parts = totals(count_CG), Totals.joined([totals(count_CG[:8]), totals(count_CG[8:])])
    for name in ("total_C", "n_seen_C", "least_C", "unlogged_C"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))
    assert whole.largest == parts.largest == count_CG.max()
    assert whole.least_C.tolist() == [min((int(x) for x in row if x), default=0) for row in count_CG]


@pytest.mark.parametrize("as_layout", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_fractional_counts_rank_as_they_are(tmp_path: Path, as_layout: Any) -> None:
    value_CG = some_counts() * 0.75
    value_CG[3] += 0.125
    path = write(tmp_path / "f.h5ad", as_layout(value_CG))
    bank = read(path, counts="fractional")
    for state, token_G in ((0, VOCABULARY.source_token_G), (1, VOCABULARY.target_token_G)):
        for c, row in enumerate(bank.states[state].cell_index_C):
            assert list(bank.states[state].tokens[c]) == naive_tokens(value_CG[row], VOCABULARY.median_G, token_G)
    target = bank.states[1]
    np.testing.assert_array_equal(target.counts.toarray(), value_CG[target.cell_index_C].astype(np.float32))
    with pytest.raises(CellError, match=r"X holds 0\.75 .* say `counts: fractional` in `cells`"):
        read(path)


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_what_is_no_amount_is_refused_whatever_is_asked(value: float, tmp_path: Path) -> None:
    value_CG = some_counts() * 0.5
    value_CG[4, 3] = value
    with pytest.raises(CellError, match=r'counts, whole or fractional, are needed, but X holds .*"cell4"') as told:
        read(write(tmp_path / "f.h5ad", value_CG), counts="fractional")
    assert "counts: fractional" not in str(told.value)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.sampled_from([30.0, 900.0, 20_000.0]), st.sampled_from([np.float32, np.float64]))
def test_logarithms_of_counts_are_known_and_nothing_else_is_taken_for_them(seed: int, depth: float, dtype: Any) -> None:
    made = counts(seed, depth)
    assert totals(np.log1p(made).astype(dtype)).are_logged_counts
    for other in (made, made * 0.93, np.log1p(scaled(made, 1e4)), scaled(made, 1e6)):
        assert not totals(other).are_logged_counts


def test_logarithms_of_counts_get_no_advice_to_take_them(tmp_path: Path) -> None:
    path = write(tmp_path / "f.h5ad", np.log1p(some_counts()).astype(np.float32))
    with pytest.raises(CellError, match=r"logarithms of counts, log1p; `numpy.expm1` gives them back") as told:
        read(path)
    assert "counts: fractional" not in str(told.value)
    with pytest.raises(CellError, match=r"X holds logarithms, .* exp\(value\) - 1 is whole"):
        read(path, counts="fractional")


def test_logarithms_are_refused_whatever_is_asked(tmp_path: Path) -> None:
    value_CG = np.log1p(some_counts() * 0.93)
    path = write(tmp_path / "f.h5ad", value_CG)
    note = next(n for n in read(path, counts="fractional").notes if "logarithms" in n)
    assert note.startswith("Warning: the largest value of X is")
    data = anndata.read_h5ad(path)
    data.uns["log1p"] = {}
    data.write_h5ad(path)
    with pytest.raises(CellError, match=r"X holds logarithms, .*the file says so \(uns/log1p\)"):
        read(path, counts="fractional")


def test_rounded_values_in_x_give_way_to_counts_in_raw(tmp_path: Path) -> None:
    rng = np.random.Generator(np.random.Philox(2))
    count_CG = rng.poisson(40 * rng.lognormal(0, 0.5, (60, 1)) * np.ones(5)) + 1
    obs = pd.DataFrame({"condition": ["control", "stimulated"] * 30}, index=[f"c{i}" for i in range(60)])
    rounded_CG = np.rint(scaled(count_CG, 1e6))
    path = write(tmp_path / "f.h5ad", rounded_CG, obs=obs, raw=(count_CG, VOCABULARY.ensembl_id))
    bank = read(path)
    assert any("The counts of raw were used: X holds whole numbers that are no counts" in n for n in bank.notes)
    np.testing.assert_array_equal(bank.states[1].counts.toarray(), count_CG[bank.states[1].cell_index_C])
    with pytest.raises(CellError, match=r"all about 1,000,000.*say `counts: fractional`.*") as told:
        read(write(tmp_path / "g.h5ad", rounded_CG, obs=obs))
    assert "no counts" in str(told.value)
    assert any("scaled to 1,000,00" in n for n in read(tmp_path / "g.h5ad", counts="fractional").notes)
