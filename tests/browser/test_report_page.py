"""The page's tables and figures, read back from a browser: they show what the tables on the disk say."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import polars as pl
import pytest

from screen.edits import DELETE, MASK, OVEREXPRESS, PAD
from screen.report.page import write_report
from screen.results.results import Results
from screen.results.views import cells, change_matrix, movers, rank_shift
from tests.browser.report_driver import MINUS, UNKNOWN, Report, column, reads
from tests.support.browser import opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HIT = (pl.col("q_value") < 0.1) & pl.col("strength_rank").is_not_null()
B_CELLS = "B cells"
HOSTILE = '"><img src=x onerror=alert(1)>'


PLACES = """(paths) => [...paths].map((path) => path.getAttribute("transform").match(/[-.0-9]+/g).map(Number))"""
SKETCHES = f"""
const placesOf = {PLACES};
const settled = window.requestIdleCallback;
// before plotly is asked for
window.requestIdleCallback = (act) => {{
  window.sketched ??= Object.fromEntries([...document.querySelectorAll(".sketch")].map((svg) => [svg.parentElement.id, {{
    points: placesOf(svg.querySelectorAll(".points path")),
    names: [...svg.querySelectorAll(".names text")].map((text) => text.textContent),
  }}]));
  return settled(act);
}};"""
DRAWN_INSTEAD = f"""(place) => {{
  const plot = document.getElementById(place);
  return {{
    points: ({PLACES})(plot.querySelectorAll(".scatterlayer path.point")),
    names: [...plot.querySelectorAll(".annotation-text")].map((text) => text.textContent),
    sketches: plot.querySelectorAll(".sketch").length,
  }};
}}"""


def asked_for(results: Results, **wanted: Any) -> pl.DataFrame:
    """The rows of hits that the table may list, in its order."""
    chosen = [pl.col(k) == v for k, v in wanted.items() if v is not None]
    return results.hits.filter(pl.col("n_cells") > 0, ~pl.col("is_null"), *chosen)


def everything(shown: Report) -> None:
    """Every result of every edit, nothing searched."""
    shown.choose(edit=None, stratum=None, time=None)
    shown.tick("hits-only", False)
    shown.tick("once", False)
    shown.type("search", "")


def lists(shown: Report, expected: pl.DataFrame) -> None:
    """Whether the table of hits lists these rows with their numbers."""
    rows = shown.rows("hits-table")
    assert [r["gene"] for r in rows] == expected["target_symbol"].to_list()
    assert [r["edit"] for r in rows] == expected["mode"].to_list()
    assert [r["stratum"] for r in rows] == expected["stratum"].to_list()
    assert [r["time"] for r in rows] == [f"t{t}" for t in expected["time"]]
    digits = {"strength": ("strength", 3), "q": ("q_value", 2), "z": ("null_z", 2), "cells": ("n_cells", 9)}
    for title, (name, n) in digits.items() | {"#": ("strength_rank", 9), "changed genes": ("n_deg", 9)}.items():
        assert reads(column(rows, title), expected[name].to_list(), n), title
    up, down = (expected[f"top_{d}"].list.head(3).to_list() for d in ("up", "down"))
    changes = [" ".join([*(f"+{g}" for g in a), *(f"{MINUS}{g}" for g in b)]) for a, b in zip(up, down, strict=True)]
    assert [r["strongest changes"] for r in rows] == changes


@pytest.mark.parametrize(
    ("mode", "stratum", "time", "hits_only"),
    [
        (None, None, None, True),
        (MASK.name, None, 2, False),
        (OVEREXPRESS.name, HOSTILE, None, True),
        (DELETE.name, B_CELLS, 1, False),
    ],
)
def test_controls_choose_what_the_table_lists(
    shown: Report, results: Results, mode: str | None, stratum: str | None, time: int | None, hits_only: bool
) -> None:
    everything(shown)
    shown.choose(edit=mode, stratum=stratum, time=None if time is None else f"t{time}")
    shown.tick("hits-only", hits_only)
    expected = asked_for(results, mode=mode, stratum=stratum, time=time)
    lists(shown, expected.filter(HIT) if hits_only else expected)


def test_each_perturbation_is_listed_once_with_where_it_stands_out(shown: Report, results: Results) -> None:
    everything(shown)
    shown.tick("once", True)
    rows, all_rows = shown.rows("hits-table"), asked_for(results)
    expected = all_rows.unique("perturbation", keep="first", maintain_order=True)
    assert [r["gene"] for r in rows] == expected["target_symbol"].to_list()
    assert reads(column(rows, "strength"), expected["strength"].to_list(), 3)
    n_of = all_rows.group_by("perturbation").agg(n=HIT.sum(), n_all=pl.col("strength_rank").count())
    listed = expected.join(n_of, on="perturbation", how="left", maintain_order="left")
    assert [r["stands out in"] for r in rows] == [
        f"{a} of {b}" for a, b in zip(listed["n"], listed["n_all"], strict=True)
    ]


def test_the_ranking_is_there_with_the_tables_as_plotly_draws_it_later(browser: "Browser", report: Path) -> None:
    with opened(browser, report, first=SKETCHES) as found:
        found.drawn_in_s(60)
        sketched = found.page.evaluate("window.sketched")
        assert set(sketched) == {"plot-rank", "plot-presence"}
        for place, early in sketched.items():
            late = found.page.evaluate(DRAWN_INSTEAD, place)
            assert late["sketches"] == 0
            assert len(early["names"]) > 3
            assert early["names"] == late["names"]
            offset = (66, 28)  # plotly's are within its axes
            assert len(early["points"]) == len(late["points"]) > 100
            assert np.abs(np.array(early["points"]) - np.array(late["points"]) - offset).max() < 0.5
        found.require_no_faults()


SORTED = {
    "#": "strength_rank", "time": "time", "cells": "n_cells", "strength": "strength", "q": "q_value", "z": "null_z",
    "changed genes": "n_deg", "gene": "target_symbol", "edit": "mode", "stratum": "stratum",
}  # fmt: skip
RISES_FIRST = {"#", "time", "q", "gene", "edit", "stratum"}
TEXTS = {"gene", "edit", "stratum"}


@pytest.mark.parametrize("title", SORTED)
def test_the_table_is_sorted_by_a_heading_and_back(shown: Report, results: Results, title: str) -> None:
    everything(shown)
    stratum = None if title == "stratum" else HOSTILE
    shown.choose(time="t1", stratum=stratum)
    expected = asked_for(results, time=1, stratum=stratum)[SORTED[title]]
    place = shown.titles("hits-table").index(title)
    for turn in (0, 1):
        shown.page.click(f"#hits-table thead th:nth-child({place + 1}) button")
        is_rising = (title in RISES_FIRST) == (turn == 0)
        directions = shown.page.eval_on_selector_all(
            "#hits-table thead th", "(all) => all.map((th) => th.getAttribute('aria-sort'))"
        )
        word = "ascending" if is_rising else "descending"
        assert directions == [word if k == place else "none" for k in range(len(directions))]
        got = [row[title] for row in shown.rows("hits-table")]
        if title in TEXTS:
            assert sorted(got) == sorted(expected.to_list())
            in_order = "(all) => all.every((x, i) => i === 0 || all[i - 1].localeCompare(x) <= 0)"
            assert shown.page.evaluate(in_order, got if is_rising else got[::-1])
        else:
            ordered = expected.sort(descending=not is_rising, nulls_last=True).to_list()
            values = [t.removeprefix("t") for t in got] if title == "time" else got
            assert reads(column([{title: v} for v in values], title), ordered, 2)
            if title in ("q", "z", "#"):
                assert ordered[-1] is None and got[-1] == UNKNOWN


@pytest.mark.parametrize(
    ("text", "column_name"), [("mod", "target_symbol"), ("00000012", "target"), ("EARLY1", "target_symbol")]
)
def test_a_search_finds_symbols_and_ids_by_a_part(shown: Report, results: Results, text: str, column_name: str) -> None:
    everything(shown)
    shown.type("search", text.lower())
    found = asked_for(results).filter(pl.col(column_name).str.to_lowercase().str.contains(text.lower(), literal=True))
    assert found.height > 0
    assert len(rows := shown.rows("hits-table")) == found.height
    assert sorted(r["gene"] for r in rows) == sorted(found["target_symbol"])


def test_a_search_by_one_id_finds_its_gene_and_one_without_a_match_says_so(shown: Report, results: Results) -> None:
    everything(shown)
    one = results.hits.filter(target_symbol="LATE2")["target"][0]
    shown.type("search", one)
    assert {row["gene"] for row in shown.rows("hits-table")} == {"LATE2"}
    shown.type("search", "no gene is called so")
    assert shown.rows("hits-table") == []
    assert shown.text("hits-table").endswith("nothing to show")


def test_pages_are_turned(shown: Report, results: Results) -> None:
    everything(shown)
    n = asked_for(results).height
    first = shown.rows("hits-table")[:20]
    assert shown.text("hits-table").endswith(f"{UNKNOWN}{n:,} of {n:,}")
    shown.choose(edit=None, time="t2")
    shown.choose(time=None)
    assert shown.rows("hits-table", is_whole=False) == first
    shown.page.click("#hits-table .pager button:text('Next')")
    assert shown.text("hits-table").endswith(f"21{UNKNOWN}40 of {n:,}")
    shown.page.click("#hits-table .pager button:text('Previous')")
    assert shown.rows("hits-table", is_whole=False) == first


def test_the_ranking_is_drawn_from_the_same_rows(shown: Report, results: Results) -> None:
    everything(shown)
    shown.choose(edit=MASK.name, stratum=B_CELLS, time="t1")
    rows = results.hits.filter(pl.col("n_cells") > 0, mode=MASK.name, stratum=B_CELLS, time=1)
    own, null = rows.filter(~pl.col("is_null")), rows.filter("is_null")
    expected = {"circle-open": null, "circle": own.filter(~HIT.fill_null(False)), "diamond": own.filter(HIT)}
    for plot, x in (("plot-rank", pl.col("rank_position")), ("plot-presence", pl.col("coverage") * pl.col("n_edited"))):
        given = {trace["symbol"]: trace for trace in shown.given(plot)}
        assert set(given) == set(expected)
        for symbol, table in expected.items():
            there = table.filter(x.is_not_null(), pl.col("strength") > 0)
            assert sorted(given[symbol]["y"]) == pytest.approx(sorted(there["strength"]), rel=1e-3)
            assert sorted(given[symbol]["x"]) == pytest.approx(sorted(there.select(x).to_series()), rel=2e-3)
        assert "mask" in shown.page.get_attribute(f"#{plot}", "aria-label")  # type: ignore[operator]


def test_time_points_are_drawn_against_each_other(shown: Report, results: Results) -> None:
    everything(shown)
    shown.choose(edit=MASK.name)
    first, second = (asked_for(results, mode=MASK.name, time=t).drop_nulls("strength_rank") for t in (1, 2))
    both = first.join(second, on=["perturbation", "stratum"], suffix="_2")
    traces = shown.given("plot-times")
    pairs = {(x, y) for t in traces for x, y in zip(t["x"], t["y"], strict=True)}
    expected = {
        (float(f"{x:.4g}"), float(f"{y:.4g}")) for x, y in zip(both["strength"], both["strength_2"], strict=True)
    }
    assert pairs == expected
    is_hit = [(r["q_value"] < 0.1, r["q_value_2"] < 0.1) for r in both.iter_rows(named=True)]
    sizes = {t["symbol"]: len(t["x"]) for t in traces}
    assert sizes["diamond"] == is_hit.count((True, True))
    assert sizes["triangle-left"] == is_hit.count((True, False))
    assert sizes["triangle-up"] == is_hit.count((False, True))


def test_the_heat_map_is_that_of_the_choice(shown: Report, results: Results) -> None:
    options = shown.page.eval_on_selector_all("#map option", "(all) => all.map((o) => o.textContent)")
    assert len(options) == 4 * 2 * 2
    for mode, stratum, time in ((OVEREXPRESS.name, HOSTILE, 2), (MASK.name, B_CELLS, 1)):
        shown.choose(map=f"{mode}, {stratum}, t{time}")
        matrix = change_matrix(results, mode, "src", stratum, time)
        shown.page.wait_for_function(
            "(n) => document.getElementById('plot-map').data[0].z.length === n", arg=len(matrix.perturbation_P)
        )
        given = shown.given("plot-map")[0]
        for row, expected in zip(given["z"], matrix.change_PG, strict=True):
            assert reads(row, expected, 3)
        assert f"{mode}, {stratum}, t{time}" in shown.text("caption-map")


def test_a_gene_shows_what_moves_it(shown: Report, results: Results) -> None:
    name = str(results.differential("EARLY1")["feature_symbol"][7])
    shown.type("choose-gene", name.lower())
    assert shown.text("gene-name").startswith(f"{name} · ENSG")
    assert shown.text("gene-answer") == f"{name} is shown"
    rows = shown.rows("movers-table")
    parts = [
        movers(results, name, mode=m, n=10_000).drop_nulls("strength_rank").head(20)
        for m in results.hits["mode"].unique()
    ]
    expected = pl.concat(parts).sort(pl.col("mean_delta").abs(), descending=True)
    changes = [x for x in column(rows, "mean change") if x is not None]
    assert [abs(x) for x in changes] == sorted((abs(x) for x in changes), reverse=True)
    assert reads(sorted(changes), sorted(expected["mean_delta"]), 3)
    key = ("perturbation", "edit", "stratum", "time", "q")
    seen = {(r[key[0]], r[key[1]], r[key[2]], r[key[3]]): r["q"] for r in rows}
    for row in expected.iter_rows(named=True):
        q = seen[row["target_symbol"], row["mode"], row["stratum"], f"t{row['time']}"]
        assert reads(column([{"q": q}], "q"), [row["q_value"]], 2)
    assert shown.given("plot-gene")[0]["x"] == changes[:15][::-1]
    shown.type("choose-gene", "no such gene")
    assert "predicts no gene" in shown.text("gene-answer")


def test_a_mover_leads_to_its_perturbation_and_a_gene_to_its_movers(shown: Report) -> None:
    shown.type("choose-gene", "GENE0161")
    row = shown.rows("movers-table", is_whole=False)[0]
    shown.page.click("#movers-table tbody tr:first-child button")
    assert shown.text("perturbation-name") == f"{row['perturbation']} · {row['edit']}"
    gene = shown.rows("genes-table", is_whole=False)[1]["gene"]
    shown.page.click("#genes-table tbody tr:nth-child(2) button")
    assert shown.text("gene-name").startswith(f"{gene} · ")
    assert shown.address == f"gene={gene}"


def test_deletion_minus_padding_is_said_with_its_numbers(shown: Report, results: Results) -> None:
    padded = results.hits.filter(mode=PAD.name)["target"].unique().to_list()
    one = asked_for(results, mode=DELETE.name).filter(pl.col("target").is_in(padded)).row(0, named=True)
    shown.type("choose-perturbation", one["perturbation"])
    slow = rank_shift(results, one["target"], one["stratum"], one["time"])
    text = shown.text("rank-shift")
    found = [float(x) for x in re.findall(r"\d+\.\d+(?=[,;])", text)[:3]]
    row = slow.groups.row(0, named=True)
    assert reads(found, [row["strength_delete"], row["strength_pad"], row["rms_difference"]], 3), text
    largest = slow.genes.sort(pl.col("difference").abs(), descending=True)["feature_symbol"][0]
    assert f"It moves most: {largest} " in text


def test_cells_are_drawn_as_the_store_has_them(shown: Report, results: Results) -> None:
    one = results.hits.filter(target_symbol="ONLY1a", mode=MASK.name)["perturbation"][0]
    shown.type("choose-perturbation", one)
    drawn = [trace["x"] for trace in shown.given("plot-cells")]
    table = cells(results, one)
    expected = [part["strength"].sort().to_list() for _, part in table.group_by("stratum", "time")]
    assert len(drawn) == len(expected) == 4
    for got, true in zip(sorted(drawn), sorted(expected), strict=True):
        assert reads(got, true, 3)


WAYS = ("table", "search", "point", "address", "lead")


@pytest.mark.parametrize("way", WAYS)
def test_a_perturbation_is_chosen(way: str, shown: Report, report: Path, results: Results, browser: "Browser") -> None:
    everything(shown)
    rows = asked_for(results, mode=MASK.name).filter(HIT)
    [target] = rows.filter(target_symbol="EARLY2")["target"].unique()
    wanted = f"src:{MASK.name}:{target}"
    if way == "table":
        shown.choose(edit=MASK.name)
        shown.type("search", "early2")
        shown.page.click("#hits-table tbody tr:first-child button")
    elif way == "search":
        shown.type("choose-perturbation", wanted.lower())
    elif way == "point":
        shown.choose(edit=MASK.name)
        traces = shown.given("plot-rank")
        numbers = shown.page.evaluate("() => document.getElementById('plot-rank').data.map((t) => t.text)")
        [trace] = [k for k, t in enumerate(traces) if t["symbol"] == "diamond"]
        point = next(k for k, text in enumerate(numbers[trace]) if text.startswith("EARLY2,"))
        shown.click_point("plot-rank", trace, point)
    elif way == "lead":
        wanted = str(rows["perturbation"][0])
        shown.page.click(".leaders dd a")
    if way == "address":
        with opened(browser, report, fragment=f"#perturbation={quote(wanted)}") as found:
            found.drawn_in_s(60)
            shows(Report(found.page), results, wanted)
            assert found.page.evaluate("document.activeElement.id") == "perturbation"
            found.require_no_faults()
    else:
        shows(shown, results, wanted)
        if way != "search":
            shown.page.wait_for_function(
                "(x) => decodeURIComponent(location.hash) === x", arg=f"#perturbation={wanted}"
            )


def shows(shown: Report, results: Results, perturbation: str) -> None:
    """Whether the view is that of a perturbation, number for number."""
    rows = results.hits.filter(perturbation=perturbation)
    assert shown.text("perturbation-name") == f"{rows['target_symbol'][0]} · {rows['mode'][0]}"
    assert perturbation in shown.text("perturbation-words")
    assert shown.text("line-perturbation") == perturbation
    groups = shown.rows("perturbation-groups")
    assert [(g["stratum"], g["time"]) for g in groups] == [
        (r["stratum"], f"t{r['time']}") for r in rows.iter_rows(named=True)
    ]
    for title, name, n in (("strength", "strength", 3), ("q", "q_value", 2), ("cells", "n_cells", 9)):
        assert reads(column(groups, title), rows[name].to_list(), n)
    for group in (groups[0], groups[-1]):
        stratum, time = group["stratum"], int(group["time"][1:])
        shown.page.select_option("#perturbation-group", label=f"{stratum}, t{time}")
        table = results.differential(perturbation, stratum, time)
        by_gene = {r["feature_symbol"]: r for r in table.iter_rows(named=True)}
        listed = shown.rows("genes-table", is_whole=False)
        changes = column(listed, "mean change")
        assert reads(changes, [by_gene[r["gene"]]["mean_delta"] for r in listed], 3)
        assert reads(column(listed, "fdr"), [by_gene[r["gene"]]["fdr"] for r in listed], 2)
        assert [abs(x or 0) for x in changes] == sorted((abs(x or 0) for x in changes), reverse=True)
        largest = table["mean_delta"].abs().sort(descending=True)[len(listed) - 1]
        assert abs(changes[-1] or 0) == pytest.approx(largest, rel=1e-2)
        target = table.filter(feature=perturbation.rpartition(":")[2])["mean_delta"].to_list()
        assert reads(column([group], "on-target change"), target, 3)
        sets = results.gene_sets(perturbation, stratum, time)
        for row in shown.rows("sets-table"):
            [true] = sets.filter(gene_set=row["gene set"]).to_dicts()
            assert reads([*column([row], "z"), *column([row], "q")], [true["null_z"], true["q_value"]], 2)
        drawn = sorted(x for trace in shown.given("plot-volcano") for x in trace["x"])
        assert reads(drawn, table["mean_delta"].sort().to_list(), 3)


def test_a_gene_is_chosen_by_address(browser: "Browser", report: Path) -> None:
    with opened(browser, report, fragment="#gene=GENE0100") as found:
        found.drawn_in_s(60)
        assert Report(found.page).text("gene-name").startswith("GENE0100 · ")
        found.require_no_faults()


def test_of_a_perturbation_beyond_the_detailed_the_page_says_where_its_genes_are(
    browser: "Browser", results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("screen.report.page.N_DETAILED", 4)
    monkeypatch.setattr("screen.report.page.N_NAMED", 0)
    with opened(browser, write_report(results, tmp_path / "few.html")) as found:
        found.drawn_in_s(60)
        shown = Report(found.page)
        last = asked_for(results).drop_nulls("strength_rank").row(-1, named=True)
        shown.type("choose-perturbation", last["perturbation"])
        assert "not in this page, which holds 4 perturbations" in shown.text("perturbation-words")
        assert not found.page.is_visible("#perturbation-detail")
        rows = results.hits.filter(perturbation=last["perturbation"])
        assert reads(column(shown.rows("perturbation-groups"), "strength"), rows["strength"].to_list(), 3)
        shown.type("choose-perturbation", "nobody")
        assert shown.text("perturbation-answer") == "no perturbation of this screen is called so"
        found.require_no_faults()
