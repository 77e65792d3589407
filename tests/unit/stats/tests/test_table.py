"""The table of tests: schema, choices and output follow from it, so that a new test is one file and one line."""

import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from screen.cli.main import main
from screen.cli.options import parser
from screen.config.sections import DegConfig
from screen.errors import ConfigError
from screen.stats import deg
from screen.stats import tests as package
from screen.stats.gene_results import from_moments, statistics_of
from screen.stats.moments import moments_of
from screen.stats.tables import set_presentation
from screen.stats.tests import table
from screen.stats.tests.gene_test import GeneTest, Values
from screen.stats.tests.sample import Sample
from screen.store.store import ScreenStore
from tests.support.tiny import tiny, write

TODAY = {
    "perturbation": pl.String, "target": pl.String, "target_symbol": pl.String, "mode": pl.String, "site": pl.String,
    "stratum": pl.String, "time": pl.Int8, "n_cells": pl.Int32, "n_replicates": pl.Int32, "coverage": pl.Float32,
    "feature": pl.String, "feature_symbol": pl.String, "target_mean": pl.Float32, "ref_mean": pl.Float32,
    "log2_fold_change": pl.Float32, "mean_delta": pl.Float32, "se": pl.Float32, "statistic": pl.Float32,
    "p_value": pl.Float64, "fdr": pl.Float64, "test": pl.String, "signed_rank": pl.Float32, "signed_rank_p_value": pl.Float64,
    "rank_sum_z": pl.Float32, "rank_sum_p_value": pl.Float64,
}  # fmt: skip
"""Columns of the differential-expression tables, which people's scripts read."""
LIBRARY = {"genes": "all", "modes": ["overexpress"]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every gene overexpressed in every cell."""
    folder = tmp_path_factory.mktemp("table")
    config = write(tiny(library=LIBRARY), folder / "s.yaml")
    assert main(["run", str(config), "--out", str(folder / "out")]) == 0
    return folder / "out"


def share_up(sample: Sample, config: DegConfig) -> Values:
    """Share of the cells in which a gene goes up; a p that says so, and a value that is in no column."""
    up_G = (sample.delta_GN > 0).mean(1)
    return {"share_up": up_G, "share_up_p": 1 - up_G, "unused": up_G}


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> GeneTest:
    """A fourth test, known by one line of the table and a module of its own."""
    found = GeneTest(
        name="toy", compute=share_up, statistic="share_up", p_value="share_up_p", needs="changes",
        columns={"share_up": pl.Float32},
    )  # fmt: skip
    module: Any = ModuleType("screen.stats.tests.toy")
    module.TEST = found
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(table, "NAMES", (*table.NAMES, "toy"))
    table._computed.cache_clear()
    return found


def test_every_test_is_a_file_of_its_name_and_a_line_of_the_table() -> None:
    assert [table.named(name).name for name in table.NAMES] == list(table.NAMES)
    files = {m.name for m in pkgutil.iter_modules(package.__path__)} - {"table", "gene_test", "sample", "ranks"}
    assert files == set(table.NAMES)


@pytest.mark.parametrize("name", ["paired_t", "signed_rank", "rank_sum"])
def test_the_columns_of_todays_tests_are_there_in_this_order_whichever_is_chosen(name: str) -> None:
    found = deg.schema_of(DegConfig(test=name, rank_sum="plain"))
    assert list(found.items()) == list(TODAY.items()) == list(deg.SCHEMA.items())


def test_only_what_is_asked_for_is_computed() -> None:
    def names(**settings: Any) -> list[str]:
        return [t.name for t in table.computed(DegConfig(**settings))]

    assert names() == ["paired_t"]
    assert names(signed_rank=True) == ["paired_t", "signed_rank"]
    assert names(rank_sum="plain") == ["paired_t", "rank_sum"]
    assert names(test="signed_rank") == ["signed_rank"]
    assert names(top=0, signed_rank=True) == ["paired_t"]
    assert names(top=0, test="signed_rank") == ["signed_rank"]
    assert names(top=0, rank_sum="plain") == ["paired_t", "rank_sum"]


def test_what_moments_do_not_allow_is_missing() -> None:
    delta_NG = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    found = from_moments(moments_of(delta_NG, delta_NG, False), DegConfig(rank_sum="plain"))
    assert set(found.of_tests) == {"t", "t_p_value"}
    assert np.isnan(found.of("signed_rank")).all()
    assert found.of("signed_rank").shape == (5,)


def test_a_new_test_is_a_choice_and_where_it_is_chosen_a_column(
    toy: GeneTest, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = deg.scan(finished).collect()
    assert before.schema == TODAY
    assert deg.schema_of(DegConfig()) == TODAY
    with pytest.raises(SystemExit):
        parser().parse_args(["deg", "--help"])
    assert f"{{auto,{','.join(table.NAMES)}}}" in capsys.readouterr().out
    assert main(["deg", str(finished), "--test", "toy"]) == 0
    after = deg.scan(finished).collect()
    assert after.schema == TODAY | {"share_up": pl.Float32}
    block = ScreenStore.open(finished / "screen.zarr").blocks[0]
    group = after.filter(perturbation=after["perturbation"][0], time=1)
    is_first = block.strings("perturbations/id") == group["perturbation"][0]
    rows = block.rows_of(int(np.flatnonzero(is_first)[0]))
    up_G = (block.delta(1, rows) > 0).mean(0)
    assert 0 < up_G.mean() < 1
    np.testing.assert_array_equal(group["share_up"], np.float32(up_G))
    np.testing.assert_array_equal(group["statistic"], np.float32(up_G))
    np.testing.assert_array_equal(group["p_value"], 1 - up_G)
    # the others say what they said
    others = [c for c in TODAY if c not in ("statistic", "p_value", "fdr", "test")]
    assert after["test"].unique().to_list() == ["toy"]
    # to rounding: before, they came from moments that the units keep
    assert_frame_equal(after.select(others), before.select(others), rel_tol=1e-5, abs_tol=1e-7)
    assert main(["deg", str(finished), "--test", "paired_t"]) == 0
    assert deg.scan(finished).collect().equals(before)


def test_a_test_that_does_not_compute_what_it_declares_is_a_mistake(
    toy: GeneTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(toy.__dict__, "compute", lambda sample, config: {"share_up": np.zeros(5)})
    delta_NG = np.zeros((7, 5), np.float32)
    with pytest.raises(AssertionError, match=r"toy does not compute \['share_up_p'\]"):
        statistics_of(delta_NG, delta_NG, False, None, DegConfig(test="toy"))


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_test_that_there_is_not_is_refused_before_anything_is_read(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(library=LIBRARY, model={"checkpoint": "missing.ckpt"}) | {"deg": {"test": "paired"}}
    path = write(config, tmp_path / "s.yaml")
    assert main([command, str(path), *(["--out", str(tmp_path / "out")] if command == "run" else [])]) == 2
    said = capsys.readouterr().err
    assert 'deg.test: there is no test "paired"' in said
    assert all(name in said.partition("choose")[2].partition(";")[0] for name in table.NAMES)
    assert 'did you mean "paired_t"?' in said
    assert not (tmp_path / "out").exists()


def test_a_finished_screen_is_not_changed_by_a_test_that_there_is_not(finished: Path) -> None:
    store = ScreenStore.open(finished / "screen.zarr", "r+")
    before = store.provenance["view"]
    with pytest.raises(ConfigError, match=r'no test "rank"; choose paired_t, moderated_t, signed_rank'):
        set_presentation(store, {"test": "rank"})
    assert ScreenStore.open(finished / "screen.zarr").provenance["view"] == before
