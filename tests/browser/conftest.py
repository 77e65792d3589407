"""Everything here is marked `browser`: `make test-browser` runs it, `make test` does not. The fixture is `page`."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.browser import DESKTOP, Opened, opened, running_browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser

OpenPage = Callable[..., Opened]
"""page(path, width=1280) -> Opened."""


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

        def open_page(path: Path, width: int = DESKTOP) -> Opened:
            pages.append(stack.enter_context(opened(browser, path, width)))
            return pages[-1]

        yield open_page
    for found in pages:
        found.require_no_faults()
