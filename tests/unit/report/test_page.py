"""The report: what the page holds are the numbers of the tables, and no name in it is more than text."""

import base64
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from demo.planted.sizes import Sizes
from demo.planted.written import build
from screen.cli.main import main
from screen.edits import DELETE
from screen.errors import StoreError, WriteError
from screen.report import page as page_module
from screen.report.page import page, write_report
from screen.report.ranking import NUMBERS
from screen.results.checked import described_check
from screen.results.results import Results, open_results
from screen.results.views import cells, change_matrix, movers, rank_shift, top_perturbations
from screen.stats.deg import Names
from tests.support.reports import Page, parts_of, same
from tests.support.tiny import tiny, write

SMALL = Sizes(n_perturbations=250, n_strata=2, n_cells=12, n_genes=400, n_nulls=25, is_hostile=True)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return build(tmp_path_factory.mktemp("planted") / "hostile", SMALL)


@pytest.fixture(scope="module")
def found(results: Results) -> Page:
    return Page(page(results))


@pytest.fixture(scope="module")
def data(found: Page) -> dict[str, Any]:
    return found.data


def ids_of(data: dict[str, Any], groups: list[int]) -> list[tuple[str, str, int]]:
    """(perturbation, stratum, time) of groups, by name."""
    ids = data["perturbations"]["id"]
    return [(ids[p], data["strata"][s], data["times"][t]) for p, s, t in (parts_of(data, g) for g in groups)]


def test_the_ranking_is_that_of_the_hits(results: Results, data: dict[str, Any]) -> None:
    hits, table = data["hits"], results.hits.filter(pl.col("n_cells") > 0)
    assert [data["perturbations"]["id"][p] for p in hits["perturbation"]] == table["perturbation"].to_list()
    assert [data["strata"][s] for s in hits["stratum"]] == table["stratum"].to_list()
    assert [data["times"][t] for t in hits["time"]] == table["time"].to_list()
    assert hits["rank"] == table["strength_rank"].to_list()
    for name, digits in NUMBERS.items():
        assert same(hits[name], table[name].to_list(), digits or 12), name
    for direction in ("up", "down"):
        named = [[data["genes"]["symbol"][g] for g in genes] for genes in hits[direction]]
        assert named == table[f"top_{direction}"].list.head(5).to_list()


def test_names_of_perturbations_are_those_of_the_store(results: Results, data: dict[str, Any]) -> None:
    names, listed = Names(results.store), data["perturbations"]
    assert (listed["id"], listed["symbol"], listed["target"]) == (
        list(names.id),
        list(names.symbol),
        list(names.target),
    )
    assert [data["edits"][e] for e in listed["edit"]] == [
        f"{s}:{m}" for s, m in zip(names.site, names.mode, strict=True)
    ]
    assert listed["isNull"] == names.is_null.astype(int).tolist()
    assert data["genes"] == {"id": list(names.feature), "symbol": list(names.feature_symbol)}


def test_a_perturbations_genes_are_those_of_its_table(results: Results, data: dict[str, Any]) -> None:
    details = data["details"]
    assert len(details["group"]) == len(set(details["group"])) > 100
    for at in range(0, len(details["group"]), 37):
        [(perturbation, stratum, time)] = ids_of(data, [details["group"][at]])
        table = results.differential(perturbation, stratum, time)
        by_gene = {row["feature"]: row for row in table.iter_rows(named=True)}
        rows = [by_gene[data["genes"]["id"][g]] for g in details["gene"][at]]
        assert details["n_genes"][at] == table.height == len(rows)
        assert same(details["change"][at], [r["mean_delta"] for r in rows], 3)
        assert same(details["fdr"][at], [-np.log10(r["fdr"]) for r in rows], 3)
        sizes = [abs(r["mean_delta"]) for r in rows]
        assert sizes == sorted(sizes, reverse=True)
        target = by_gene.get(rows[0]["target"])
        assert same([details["on_target"][at]], [None if target is None else target["mean_delta"]], 3)


def test_every_perturbation_that_ranks_or_was_named_is_shown(results: Results, data: dict[str, Any]) -> None:
    shown = [data["perturbations"]["id"][p] for p in data["shown"]]
    assert shown == top_perturbations(results, 200, 300)
    assert len(shown) == len(set(shown))
    assert set(shown) >= set(results.hits.drop_nulls("strength_rank")["perturbation"].to_list())


def test_what_moves_a_gene_is_what_the_table_says(results: Results, data: dict[str, Any]) -> None:
    n, modes = data["movers"]["n_each"], {e.partition(":")[2] for e in data["edits"]}
    for gene in range(0, len(data["genes"]["id"]), 97):
        groups, changes = data["movers"]["group"][gene], data["movers"]["change"][gene]
        got = dict(zip(ids_of(data, groups), changes, strict=True))
        expected: dict[tuple[str, str, int], float] = {}
        for mode in modes:
            table = movers(results, data["genes"]["id"][gene], mode=mode, n=10_000).drop_nulls("strength_rank").head(n)
            keys = zip(table["perturbation"], table["stratum"], table["time"], strict=True)
            expected |= dict(zip(keys, table["mean_delta"], strict=True))
        assert set(got) == set(expected)
        assert same([got[k] for k in expected], list(expected.values()), 3)


def test_cells_are_those_of_the_store(results: Results, data: dict[str, Any]) -> None:
    strips = data["strips"]
    for at in range(0, len(strips["group"]), 211):
        [(perturbation, stratum, time)] = ids_of(data, [strips["group"][at]])
        table = cells(results, perturbation, stratum, time).sort("strength")
        assert strips["n_cells"][at] == table.height
        assert same(strips["value"][at], table["strength"].to_list(), 3)


def test_gene_sets_are_those_farthest_out(results: Results, data: dict[str, Any]) -> None:
    sets = data["sets"]
    for at in range(0, len(sets["group"]), 501):
        [(perturbation, stratum, time)] = ids_of(data, [sets["group"][at]])
        row = (
            results.gene_sets(perturbation, stratum, time)
            .filter(gene_set=sets["names"][sets["set"][at]])
            .row(0, named=True)
        )
        assert (sets["n_set"][at],) == (row["n_set"],)
        got, expected = (
            [x[0], x[1], x[2]]
            for x in ([sets[k][at] for k in ("score", "z", "q")], [row[k] for k in ("score", "null_z", "q_value")])
        )
        assert same(got, expected, 3)


def test_heat_maps_hold_the_changes_of_the_strongest(results: Results, data: dict[str, Any]) -> None:
    assert len(data["heat_maps"]) == len(data["edits"]) * len(data["strata"]) * len(data["times"])
    for one in data["heat_maps"]:
        site, _, mode = data["edits"][one["edit"]].partition(":")
        matrix = change_matrix(results, mode, site, data["strata"][one["stratum"]], data["times"][one["time"]])
        assert [data["perturbations"]["id"][p] for p in one["perturbation"]] == matrix.perturbation_P
        assert [data["genes"]["id"][g] for g in one["gene"]] == matrix.feature_G
        for row, expected in zip(one["change"], matrix.change_PG, strict=True):
            assert same(row, expected, 3)


def test_deletion_minus_padding_is_that_of_both_tables(results: Results, data: dict[str, Any]) -> None:
    shifts = data["rank_shifts"]
    assert len(shifts["group"]) > 10
    for at in range(0, len(shifts["group"]), 11):
        p, s, t = parts_of(data, shifts["group"][at])
        assert data["edits"][data["perturbations"]["edit"][p]] == f"src:{DELETE.name}"
        slow = rank_shift(results, data["perturbations"]["target"][p], data["strata"][s], data["times"][t])
        [group] = slow.groups.to_dicts()
        assert same([shifts["difference"][at]], [group["rms_difference"]], 3)
        by_gene = dict(zip(slow.genes["feature"], slow.genes["difference"], strict=True))
        assert same(shifts["change"][at], [by_gene[data["genes"]["id"][g]] for g in shifts["gene"][at]], 2)


def test_only_the_pages_own_scripts_may_run(found: Page) -> None:
    digests = {
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in (found.scripts[""], found.unpacked("library"))
    }
    [scripts] = [part.split()[1:] for part in found.policy.split(";") if part.strip().startswith("script-src")]
    assert set(scripts) == digests
    assert "default-src 'none'" in found.policy
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    addresses = [a.get(n) for _, a in found.elements for n in ("src", "href", "action") if n in a]
    assert all(str(address).startswith("#") for address in addresses)


def test_hostile_names_are_text(found: Page, data: dict[str, Any]) -> None:
    assert any("<script>" in name for name in data["perturbations"]["symbol"])
    assert any("onerror" in name for name in data["strata"])
    assert "onerror=alert(1)>" in found.words
    tags = [tag for tag, _ in found.elements]
    assert tags.count("script") == 3
    assert "img" not in tags


def test_the_page_says_the_answer_and_what_was_run(results: Results, found: Page) -> None:
    n = results.hits.filter(pl.col("q_value") < 0.1, pl.col("strength_rank").is_not_null())["perturbation"].n_unique()
    assert f"{n} perturbations stand out at q < 0.1" in found.words
    for text in (str(results.directory), results.settings, "fingerprint", "fallbacks", "coverage"):
        assert text in found.words
    for note in results.provenance["notes"]:
        assert note in found.words


def test_the_same_results_give_the_same_bytes(results: Results, tmp_path: Path) -> None:
    first, second = (write_report(results, tmp_path / f"{n}.html") for n in (1, 2))
    assert first.read_bytes() == second.read_bytes()
    before = first.stat().st_mtime_ns
    write_report(results, first)
    assert first.stat().st_mtime_ns == before


def test_genes_beyond_the_budget_are_sampled_and_it_is_said(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("screen.report.details.POINTS", 1)
    monkeypatch.setattr("screen.report.details.MOVERS", 1)
    details = (data := page_module.page_data(results))["details"]
    assert {len(x) for x in details["gene"]} == {60}
    assert details["n_top"] == 40
    assert set(details["n_genes"]) == {400}
    assert data["movers"]["n_each"] == 3


@pytest.mark.parametrize("damage", ["cut", "names", "time", "column"])
def test_a_damaged_table_is_named(results: Results, tmp_path: Path, damage: str) -> None:
    copied = tmp_path / "copy"
    shutil.copytree(results.directory, copied)
    part = sorted(copied.glob("deg/part-*.parquet"))[0]
    table = pl.read_parquet(part)
    if damage == "cut":
        part.write_bytes(part.read_bytes()[:-100])
    elif damage == "names":
        table.with_columns(feature=pl.lit("ENSG_OTHER")).write_parquet(part)
    elif damage == "time":
        table.with_columns(time=pl.lit(7, pl.Int8)).write_parquet(part)
    else:
        table.drop("fdr").write_parquet(part)
    with pytest.raises(StoreError, match=f"cannot read {part}.*perturbscreen deg {copied}"):
        write_report(open_results(copied))
    assert not (copied / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("hits", pl.lit("src:mask:OTHER").alias("perturbation")),
        ("hits", pl.lit("nowhere").alias("stratum")),
        ("hits", pl.lit(9, pl.Int8).alias("time")),
        ("hits", pl.lit("strong").alias("strength")),
        ("hits", pl.lit(None).alias("perturbation")),
        ("enrichment/scores", pl.lit("nowhere").alias("stratum")),
    ],
)
def test_a_table_of_another_screen_is_refused(
    results: Results, tmp_path: Path, name: str, change: pl.Expr, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(results.directory, tmp_path / "copy")
    path = tmp_path / "copy" / f"{name}.parquet"
    pl.read_parquet(path).with_columns(change).write_parquet(path)
    assert main(["report", str(tmp_path / "copy")]) == 2
    assert "perturbscreen deg" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_said(results: Results, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"cannot write .*--out"):
        write_report(results, tmp_path / "file" / "page.html")


def test_run_ends_with_the_page_and_new_tables_with_a_new_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = write(tiny(output={"report": True}), tmp_path / "s.yaml"), tmp_path / "out"
    assert main(["run", str(config), "--out", str(out)]) == 0
    assert f"to look at it: {out / 'report.html'}" in capsys.readouterr().out
    before = (out / "report.html").read_bytes()
    [session] = [json.loads(line) for line in (out / "sessions.jsonl").read_text().splitlines()]
    assert session["edits"] == sum(b.n_items for b in open_results(out).store.blocks)
    assert f"{session['edits']:,} edits in" in Page(before.decode()).words
    # nothing is computed, and nothing changes
    assert main(["run", str(config), "--out", str(out)]) == 0
    assert (out / "report.html").read_bytes() == before
    assert len((out / "sessions.jsonl").read_text().splitlines()) == 1
    assert main(["deg", str(out), "--top", "5"]) == 0
    assert (out / "report.html").read_bytes() != before
    assert {len(genes) for genes in Page((out / "report.html").read_text()).data["details"]["gene"]} == {5}


def test_without_a_table_of_genes_the_rest_is_there(tmp_path: Path) -> None:
    config = tiny()
    config["deg"] = {"top": 0}
    assert main(["run", str(write(config, tmp_path / "s.yaml")), "--out", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out" / "report.html").exists()
    assert main(["report", str(tmp_path / "out")]) == 0
    data = Page((tmp_path / "out" / "report.html").read_text()).data
    assert data["hits"]["strength"] and data["details"]["group"] == [] and data["heat_maps"] == []


def test_what_a_check_found_comes_first(tmp_path: Path) -> None:
    config, out = write(tiny(), tmp_path / "s.yaml"), tmp_path / "out"
    assert main(["run", str(config), "--out", str(out)]) == 0
    assert "any good on these cells" not in Page(page(open_results(out))).words
    assert main(["check", str(config), "--out", str(out / "check"), "--cells", "6"]) == 0
    found = open_results(out)
    assert found.check is not None
    words = Page(page(found)).words
    assert " ".join(described_check(found.check).split()) in words
    assert words.index("any good on these cells") < words.index("Does anything stand out")


def test_the_command_writes_where_it_is_told(
    results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(results.directory), "--out", str(tmp_path / "a" / "page.html")]) == 0
    assert f"{tmp_path / 'a' / 'page.html'}: " in capsys.readouterr().out
    assert Page((tmp_path / "a" / "page.html").read_text()).data["directory"] == str(results.directory)
    assert main(["report", str(tmp_path)]) == 2
    assert "no perturbscreen store" in capsys.readouterr().err
