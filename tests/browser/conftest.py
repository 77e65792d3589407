"""Everything here is marked `browser`: `make test-browser` runs it, `make test` does not. The fixture is `page`."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from demo.planted.sizes import Sizes
from demo.planted.written import build
from screen.report.page import write_report
from screen.results.results import Results
from tests.browser.report_driver import Report
from tests.support.browser import DESKTOP, Opened, opened, running_browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser

OpenPage = Callable[..., Opened]
"""page(path, width=1280, fragment="") -> Opened."""
SMALL = Sizes(n_perturbations=250, n_strata=2, n_cells=12, n_genes=400, n_nulls=25, is_hostile=True)
HOSTILE_SYMBOLS = (
    "<script>alert(1)</script>",
    "__proto__",
    '<a href="javascript:alert(1)">go</a>',
    "<b>x</b><img src=x onerror=alert(1)>",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before the expression given by -m is looked at."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """One Chromium for all tests."""
    with running_browser() as found:
        yield found


@pytest.fixture
def page(browser: "Browser") -> Iterator[OpenPage]:
    """Opens files; the test fails if one of them made an error, opened a dialog or asked for anything but files and data."""
    pages: list[Opened] = []
    with ExitStack() as stack:

        def open_page(path: Path, width: int = DESKTOP, fragment: str = "") -> Opened:
            pages.append(stack.enter_context(opened(browser, path, width, fragment)))
            return pages[-1]

        yield open_page
    for found in pages:
        found.require_no_faults()


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A small screen whose truth is known, and some of whose names try to run as code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("demo.planted.truth.HOSTILE_SYMBOLS", HOSTILE_SYMBOLS)
        return build(tmp_path_factory.mktemp("planted") / "hostile", SMALL)


@pytest.fixture(scope="session")
def report(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its page."""
    return write_report(results, tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def shown(browser: "Browser", report: Path) -> "Iterator[Report]":
    """The page, opened once for a module: a test sets what it looks at, and none may make a fault."""
    with opened(browser, report) as found:
        found.drawn_in_s(60)
        yield Report(found.page)
        found.require_no_faults()
