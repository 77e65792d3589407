"""A value that is missing is missing: in no column of a screen does it become a value of its own."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import polars as pl
import pytest

from screen.cli.main import main
from screen.store.reader import StoreReader
from tests.support.places import ROOT
from tests.support.tiny import write
from tests.support.upstream_files import Recipe, write_upstream

DEMO = ROOT / "screen/demo/data"
N = 24
"""Cells of each state."""
Said = Callable[[], str]


def cells_with(path: Path, **missing: Sequence[int]) -> Path:
    """Cells of the demo, half of them in each state, of four donors and two types; some lack a value of some columns."""
    demo = ad.read_h5ad(DEMO / "cells.h5ad")
    rows = [np.flatnonzero(demo.obs["condition"] == s)[:N] for s in ("control", "stimulated")]
    found = demo[np.sort(np.concatenate(rows))].copy()
    state = found.obs["condition"].astype(str).to_numpy()
    # numbered within each state
    number = np.where(state == "control", np.cumsum(state == "control"), np.cumsum(state != "control")) - 1
    order = np.argsort(np.where(state == "control", number, N + number))
    found = found[order].copy()
    number = number[order]
    obs = {
        "condition": pd.Series(state[order], dtype=object),
        # a donor of that name is a donor
        "donor": pd.Series(np.array(["d1", "d2", "d3", "nan"])[number % 4], dtype=object),
        "kind": pd.Series(np.array(["x", "y"])[number // 2 % 2], dtype=object),
    }
    for column, places in missing.items():
        obs[column][list(places)] = np.nan
    # categories: a missing value is code -1; text: an empty string
    found.obs = pd.DataFrame(
        {
            "condition": pd.Categorical(obs["condition"]), "donor": pd.Categorical(obs["donor"]),
            "kind": obs["kind"].fillna(""),
        }
    ).set_index(pd.Index([f"c{i}" for i in range(2 * N)]))  # fmt: skip
    found.write_h5ad(path)
    return path


def screened(h5ad: Path, out: Path, *, deg: Mapping[str, Any] | None = None, **cells: Any) -> int:
    """Exit code of a small run: three genes knocked out and overexpressed."""
    strata = cells.pop("output_strata", [])
    config = {
        "model": {"checkpoint": str(DEMO / "demo.ckpt"), "vocabulary": str(DEMO / "genes.tsv")},
        "cells": {
            "h5ad": str(h5ad), "state_column": "condition", "source": "control", "targets": {1: "stimulated"},
            "special_tokens": False,
        } | cells,
        "library": {"genes": ["CCL3", "IL1B", "FTL"], "modes": ["overexpress"]},
        "predict": {"pred_tps": [1]},
        "output": {"strata": strata, "min_cells": 2},
        "null": {"n": 0},
        "deg": dict(deg or {}),
    }  # fmt: skip
    return main(["run", str(write(config, out.with_suffix(".yaml"))), "--out", str(out)])


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Everything that was printed since, on one line."""

    def read() -> str:
        out, err = capsys.readouterr()
        return " ".join((out + err).split())

    return read


def test_cells_without_a_state_or_a_pair_value_are_left_out(tmp_path: Path, said: Said) -> None:
    h5ad = cells_with(tmp_path / "a.h5ad", condition=[0, 1, N], kind=[2, N + 1, N + 2])
    assert screened(h5ad, tmp_path / "out", strata=["kind"]) == 0
    text = said()
    assert '3 of 48 cells have no "condition" (state_column)' in text
    assert '1 of 22 cells of the source (condition "control") lack a value of "kind" (strata)' in text
    assert '2 of 23 cells of time point 1 (condition "stimulated") lack a value of "kind"' in text
    store = StoreReader.open(tmp_path / "out/screen.zarr")
    assert store.n_cells == N - 3
    assert set(store.strings("cells/source/obs/kind")) == {"x", "y"}


def test_cells_without_a_stratum_are_left_out(tmp_path: Path, said: Said) -> None:
    h5ad = cells_with(tmp_path / "a.h5ad", kind=[3, 4])
    assert screened(h5ad, tmp_path / "out", pairing="random", output_strata=["kind"]) == 0
    assert f'2 of {N} cells have no "kind" (output.strata); they were left out' in said()
    hits = pl.read_parquet(tmp_path / "out/hits.parquet")
    assert set(hits["stratum"]) == {"x", "y"}
    assert hits.filter(pl.col("perturbation") == hits["perturbation"][0])["n_cells"].sum() == N - 2


def test_a_cell_without_a_donor_is_screened_and_in_no_test_over_donors(tmp_path: Path, said: Said) -> None:
    h5ad = cells_with(tmp_path / "a.h5ad", donor=[0, 5, 7])
    out = tmp_path / "out"
    assert screened(h5ad, out, pairing="random", deg={"replicate": "donor"}) == 0
    assert f'3 of {N} cells have no "donor": they are screened and are in no test over replicates' in said()
    table = pl.read_parquet(out / "deg/*.parquet")
    # d1, d2, d3, and the donor who is called nan
    assert table["n_replicates"].unique().to_list() == [4]
    assert table["n_cells"].unique().to_list() == [N]
    store = StoreReader.open(out / "screen.zarr")
    donor_C = store.strings("cells/source/obs/donor")
    assert (donor_C == "").sum() == 3
    block, ids = store.blocks[0], store.perturbations("id").tolist()
    rows = block.rows_of(0)
    delta_NG = block.delta(1, rows)
    donor_N = donor_C[block.read("items/cell", rows)]
    mean_RG = [delta_NG[donor_N == d].astype(np.float64).mean(0) for d in ("d1", "d2", "d3", "nan")]
    ours = table.filter(pl.col("perturbation") == ids[0])["mean_delta"]
    np.testing.assert_allclose(ours, np.mean(mean_RG, axis=0), rtol=1e-5, atol=1e-8)


def test_donors_that_are_not_used_are_said_once_by_run_and_by_deg(tmp_path: Path, said: Said) -> None:
    h5ad = cells_with(tmp_path / "a.h5ad")
    assert screened(h5ad, tmp_path / "out", pairing="random") == 0
    note = '"donor" (4 levels: d1, d2, d3 (and 1 more)) looks like donors'
    assert said().count(note) == 1
    assert main(["deg", str(tmp_path / "out"), "--top", "5"]) == 0
    assert said().count(note) == 1
    assert main(["deg", str(tmp_path / "out"), "--replicate", "donor"]) == 0
    assert note not in said()
    table = pl.read_parquet(tmp_path / "out/deg/*.parquet")
    assert table["p_value"].is_not_null().all()
    assert table["sign_agreement"].is_in([0.5, 0.75, 1.0]).all()


ALL = range(2 * N)


@pytest.mark.parametrize(
    ("missing", "settings", "message"),
    [
        ({"condition": ALL}, {}, 'has no value "control" (source); it is missing in all 48 cells'),
        ({"kind": ALL}, {"strata": ["kind"]}, 'no cell of the source (condition "control") in a.h5ad has a value of "kind"'),
        ({"kind": ALL}, {"output_strata": ["kind"]}, "none of the 24 cells has a value in each of kind"),
        ({"donor": ALL}, {"deg": {"replicate": "donor"}}, '"donor" has no value in any of the 24 cells'),
        ({}, {"deg": {"replicate": "condition"}}, '"condition" has one level, "control"; a test over replicates needs 2'),
        ({"condition": [0, 1]}, {"source": "nan"}, 'has no value "nan" (source)'),
    ],
)  # fmt: skip
def test_where_all_are_missing_the_run_says_so(
    tmp_path: Path, said: Said, missing: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    h5ad = cells_with(tmp_path / "a.h5ad", **missing)
    assert screened(h5ad, tmp_path / "out", **settings) == 2
    assert message in said()
    assert not (tmp_path / "out").exists()


def test_one_level_is_refused_by_deg_and_leaves_the_tables(tmp_path: Path, said: Said) -> None:
    h5ad = cells_with(tmp_path / "a.h5ad")
    assert screened(h5ad, tmp_path / "out", pairing="random") == 0
    before = (tmp_path / "out/hits.parquet").read_bytes()
    assert main(["deg", str(tmp_path / "out"), "--replicate", "condition"]) == 2
    assert '"condition" has one level, "control"' in said()
    assert (tmp_path / "out/hits.parquet").read_bytes() == before


def test_a_pair_that_is_not_named_is_left_out(tmp_path: Path, said: Said) -> None:
    h5ad, pairs = cells_with(tmp_path / "a.h5ad"), tmp_path / "pairs.tsv"
    pairs.write_text("source\ttarget\n" + "".join(f"c{i}\t{f'c{N + i}' if i % 5 else ''}\n" for i in range(10)))
    assert screened(h5ad, tmp_path / "out", pairing=str(pairs)) == 0
    assert "2 of 10 rows of the mapping lack a cell and were left out" in said()
    assert StoreReader.open(tmp_path / "out/screen.zarr").n_cells == 8


def test_upstreams_folders_lack_values_too(tmp_path: Path, said: Said) -> None:
    u = write_upstream(tmp_path / "files", Recipe())
    n = len(u.rows[0])
    donor = ["d1", None, "d2", *["d1"] * (n - 3)]
    weight = [1.5, float("nan"), *[2.0] * (n - 2)]
    u.write_dataset(0, {"donor": donor, "weight": weight})
    out = tmp_path / "out"
    config = u.write_yaml(u.own_request() | {"deg": {"replicate": "donor"}})
    assert main(["run", str(config), "--out", str(out)]) == 0
    assert f'1 of {n} cells have no "donor": they are screened and are in no test over replicates' in said()
    store = StoreReader.open(out / "screen.zarr")
    assert store.strings("cells/source/obs/donor").tolist() == ["" if d is None else d for d in donor]
    assert store.strings("cells/source/obs/weight").tolist()[:3] == ["1.5", "", "2.0"]
