"""Times: how strong each perturbation is at one time point against another."""

import numpy as np
import polars as pl

from screen.plots.labels import name_points
from screen.plots.ranking import strength_label
from screen.plots.style import (
    GREY,
    MANY_POINTS,
    NULL_MARK,
    PALE,
    PLAIN,
    PLAIN_MARK,
    SINGLE_MM,
    PaperFigure,
    heading,
    key,
    log_axis,
    new_figure,
    styled,
)


def times(
    hits: pl.DataFrame, title: str, first: int, second: int, has_counts: bool = True, n_named: int = 10
) -> PaperFigure:
    """Strength at one time point (across) and another (up); on the line nothing changes. The strongest at either are named.

    hits  rows of the ranking, of one mode, site and stratum; perturbations without a strength at both are not drawn
    """
    of_time = [hits.filter(pl.col("time") == t, pl.col("strength") > 0) for t in (first, second)]
    both = of_time[0].join(of_time[1].select("perturbation", other="strength"), on="perturbation", how="inner")
    both = both.sort(pl.max_horizontal("strength", "other"), "perturbation", descending=[True, False])
    x_N, y_N = both["strength"].to_numpy(), both["other"].to_numpy()
    is_null_N = both["is_null"].to_numpy()
    with styled():
        figure = new_figure(SINGLE_MM, 92)
        axes = figure.subplots()
        heading(figure, title)
        for which in ("x", "y"):
            log_axis(axes, which, np.concatenate([x_N, y_N]).tolist())
        kinds = {"random genes (null)": (is_null_N, PALE, NULL_MARK), "perturbations": (~is_null_N, PLAIN, PLAIN_MARK)}
        for label, (chosen, colour, mark) in kinds.items():
            if chosen.any():
                axes.scatter(
                    x_N[chosen],
                    y_N[chosen],
                    s=8,
                    c=colour,
                    marker=mark,
                    linewidths=0,
                    alpha=0.7,
                    label=f"{label} ({int(chosen.sum()):,})",
                    rasterized=int(chosen.sum()) > MANY_POINTS,
                )
        axes.axline((1.0, 1.0), (10.0, 10.0), color=GREY, linewidth=0.5, linestyle=(0, (4, 3)), zorder=0)
        axes.set_box_aspect(1)
        axes.set_xlabel(f"time {first}: {strength_label(has_counts)}")
        axes.set_ylabel(f"time {second}: {strength_label(has_counts)}")
        key(figure, *axes.get_legend_handles_labels())
        chosen_N = np.flatnonzero(~is_null_N)[:n_named]
        name_points(axes, x_N, y_N, chosen_N.tolist(), both["target_symbol"].gather(chosen_N).to_list())
    return figure
