"""Sections of the page that stand still: their numbers are those of the tables, and what was not asked for is not there."""

import json
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from demo.planted.sizes import HOSTILE_STRATUM
from screen.directory import COMPARE, EPISTASIS, EVALUATION, EVALUATION_SUMMARY, MODULES, RELATIONS
from screen.edits import MASK
from screen.errors import StoreError
from screen.evaluate.described import MAIN, NAMES
from screen.evaluate.evaluation import Evaluation
from screen.evaluate.expected import expected_table
from screen.evaluate.screen_level import COVARIATES, SCHEMA
from screen.report import page as page_module
from screen.report.numbers import MINUS, UNKNOWN, as_text, percent, signed
from screen.report.page import page
from screen.report.sections.between_times import between_times
from screen.report.sections.joint import joint_edits
from screen.report.sections.real_screen import real_screen
from screen.report.sections.relations import relations
from screen.report.sections.table import EDIT, Table, Wording
from screen.results.results import Results, open_results
from tests.support.reports import Page, with_sections

TITLES = ("How perturbations relate", "What differs between time points", "agree with a real screen", "null z")
HOSTILE = "<img src=x onerror=alert(1)>"
FACTS: dict[str, Any] = {
    "celltype": None, "edit": "src:mask at time point 1", "real": "real.h5ad", "genes": {"shared": 300, "model": 400},
    "max_fdr": 0.05, "notes": [],
    "comparisons": [{
        "stratum": "all", "n_compared": 40, "n_screened": 90, "n_not_in_the_file": 50, "n_with_too_few_real_cells": 0,
        "n_in_fewer_screened_cells": 0, "n_not_screened": 0, "not_screened": [], "n_labels_without_a_gene": 0,
        "labels_without_a_gene": [], "n_real_cells": 900, "n_control_cells": 100,
    }],
}  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return with_sections(tmp_path_factory.mktemp("planted") / "small")


@pytest.fixture(scope="module")
def found(results: Results) -> Page:
    return Page(page(results))


@pytest.fixture(scope="module")
def wording(results: Results) -> Wording:
    return Wording(results.hits, results.strata, results.times)


def column(table: Table, title: str) -> list[str]:
    return [row[[c.title for c in table.columns].index(title)] for row in table.rows]


def quick(results: Results, patch: pytest.MonkeyPatch) -> str:
    """The page without what its scripts show."""
    patch.setattr(page_module, "page_data", lambda results: {})
    return page(results)


def copied(results: Results, tmp_path: Path) -> Results:
    """Whose tables may be written over."""
    shutil.copytree(results.directory, tmp_path / "copy")
    return open_results(tmp_path / "copy")


def test_every_edit_has_its_halves_own_genes_and_directions(results: Results, wording: Wording) -> None:
    section = relations(results, wording)
    assert section is not None
    halves = results.relations("halves").filter(~pl.col("is_null"))
    targets = results.relations("targets").filter(~pl.col("is_null")).drop_nulls("is_as_expected")
    edits = results.relations("genes").select(EDIT).unique(maintain_order=True).rows()
    assert len(edits) == len(section.edits.rows) > 4
    for row, (site, mode, n_joint) in zip(section.edits.rows, edits, strict=True):
        of_edit = {"site": site, "mode": mode, "n_joint": n_joint}
        here, own = halves.filter(**of_edit), targets.filter(**of_edit)["is_as_expected"]
        medians = [here[c].median() for c in ("split_half_cosine", "centred_split_half_cosine", "identifiability")]
        assert row[0] == (mode if n_joint == 1 else f"{mode} of 2 genes")
        assert row[1:4] == [as_text(x, n) for x, n in zip(medians, (2, 2, 3), strict=True)]
        assert row[4] == percent(own.sum() / len(own))
    share = targets["is_as_expected"].sum() / targets.height
    assert any(percent(share) in s and f"of {targets.height:,} results" in s for s in section.sentences)


def test_genes_that_answer_to_everything_are_named_with_their_share(results: Results, wording: Wording) -> None:
    section = relations(results, wording)
    assert section is not None and section.everybody is not None
    of_mask = results.relations("genes").filter(mode=MASK.name, n_joint=1)
    tallied = of_mask.group_by("feature", "feature_symbol").agg(pl.col("n_top", "n_perturbations").sum())
    share = dict(tallied.select("feature_symbol", pl.col("n_top") / pl.col("n_perturbations")).rows())
    [listed] = [row[1] for row in section.everybody.rows if row[0] == MASK.name]
    expected = sorted((x for x in share.items() if x[1] >= 0.1), key=lambda x: -x[1])[:6]
    assert sorted(listed.split(", ")) == sorted(f"{g} ({percent(s)})" for g, s in expected)
    assert any(expected[0][0] in caution for caution in section.cautions) == (expected[0][1] >= 0.25)


def test_groups_are_those_of_the_modules_the_same_members_once(results: Results, wording: Wording) -> None:
    section, table = relations(results, wording), results.relations("modules")
    assert section is not None and section.modules is not None
    members = table.group_by(*EDIT, "stratum", "time", "module").agg(pl.col("perturbation").sort(), pl.col("sign"))
    sets = members.select(*EDIT, pl.col("perturbation").list.join(" ")).unique()
    assert section.modules_words.startswith(f"{sets.height} group")
    listed = [
        sorted(n for n in row[0].replace("; the opposite: ", ", ").split(", ") if n) for row in section.modules.rows
    ]
    expected = (
        table.group_by(*EDIT, "stratum", "time", "module")
        .agg(pl.col("target_symbol").sort())["target_symbol"]
        .to_list()
    )
    assert all(names in expected for names in listed)
    assert any("MODA1" in row[0] and "the opposite: MODA5" in row[0] for row in section.modules.rows)


def test_joint_edits_have_the_numbers_of_epistasis(results: Results, wording: Wording) -> None:
    section, table = joint_edits(results, wording), results.relations("epistasis").filter(~pl.col("is_null"))
    assert section is not None
    assert section.words.startswith(f"{table['perturbation'].n_unique()} joint edits")
    for row, perturbation in zip(section.table.rows, section.table.links, strict=True):
        rows = table.filter(perturbation=perturbation).iter_rows(named=True)
        [one] = [r for r in rows if as_text(r["strength_joint"]) == row[3] and f"t{r['time']}" == row[2]]
        interaction, low, high = (round(100 * one[f"interaction{end}"]) for end in ("", "_low", "_high"))
        assert row[0] == one["target_symbol"] and row[4] == as_text(one["strength_additive"])
        found = row[5].replace(MINUS, "-").replace(" %", "").replace("[", "").replace("]", "").replace(",", "").split()
        assert [int(x) for x in found] == [interaction, low, high]
        assert row[8] == (one["class"] or UNKNOWN)
    assert [k for k in column(section.table, "what it is") if k != "additive"]
    assert column(section.table, "what it is") == sorted(column(section.table, "what it is"), key=["additive"].count)


def test_time_points_differ_by_what_was_compared(results: Results, wording: Wording) -> None:
    section = between_times(results, wording)
    assert section is not None and section.table is not None
    size = pl.col("mean_delta").cast(pl.Float64).pow(2).mean().sqrt()
    differ = ((pl.col("fdr") < 0.05) & (pl.col("mean_delta").cast(pl.Float64).abs() > 0.01)).sum()
    every = results.compared().group_by("perturbation", "stratum").agg(size=size, n=differ)
    ranked = results.hits.filter(~pl.col("is_null")).drop_nulls("strength_rank")["perturbation"]
    expected = every.filter(pl.col("perturbation").is_in(ranked.to_list())).sort("size", descending=True).head(12)
    assert list(section.table.links) == expected["perturbation"].to_list()
    assert column(section.table, "difference") == [as_text(x) for x in expected["size"]]
    assert column(section.table, "genes that differ") == [str(n) for n in expected["n"]]
    top = results.compared(section.table.links[0]).sort(pl.col("mean_delta").abs(), descending=True)
    assert column(section.table, "differ most")[0].startswith(top["feature_symbol"][0])
    names = column(section.table, "gene")[:8]
    assert sum(name.startswith(("EARLY", "LATE")) for name in names) > 4


def test_null_z_of_the_page_is_that_of_the_results(results: Results, found: Page) -> None:
    data = found.data
    details, n_each = data["details"], len(data["strata"]) * len(data["times"])
    for at in range(0, len(details["group"]), 97):
        p, place = divmod(details["group"][at], n_each)
        table = results.null_z(data["perturbations"]["id"][p], time=data["times"][place % len(data["times"])])
        z = dict(table.select("feature", "null_z").rows())
        expected = [z[data["genes"]["id"][g]] for g in details["gene"][at]]
        shown = [None if x is None else round(x, 1) if abs(x) < 10 else round(x) for x in expected]
        assert details["null_z"][at] == shown
        assert any(x is not None for x in shown)


def test_the_page_has_what_was_asked_for_and_hostile_names_are_text(
    results: Results, found: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    for title in ("How perturbations relate", "What differs between time points", "relations/epistasis.parquet"):
        assert title in found.words
    assert "agree with a real screen" not in found.words and "--compare" not in found.words
    assert [tag for tag, _ in found.elements].count("script") == 3
    assert "img" not in {tag for tag, _ in found.elements}
    assert HOSTILE_STRATUM in found.words
    assert quick(results, monkeypatch) == quick(open_results(results.directory), monkeypatch)


def test_hostile_names_in_the_tables_are_text(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copied(results, tmp_path)
    for name in (MODULES, EPISTASIS):
        path = copy.directory / name
        pl.read_parquet(path).with_columns(target_symbol=pl.lit(HOSTILE)).write_parquet(path)
    html = quick(copy, monkeypatch)
    assert "img" not in {tag for tag, _ in Page(html).elements}
    assert unescape(html).count(HOSTILE) > html.count(HOSTILE) == 0


def test_what_was_not_asked_for_is_not_there(results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = copied(results, tmp_path)
    for folder in (RELATIONS, COMPARE):
        shutil.rmtree(copy.directory / folder)
    copy.view = {**copy.view, "deg": {**copy.view["deg"], "compare": []}}
    wording = Wording(copy.hits, copy.strata, copy.times)
    assert relations(copy, wording) is joint_edits(copy, wording) is real_screen(copy, wording) is None
    words = Page(quick(copy, monkeypatch)).words
    assert not [t for t in (TITLES[0], *TITLES[2:], "relations/", "evaluation/", "compare/") if t in words]
    assert f"perturbscreen deg {copy.directory} --compare 1,2 does that" in words


def evaluated(results: Results) -> pl.DataFrame:
    """Writes what `evaluate` would; gives the scores."""
    scores = ["strength", "specific_strength", *COVARIATES]
    rows = [
        {"stratum": "all", "effect": MAIN, "score": s, "n": 40, "spearman": 0.1 * k, "low": -0.2, "high": 0.9}
        for k, s in enumerate(scores)
    ]
    gain = {"gain": -0.6, "gain_low": -0.8, "gain_high": -0.1}
    screen = pl.DataFrame(
        [{**dict.fromkeys(SCHEMA), **r, **(gain if r["score"] == "strength" else {})} for r in rows], schema=SCHEMA
    )
    expected = expected_table(results, {"ALL3": ["GENE0001", "NOGENE"]})
    Evaluation(screen, pl.DataFrame(), pl.DataFrame(), expected, FACTS).write(results.directory)
    return screen


def test_an_evaluation_is_shown_as_it_was_printed(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wording: Wording
) -> None:
    copy = copied(results, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("screen.evaluate.evaluation.described_evaluation", lambda *tables: ["as it was printed"])
        screen = evaluated(copy)
    section, expected = real_screen(copy, wording), copy.evaluated("expected")
    assert section is not None and section.scores is not None and section.controls is not None and expected is not None
    assert "40 perturbations with Spearman 0.00" in section.paragraphs[0] and "real.h5ad" in section.paragraphs[0]
    assert column(section.scores, "score") == [NAMES.get(s, s) for s in screen["score"]]
    assert column(section.scores, "Spearman [95 %]")[3] == f"0.30 [{MINUS}0.20, 0.90]"
    assert column(section.controls, "change") == [signed(x) for x in expected["change"]]
    assert "NOGENE" in column(section.controls, "must move") and "no gene" in section.controls.rows[-1][-1]
    assert any("less than is known of a gene without a model" in c for c in section.cautions)
    words = Page(quick(copy, monkeypatch)).words
    assert "Does it agree with a real screen?" in words and "as it was printed" in words
    assert all(" ".join(c.split()) in words for c in section.cautions)


@pytest.mark.parametrize("damage", ["facts", "table"])
def test_a_damaged_evaluation_is_named(results: Results, tmp_path: Path, wording: Wording, damage: str) -> None:
    copy = copied(results, tmp_path)
    (copy.directory / EVALUATION).mkdir()
    facts = {"summary": []} if damage == "facts" else {"summary": [], "comparisons": []}
    (copy.directory / EVALUATION_SUMMARY).write_text(json.dumps(facts))
    (copy.directory / EVALUATION / "expected.parquet").write_text("no table")
    with pytest.raises(StoreError, match="perturbscreen evaluate"):
        real_screen(copy, wording)


def test_numbers_are_written_as_the_scripts_write_them() -> None:
    assert [as_text(x) for x in (0.01234, -4.2e-7, 0.0, None)] == ["0.0123", f"{MINUS}4.2e-7", "0", UNKNOWN]
    assert [signed(x, 2) for x in (0.5, -0.5, 0.0)] == ["+0.5", f"{MINUS}0.5", "0"]
    shares = (0.4, 0.986, 1.0, 0.9999, 0.004, None)
    assert [percent(x).replace("\N{NARROW NO-BREAK SPACE}", " ") for x in shares] == [
        "40 %", "98.6 %", "100 %", "99.9 %", "0.4 %", UNKNOWN,
    ]  # fmt: skip
