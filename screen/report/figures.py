"""Figures: every plot that a finished screen can draw, as files."""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from screen.errors import ConfigError, NothingToDrawError, WriteError, nearest, some
from screen.files import write_file
from screen.results import views
from screen.results.results import Results

if TYPE_CHECKING:
    from screen.plots.style import PaperFigure

FORMATS = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
"""What can be written -> what is left out of the file, so that the same screen gives the same bytes."""
N_STRONGEST, N_GENES = 10, 6
LONGEST_PART = 40


def write_png(results: Results, folder: Path, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Writes every plot that can be drawn into a folder, 300 dots per inch, and returns the files, in order.

    ranking_MODE, heatmap_MODE, times_MODE  of the strongest site, stratum and time point of every mode
    volcano_NN_SYMBOL_MODE, cells_..., gene_sets_...  of the N_STRONGEST strongest perturbations, in order
    gene_NN_SYMBOL  what moves the genes that the strongest perturbations change most
    What a file's name should not hold is `_` in names (`safe`). Files that are there are replaced.
    Raises ConfigError for another format, WriteError where the folder cannot be written.
    """
    unknown = [f for f in formats if f not in FORMATS]
    if unknown or not formats:
        asked = f'format "{unknown[0]}"{nearest(unknown[0], FORMATS)}' if unknown else "no format is given"
        raise ConfigError(f"{asked}; figures are written as {some(FORMATS)}")
    written = []
    for name, draw in _plots(results):
        try:
            figure = draw()
        except NothingToDrawError:
            continue
        written += [_write(figure, folder / f"{name}.{form}", form) for form in formats]
    return written


def _plots(results: Results) -> Iterator[tuple[str, Callable[[], "PaperFigure"]]]:
    """Name and drawing of each, where the screen holds what it takes; some have nothing to show all the same."""
    modes = list(dict.fromkeys(views.groups_of(results)["mode"].to_list()))
    for mode in modes:
        yield f"ranking_{safe(mode)}", partial(results.plot_ranking, mode)
        if results.has_counts:
            yield f"heatmap_{safe(mode)}", partial(results.plot_heatmap, mode)
        yield f"times_{safe(mode)}", partial(results.plot_times, mode)
    own = results.hits.drop_nulls("strength_rank").unique("perturbation", keep="first", maintain_order=True)
    for k, row in enumerate(own.head(N_STRONGEST).iter_rows(named=True), start=1):
        name = f"{k:02d}_{safe(row['target_symbol'])}_{safe(row['mode'])}"
        one = (row["perturbation"], row["stratum"], row["time"])
        if results.has_counts:
            yield f"volcano_{name}", partial(results.plot_volcano, *one)
        yield f"cells_{name}", partial(results.plot_cells, one[0])
        if results.has_gene_sets:
            yield f"gene_sets_{name}", partial(results.plot_gene_sets, *one)
    for k, (feature, symbol) in enumerate(_responding(results).items(), start=1):
        yield f"gene_{k:02d}_{safe(symbol)}", partial(results.plot_gene, feature)


def _responding(results: Results) -> dict[str, str]:
    """Ensembl ID -> symbol of the genes that the strongest group changes most, most first."""
    groups = views.groups_of(results)
    if groups.is_empty() or not results.has_counts:
        return {}
    matrix = views.change_matrix(results, **groups.row(0, named=True), n_genes=N_GENES)
    largest_first = np.argsort(-np.nansum(np.square(matrix.change_PG), axis=0), kind="stable")
    return {matrix.feature_G[g]: matrix.feature_symbol_G[g] for g in largest_first}


def safe(text: str) -> str:
    """A text as part of a file's name: letters, digits, `.`, `+` and `-`; whatever else becomes `_`, and no dot at an end."""
    kept = re.sub(r"\.+", ".", re.sub(r"[^A-Za-z0-9.+-]+", "_", text)).strip("._")[:LONGEST_PART].rstrip("._")
    return kept or "_"


def _write(figure: "PaperFigure", path: Path, form: str) -> Path:
    file = io.BytesIO()
    figure.savefig(file, format=form, metadata=FORMATS[form])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, file.getvalue())
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}; choose another folder") from error
    return path
