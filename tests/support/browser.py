"""Browser: a page opened in headless Chromium without a network, and everything that it complained about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.support.chromium import MISSING, chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

DESKTOP, TABLET, PHONE = 1280, 768, 390
HEIGHTS = {DESKTOP: 900, TABLET: 1024, PHONE: 844}
"""Of the viewport, by its width."""
LOCAL = ("file", "data", "blob", "about")
"""What a page may ask for."""
READY, DRAWN = "data-ready", "data-drawn"
"""The attributes of <html> that a page sets when it can be used, and when all its figures are there: milliseconds."""
WATCH = f"""
(() => {{
  const note = () => {{
    if (window.__readyAt === undefined && document.documentElement?.hasAttribute("{READY}"))
      window.__readyAt = performance.now();
  }};
  new MutationObserver(note).observe(document, {{attributes: true, attributeFilter: ["{READY}"], childList: true, subtree: true}});
  document.addEventListener("DOMContentLoaded", note);
}})();
"""
SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@dataclass
class Opened:
    """A page that is open. `faults` are its errors, dialogs and requests beyond this machine; `requested` every address."""

    page: Page
    faults: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)

    def require_no_faults(self) -> None:
        """Raises AssertionError with all of them."""
        assert not self.faults, "\n".join(self.faults)

    def opened_in_s(self, within_s: float = 30.0) -> float:
        """Seconds from the start of the navigation until the page said that it is ready; waits for that."""
        self.page.wait_for_selector(f"html[{READY}]", state="attached", timeout=1000 * within_s)
        return float(self.page.evaluate("window.__readyAt")) / 1000

    def drawn_in_s(self, within_s: float = 30.0) -> float:
        """Seconds from the start of the navigation until the page said that its figures are drawn; waits for that."""
        self.page.wait_for_selector(f"html[{DRAWN}]", state="attached", timeout=1000 * within_s)
        return float(self.page.get_attribute("html", DRAWN) or "nan") / 1000

    @property
    def sideways_px(self) -> int:
        """By how much the page is wider than the window: 0, unless it must be scrolled sideways."""
        return int(self.page.evaluate(SIDEWAYS))

    def show_as_printed(self) -> None:
        """Shows what would be printed from now on."""
        self.page.emulate_media(media="print")

    def pdf(self, path: Path) -> Path:
        """Prints the page on A4."""
        self.page.pdf(path=path, format="A4", print_background=True)
        return path

    def screenshot(self, path: Path, is_whole: bool = False) -> Path:
        """A PNG of what the window shows, or of the whole page."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path, full_page=is_whole, animations="disabled")
        return path


@contextmanager
def running_browser() -> Iterator[Browser]:
    """A Chromium. Raises RuntimeError where there is none."""
    from playwright.sync_api import sync_playwright

    path = chromium()
    if path is None:
        raise RuntimeError(MISSING)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Browser, path: Path, width: int = DESKTOP, fragment: str = "", has_scripts: bool = True, first: str = ""
) -> Iterator[Opened]:
    """A file, opened in a window of its own, whose network is off; with `#fragment`, without scripts, or a script `first`."""
    size = {"width": width, "height": HEIGHTS.get(width, HEIGHTS[DESKTOP])}
    context = browser.new_context(
        viewport=size,  # type: ignore[arg-type]
        offline=True,
        reduced_motion="reduce",
        java_script_enabled=has_scripts,
    )
    try:
        page = context.new_page()
        page.add_init_script(WATCH + first)
        found = Opened(page)
        _listen(found)
        page.goto(path.resolve().as_uri() + fragment, wait_until="load")
        yield found
    finally:
        context.close()


def _listen(found: Opened) -> None:
    """Notes what goes wrong from now on, and every address that is asked for."""
    page, faults = found.page, found.faults

    def asked(url: str) -> None:
        found.requested.append(url)
        if urlsplit(url).scheme not in LOCAL:
            faults.append(f"asked for {url[:200]}")

    page.on("request", lambda request: asked(request.url))
    page.on("websocket", lambda socket: asked(socket.url))
    page.on("console", lambda m: faults.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(f"script: {error}"))
    page.on("crash", lambda _: faults.append("the page crashed"))

    def refuse(dialog: object) -> None:
        faults.append(f"dialog: {dialog.message}")  # type: ignore[attr-defined]
        dialog.dismiss()  # type: ignore[attr-defined]

    page.on("dialog", refuse)
