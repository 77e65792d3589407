"""The page of a model that gives embeddings alone, of one stratum: what it cannot say is not there."""

from pathlib import Path

import pytest

from screen.cli.main import main
from screen.results.results import open_results
from screen.results.views import cells
from tests.browser.conftest import OpenPage
from tests.browser.report_driver import Report, column, reads
from tests.system.test_second_model import config, folder, package, tower

__all__ = ["folder", "package", "tower"]


@pytest.mark.usefixtures("tower")
def test_embeddings_of_one_stratum_are_shown(folder: Path, tmp_path: Path, page: OpenPage) -> None:
    path = config(folder, output={"store_dtype": "float32", "min_cells": 2, "report": True})
    assert main(["run", str(path), "--out", str(tmp_path / "out")]) == 0
    results = open_results(tmp_path / "out")
    found = page(tmp_path / "out" / "report.html")
    found.drawn_in_s(60)
    shown = Report(found.page)
    shown.choose(edit=None)
    expected = results.hits.filter(~results.hits["is_null"], results.hits["n_cells"] > 0)
    rows = shown.rows("hits-table")
    assert [r["gene"] for r in rows] == expected["target_symbol"].to_list()
    assert reads(column(rows, "strength"), expected["strength"].to_list(), 3)
    assert shown.titles("hits-table") == ["#", "gene", "edit", "cells", "strength", "q", "z"]
    for name in ("stratum", "time", "once", "gene", "patterns", "times-figure"):
        assert not found.page.is_visible(f"#{name}"), name
    one = expected["perturbation"][3]
    shown.type("choose-perturbation", one)
    assert one in shown.text("perturbation-words")
    [drawn] = shown.given("plot-cells")
    assert reads(sorted(drawn["x"]), sorted(cells(results, one)["embedding_shift"]), 2)
    assert found.sideways_px == 0
