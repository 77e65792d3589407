"""The page's sections that stand still, and null z in the table of genes, as they are seen."""

from pathlib import Path

from screen.report.page import write_report
from tests.browser.conftest import OpenPage
from tests.browser.report_driver import MINUS, UNKNOWN, Report
from tests.support.browser import PHONE
from tests.support.reports import with_sections


def test_what_was_asked_for_is_shown_and_null_z_is_that_of_the_results(tmp_path: Path, page: OpenPage) -> None:
    results = with_sections(tmp_path / "screen")
    path = write_report(results)
    found = page(path)
    found.drawn_in_s(60)
    shown = Report(found.page)
    for name in ("between", "relations"):
        assert found.page.is_visible(f"#{name} table.still"), name
    assert not found.page.query_selector("#real")
    # a link of a table leads to its perturbation
    link = found.page.locator("#relations table.still a").first
    name = link.inner_text()
    link.click()
    found.page.wait_for_function(
        "name => document.getElementById('perturbation-name').textContent.startsWith(name)", arg=name
    )
    perturbation = shown.address.removeprefix("perturbation=")
    time = int(found.page.input_value("#perturbation-group")) % 2 + 1
    z = dict(results.null_z(perturbation, time=time).select("feature_symbol", "null_z").rows())
    rows = shown.rows("genes-table", is_whole=False)
    expected = [z[r["gene"]] for r in rows]
    texts = [UNKNOWN if x is None else f"{round(x, 1):g}" if abs(x) < 10 else str(round(x)) for x in expected]
    assert [r["null z"] for r in rows] == [t.replace("-", MINUS) for t in texts]
    assert any(x is not None for x in expected)
    small = page(path, PHONE)
    small.drawn_in_s(60)
    assert small.sideways_px == 0
