"""Cells: how strongly each cell answers one perturbation, a strip per stratum and time point."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from screen.plots.ranking import SHIFT
from screen.plots.style import (
    DARK,
    MANY_POINTS,
    SERIES,
    SINGLE_MM,
    PaperFigure,
    heading,
    key,
    names_on,
    new_figure,
    plain_axis,
    shown,
    styled,
)

STRIP_MM, FRAME_MM = 7.0, 24.0
SPREAD = 0.7
"""Share of a strip's height that points are spread over."""


def cells(
    rows: pl.DataFrame, title: str, strata: Sequence[str], times: Sequence[int], has_counts: bool = True
) -> PaperFigure:
    """A point per cell at its strength (without counts: embedding shift), strata below one another, a bar at the median.

    rows  as of `Results.cells`, of one perturbation; strata, times  in the order in which they are shown
    Heights within a strip are random, always the same: they keep points apart.
    """
    value, rng = ("strength" if has_counts else "embedding_shift"), np.random.default_rng(0)
    places = [(stratum, time) for stratum in strata for time in times]
    with styled():
        figure = new_figure(SINGLE_MM, FRAME_MM + STRIP_MM * max(len(places), 2))
        axes = figure.subplots()
        heading(figure, title)
        for place, (stratum, time) in enumerate(places):
            x_N = rows.filter(stratum=stratum, time=time)[value].drop_nulls().to_numpy()
            colour, mark = SERIES[times.index(time) % len(SERIES)]
            y_N = place + SPREAD * (rng.random(len(x_N)) - 0.5)
            label = f"time {time}" if stratum == strata[0] else None
            axes.scatter(
                x_N,
                y_N,
                s=7,
                c=colour,
                marker=mark,
                linewidths=0,
                alpha=0.75 if len(x_N) < 300 else 0.35,
                label=label,
                rasterized=len(x_N) > MANY_POINTS,
            )
            if len(x_N):
                axes.plot([np.median(x_N)] * 2, [place - 0.42, place + 0.42], color=DARK, linewidth=1.2)
        many = len(times) > 1
        n_cells = [rows.filter(stratum=s, time=t).height for s, t in places]
        at_time = [f", t{t}" if many else "" for _, t in places]
        names_on(
            axes, "y", [f"{shown(s, 30)}{t} ({n:,})" for (s, _), t, n in zip(places, at_time, n_cells, strict=True)]
        )
        axes.set(ylim=(len(places) - 0.4, -0.6))
        axes.set_xlim(left=0)
        plain_axis(axes.xaxis)
        axes.set_xlabel("change in a cell (r.m.s., log expression)" if has_counts else SHIFT)
        if many:
            key(figure, *axes.get_legend_handles_labels())
    return figure
