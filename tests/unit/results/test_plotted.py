"""The figures of a screen: the strongest of what is asked for, said in the title; an error where there is nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from matplotlib.collections import PathCollection

from screen.cli.main import main
from screen.edits import DELETE, MASK, OVEREXPRESS
from screen.errors import ConfigError, GeneError, NothingToDrawError, StoreError
from screen.results import views
from screen.results.results import Results, open_results
from tests.support.store_fixture import GENES
from tests.support.tiny import tiny, write
from tests.unit.results.test_views import screened


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("plotted")
    screened(folder)
    (folder / "sets.gmt").write_text(
        "first\t\t" + "\t".join(GENES[:15]) + "\nsecond\t\t" + "\t".join(GENES[10:40]) + "\n"
    )
    assert main(["deg", str(folder / "out"), "--gene-sets", str(folder / "sets.gmt")]) == 0
    return open_results(folder / "out")


def points(axes: Any) -> set[tuple[float, float]]:
    return {
        (float(x), float(y))
        for c in axes.collections
        if isinstance(c, PathCollection)
        for x, y in np.asarray(c.get_offsets())
    }


def strongest(results: Results, **wanted: Any) -> dict[str, Any]:
    return results.hits.filter(**wanted).drop_nulls("strength_rank").row(0, named=True)


def test_a_ranking_is_of_the_group_with_the_strongest(results: Results) -> None:
    figure, best = results.plot_ranking(MASK.name), strongest(results, mode=MASK.name)
    place = {k: best[k] for k in ("mode", "site", "stratum", "time")}
    ranked = results.hits.filter(**place).drop_nulls("strength_rank")
    n = ranked.height
    assert (
        figure.get_suptitle() == f"src:mask in {best['stratum']} at t{best['time']}: {n} perturbation{'s' * (n != 1)}"
    )
    nulls = results.hits.filter("is_null", **place).filter(pl.col("n_cells") >= 2)
    expected = pl.concat([ranked, nulls]).select("rank_position", "strength").rows()
    assert points(figure.axes[0]) == set(expected)
    one = results.plot_ranking(stratum="A", time=2)
    assert "in A at t2" in one.get_suptitle()


def test_a_heat_map_is_the_matrix_of_the_group(results: Results) -> None:
    best = strongest(results, mode=DELETE.name)
    matrix = views.change_matrix(results, *(best[k] for k in ("mode", "site", "stratum", "time")))
    axes = results.plot_heatmap(DELETE.name).axes[0]
    image = axes.images[0].get_array()
    assert image is not None
    np.testing.assert_array_equal(np.ma.filled(image, np.nan), matrix.change_PG)
    assert [t.get_text() for t in axes.get_yticklabels()] == matrix.symbol_P
    assert [t.get_text() for t in axes.get_xticklabels()] == matrix.feature_symbol_G


def test_a_volcano_is_of_the_strongest_edit_stratum_and_time(results: Results) -> None:
    figure, best = results.plot_volcano("$x_1$"), strongest(results, target_symbol="$x_1$")
    assert figure.get_suptitle() == f"$x_1$, {best['site']}:{best['mode']} in {best['stratum']} at t{best['time']}"
    rows = results.differential(best["perturbation"], best["stratum"], best["time"]).drop_nulls("fdr")
    assert points(figure.axes[0]) == {
        (x, -np.log10(y) + 0.0) for x, y in rows.select(pl.col("mean_delta").cast(pl.Float64), "fdr").rows()
    }
    assert "overexpress in B at t1" in results.plot_volcano("$x_1$", "B", 1, OVEREXPRESS.name).get_suptitle()


def test_cells_have_a_strip_per_stratum_and_time(results: Results) -> None:
    figure = results.plot_cells("$x_1$", mode=OVEREXPRESS.name)
    rows = results.cells("$x_1$", mode=OVEREXPRESS.name)
    n = {(s, t): c for s, t, c in rows.group_by("stratum", "time").len().iter_rows()}
    labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert labels == [f"{s}, t{t} ({n[s, t]})" for s in "ABC" for t in (1, 2)]
    assert {x for x, _ in points(figure.axes[0])} == set(rows["strength"])
    alone = results.plot_cells("$x_1$", "B", 2, OVEREXPRESS.name)
    assert [t.get_text() for t in alone.axes[0].get_yticklabels()] == [f"B ({n['B', 2]})"]


def test_times_are_the_first_and_the_last(results: Results) -> None:
    figure, best = results.plot_times(MASK.name), strongest(results, mode=MASK.name)
    rows = results.hits.filter(mode=MASK.name, stratum=best["stratum"]).filter(
        pl.col("strength_rank").is_not_null() | pl.col("is_null")
    )
    both = rows.filter(time=1).join(rows.filter(time=2), on="perturbation").drop_nulls("strength")
    assert points(figure.axes[0]) == set(both.select("strength", "strength_right").rows())
    turned = results.plot_times(MASK.name, first=2, second=1)
    assert points(turned.axes[0]) == {(y, x) for x, y in points(figure.axes[0])}


def test_a_gene_has_a_bar_for_everything_that_moves_it(results: Results) -> None:
    figure = results.plot_gene("CCL2", stratum="B", time=1, n=7)
    movers = results.movers("CCL2", stratum="B", time=1, n=7)
    assert [p.get_width() for p in figure.axes[0].patches] == movers["mean_delta"].to_list()  # type: ignore[attr-defined]
    assert figure.get_suptitle() == "what moves CCL2: B, t1"


def test_gene_sets_are_those_of_the_table(results: Results) -> None:
    best = strongest(results, target_symbol="$x_1$")
    rows = results.gene_sets(best["perturbation"], best["stratum"], best["time"])
    column = "null_z" if not rows["null_z"].null_count() else "score"
    assert {x for x, _ in points(results.plot_gene_sets("$x_1$").axes[0])} == set(rows[column])


@pytest.mark.parametrize(
    ("ask", "error", "words"),
    [
        (lambda r: r.plot_ranking("masc"), GeneError, 'did you mean "mask"'),
        (lambda r: r.plot_ranking(stratum="a"), ConfigError, 'did you mean "A"'),
        (lambda r: r.plot_volcano("CCL3"), GeneError, 'did you mean "CCL2"'),
        (lambda r: r.plot_volcano(GENES[29]), NothingToDrawError, "`.coverage` says why not"),
        (lambda r: r.plot_volcano("CCL2", mode=MASK.name), NothingToDrawError, "of 1 cell: there is no volcano"),
        (lambda r: r.plot_cells(GENES[29], "A"), NothingToDrawError, "no cell (stratum A) allows"),
        (lambda r: r.plot_times(first=3), ConfigError, "no time point 3"),
        (lambda r: r.plot_times(first=2), ConfigError, "time point 2 is given twice"),
        (lambda r: r.plot_gene("CCL3"), GeneError, 'did you mean "CCL2"'),
        (lambda r: r.plot_heatmap(time=9), ConfigError, "no time point 9"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    results: Results, ask: Callable[[Results], Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as refused:
        ask(results)
    assert words in str(refused.value)


def test_tables_that_leave_everything_out_say_how_to_have_it(tmp_path: Path) -> None:
    screened(tmp_path, [{"genes": list(GENES[2:5]), "modes": [MASK.name]}])
    assert main(["deg", str(tmp_path / "out"), "--top", "0"]) == 0
    results = open_results(tmp_path / "out")
    for draw in (results.plot_heatmap, lambda: results.plot_volcano("$x_1$"), lambda: results.plot_gene("CCL2")):
        with pytest.raises(NothingToDrawError, match="--reset top max_fdr min_delta` keeps all"):
            draw()
    with pytest.raises(StoreError, match="no gene sets were tested"):
        results.plot_gene_sets("CCL2")
    assert main(["deg", str(tmp_path / "out"), "--reset", "top", "max_fdr", "min_delta"]) == 0
    assert open_results(tmp_path / "out").plot_heatmap().axes


def test_embeddings_only_draw_what_they_have(tmp_path: Path) -> None:
    config = tiny(predict={"use_count_decoder": False}, library={"genes": list(GENES[2:7])}, output={"min_cells": 1})
    assert main(["run", str(write(config, tmp_path / "s.yaml")), "--out", str(tmp_path / "out")]) == 0
    results = open_results(tmp_path / "out")
    assert results.plot_ranking().axes[0].get_ylabel() == "embedding shift (1 \N{MINUS SIGN} cosine)"
    shifts = results.cells(GENES[3])["embedding_shift"]
    assert {x for x, _ in points(results.plot_cells(GENES[3]).axes[0])} == set(shifts)
    assert results.plot_times().axes
    for draw in (results.plot_heatmap, lambda: results.plot_volcano(GENES[3]), lambda: results.plot_gene(GENES[3])):
        with pytest.raises(StoreError, match="embeddings only"):
            draw()


def test_a_screen_of_one_perturbation_is_drawn(tmp_path: Path) -> None:
    results = screened(tmp_path, [{"genes": [GENES[2]], "modes": [MASK.name]}])
    assert results.plot_heatmap().axes[0].images[0].get_array().shape[0] == 1
    assert results.plot_ranking().axes and results.plot_times().axes
