"""Heat map: how perturbations change genes, rows and columns in the order in which they come."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from screen.plots.style import DIVERGING, DOUBLE_MM, MISSING, heading, names_on, new_figure, plain_axis, styled

ROW_MM, FRAME_MM = 2.9, 38.0
CLIPPED = 0.98
"""Colours reach their ends at this share of the changes, by size: one large change does not make all others pale."""
MARKED = 0.5
"""Falls by more than this share of the colours' range have a dash, which a grey print shows."""


def heatmap(change_PG: NDArray[np.float64], perturbation_P: Sequence[str], gene_G: Sequence[str], title: str) -> Figure:
    """Mean changes as colours, symmetric around white; a dash marks strong falls, light grey what the table of genes lacks."""
    known = np.abs(change_PG[np.isfinite(change_PG)])
    limit = float(np.quantile(known, CLIPPED)) if known.size else 0.0
    limit = limit or float(known.max(initial=0.0)) or 1.0
    is_clipped = bool(known.size and known.max() > limit)
    with styled():
        figure = new_figure(DOUBLE_MM, FRAME_MM + ROW_MM * max(len(perturbation_P), 4))
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
        bar = figure.colorbar(
            image, ax=axes, shrink=0.6, aspect=18, pad=0.01, extend="both" if is_clipped else "neither"
        )
        bar.outline.set_visible(False)
        plain_axis(bar.ax.yaxis)
        bar.set_label("mean change of log expression")
    return figure
