"""Gene sets: which sets one perturbation shifts, and how far, as points on lines from 0."""

import numpy as np
import polars as pl

from screen.plots.style import (
    DARK,
    DOUBLE_MM,
    DOWN,
    DOWN_MARK,
    GREY,
    UP,
    UP_MARK,
    PaperFigure,
    heading,
    key,
    names_on,
    new_figure,
    plain_axis,
    shown,
    styled,
)

LINE_MM, FRAME_MM = 4.0, 26.0


def gene_sets(scores: pl.DataFrame, title: str, q_max: float, n: int = 20) -> PaperFigure:
    """The n sets that are shifted farthest, up and down apart; filled where q is below `q_max`.

    scores  rows of the table "scores" of gene sets, of one perturbation, stratum and time point
    Far is `null_z`, from what null perturbations do to the same set; where any has none, the score itself.
    """
    has_null = scores["null_z"].null_count() == 0
    value = "null_z" if has_null else "score"
    far = pl.col(value).abs()
    drawn = scores.drop_nulls(value).sort(far, "gene_set", descending=[True, False]).head(n)
    drawn = drawn.sort(value, "gene_set", descending=[True, False])
    x_N = drawn[value].to_numpy()
    is_found_N = (drawn["q_value"].fill_null(1) < q_max).to_numpy()
    with styled():
        figure = new_figure(DOUBLE_MM, FRAME_MM + LINE_MM * max(len(x_N), 4))
        axes = figure.subplots()
        heading(figure, title)
        axes.hlines(np.arange(len(x_N)), 0, x_N, color=GREY, linewidth=0.6, zorder=1)
        kinds = {
            f"up, q < {q_max:g}": (is_found_N & (x_N > 0), UP, UP_MARK, True),
            f"down, q < {q_max:g}": (is_found_N & (x_N <= 0), DOWN, DOWN_MARK, True),
            "up": (~is_found_N & (x_N > 0), UP, UP_MARK, False),
            "down": (~is_found_N & (x_N <= 0), DOWN, DOWN_MARK, False),
        }
        for label, (chosen, colour, mark, is_filled) in kinds.items():
            if chosen.any():
                axes.scatter(
                    x_N[chosen],
                    np.flatnonzero(chosen),
                    s=18,
                    marker=mark,
                    facecolors=colour if is_filled else "white",
                    edgecolors=colour,
                    linewidths=0.8,
                    label=label,
                    zorder=2,
                )
        axes.axvline(0, color=DARK, linewidth=0.6)
        names_on(axes, "y", [f"{shown(s, 70)} ({n})" for s, n in drawn.select("gene_set", "n_set").iter_rows()], 90)
        axes.set(ylim=(max(len(x_N), 4) - 0.4, -0.6))
        axes.spines["left"].set_visible(False)
        plain_axis(axes.xaxis)
        far_off = "standard deviations from what null perturbations do to the set"
        axes.set_xlabel(far_off if has_null else "score (t of the set in a linear model of the mean changes)")
        key(figure, *axes.get_legend_handles_labels())
    return figure
