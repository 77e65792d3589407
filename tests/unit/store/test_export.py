"""Exports: what is chosen is what is there, the file says what it is, and writing it in blocks changes nothing."""

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from screen.edits import MASK
from screen.errors import ConfigError, StoreError
from screen.planning.layout import counts
from screen.store import export, h5ad
from screen.store.export import UpstreamRows, anndata_of, in_memory
from screen.store.h5ad import write_h5ad
from screen.store.lines import Wanted
from screen.store.store import ScreenStore
from screen.store.with_control import with_control
from tests.support.store_fixture import GENES, assert_same_anndata, unpacked


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ScreenStore:
    """Two library blocks of masks, and overexpression in source and target; every array that a store may keep."""
    return ScreenStore.open(unpacked(tmp_path_factory.mktemp("kept")))


def rows_at_once(n: int, store: ScreenStore, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(h5ad, "BLOCK_BYTES", n * export.BYTES_PER_VALUE * len(store.strings("genes/name")))


def written(rows: h5ad.Rows, path: Path) -> ad.AnnData:
    shape = write_h5ad(rows, path)
    found = ad.read_h5ad(path)
    assert found.shape == shape
    return found


@pytest.mark.parametrize("n", [1, 7, 10_000])
def test_a_file_written_in_blocks_holds_what_memory_would(
    n: int, store: ScreenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows_at_once(n, store, monkeypatch)
    found, whole = written(UpstreamRows(store, Wanted((GENES[4],))), tmp_path / "x.h5ad"), anndata_of(store, GENES[4])
    assert list(found.obs) == list(whole.obs)
    assert (found.obs.astype(str) == whole.obs.astype(str)).all(axis=None)
    assert_array_equal(found.X, whole.X, strict=True)
    for part in ("layers", "obsm", "varm"):
        ours, theirs = getattr(found, part), getattr(whole, part)
        assert set(ours) == set(theirs) != set()
        for name in ours:
            assert_array_equal(ours[name], theirs[name], strict=True)


def test_no_more_than_a_block_of_rows_is_read_at_once(
    store: ScreenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows_at_once(5, store, monkeypatch)
    monkeypatch.setattr(export, "MAX_BYTES", 1)
    with pytest.raises(StoreError, match=r"do not fit in memory; take one perturbation, e\.g\. src:mask:.*export"):
        anndata_of(store)
    rows, asked = UpstreamRows(store, Wanted()), []
    arrays = rows.arrays

    def counted(start: int, stop: int) -> dict[str, Any]:
        asked.append(stop - start)
        return arrays(start, stop)

    monkeypatch.setattr(rows, "arrays", counted)
    assert write_h5ad(rows, tmp_path / "x.h5ad")[0] == sum(asked)
    assert max(asked) == 5 and len(asked) > 10


def test_genes_mode_cells_and_time_choose_rows_of_the_whole(store: ScreenStore) -> None:
    whole = anndata_of(store)
    obs = whole.obs
    some_cells = obs["source_cell"][obs["target_gene"] == GENES[4]].unique()[::2]
    cell_C = np.isin(store.strings("cells/id"), some_cells)
    chosen = in_memory(store, Wanted((GENES[4], GENES[2]), MASK.name, "half", 2, cell_C))
    is_one = obs["perturbation"].isin([f"src:{MASK.name}:{g}" for g in (GENES[2], GENES[4])])
    is_in = is_one & (obs["time"] == 2) & obs["source_cell"].isin(some_cells)
    expected = whole[is_in.to_numpy()].copy()
    assert 0 < chosen.n_obs < is_one.sum() and set(chosen.obs["perturbation"]) == set(obs["perturbation"][is_one])
    expected.obs.index = chosen.obs.index
    assert_same_anndata(chosen, expected)
    with pytest.raises(ConfigError, match=r"no time point 9; there are 1, 2"):
        in_memory(store, Wanted(time=9))


def test_rows_of_the_same_cell_are_averaged(store: ScreenStore) -> None:
    rows = UpstreamRows(store, Wanted((GENES[4],), MASK.name))
    n = len(rows.lines)
    values = np.random.default_rng(0).normal(size=(n, 3))
    row_N = np.arange(n) // 2
    found = export.Averager(row_N)(values)
    assert_array_equal(found[0], values[:2].mean(axis=0).astype(np.float32))
    assert found.dtype == np.float32 and len(found) == row_N[-1] + 1


def test_who_compares_it_with_upstreams_file_is_told_what_differs(store: ScreenStore) -> None:
    rows = UpstreamRows(store, Wanted())
    n, n_lines = len(rows.obs), len(rows.lines)
    averaged = [f"{n_lines:,} predictions are {n:,} rows" in note for note in rows.notes]
    assert any(averaged) == (n < n_lines)
    assert any("upstream writes mu, which is larger" in note for note in rows.notes)
    assert not with_control(store, Wanted()).notes


def test_a_file_says_what_it_is(store: ScreenStore) -> None:
    facts = in_memory(store, Wanted((GENES[4],), MASK.name, time=1)).uns["perturbscreen"]
    assert (facts["scale"], facts["layout"], facts["mode"]) == ("counts", "upstream", MASK.name)
    assert facts["selection"] == f"perturbation {GENES[4]}; mode {MASK.name}; time 1"
    assert facts["directory"] == str(store.path.parent) and facts["readout"] == "expected"
    assert facts["written_by"].startswith("perturbscreen ") and "library" in facts["config"]
    assert anndata_of(store).uns["perturbscreen"]["selection"] == "all"


def test_every_row_names_its_source_cell(store: ScreenStore) -> None:
    whole = in_memory(store, Wanted((GENES[4],), MASK.name, time=1))
    place = {name: c for c, name in enumerate(store.strings("cells/id"))}
    cell_N = np.array([place[name] for name in whole.obs["source_cell"]])
    assert_array_equal(whole.obs["cell_idx"], store.read("cells/t1/cell_index")[cell_N])
    # a directory of a version that did not keep them
    assert (whole.obs["target_cell"] == "").all()
    before = store.control("expression_t1", store.blocks[-1], cell_N)
    total_N = store.control("total_t1", store.blocks[-1], cell_N)
    assert_array_equal(whole.layers["pred_counts"], counts(before, total_N).astype(np.float32))
