"""Plots: what is drawn is what the table says, names are literal, sizes are those of a paper."""

import io
from typing import Any

import matplotlib
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from screen.edits import MASK, OVEREXPRESS
from screen.plots.cells import cells
from screen.plots.gene_sets import gene_sets
from screen.plots.genes import bar_names, gene
from screen.plots.heatmap import heatmap
from screen.plots.labels import name_points
from screen.plots.ranking import ranking
from screen.plots.style import MM_PER_INCH, new_figure, plain, settle, shown, styled
from screen.plots.times import times
from screen.plots.volcano import volcano

HOSTILE = [
    "$x_1$",
    "<b>bold</b>",
    "a\nb\x00c\x1b[31m",
    "基因",
    r"\frac{1}{2}",
    "$",
    "A" * 300,
    "",
    "../../etc/passwd",
    "%s{}",
]


def drawn(figure: Figure, form: str = "svg") -> str:
    """The figure as a vector file."""
    file = io.BytesIO()
    figure.savefig(file, format=form)
    return file.getvalue().decode("latin-1" if form != "svg" else "utf-8")


def offsets(figure: Figure, axes: int = 0) -> set[tuple[float, float]]:
    """Where the points of one axes are."""
    found = [c for c in figure.axes[axes].collections if isinstance(c, PathCollection)]
    return {(float(x), float(y)) for c in found for x, y in np.asarray(c.get_offsets())}


def names_in(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.findobj(Text) if t.get_text()]  # type: ignore[attr-defined]


def hits(n: int = 30, mode: str = MASK.name, **changes: Any) -> pl.DataFrame:
    rng = np.random.default_rng(3)
    columns = {
        "perturbation": [f"p{i}" for i in range(n)], "target": [f"E{i}" for i in range(n)],
        "target_symbol": [HOSTILE[i % len(HOSTILE)] for i in range(n)], "mode": [mode] * n,
        "is_null": [i % 3 == 1 for i in range(n)], "strength": rng.lognormal(-5, 1, n), "rank_position": rng.uniform(0, 90, n),
        "coverage": rng.uniform(0, 1, n), "n_edited": rng.uniform(0, 1, n), "q_value": rng.uniform(0, 1, n),
    }  # fmt: skip
    return pl.DataFrame({**columns, **changes})


@pytest.mark.parametrize("mode", [MASK.name, OVEREXPRESS.name])
@pytest.mark.parametrize("n", [1, 2, 30])
def test_a_ranking_is_the_table(n: int, mode: str) -> None:
    table = hits(n, mode)
    figure = ranking(table, "all", 0.1)
    presence = "coverage" if mode == MASK.name else "n_edited"
    assert offsets(figure) == set(table.select("rank_position", "strength").rows())
    assert offsets(figure, 1) == set(table.select(presence, "strength").rows())
    n_hits = table.filter(~pl.col("is_null"), pl.col("q_value") < 0.1).height
    labels = [c.get_label() for c in figure.axes[0].collections]
    assert (f"q < 0.1 ({n_hits})" in labels) == (n_hits > 0)


def test_a_gene_that_no_cell_had_stands_behind_the_others() -> None:
    table = hits(6).with_columns(rank_position=pl.Series([3.0, None, 20.0, 7.0, None, 1.0]))
    figure = ranking(table, "all", 0.1)
    settle(figure)
    labels = {
        t.get_text(): x for t, x in zip(figure.axes[0].get_xticklabels(), figure.axes[0].get_xticks(), strict=True)
    }
    absent = set(table.filter(pl.col("rank_position").is_null())["strength"])
    assert {y for x, y in offsets(figure) if x == labels["none"]} == absent and labels["none"] > 20
    nowhere = hits(3, OVEREXPRESS.name).with_columns(rank_position=pl.lit(None, pl.Float64))
    assert len(offsets(ranking(nowhere, "all", 0.1))) == 3


def genes(n: int = 40) -> pl.DataFrame:
    rng = np.random.default_rng(5)
    columns = {
        "feature_symbol": [f"G{i}" for i in range(n)], "mean_delta": pl.Series(rng.normal(0, 0.05, n), dtype=pl.Float32),
        "fdr": rng.uniform(0, 0.3, n),
    }  # fmt: skip
    return pl.DataFrame(columns)


def test_a_volcano_is_the_table_and_0_is_drawn() -> None:
    table = genes().with_columns(fdr=pl.when(pl.col("feature_symbol") == "G3").then(0.0).otherwise("fdr"))
    table = pl.concat(
        [table, table.head(1).with_columns(fdr=pl.lit(None, pl.Float64), mean_delta=pl.lit(9, pl.Float32))]
    )
    figure = volcano(table, "one")
    kept = table.drop_nulls("fdr")
    expected = {
        (x, float(-np.log10(max(y, 1e-300))))
        for x, y in kept.select(pl.col("mean_delta").cast(pl.Float64), "fdr").rows()
    }
    assert offsets(figure) == expected
    rises = next(c for c in figure.axes[0].collections if str(c.get_label()).startswith("rises"))
    assert len(rises.get_offsets()) == kept.filter(pl.col("fdr") < 0.05, pl.col("mean_delta") > 0.01).height
    low, high = figure.axes[0].get_ylim()
    assert all(low <= y <= high for _, y in expected)


def test_the_genes_that_change_most_are_named_rises_and_falls_in_turn() -> None:
    table = pl.DataFrame(
        {"feature_symbol": list("abcdef"), "mean_delta": [0.9, 0.8, 0.7, -0.3, 0.6, -0.2], "fdr": [0.01] * 6}
    )
    named = {t.get_text() for t in volcano(table, "one", n_named=4).axes[0].texts}
    assert named == {"a", "d", "b", "f"}
    only_up = {t.get_text() for t in volcano(table.filter(pl.col("mean_delta") > 0), "one", n_named=3).axes[0].texts}
    assert only_up == {"a", "b", "c"}


def test_a_heat_map_is_the_matrix() -> None:
    change_PG = np.random.default_rng(0).normal(0, 1, (5, 7))
    change_PG[2, 3] = np.nan
    figure = heatmap(change_PG, list("vwxyz"), HOSTILE[:7], "some")
    axes = figure.axes[0]
    image = axes.images[0].get_array()
    assert image is not None
    np.testing.assert_array_equal(np.ma.filled(image, np.nan), change_PG)
    assert [t.get_text() for t in axes.get_yticklabels()] == list("vwxyz")
    assert [t.get_text() for t in axes.get_xticklabels()] == [shown(n) for n in HOSTILE[:7]]
    low, high = axes.images[0].get_clim()
    assert low == -high < 0
    dashes = {(int(y), int(x)) for x, y in zip(*axes.lines[0].get_data(), strict=True)}
    assert dashes == {(p, g) for p, g in zip(*np.nonzero(change_PG <= -high / 2), strict=True)}


@pytest.mark.parametrize("change_PG", [np.zeros((1, 1)), np.full((2, 3), np.nan), np.array([[1e-30, -1e-30]])])
def test_a_heat_map_of_next_to_nothing_is_drawn(change_PG: np.ndarray) -> None:
    n_rows, n_columns = change_PG.shape
    assert "<svg" in drawn(heatmap(change_PG, ["p"] * n_rows, ["g"] * n_columns, "little"))


def test_strips_are_the_cells() -> None:
    rng = np.random.default_rng(1)
    rows = pl.DataFrame(
        [
            {"stratum": s, "time": t, "strength": rng.random(), "embedding_shift": rng.random()}
            for s, t, n in [("B", 1, 3), ("B", 2, 4), ("A", 2, 1)]
            for _ in range(n)
        ]
    )
    for has_counts, value in ((True, "strength"), (False, "embedding_shift")):
        figure = cells(rows, "one", ["B", "A"], [1, 2], has_counts)
        labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
        assert labels == ["B, t1 (3)", "B, t2 (4)", "A, t1 (0)", "A, t2 (1)"]
        strips = [np.asarray(c.get_offsets()) for c in figure.axes[0].collections]
        for place, ((stratum, time), strip) in enumerate(
            zip([("B", 1), ("B", 2), ("A", 1), ("A", 2)], strips, strict=True)
        ):
            assert sorted(strip[:, 0].tolist()) == sorted(rows.filter(stratum=stratum, time=time)[value].to_list())
            assert (np.abs(strip[:, 1] - place) < 0.5).all()
        medians = [float(line.get_xdata()[0]) for line in figure.axes[0].lines]
        assert medians == [float(np.median(s[:, 0])) for s in strips if len(s)]


def test_times_are_compared_for_who_has_both() -> None:
    table = pl.concat(
        [hits(20).with_columns(time=pl.lit(t), strength=pl.col("strength") * f) for t, f in ((1, 1.0), (3, 2.0))]
    )
    table = table.filter((pl.col("perturbation") != "p4") | (pl.col("time") == 1))
    figure = times(table, "some", 1, 3)
    expected = {(s, 2 * s) for s in hits(20).filter(pl.col("perturbation") != "p4")["strength"]}
    assert offsets(figure) == expected
    assert figure.axes[0].get_xlim() == figure.axes[0].get_ylim()


def movers() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "target_symbol": ["a", "b", "b"], "mode": [MASK.name] * 3, "site": ["src"] * 3, "stratum": ["S", "S", "R"],
            "time": [1, 1, 1], "mean_delta": [0.5, -0.4, 0.1], "se": [0.1, None, 0.2], "is_null": [False, True, False],
        }
    )  # fmt: skip


def test_bars_are_the_changes_and_names_tell_rows_apart() -> None:
    figure = gene(movers(), "one")
    assert [p.get_width() for p in figure.axes[0].patches] == [0.5, -0.4, 0.1]  # type: ignore[attr-defined]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == bar_names(movers())
    assert bar_names(movers()) == ["a, S", "b (random), S", "b, R"]
    assert bar_names(movers().head(1)) == ["a"]
    long = movers().with_columns(stratum=pl.Series(["monocytes of blood", "monocytes of marrow", "T cells"]))
    assert [round(gene(m, "one").get_figwidth() * MM_PER_INCH) for m in (movers(), long)] == [89, 183]


@pytest.mark.parametrize("has_null", [True, False])
def test_gene_sets_stand_where_the_table_says(has_null: bool) -> None:
    z = [1.0, -5.0, 3.0, -0.5] if has_null else [1.0, None, 3.0, 2.0]
    table = pl.DataFrame(
        {"gene_set": list("abcd"), "n_set": [10, 11, 12, 13], "score": [9.0, 1.0, -8.0, 7.0], "null_z": z,
         "q_value": [0.5, 0.01, 0.2, None]}
    )  # fmt: skip
    figure = gene_sets(table, "one", 0.1, n=3)
    expected = (
        [("c (12)", 3.0), ("a (10)", 1.0), ("b (11)", -5.0)]
        if has_null
        else [("a (10)", 9.0), ("d (13)", 7.0), ("c (12)", -8.0)]
    )
    names = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert [(names[int(y)], x) for x, y in sorted(offsets(figure), key=lambda p: p[1])] == expected


@pytest.mark.parametrize("form", ["svg", "pdf", "png"])
def test_names_are_data(form: str) -> None:
    change_PG = np.random.default_rng(0).normal(0, 1, (len(HOSTILE), len(HOSTILE)))
    figures = [
        heatmap(change_PG, HOSTILE, HOSTILE, HOSTILE[0]),
        ranking(hits(), HOSTILE[1], 0.1),
        gene(movers().with_columns(target_symbol=pl.Series(HOSTILE[:3])), HOSTILE[6]),
    ]
    for figure in figures:
        text = drawn(figure, form)
        assert not [t for t in figure.findobj(Text) if t.get_text() and "$" in t.get_text() and t.get_parse_math()]  # type: ignore[attr-defined]
        if form == "svg":
            assert "<b>bold" not in text
    if form == "svg":
        assert ">$x_1$<" in drawn(figures[0]) and "&lt;b&gt;bold" in drawn(figures[0])
        assert not [n for n in names_in(figures[0]) if "\x00" in n or "\x1b" in n or len(n) > 80]


def test_text_stays_text_whatever_the_users_settings_are() -> None:
    figure = gene(movers(), "told")
    with matplotlib.rc_context({"svg.fonttype": "path", "pdf.fonttype": 3, "text.usetex": False, "font.size": 30}):
        assert ">told<" in drawn(figure)
        assert "/Type3" not in drawn(figure, "pdf")
        assert gene(movers(), "told").axes[0].xaxis.label.get_fontsize() == 7
        assert matplotlib.rcParams["font.size"] == 30


def test_no_figure_is_known_to_pyplot_and_all_have_a_papers_width() -> None:
    import sys

    figures = [
        ranking(hits(), "a", 0.1),
        volcano(genes(), "a"),
        gene(movers(), "a"),
        heatmap(np.zeros((1, 1)), "p", "g", "a"),
    ]
    assert [round(f.get_figwidth() * MM_PER_INCH) for f in figures] == [183, 89, 89, 183]
    assert "matplotlib.pyplot" not in sys.modules or sys.modules["matplotlib.pyplot"].get_fignums() == []
    for figure in figures:
        sizes = {t.get_fontsize() for t in figure.findobj(Text) if t.get_text()}  # type: ignore[attr-defined]
        assert sizes <= {7.0, 8.0}
        assert figure._repr_png_()[:4] == b"\x89PNG"  # type: ignore[attr-defined]


@given(st.integers(0, 2**16), st.integers(1, 40), st.floats(0.01, 1))
def test_names_neither_overlap_nor_leave_the_axes(seed: int, n: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    x_N, y_N = rng.random((2, n)) * spread
    with styled():
        figure = new_figure(89, 60)
        axes = figure.subplots()
        axes.set(xlim=(0, 1), ylim=(0, 1))
        placed = name_points(axes, x_N, y_N, list(range(n)), [f"GENE{i}" for i in range(n)])
        renderer = settle(figure)
        inside = axes.get_window_extent(renderer)
        boxes = [t.get_window_extent(renderer) for t in placed]
    assert placed
    for k, box in enumerate(boxes):
        assert (
            inside.x0 - 1 <= box.x0 and box.x1 <= inside.x1 + 1 and inside.y0 - 1 <= box.y0 and box.y1 <= inside.y1 + 1
        )
        for other in boxes[:k]:
            wide = min(box.x1, other.x1) - max(box.x0, other.x0)
            high = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert wide < 1 or high < 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0001, "0.0001"),
        (3e-9, "3e-9"),
        (0.05, "0.05"),
        (20000, "20,000"),
        (-0.1, "\N{MINUS SIGN}0.1"),
        (1e8, "1e8"),
    ],
)
def test_numbers_are_written_plainly(value: float, text: str) -> None:
    assert plain(value) == text
