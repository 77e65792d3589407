"""Page: a finished screen as one HTML file that needs nothing else: no network, no server, no other file."""

import base64
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from screen import __version__
from screen.directory import REPORT, STAMP
from screen.errors import RequestError, StoreError, WriteError
from screen.files import holds, write_file
from screen.report.cautions import cautions
from screen.report.details import changes_and_movers, details, movers_json
from screen.report.facts import facts
from screen.report.heat_maps import heat_maps
from screen.report.leaders import leaders
from screen.report.names import ScreenNames
from screen.report.numbers import packed, packed_text
from screen.report.rank_shift import rank_shifts
from screen.report.ranking import ranking
from screen.report.sections.between_times import between_times
from screen.report.sections.joint import joint_edits
from screen.report.sections.null_z import null_z
from screen.report.sections.real_screen import real_screen
from screen.report.sections.relations import relations
from screen.report.sections.table import Wording
from screen.report.shifted_sets import shifted_sets
from screen.report.strips import strips
from screen.results.checked import described_check, table_of_check
from screen.results.sentences import STANDS_OUT, gene_sets_shifted, standing_out
from screen.results.views import top_perturbations

if TYPE_CHECKING:
    from screen.results.results import Results

ASSETS = files("screen.report") / "assets"
SCRIPTS = ("data", "table", "plots", "sketch", "ranking", "perturbation", "gene", "patterns", "main")
"""Of the page, in the order in which they need each other."""
N_DETAILED, N_NAMED = 200, 300
"""Perturbations with a view of their own: so many that rank highest, and so many more that the user named."""
N_WITHOUT_SCRIPTS = 10


class ReportError(RequestError):
    """A page that cannot be made."""


def write_report(results: "Results", path: str | Path | None = None) -> Path:
    """Writes the page of a screen, by default report.html in its directory, and gives its place.

    The same results give the same bytes; a page that says the same already is left alone.
    Raises ReportError where plotly is not installed, StoreError where a table is damaged, WriteError where it cannot be
    written.

    >>> import screen
    >>> results = screen.open_results("runs/demo")
    >>> screen.write_report(results, "demo.html").name
    'demo.html'
    """
    path = results.tables / REPORT if path is None else Path(path)
    text = page(results).encode()
    try:
        if not holds(path, text):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, text)
    except OSError as error:
        raise WriteError(f"cannot write {path} ({error.strerror}); name another file (--out)") from error
    return path


def page(results: "Results") -> str:
    """The page as HTML. Raises as `write_report`."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    (library, packed_library), script = _plotly(), _script()
    with _damages(results):
        words, data = _words(results), packed(page_data(results))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_asset)
    )
    return environment.get_template("page.html").render(
        **words,
        version=__version__,
        css=_asset("page.css"),
        policy=_policy(script, library),
        library=packed_library,
        data=data,
        script=script,
    )


def _words(results: "Results") -> dict[str, Any]:
    """What the page says without scripts."""
    ranked, shifted = results.hits.drop_nulls("strength_rank"), results.shifted
    sections = _sections(results)
    return {
        "name": results.directory.absolute().name + ("" if results.name is None else f": {results.name}"),
        "directory": str(results.directory),
        "answer": standing_out(ranked, results.has_counts),
        "answer_sets": None if shifted is None or shifted.is_empty() else gene_sets_shifted(shifted),
        "check": None if results.check is None else described_check(results.check),
        "check_table": [] if results.check is None else table_of_check(results.check),
        "leaders": leaders(ranked),
        "tiles": _tiles(results),
        "cautions": [*cautions(results), *(c for s in sections.values() if s is not None for c in s.cautions)],
        **sections,
        "facts": facts(results),
        "notes": [str(n) for n in results.provenance.get("notes", [])],
        "unscreened": results.unscreened.head(50).select("target_symbol", "perturbation").rows(),
        "first": _first(ranked),
        "n_groups": len(results.strata) * len(results.times),
        "has_counts": results.has_counts,
        "has_gene_sets": results.has_gene_sets,
        "stands_out": STANDS_OUT,
    }


def _sections(results: "Results") -> dict[str, Any]:
    """What was asked for beside the ranking, each in words and tables; None where it was not."""
    wording = Wording(results.hits, results.strata, results.times)
    return {
        "between": between_times(results, wording),
        "relations": relations(results, wording),
        "joint": joint_edits(results, wording),
        "real": real_screen(results, wording),
    }


def page_data(results: "Results") -> dict[str, Any]:
    """Everything that the page's scripts show, as JSON has it; numbers are those of the tables, rounded."""
    names, hits = ScreenNames(results), results.hits
    shown = [names.number[i] for i in top_perturbations(results, N_DETAILED, N_NAMED)]
    ranked = hits.drop_nulls("strength_rank")
    group_R = np.asarray(
        names.group(
            names.perturbations(ranked["perturbation"]),
            names.strata_of(ranked["stratum"]),
            names.times_of(ranked["time"]),
        )
    )
    is_ranked = np.zeros(names.n_groups, dtype=bool)
    is_ranked[group_R] = True
    rank_of = dict(zip(group_R.tolist(), ranked["strength_rank"].to_list(), strict=True))
    changes, movers = changes_and_movers(results, names, shown, is_ranked)
    detailed = details(changes, names)
    if results.has_relations:
        detailed["null_z"] = null_z(results, changes, names, detailed["gene"])
    return {
        **names.json(),
        "has_counts": results.has_counts,
        "stands_out": STANDS_OUT,
        "directory": str(results.directory),
        "shown": shown,
        "hits": ranking(hits, names),
        "details": detailed,
        "movers": movers_json(movers, names),
        "strips": strips(results, names, shown),
        "sets": shifted_sets(results, names, shown),
        "heat_maps": heat_maps(changes, names, rank_of),
        "rank_shifts": rank_shifts(changes, names),
    }


def _tiles(results: "Results") -> list[tuple[str, str]]:
    """What a reader asks first, in numbers."""
    own = results.hits.filter(~pl.col("is_null"))
    called = own.filter(pl.col("strength_rank").is_not_null(), pl.col("q_value") < STANDS_OUT)
    found = [
        (f"{called['perturbation'].n_unique():,}", f"stand out at q < {STANDS_OUT}"),
        (f"{own['perturbation'].n_unique():,}", "perturbations"),
        (f"{results.store.n_cells:,}", "cells"),
        (f"{sum(b.n_items for b in results.store.blocks):,}", "edits predicted"),
    ]
    return found + [
        (f"{len(x):,}", word) for x, word in ((results.strata, "strata"), (results.times, "time points")) if len(x) > 1
    ]


def _first(ranked: pl.DataFrame) -> list[dict[str, Any]]:
    """The first rows of each mode, for a reader without scripts."""
    return ranked.filter(pl.int_range(pl.len()).over("mode") < N_WITHOUT_SCRIPTS).to_dicts()


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _script() -> str:
    """The page's own scripts in one function, so that they share names with nothing else."""
    parts = "\n".join(_asset(f"{name}.js") for name in SCRIPTS)
    return f'(async () => {{\n"use strict";\n{parts}\n}})();'


@cache
def _plotly() -> tuple[str, str]:
    """(the library that draws, the same compressed)."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ReportError("the report draws with plotly, which is not installed; pip install plotly") from error
    library = str(get_plotlyjs())
    return library, packed_text(library)


@contextmanager
def _damages(results: "Results") -> Iterator[None]:
    """What goes wrong with tables that can be read, but are not this screen's, as a StoreError."""
    try:
        yield
    except (ArithmeticError, LookupError, TypeError, ValueError, pl.exceptions.PolarsError) as error:
        reason = str(error).partition("\n")[0]
        raise StoreError(
            f"the tables of {results.tables} are not those of its store ({type(error).__name__}: {reason}); remove "
            f"{results.tables / STAMP}, then `perturbscreen deg {results.asked_by}` makes them again"
        ) from error


def _policy(*scripts: str) -> str:
    """A content-security policy: these scripts run and no other, nothing is fetched, nothing is sent."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
