"""The script that makes the site's report pages: its pictures are small, and are of pages without faults."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from docs.make_reports import MOST_BYTES, made_small, take_screenshots

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PAGE = """<!doctype html><html lang="en" data-ready data-drawn="1"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><canvas width="1200" height="800"></canvas>
<script>const c = document.querySelector("canvas").getContext("2d");
for (let i = 0; i < 4000; i++) { c.fillStyle = `hsl(${i % 360} 80% 50%)`; c.fillRect(i * 37 % 1200, i * 91 % 800, 9, 9) }</script>"""


@pytest.fixture
def pages(tmp_path: Path) -> dict[str, Path]:
    path = tmp_path / "one.html"
    path.write_text(PAGE)
    return {"one": path}


def test_pictures_are_taken_at_two_widths_and_are_small(
    browser: "Browser", pages: dict[str, Path], tmp_path: Path
) -> None:
    taken = take_screenshots(browser, pages, tmp_path / "pictures")
    assert [p.name for p in taken] == ["report-one-desktop.png", "report-one-phone.png"]
    assert all(0 < p.stat().st_size < MOST_BYTES for p in taken)


def test_a_faulty_page_gets_no_pictures(browser: "Browser", pages: dict[str, Path], tmp_path: Path) -> None:
    pages["one"].write_text(PAGE + "<script>throw new Error('broken')</script>")
    with pytest.raises(AssertionError, match="broken"):
        take_screenshots(browser, pages, tmp_path)


def test_a_picture_that_stays_large_is_refused(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (900, 1280, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    with pytest.raises(ValueError, match="at most 200,000"):
        made_small(tmp_path / "noise.png")
