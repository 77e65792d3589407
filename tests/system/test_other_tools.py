"""scanpy, pertpy and cell-eval, two of them in environments of their own, do with exports what the documentation shows."""

from pathlib import Path

import pytest

from tests.support import warm
from tests.support.blocks import TOOLS, Reader, blocks
from tests.support.places import ROOT

PAGE = ROOT / "docs" / "tools.md"


@pytest.mark.long
def test_the_page_is_followed_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := tmp_path / "reader").mkdir()
    (bin_folder := tmp_path / "bin").mkdir()
    monkeypatch.chdir(folder)
    with warm.commands(bin_folder) as commands:
        one = Reader(PAGE, folder, commands, has_network=True)
        for number in range(len(one.blocks)):
            one.follow_to(number)
    assert all((folder / tool / "bin" / "python").exists() for tool in TOOLS)
    assert {b.title for b in blocks(PAGE)} >= {f"needs {tool}" for tool in TOOLS}
