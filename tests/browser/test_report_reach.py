"""Who can use the page, and where: by keyboard and screen reader, at three widths, on paper, without scripts, whatever a name says."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from screen.results.results import Results
from tests.browser.conftest import HOSTILE_SYMBOLS, OpenPage
from tests.browser.report_driver import Report
from tests.support.browser import DESKTOP, PHONE, TABLET, Opened, opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CONTRAST = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const channel = (v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const background = (node) => {
    for (; node; node = node.parentElement) {
      const found = parse(getComputedStyle(node).backgroundColor);
      if (found.length === 3 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const low = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || ["SCRIPT", "STYLE", "OPTION"].includes(node.tagName)) continue;
    if (!node.checkVisibility() || node.closest(":disabled, [aria-hidden]")) continue;
    const style = getComputedStyle(node);
    const ink = light(parse(node.closest("svg") ? style.fill : style.color));
    const [b, a] = [ink, light(background(node))].sort((x, y) => x - y);
    if ((a + 0.05) / (b + 0.05) < 4.5) low.push(`${node.tagName} ${node.className} "${walker.currentNode.data.slice(0, 40)}"`);
  }
  return low;
}"""
FOCUSABLE = """() => [...document.querySelectorAll("a[href], button, input, select, [tabindex='0']")]
  .filter((x) => x.checkVisibility() && !x.disabled && !x.closest(".modebar")).length"""
FOCUSED = """() => {
  const x = document.activeElement;
  const style = getComputedStyle(x);
  const box = x.getBoundingClientRect();
  const isSeen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  return { id: x.id, tag: x.tagName, isSeen, isInside: box.width > 0 && box.bottom > 0 && box.top < innerHeight };
}"""
CUT = """() => {
  const wrong = [];
  const wide = document.documentElement.clientWidth;
  for (const node of document.querySelectorAll("body *")) {
    if (!node.checkVisibility() || node.closest(".scroll, svg, .unseen, .skip, .js-plotly-plot")) continue;
    const box = node.getBoundingClientRect();
    if (box.right > wide + 1 || box.left < -1) wrong.push(`outside: ${node.tagName} ${node.id} ${node.className}`);
    const isCut = node.scrollWidth > node.clientWidth + 1 && node.clientWidth > 0;
    if (isCut && getComputedStyle(node).overflowX === "hidden") wrong.push(`cut: ${node.tagName} ${node.id}`);
  }
  for (const svg of document.querySelectorAll(".plot .main-svg")) {
    const frame = svg.getBoundingClientRect();
    if (!svg.checkVisibility() || !frame.width) continue;
    for (const text of svg.querySelectorAll("text")) {
      const box = text.getBoundingClientRect();
      const isSideways = box.left < frame.left - 2 || box.right > frame.right + 2;
      if (box.width && (isSideways || box.top < frame.top - 2 || box.bottom > frame.bottom + 2))
        wrong.push(`cut in ${svg.closest(".plot").id}: ${text.textContent}`);
    }
  }
  return wrong;
}"""
OVERLAPS = """() => {
  const wrong = [];
  const check = (boxes, where) => boxes.forEach(([a, name], i) => boxes.slice(0, i).forEach(([b, other]) => {
    const [w, h] = [Math.min(a.right, b.right) - Math.max(a.left, b.left), Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top)];
    if (w > 1.5 && h > 3) wrong.push(`${where}: ${name} over ${other}`);
  }));
  const placed = (list) => [...list].filter((x) => x.checkVisibility()).map((x) => [x.getBoundingClientRect(), x.textContent]);
  for (const plot of document.querySelectorAll(".plot.js-plotly-plot"))
    for (const kind of [".annotation-text", ".ytick text", ".xtick text"])
      if (kind !== ".xtick text" || !plot.classList.contains("tall")) check(placed(plot.querySelectorAll(kind)), `${plot.id} ${kind}`);
  for (const row of document.querySelectorAll(".controls, .finder, .pager, nav, .tiles, thead tr"))
    if (row.checkVisibility()) check(placed(row.children), row.className || row.tagName);
  return wrong;
}"""
UNNAMED = """() => [...document.querySelectorAll("input, select, button, [role=region], [role=img], form, nav")]
  .filter((x) => !x.closest(".modebar"))
  .filter((x) => !(x.labels?.length || x.getAttribute("aria-label") || (x.tagName === "BUTTON" && x.textContent.trim())))
  .map((x) => x.outerHTML.slice(0, 80))"""
WIDTHS = (DESKTOP, TABLET, PHONE)


@pytest.fixture(scope="module")
def at_width(browser: "Browser", report: Path) -> Iterator[dict[int, Opened]]:
    """The page in a window of each width, its figures drawn."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        pages = {width: stack.enter_context(opened(browser, report, width)) for width in WIDTHS}
        for found in pages.values():
            found.drawn_in_s(90)
        yield pages
        for found in pages.values():
            found.require_no_faults()


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_overlaps_or_needs_sideways_scrolling(width: int, at_width: dict[int, Opened]) -> None:
    found = at_width[width]
    assert found.sideways_px == 0
    assert found.page.evaluate(CUT) == []
    assert found.page.evaluate(OVERLAPS) == []


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_text_has_contrast(width: int, at_width: dict[int, Opened]) -> None:
    assert at_width[width].page.evaluate(CONTRAST) == []


def test_everything_has_a_name_and_headings_are_in_order(shown: Report) -> None:
    assert shown.page.evaluate(UNNAMED) == []
    levels = shown.page.eval_on_selector_all(
        "h1, h2, h3, h4", "(all) => all.filter((x) => x.checkVisibility()).map((x) => Number(x.tagName[1]))"
    )
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels)), levels
    tools = shown.page.eval_on_selector_all(".modebar button", "(all) => all.map((x) => x.dataset.title)")
    assert tools and not any("share" in tool.lower() or "cloud" in tool.lower() for tool in tools)
    plots = shown.page.eval_on_selector_all(
        ".plot", "(all) => all.filter((x) => x.checkVisibility()).map((x) => x.role)"
    )
    assert len(plots) == 7 and set(plots) == {"img"}
    assert shown.page.get_attribute("html", "lang") == "en"


def test_the_keyboard_reaches_everything_and_focus_is_seen(page: OpenPage, report: Path) -> None:
    found = page(report)
    found.drawn_in_s(60)
    n, seen = found.page.evaluate(FOCUSABLE), list[dict[str, Any]]()
    for _ in range(n):
        found.page.keyboard.press("Tab")
        seen.append(found.page.evaluate(FOCUSED))
    assert all(x["isSeen"] and x["isInside"] for x in seen), [x for x in seen if not (x["isSeen"] and x["isInside"])]
    assert {x["tag"] for x in seen} >= {"A", "BUTTON", "INPUT", "SELECT", "DIV"}
    ids = [x["id"] for x in seen if x["id"]]
    assert ids == [
        "edit", "stratum", "time", "hits-only", "once", "search", "choose-perturbation", "perturbation-group",
        "choose-gene", "map",
    ]  # fmt: skip


def test_the_keyboard_alone_sorts_turns_pages_and_chooses(page: OpenPage, report: Path) -> None:
    found = page(report)
    found.drawn_in_s(60)
    shown, keyboard = Report(found.page), found.page.keyboard
    keyboard.press("Tab")
    keyboard.press("Enter")
    assert shown.address == "ranking"
    found.page.focus("#edit")
    keyboard.press("ArrowUp")
    found.page.focus("#hits-table thead th:nth-child(2) button")
    keyboard.press("Enter")
    keyboard.press("Enter")
    assert found.page.get_attribute("#hits-table thead th:nth-child(2)", "aria-sort") == "descending"
    assert found.page.evaluate("document.activeElement.textContent") == "gene"
    found.page.focus("#hits-table .pager button:last-of-type")
    keyboard.press("Enter")
    status = found.page.locator("#hits-table [role=status]")
    assert status.inner_text().startswith("21")
    found.page.focus("#hits-only")
    keyboard.press("Space")
    assert found.page.is_checked("#hits-only")
    assert status.inner_text().startswith("1")
    row = shown.rows("hits-table", is_whole=False)[2]
    found.page.focus("#hits-table tbody tr:nth-child(3) button")
    keyboard.press("Enter")
    assert shown.text("perturbation-name") == f"{row['gene']} · {row['edit']}"
    assert found.page.evaluate("document.activeElement.id") == "perturbation"


def test_what_is_read_aloud_stays_in_its_place(shown: Report) -> None:
    status = shown.page.query_selector("#hits-table [role=status]")
    assert status is not None
    shown.type("search", "ONLY1a")
    assert status.inner_text() and status.evaluate("(x) => x.isConnected")
    shown.type("search", "")


def test_paper_has_all_sections_and_no_controls(at_width: dict[int, Opened], tmp_path: Path) -> None:
    found = at_width[DESKTOP]
    pdf = found.pdf(tmp_path / "page.pdf").read_bytes()
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 12
    found.show_as_printed()
    for name in ("answer", "ranking", "perturbation", "gene", "patterns", "cautions", "facts", "numbers"):
        assert found.page.is_visible(f"#{name}"), name
    for name in ("nav", "#controls", "#search", "#map", "#hits-table .pager", ".modebar"):
        assert not found.page.is_visible(name), name
    found.page.set_viewport_size({"width": 718, "height": 1000})
    found.page.wait_for_timeout(200)
    widest = (
        "Math.max(...[...document.querySelectorAll('.plot .main-svg')].map((x) => x.getBoundingClientRect().right))"
    )
    assert 600 < found.page.evaluate(widest) <= 718
    assert found.sideways_px == 0


def test_names_are_text_everywhere_figures_too(page: OpenPage, report: Path) -> None:
    found = page(report)
    found.page.evaluate("() => { window.alert = () => { window.wasCalled = true } }")
    found.drawn_in_s(60)
    shown = Report(found.page)
    for name in HOSTILE_SYMBOLS:
        shown.type("choose-perturbation", name)
        assert shown.text("perturbation-name").startswith(f"{name} · ")
        shown.type("choose-gene", name)
        assert shown.text("gene-name").startswith(f"{name} · ")
    texts = found.page.eval_on_selector_all("svg text", "(all) => all.map((x) => x.textContent)")
    assert any("<script>alert(1)</script>" in text for text in texts)
    made = "svg a, svg script, svg foreignObject, img, main b, svg tspan[style*=bold], a[href^=javascript]"
    assert found.page.eval_on_selector_all(made, "(all) => all.length") == 0
    assert found.page.evaluate("document.scripts.length") == 3
    assert found.page.evaluate("window.wasCalled") is None
    assert found.page.evaluate("({}).polluted === undefined && Object.keys(Object.prototype).length") == 0


def test_without_scripts_the_answer_is_there(browser: "Browser", report: Path, results: Results) -> None:
    with opened(browser, report, has_scripts=False) as found:
        text = found.page.inner_text("body")
        best = results.hits.drop_nulls("strength_rank")
        assert "stand out at q < 0.1" in text and "Scripts are off" in text
        for row in best.head(3).iter_rows(named=True):
            assert row["target_symbol"] in text and f"{row['strength']:.3g}" in text
        for title in ("How sure is it", "What was run", "How to get every number"):
            assert title in text
        assert "A prediction is a model's, not an experiment" in text
        assert not found.page.is_visible("#ranking") and not found.page.is_visible("#wait")
