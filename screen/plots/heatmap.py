"""Heat map: how perturbations change genes, rows and columns in the order in which they come."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.plots.style import (
    DIVERGING,
    DOUBLE_MM,
    MISSING,
    PaperFigure,
    heading,
    names_on,
    new_figure,
    plain_axis,
    shown,
    styled,
)

ROW_MM, FRAME_MM, MM_PER_LETTER = 2.9, 28.0, 1.5
CLIPPED = 0.98
"""Colours reach their ends at this share of the changes, by size: one large change does not make all others pale."""
MARKED = 0.5
"""Falls by more than this share of the colours' range have a dash, which a grey print shows."""


def heatmap(
    change_PG: NDArray[np.float64], perturbation_P: Sequence[str], gene_G: Sequence[str], title: str
) -> PaperFigure:
    """Mean changes as colours, symmetric around white; a dash marks strong falls, light grey what the table of genes lacks."""
    known = np.abs(change_PG[np.isfinite(change_PG)])
    limit = float(np.quantile(known, CLIPPED)) if known.size else 0.0
    limit = limit or float(known.max(initial=0.0)) or 1.0
    is_clipped = bool(known.size and known.max() > limit)
    with styled():
        longest = max((len(shown(name)) for name in gene_G), default=0)
        figure = new_figure(DOUBLE_MM, FRAME_MM + MM_PER_LETTER * longest + ROW_MM * max(len(perturbation_P), 4))
        axes = figure.subplots()
        heading(figure, title)
        axes.set_facecolor(MISSING)
        image = axes.imshow(
            np.ma.masked_invalid(change_PG),
            cmap=DIVERGING,
            vmin=-limit,
            vmax=limit,
            aspect="auto",
            interpolation="nearest",
        )
        axes.spines[:].set_visible(False)
        names_on(axes, "y", perturbation_P)
        names_on(axes, "x", gene_G, rotation=90)
        row_F, column_F = np.nonzero(np.nan_to_num(change_PG) <= -MARKED * limit)
        axes.plot(column_F, row_F, linestyle="none", marker="_", markersize=3, markeredgewidth=0.6, color="white")
        ends: Any = "both" if is_clipped else "neither"
        bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.4, aspect=30, pad=0.03, extend=ends)
        bar.outline.set_visible(False)
        plain_axis(bar.ax.xaxis)
        bar.set_label("mean change of log expression (white dash: a fall by over half the range)")
    return figure
