"""Code blocks of Markdown pages, and a reader who types them one after another into an empty folder."""

import io
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from screen.config.screen_config import parse_config, read_yaml
from tests.support.places import GOLDEN, ROOT

DATA = ROOT / "screen" / "demo" / "data"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = ("bash", "python", "yaml")
"""Languages of blocks that are run; of YAML: read as a configuration, or as sections of one."""
SHOWN = ("text", "toml")
"""Languages of blocks that are only shown."""
NEEDS = re.compile(r"needs (the network and minutes|a Slurm cluster|a GPU|pertpy|cell-eval|the imports of \S+)")
"""Titles of blocks that cannot be run here."""
TOOLS = ("pertpy", "cell-eval")
"""Which need an environment of their own; a page makes it, in a folder of that name."""
PRINTED = "printed"
"""Title of a block of text: what the block before it prints."""
FENCE = re.compile(r"^( *)```(?P<info>[^\n]*)\n(?P<code>.*?)^\1```$", re.MULTILINE | re.DOTALL)
INFO = re.compile(r'(?P<language>\w+)(?: title="(?P<title>[^"]+)")?')


@dataclass(frozen=True)
class Block:
    """One code block: the page, the line of its fence, language, title (a file's name, or what it needs), code."""

    page: Path
    line: int
    language: str
    title: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}-{self.language}"

    @property
    def cannot_run(self) -> bool:
        return self.title.startswith("needs ")


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page. Raises ValueError for a fence that does not say what it is."""
    text, found = page.read_text(), []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        info = INFO.fullmatch(match["info"])
        if info is None:
            raise ValueError(f'{page.name}:{line}: ```{match["info"]} must be LANGUAGE or LANGUAGE title="..."')
        indent = len(match[1])
        code = "".join(row[indent:] or "\n" for row in match["code"].splitlines(keepends=True))
        found.append(Block(page, line, info["language"], info["title"] or "", code))
    fences = len(re.findall(r"^ *```", text, re.MULTILINE))
    if fences != 2 * len(found):
        raise ValueError(f"{page.name} has {fences} fences, of which {2 * len(found)} are in pairs")
    return found


def furnish(page: Path, folder: Path, finished: Path, cells: Path) -> None:
    """Puts into a folder what pages take for given.

    `finished` is the directory of a finished screen, which stands at runs/demo; beside it are the demo's configurations and data,
    the cells and model of README's twelve lines, and one of upstream's runs.
    """
    shutil.copytree(finished, folder / "runs" / "demo")
    shutil.copytree(ROOT / "configs", folder / "configs")
    (folder / "screen" / "demo").mkdir(parents=True)
    (folder / "screen" / "demo" / "data").symlink_to(DATA)
    for name, file in (("model.ckpt", "demo.ckpt"), ("genes.tsv", "genes.tsv")):
        (folder / name).symlink_to(DATA / file)
    shutil.copy(cells, folder / "cells.h5ad")
    (folder / "perturbgen").symlink_to(GOLDEN / "e2e")
    upstream = (GOLDEN / "e2e" / "src_delete.yaml").read_text()
    filled = upstream.replace("@GOLDEN@/e2e", str(folder / "perturbgen")).replace("@OUT@", str(folder / "runs"))
    (folder / "perturbation.yaml").write_text(filled)
    if page.name != "tutorial.md":
        config = {"model": {"checkpoint": "model.ckpt", "vocabulary": "genes.tsv"}, "predict": {"pred_tps": [1]}}
        config["cells"] = {"h5ad": "cells.h5ad", "state_column": "condition", "source": "control"}
        config["cells"] |= {"targets": {1: "stimulated"}}
        config |= {"library": {"genes": ["STAT1"]}, "null": {"n": 0}}  # type: ignore[dict-item]
        (folder / "screen.yaml").write_text(yaml.safe_dump(config))


@dataclass
class Reader:
    """Somebody who reads one page and does what it says, in a folder of their own.

    `commands` is a folder for PATH. Who `has_network` also installs what is to be installed, and uses the tools.
    """

    page: Path
    folder: Path
    commands: Path
    has_network: bool = False
    done: int = 0

    def __post_init__(self) -> None:
        self.blocks = blocks(self.page)
        self._names: dict[str, Any] = {"__name__": self.page.stem}

    @cached_property
    def _environment(self) -> dict[str, str]:
        paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
        path = os.pathsep.join([str(self.commands), os.environ["PATH"]])
        return {**os.environ, "PATH": path, "PYTHONPATH": paths, "COLUMNS": "100"}

    def follow_to(self, number: int) -> None:
        """Does every block up to this one that is not done yet; raises what the last of them raises."""
        while self.done <= number:
            at, is_last = self.done, self.done == number
            self.done += 1
            try:
                self._follow(at)
            except Exception:
                # an earlier block has a test of its own
                if is_last:
                    raise

    def _follow(self, number: int) -> None:
        """Does a block; raises AssertionError where it prints something else than the page shows below it."""
        block = self.blocks[number]
        if (block.cannot_run and not self._can(block)) or block.language not in RUN:
            return
        printed = self._done(block)
        shown = self.blocks[number + 1] if number + 1 < len(self.blocks) else None
        if shown is not None and shown.title == PRINTED:
            assert printed.strip() == shown.code.strip(), f"{shown}: it prints\n{printed}"

    def _can(self, block: Block) -> bool:
        return self.has_network and block.title.removeprefix("needs ") in ("the network and minutes", *TOOLS)

    def _done(self, block: Block) -> str:
        """What a block prints."""
        tool = block.title.removeprefix("needs ")
        if block.language == "yaml":
            self._read(block)
        elif block.language == "bash":
            return self._type(["bash", "-euo", "pipefail", "-c", block.code], block)
        elif tool in TOOLS:
            python = str(self.folder / tool / "bin" / "python")
            return self._type([python, "-W", "ignore", "-c", block.code], block)
        elif block.title:
            (self.folder / block.title).write_text(block.code)
            return self._type([sys.executable, "-W", "error", block.title], block)
        else:
            with redirect_stdout(io.StringIO()) as out:
                exec(compile(block.code, str(block), "exec"), self._names)
            return out.getvalue()
        return ""

    def _type(self, command: list[str], block: Block) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self._environment, capture_output=True, text=True, check=False,
            timeout=900 if self.has_network else 300,
        )  # fmt: skip
        assert done.returncode == 0, (
            f"{block}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        )
        return done.stdout

    def _read(self, block: Block) -> None:
        """A named configuration is written, and must be whole; sections alone must be valid beside the needed ones."""
        path = self.folder / (block.title or "sections.yaml")
        path.write_text(block.code)
        raw = read_yaml(path)
        if not block.title:
            raw = {**read_yaml(self.folder / "screen.yaml"), **raw}
        parse_config(raw, path)
