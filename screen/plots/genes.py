"""Genes: which perturbations move one gene, and how far, as bars."""

import numpy as np
import polars as pl

from screen.plots.style import (
    DARK,
    DOUBLE_MM,
    DOWN,
    SINGLE_MM,
    UP,
    PaperFigure,
    heading,
    names_on,
    new_figure,
    plain_axis,
    shown,
    styled,
)

BAR_MM, FRAME_MM = 3.6, 22.0
WIDE_LETTERS = 28
"""With longer names than this the figure is two columns wide: bars need room too."""


def gene(movers: pl.DataFrame, title: str) -> PaperFigure:
    """A bar per row of `Results.movers`, the largest change above; lines are two standard errors either way.

    A bar's name is the perturbation's symbol, with the mode, site, stratum and time point where rows differ in these.
    """
    x_N = movers["mean_delta"].cast(pl.Float64).to_numpy()
    se_N = movers["se"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    with styled():
        names = bar_names(movers)
        is_wide = max((len(name) for name in names), default=0) > WIDE_LETTERS
        figure = new_figure(DOUBLE_MM if is_wide else SINGLE_MM, FRAME_MM + BAR_MM * max(len(x_N), 4))
        axes = figure.subplots()
        heading(figure, title)
        axes.barh(
            np.arange(len(x_N)),
            x_N,
            height=0.7,
            color=[UP if x > 0 else DOWN for x in x_N],
            hatch=["" if x > 0 else "////" for x in x_N],
            edgecolor="white",
            linewidth=0,
        )
        known_N = np.flatnonzero(np.isfinite(se_N))
        axes.errorbar(
            x_N[known_N],
            known_N,
            xerr=2 * se_N[known_N],
            fmt="none",
            ecolor=DARK,
            elinewidth=0.6,
            capsize=1.5,
            capthick=0.6,
        )
        axes.axvline(0, color=DARK, linewidth=0.6)
        names_on(axes, "y", names, 80)
        axes.set(ylim=(max(len(x_N), 4) - 0.4, -0.6))
        axes.spines["left"].set_visible(False)
        plain_axis(axes.xaxis)
        axes.set_xlabel("mean change of log expression, ± 2 s.e.")
    return figure


def bar_names(rows: pl.DataFrame) -> list[str]:
    """The symbol of each row's perturbation, and what else it takes to tell rows apart."""
    told = [c for c in ("mode", "site", "stratum", "time") if rows[c].n_unique() > 1]
    found = []
    for row in rows.iter_rows(named=True):
        rest = ", ".join(f"t{row[c]}" if c == "time" else shown(str(row[c]), 22) for c in told)
        name = shown(row["target_symbol"], 24) + " (random)" * row["is_null"]
        found.append(f"{name}, {rest}" if rest else name)
    return found
