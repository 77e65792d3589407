"""Ranking: how strong each perturbation of a group is, by where its gene stands and by how many cells have it."""

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter
from numpy.typing import NDArray

from screen.edits import parse
from screen.plots.labels import name_points
from screen.plots.style import (
    DOUBLE_MM,
    HIT,
    HIT_MARK,
    MANY_POINTS,
    MINUS,
    NULL_MARK,
    PALE,
    PLAIN,
    PLAIN_MARK,
    PaperFigure,
    heading,
    key,
    log_axis,
    new_figure,
    plain,
    plain_axis,
    styled,
)

STRENGTH = "strength (r.m.s. change of log expression)"
SHIFT = f"embedding shift (1 {MINUS} cosine)"
Values = NDArray[np.float64]


def strength_label(has_counts: bool) -> str:
    """What strength is: of expression, or, without counts, of the embedding."""
    return STRENGTH if has_counts else SHIFT


def ranking(hits: pl.DataFrame, title: str, q_max: float, has_counts: bool = True, n_named: int = 12) -> PaperFigure:
    """Strength against rank position and, beside it, against presence; hits (q below `q_max`), or the strongest, are named.

    hits  rows of the ranking, of one mode, site, stratum and time point; those without a strength above 0 are not drawn
    Null perturbations are grey squares. Presence is the share of cells that have the gene; where the mode needs no gene, the
    number of edited genes that were there, mean over cells. A gene that no cell had has no position: it is at the right edge.
    """
    by = {"strength": True, "perturbation": False}
    drawn = hits.filter(pl.col("strength") > 0).sort(list(by), descending=list(by.values()))
    needs_gene = all(parse(mode).mode.needs_gene for mode in drawn["mode"].unique())
    with styled():
        figure = new_figure(DOUBLE_MM, 78)
        left, right = figure.subplots(1, 2, sharey=True)
        heading(figure, title)
        log_axis(left, "y", drawn["strength"].to_list())
        left.set_ylabel(strength_label(has_counts))
        position_N = _position_axis(left, drawn)
        presence_N = drawn["coverage" if needs_gene else "n_edited"].cast(pl.Float64).to_numpy()
        right.set_xlabel(_presence_label(needs_gene, bool(drawn["target"].str.contains("+", literal=True).any())))
        plain_axis(right.xaxis)
        right.set_xlim(-0.04, 1.1 * float(np.max(presence_N, initial=1.0)))
        for axes, x_N in ((left, position_N), (right, presence_N)):
            _points(axes, drawn, x_N, q_max)
        key(figure, *left.get_legend_handles_labels())
        chosen = _named(drawn, q_max, n_named)
        for axes, x_N in ((left, position_N), (right, presence_N)):
            name_points(
                axes, x_N, drawn["strength"].to_numpy(), chosen, drawn["target_symbol"].gather(chosen).to_list()
            )
    return figure


def _presence_label(needs_gene: bool, has_joint: bool) -> str:
    if needs_gene:
        return f"share of the stratum's cells that have the gene{'s' * has_joint}"
    return (
        "edited genes that were there already, mean over cells"
        if has_joint
        else "share of cells that had the gene already"
    )


def _position_axis(axes: Axes, drawn: pl.DataFrame) -> Values:
    """Where each perturbation stands on the axis of positions: a gene that no cell had behind all others."""
    axes.set_xlabel("rank position of the gene (0 = highest expressed)")
    plain_axis(axes.xaxis, whole=True)
    position = drawn["rank_position"].cast(pl.Float64)
    if not position.null_count():
        return position.to_numpy()
    known = position.drop_nulls().to_numpy()
    last = float(known.max()) if len(known) else 1.0
    edge = max(last, 1.0) * 1.12
    ticks = [t for t in axes.xaxis.get_major_locator().tick_values(0, last) if 0 <= t <= last] if len(known) else []
    axes.xaxis.set_major_locator(FixedLocator([*ticks, edge]))
    # room for names on its other side
    axes.set_xlim(-0.04 * edge, 1.16 * edge)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: "none" if v == edge else plain(v)))
    return position.fill_null(edge).to_numpy()


def _points(axes: Axes, drawn: pl.DataFrame, x_N: Values, q_max: float) -> None:
    is_null, is_hit = drawn["is_null"].to_numpy(), _is_hit(drawn, q_max)
    kinds = {
        "random genes (null)": (is_null, PALE, NULL_MARK, 6.0),
        "perturbations": (~is_null & ~is_hit, PLAIN, PLAIN_MARK, 7.0),
        f"q < {q_max:g}": (is_hit, HIT, HIT_MARK, 16.0),
    }
    for label, (chosen, colour, mark, size) in kinds.items():
        if chosen.any():
            axes.scatter(
                x_N[chosen],
                drawn["strength"].to_numpy()[chosen],
                s=size,
                c=colour,
                marker=mark,
                linewidths=0,
                alpha=0.9 if chosen.sum() < 100 else 0.55,
                label=f"{label} ({int(chosen.sum()):,})",
                zorder=2 + (label[0] == "q"),
                rasterized=int(chosen.sum()) > MANY_POINTS,
            )


def _is_hit(drawn: pl.DataFrame, q_max: float) -> NDArray[np.bool_]:
    return drawn.select((pl.col("q_value").fill_null(1) < q_max) & ~pl.col("is_null")).to_series().to_numpy()


def _named(drawn: pl.DataFrame, q_max: float, n_named: int) -> list[int]:
    """Rows of the strongest hits; where nothing is one, of the strongest perturbations."""
    is_hit = _is_hit(drawn, q_max)
    chosen = is_hit if is_hit.any() else ~drawn["is_null"].to_numpy()
    return [int(i) for i in np.flatnonzero(chosen)[:n_named]]
