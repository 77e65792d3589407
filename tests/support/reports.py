"""A report page as a reader of its HTML: its scripts, its data, and what it says without scripts."""

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from demo.planted.sizes import Sizes
from demo.planted.written import build
from screen.results.results import Results

SMALL = Sizes(
    n_perturbations=250,
    n_strata=1,
    n_cells=5,
    n_nulls=20,
    n_donors=2,
    is_hostile=True,
    has_replicates=False,
    has_relations=True,
)
"""Enough null perturbations to judge a gene by, and not much else."""


class Page(HTMLParser):
    """What an HTML parser finds: attributes of every element by its name, texts of scripts by their id ("" without)."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.texts: list[str] = []
        self._script: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._script = dict(attrs).get("id") or "" if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        else:
            self.texts.append(data)

    @property
    def policy(self) -> str:
        """The content-security policy."""
        found = [a["content"] for tag, a in self.elements if tag == "meta" and "http-equiv" in a]
        assert found and found[0]
        return found[0]

    def unpacked(self, name: str) -> str:
        """A compressed text, as the page's scripts read it."""
        return gzip.decompress(base64.b64decode(self.scripts[name])).decode()

    @property
    def data(self) -> dict[str, Any]:
        """What the scripts show."""
        found: dict[str, Any] = json.loads(self.unpacked("data"))
        return found

    @property
    def words(self) -> str:
        """Everything that is read, blanks as one."""
        return re.sub(r"\s+", " ", " ".join(self.texts))


def parts_of(data: dict[str, Any], group: int) -> tuple[int, int, int]:
    """(perturbation, stratum, time) numbers of a group."""
    rest, t = divmod(group, len(data["times"]))
    p, s = divmod(rest, len(data["strata"]))
    return p, s, t


def same(found: Any, expected: Any, digits: int) -> bool:
    """Whether numbers with None for what is not known are others rounded to so many digits, and NaN."""
    a = np.array([np.nan if x is None else x for x in found], dtype=float)
    b = np.asarray([np.nan if x is None else x for x in expected], dtype=float)
    with np.errstate(invalid="ignore"):
        is_near = np.abs(a - b) <= 0.5000001 * 10.0 ** (1 - digits) * np.abs(b) + 1e-300
    return a.shape == b.shape and bool(np.all(is_near | (np.isnan(a) & np.isnan(b))))


def with_sections(directory: Path) -> Results:
    """A planted screen with relations and time points compared; some of its names try to run as code."""
    return build(directory, SMALL, compare=((1, 2),))
