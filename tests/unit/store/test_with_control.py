"""Exports with controls: a cell's unedited prediction is there once, and every number is what the store holds."""

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from screen.cli.main import main
from screen.edits import MASK, OVEREXPRESS
from screen.errors import RequestError, StoreError
from screen.planning.layout import COUNTS, LOG1P, counts
from screen.store import export, h5ad
from screen.store.export import in_memory
from screen.store.lines import Wanted
from screen.store.store import ScreenStore
from screen.store.with_control import for_cell_eval, with_control
from tests.support.store_fixture import GENES, unpacked


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ScreenStore:
    """Two library blocks of masks, and overexpression in source and target."""
    return ScreenStore.open(unpacked(tmp_path_factory.mktemp("kept")))


@pytest.mark.parametrize("scale", [COUNTS, LOG1P])
def test_edited_rows_are_upstreams_and_controls_their_other_layer(scale: str, store: ScreenStore) -> None:
    wanted = Wanted((GENES[4], GENES[8]))
    rows, upstream = with_control(store, wanted, scale), in_memory(store, wanted)
    x, obs = rows.arrays(0, len(rows.obs))["X"], rows.obs
    n = upstream.n_obs
    is_control = (obs["perturbation"] == "control").to_numpy()
    assert not is_control[:n].any() and is_control[n:].all()
    assert_array_equal(obs["perturbation_id"][:n], upstream.obs["perturbation"])
    assert_array_equal(obs["source_cell"][:n], upstream.obs["source_cell"])
    keys = list(zip(obs["source_cell"], obs["time"], strict=True))
    assert len(set(keys[n:])) == len(keys[n:]) and set(keys[n:]) == set(keys[:n])
    place = {key: n + i for i, key in enumerate(keys[n:])}
    before = x[[place[key] for key in keys[:n]]]
    if scale == COUNTS:
        assert_array_equal(x[:n], np.maximum(upstream.X, 0))
        assert_array_equal(before, np.maximum(upstream.layers["pred_counts"], 0))
    else:
        total = np.array([store.control(f"total_t{t}", store.blocks[-1])[c] for c, t in _cells(store, keys[:n])])
        np.testing.assert_allclose(counts(before, total), upstream.layers["pred_counts"], rtol=1e-5, atol=1e-6)
        assert x.max() <= np.log1p(1e4) and np.abs(x[:n] - before).max() > 0
    assert x.min() >= 0 and x.dtype == np.float32


def _cells(store: ScreenStore, keys: list[tuple[str, int]]) -> list[tuple[int, int]]:
    place = {name: c for c, name in enumerate(store.strings("cells/id"))}
    return [(place[name], t) for name, t in keys]


def test_columns_are_scperturbs(store: ScreenStore) -> None:
    obs = with_control(store, Wanted((GENES[4],))).obs
    edits = obs[["perturbation", "perturbation_type", "nperts", "mode"]].drop_duplicates().to_numpy().tolist()
    symbol = store.perturbations("target_symbol")[Wanted((GENES[4],)).perturbations(store)[0]]
    assert sorted(edits, key=str) == sorted(
        [
            [symbol, f"in silico {MASK.name}", 1, MASK.name],
            [symbol, f"in silico {OVEREXPRESS.name}", 1, OVEREXPRESS.name],
            ["control", "control", 0, "control"],
        ],
        key=str,
    )


def test_what_is_written_in_blocks_is_the_whole(
    store: ScreenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = with_control(store, Wanted((GENES[4],)), LOG1P)
    monkeypatch.setattr(h5ad, "BLOCK_BYTES", 7 * export.BYTES_PER_VALUE * len(rows.var))
    options = ["--with-control", "--scale", LOG1P, "--gene", GENES[4]]
    assert main(["export", str(store.path.parent), "--h5ad", str(tmp_path / "x.h5ad"), *options]) == 0
    found = ad.read_h5ad(tmp_path / "x.h5ad")
    assert_array_equal(found.X, rows.arrays(0, len(rows.obs))["X"], strict=True)
    assert (found.obs.astype(str) == rows.obs.astype(str)).all(axis=None)
    assert found.uns["perturbscreen"]["scale"].startswith("log1p of predicted counts per 10,000")


def test_what_cannot_be_is_said(store: ScreenStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["export", str(store.path.parent), "--h5ad", str(tmp_path / "x.h5ad")]
    assert main([*call, "--scale", LOG1P]) == 2
    assert "say --with-control too" in capsys.readouterr().err
    with pytest.raises(
        StoreError, match=r"no cell allows what is wanted \(stratum none\): genes that are not expressed"
    ):
        with_control(store, Wanted(stratum="none", cell_C=np.zeros(store.n_cells, dtype=bool)))


def test_cell_eval_is_given_what_it_accepts(store: ScreenStore, tmp_path: Path) -> None:
    options = ["--cell-eval", "--gene", GENES[4], "--gene", GENES[8], "--mode", MASK.name, "--time", "1"]
    assert main(["export", str(store.path.parent), "--h5ad", str(tmp_path / "x.h5ad"), *options]) == 0
    found = ad.read_h5ad(tmp_path / "x.h5ad")
    same = with_control(store, Wanted((GENES[4], GENES[8]), MASK.name, time=1), LOG1P)
    assert_array_equal(found.X, same.arrays(0, len(same.obs))["X"], strict=True)
    # cell-eval takes whole numbers for counts, and refuses numbers below 0 or from 15 on
    assert (np.modf(found.X)[0] > 1e-3).any() and found.X.min() >= 0 and found.X.max() < 15
    symbols = store.perturbations("target_symbol")[Wanted((GENES[4], GENES[8]), MASK.name).perturbations(store)]
    assert set(found.obs["target_gene"]) == {*symbols, "non-targeting"}
    assert ((found.obs["target_gene"] == "non-targeting") == (found.obs["perturbation"] == "control")).all()
    assert set(symbols) <= set(found.var_names) and found.var_names.is_unique
    assert found.uns["perturbscreen"]["layout"] == "cell-eval"


def test_cell_eval_is_given_one_condition_per_target(store: ScreenStore) -> None:
    with pytest.raises(RequestError, match=r"there are time points 1, 2; say --time"):
        for_cell_eval(store, Wanted((GENES[4],), MASK.name))
    with pytest.raises(
        RequestError, match=rf"stands for src:{MASK.name}:\w+, src\+tgt@2:{OVEREXPRESS.name}:\w+; say --mode"
    ):
        for_cell_eval(store, Wanted((GENES[4],), time=2))
