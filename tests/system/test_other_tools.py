"""pertpy, in an environment of its own, does with an export what the documentation shows."""

import subprocess
import sys
from pathlib import Path

import pytest

from demo.planted.sizes import Sizes
from demo.planted.written import build
from screen.cli.main import main
from tests.support.blocks import blocks
from tests.support.places import ROOT

PAGE = ROOT / "docs" / "results.md"


def shown() -> tuple[list[str], str, str]:
    """(the commands before, the session, what it prints) of the page."""
    found = blocks(PAGE)
    (number,) = [n for n, block in enumerate(found) if block.title == "needs pertpy"]
    return found[number - 1].code.splitlines(), found[number].code, found[number + 1].code


@pytest.mark.long
def test_pertpy_finds_in_an_export_what_the_page_shows(tmp_path: Path) -> None:
    (_, export, install), session, printed = shown()
    build(tmp_path / "runs" / "planted", Sizes())
    arguments = export.replace("runs/planted", str(tmp_path / "runs" / "planted")).split()
    arguments[arguments.index("--h5ad") + 1] = str(tmp_path / "planted.h5ad")
    assert main(arguments[1:]) == 0
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "pertpy")], check=True)
    packages = [word.strip('"') for word in install.partition(" install ")[2].split()]
    python = str(tmp_path / "pertpy" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    found = subprocess.run(
        [python, "-W", "ignore", "-c", session], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert found.stdout == printed
