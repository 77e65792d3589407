"""Volcano: every gene's mean change against how sure it is, for one perturbation in one stratum at one time point."""

import numpy as np
import polars as pl

from screen.plots.labels import name_points
from screen.plots.style import (
    DOWN,
    DOWN_MARK,
    GREY,
    MANY_POINTS,
    MINUS,
    PALE,
    PLAIN_MARK,
    SINGLE_MM,
    UP,
    UP_MARK,
    PaperFigure,
    heading,
    key,
    new_figure,
    plain_axis,
    styled,
)
from screen.stats.deg import DEG_FDR, DEG_MIN_DELTA

LEAST_FDR = 1e-300


def volcano(
    genes: pl.DataFrame,
    title: str,
    column: str = "fdr",
    n_named: int = 12,
    max_fdr: float = DEG_FDR,
    min_delta: float = DEG_MIN_DELTA,
) -> PaperFigure:
    """Mean change against -log10 of `column` ("fdr" or "p_value"); the genes that change most, rises and falls in turn, named.

    genes  rows of the table of genes, of one perturbation, stratum and time point; those without a value are not drawn
    Coloured and triangular are genes below `max_fdr` in `column` that change by more than `min_delta`.
    """
    drawn = genes.drop_nulls(["mean_delta", column]).sort(pl.col("mean_delta").cast(pl.Float64).abs(), descending=True)
    x_N = drawn["mean_delta"].cast(pl.Float64).to_numpy()
    y_N = -np.log10(np.maximum(drawn[column].to_numpy(), LEAST_FDR)) + 0.0
    is_sure_N = (drawn[column].to_numpy() < max_fdr) & (np.abs(x_N) > min_delta)
    kinds = {
        "others": (~is_sure_N, PALE, PLAIN_MARK, 4.0),
        "falls": (is_sure_N & (x_N < 0), DOWN, DOWN_MARK, 9.0),
        "rises": (is_sure_N & (x_N > 0), UP, UP_MARK, 9.0),
    }
    with styled():
        figure = new_figure(SINGLE_MM, 85)
        axes = figure.subplots()
        heading(figure, title)
        for label, (chosen, colour, mark, size) in kinds.items():
            if chosen.any():
                axes.scatter(
                    x_N[chosen],
                    y_N[chosen],
                    s=size,
                    c=colour,
                    marker=mark,
                    linewidths=0,
                    alpha=0.8,
                    label=f"{label} ({int(chosen.sum()):,})",
                    rasterized=int(chosen.sum()) > MANY_POINTS,
                )
        largest = float(np.abs(x_N).max(initial=min_delta)) * 1.15
        axes.set(xlim=(-largest, largest), ylim=(0, float(y_N.max(initial=1.4)) * 1.1))
        axes.axhline(-np.log10(max_fdr), color=GREY, linewidth=0.4, linestyle=(0, (4, 3)), zorder=0)
        for edge in (-min_delta, min_delta):
            axes.axvline(edge, color=GREY, linewidth=0.4, linestyle=(0, (4, 3)), zorder=0)
        plain_axis(axes.xaxis)
        plain_axis(axes.yaxis)
        axes.set_xlabel("mean change of log expression (0.01 is about 1 %)")
        axes.set_ylabel(f"{MINUS}log₁₀ {'FDR' if column == 'fdr' else 'p'}")
        key(figure, *axes.get_legend_handles_labels())
        rises, falls = np.flatnonzero(x_N > 0), np.flatnonzero(x_N < 0)
        chosen = [int(i) for pair in zip(rises[:n_named], falls[:n_named], strict=False) for i in pair]
        chosen += [int(i) for i in [*rises[len(falls) :], *falls[len(rises) :]]]
        chosen = chosen[:n_named]
        name_points(axes, x_N, y_N, chosen, drawn["feature_symbol"].cast(pl.String).gather(chosen).to_list())
    return figure
