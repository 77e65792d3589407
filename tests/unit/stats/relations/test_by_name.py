"""Relations of tables of another name: of their own cells and groups, beside the first ones."""

import shutil
from pathlib import Path

import pytest

import screen
from screen.errors import StoreError
from screen.running.tables import make_analysis
from tests.support.quiet import HERE, QUIET


def test_relations_and_intervals_are_of_the_cells_that_were_asked_for(planted: screen.Results, tmp_path: Path) -> None:
    folder, stratum = tmp_path / "screen", planted.strata[0]
    shutil.copytree(planted.directory, folder)
    cells: dict[str, object] = {"where": f"cell_type == {stratum!r}"}
    results, _ = make_analysis(folder, "one", cells, {"relations": True}, [], [], HERE, QUIET)
    assert results.strata == [stratum]
    for table in ("targets", "modules", "epistasis"):
        found = results.relations(table)
        assert found["stratum"].unique().to_list() == [stratum]
        assert found.height == planted.relations(table, stratum=stratum).height
    assert results.strength_intervals(n_draws=2)["stratum"].unique().to_list() == [stratum]
    plain, _ = make_analysis(folder, "plain", cells, {"relations": False}, [], [], HERE, QUIET)
    with pytest.raises(StoreError, match=r"analyses/plain has no relations/.*deg .* --name plain --relations"):
        plain.relations("targets")
