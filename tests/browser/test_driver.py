"""The driver itself, on pages of a few lines: what it must see, it sees."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import OpenPage
from tests.support.browser import DESKTOP, PHONE, TABLET, Opened, opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser

GOOD = """<!doctype html><html lang="en"><meta charset="utf-8"><title>A page</title>
<style>@media print { #screen { display: none } } body { margin: 0 }</style>
<p id="screen">on the screen</p><p id="both">on both</p>
<script>setTimeout(() => document.documentElement.setAttribute("data-ready", ""), 150)</script></html>"""
FAULTY = {
    "console": '<script>console.error("broken")</script>',
    "script": '<script>throw new Error("broken")</script>',
    "dialog": "<script>alert(1)</script>",
    "asked for http": '<img src="http://example.org/a.png">',
    "asked for ws": '<script>try { new WebSocket("ws://example.org/") } catch (e) {}</script>',
    "console: Refused|console: Executing": (
        """<meta http-equiv="Content-Security-Policy" content="script-src 'none'"><script>let a = 1</script>"""
    ),
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Text -> a file whose folder has a name that addresses must escape."""

    def write_page(text: str) -> Path:
        folder = tmp_path / "a <b> #1 %41"
        folder.mkdir(exist_ok=True)
        path = folder / "page.html"
        path.write_text(text)
        return path

    return write_page


def test_a_page_without_faults_is_opened_and_its_time_is_measured(page: OpenPage, write: Callable[[str], Path]) -> None:
    path = write(GOOD)
    found = page(path)
    assert 0.15 <= found.opened_in_s() < 5
    assert found.page.title() == "A page"
    assert found.requested == [path.as_uri()]


@pytest.mark.parametrize("what", FAULTY)
def test_what_goes_wrong_is_noted(what: str, browser: "Browser", write: Callable[[str], Path]) -> None:
    with opened(browser, write(FAULTY[what])) as found:
        found.page.wait_for_timeout(200)
    assert any(fault.startswith(tuple(what.split("|"))) for fault in found.faults), found.faults
    with pytest.raises(AssertionError):
        found.require_no_faults()


def test_what_a_page_holds_itself_is_no_fault(page: OpenPage, write: Callable[[str], Path]) -> None:
    pixel = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
    found = page(write(f'<img src="{pixel}"><script>fetch(URL.createObjectURL(new Blob(["x"])))</script>'))
    found.page.wait_for_timeout(100)
    assert {address.split(":")[0] for address in found.requested} <= {"file", "data", "blob"}


def test_a_page_that_asks_for_a_file_beside_it_is_seen_to(browser: "Browser", write: Callable[[str], Path]) -> None:
    path = write('<link rel="stylesheet" href="beside.css">')
    (path.parent / "beside.css").write_text("p {}")
    with opened(browser, path) as found:
        assert found.requested == [path.as_uri(), (path.parent / "beside.css").as_uri()]


@pytest.mark.parametrize("width", [DESKTOP, TABLET, PHONE])
def test_a_window_is_as_wide_as_asked_for(width: int, page: OpenPage, write: Callable[[str], Path]) -> None:
    found = page(write(GOOD + '<div style="width: 500px">x</div>'), width)
    assert found.page.evaluate("window.innerWidth") == width
    assert found.sideways_px == max(500 - width, 0)


def test_a_page_is_seen_as_printed_and_printed(page: OpenPage, write: Callable[[str], Path], tmp_path: Path) -> None:
    found = page(write(GOOD))
    assert found.page.is_visible("#screen")
    found.show_as_printed()
    assert not found.page.is_visible("#screen")
    assert found.page.is_visible("#both")
    assert found.pdf(tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_a_screenshot_has_the_window_or_the_whole_page(
    page: OpenPage, write: Callable[[str], Path], tmp_path: Path
) -> None:
    found: Opened = page(write(GOOD + '<div style="height: 3000px">x</div>'), PHONE)
    sizes = [size_of(found.screenshot(tmp_path / f"{whole}.png", whole)) for whole in (False, True)]
    assert sizes[0] == (390, 844)
    assert sizes[1][0] == 390 and sizes[1][1] > 3000


def size_of(png: Path) -> tuple[int, int]:
    """Width and height, from the head of the file."""
    head = png.read_bytes()[16:24]
    return int.from_bytes(head[:4], "big"), int.from_bytes(head[4:], "big")
