"""The report pages of the site, made from finished screens, and their screenshots: the demo's, and one whose truth is known.

python -m docs.make_reports                  # build/site/reports/*.html; after mkdocs, which empties the site first
python -m docs.make_reports --screenshots    # docs/report-*.png too, at two widths; needs playwright and Chromium
"""

import argparse
import hashlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import screen
from demo.planted.sizes import Sizes
from demo.planted.written import build
from screen.directory import STAMP

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[1]
SITE = ROOT / "build" / "site" / "reports"
MOST_BYTES = 200_000
"""Of a screenshot."""
COLOURS = (256, 128, 64, 32)


def demo() -> screen.Results:
    """The screen of `make demo`, run now if it is not there: about two minutes."""
    return screen.run(ROOT / "configs" / "demo.yaml", ROOT / "runs" / "demo", progress=said)


def planted() -> screen.Results:
    """The synthetic screen, kept until what makes it changes."""
    sources = sorted((ROOT / "demo" / "planted").glob("*.py"))
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in sources)).hexdigest()
    directory = ROOT / "build" / "screens" / digest[:12] / "planted"
    return screen.open_results(directory) if (directory / STAMP).is_file() else build(directory, Sizes())


SCREENS: Mapping[str, Callable[[], screen.Results]] = {"demo": demo, "planted": planted}
"""Name of a page -> the screen that it is about."""


def said(text: str) -> None:
    """One line."""
    sys.stdout.write(f"{text}\n")


def write_pages(folder: Path) -> dict[str, Path]:
    """Name -> page, each one file."""
    from screen.report.page import write_report

    folder.mkdir(parents=True, exist_ok=True)
    return {name: write_report(results(), folder / f"{name}.html") for name, results in SCREENS.items()}


def take_screenshots(browser: "Browser", pages: Mapping[str, Path], folder: Path) -> list[Path]:
    """What the window shows of every page at the width of a desk and of a phone. Raises AssertionError for a faulty page."""
    from tests.support.browser import DESKTOP, PHONE, opened

    taken = []
    for name, path in pages.items():
        for window, width in (("desktop", DESKTOP), ("phone", PHONE)):
            with opened(browser, path, width) as found:
                found.drawn_in_s()
                taken.append(made_small(found.screenshot(folder / f"report-{name}-{window}.png")))
                found.require_no_faults()
    return taken


def made_small(png: Path) -> Path:
    """The picture with as many colours as MOST_BYTES allow. Raises ValueError where these are too few."""
    from PIL import Image

    with Image.open(png) as opened_png:
        whole = opened_png.convert("RGB")
    for n in COLOURS:
        whole.quantize(n).save(png, optimize=True)
        if png.stat().st_size < MOST_BYTES:
            return png
    raise ValueError(
        f"{png} has {png.stat().st_size:,} bytes in {COLOURS[-1]} colours; at most {MOST_BYTES:,} are wanted"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=SITE, help="folder of the pages")
    parser.add_argument("--screenshots", action="store_true", help="take pictures of them for the docs")
    arguments = parser.parse_args()
    pages = write_pages(arguments.out)
    made = list(pages.values())
    if arguments.screenshots:
        from tests.support.browser import running_browser

        with running_browser() as browser:
            made += take_screenshots(browser, pages, ROOT / "docs")
    for path in made:
        said(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
