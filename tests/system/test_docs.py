"""README and docs: every block of code runs, the site has no broken link, the README is one that is read."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import yaml

from screen.cli.main import main
from tests.support import warm
from tests.support.blocks import DATA, NEEDS, PAGES, RUN, SHOWN, Reader, blocks, furnish
from tests.support.places import ROOT

FOLLOWED = [(page, n) for page in PAGES for n, b in enumerate(blocks(page)) if b.language in RUN and not b.cannot_run]
README_LINES = 120


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for PATH: `perturbscreen`, and the `python` that has it."""
    with warm.commands(tmp_path_factory.mktemp("bin")) as folder:
        yield folder


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, commands: Path) -> Callable[[Path], Reader]:
    """page -> the reader who follows it, in a folder with a small finished demo."""
    place = tmp_path_factory.mktemp("reader")
    config = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
    config["model"] = {k: str(DATA / Path(v).name) for k, v in config["model"].items()}
    config["cells"] |= {"h5ad": str(DATA / "cells.h5ad"), "pairing": str(DATA / "pairs.tsv"), "max_cells": 10}
    config["library"]["genes"] = ["TRAT1", "CDKN1C", "GBP1", "CXCL10"]
    config["enrich"] = {"gene_sets": [str(DATA / "reactome_small.gmt")]}
    config["null"] = {"n": 20}
    config["output"]["allow_missing"] = True  # TRAT1 is a gene of T cells: masked nowhere, overexpressed in every cell
    (place / "demo.yaml").write_text(yaml.safe_dump(config))
    assert main(["run", str(place / "demo.yaml"), "--out", str(place / "finished")]) == 0
    cells = ad.read_h5ad(DATA / "cells.h5ad")
    has_both_C = (
        np.asarray((cells[:, ["ENSG00000115415", "ENSG00000185507"]].X > 0).sum(axis=1)).ravel() == 2
    )  # STAT1, IRF7
    rows = [np.flatnonzero((cells.obs["condition"] == s) & has_both_C)[:5] for s in ("control", "stimulated")]
    cells[np.sort(np.concatenate(rows))].copy().write_h5ad(place / "cells.h5ad")

    @cache
    def of(page: Path) -> Reader:
        folder = place / page.stem
        folder.mkdir()
        furnish(page, folder, place / "finished", place / "cells.h5ad")
        return Reader(page, folder, commands)

    return of


@pytest.mark.parametrize(("page", "number"), FOLLOWED, ids=[str(blocks(p)[n]) for p, n in FOLLOWED])
def test_a_block_of_code_runs_after_those_above_it(
    page: Path, number: int, reader: Callable[[Path], Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = reader(page)
    monkeypatch.chdir(one.folder)
    one.follow_to(number)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_a_block_says_what_it_is_and_what_it_needs_if_it_cannot_run(page: Path) -> None:
    for block in blocks(page):
        assert block.language in (*RUN, *SHOWN), f"{block}: say one of {RUN}, or {SHOWN} for what is only shown"
        assert not block.cannot_run or NEEDS.fullmatch(block.title), f"{block}: {block.title}"
        assert not (block.language == "bash" and block.title and not block.cannot_run), f"{block}: bash has no file"


def test_most_blocks_of_commands_and_code_are_run() -> None:
    every = [b for page in PAGES for b in blocks(page) if b.language in RUN]
    assert len(FOLLOWED) >= 0.85 * len(every)


def test_the_readme_is_short_and_names_only_files_that_are_there() -> None:
    text = (ROOT / "README.md").read_text()
    assert text.count("\n") <= README_LINES
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    assert len(links) > 15
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_page_of_the_docs_is_reached_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    assert [p.name for p in PAGES[1:] if f"(docs/{p.name})" not in text] == []


def test_the_site_is_built_strictly_and_fetches_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(PAGES) - 1
    for page in pages:
        fetched = re.findall(
            r'<(?:script|link|img|iframe)\b[^>]*(?:src|href)="((?:https?:)?//[^"]+)"', page.read_text()
        )
        assert fetched == [], page


def test_a_broken_link_or_a_lost_anchor_fails_the_site(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# A\n\n[gone](gone.md) [lost](#lost)\n")
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    kept = ("site_name", "strict", "theme", "markdown_extensions", "validation")
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump({key: settings[key] for key in kept}))
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "gone.md" in done.stderr
    assert "#lost" in done.stderr
