"""Labels: names beside points, placed so that none lies on another."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from numpy.typing import NDArray

from screen.plots.style import DARK, GREY, settle, shown

DISTANCES_PT = (3.0, 8.0, 14.0, 22.0, 32.0)
DIRECTIONS = tuple(
    (float(np.cos(a)), float(np.sin(a))) for a in np.deg2rad([20, 160, -20, 200, 60, 120, -60, -120, 90, -90])
)
LINE_FROM_PT = 7.0
"""A name this far from its point has a line to it."""


def name_points(
    axes: Axes, x_N: NDArray[np.float64], y_N: NDArray[np.float64], chosen: Sequence[int], names: Sequence[str]
) -> list[Annotation]:
    """Writes the names of chosen points, first ones first, where least is covered; one that finds no room is left out.

    x_N, y_N  every point that should stay visible; `names` are those of the chosen ones
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    renderer = settle(figure)
    inside = axes.get_window_extent(renderer)
    known_N = np.isfinite(x_N) & np.isfinite(y_N)
    point_N2 = np.full((len(x_N), 2), np.nan)
    point_N2[known_N] = axes.transData.transform(np.column_stack([x_N, y_N])[known_N])
    pixels = figure.dpi / 72
    placed: list[tuple[float, float, float, float]] = []
    found = []
    for i, name in zip(chosen, names, strict=True):
        if not known_N[i] or not inside.contains(*point_N2[i]):
            continue
        label = axes.annotate(
            shown(name, 24),
            (x_N[i], y_N[i]),
            (0, 0),
            textcoords="offset points",
            color=DARK,
            parse_math=False,
            zorder=5,
        )
        size = label.get_window_extent(renderer)
        box = _best_box(point_N2, i, size.width, size.height, pixels, inside, placed)
        if box is None:
            label.remove()
            continue
        placed.append(box)
        offset = ((box[0] - point_N2[i, 0]) / pixels, (box[1] - point_N2[i, 1]) / pixels)
        label.set_position(offset)
        label.set_verticalalignment("bottom")
        _connect(axes, point_N2[i], box, pixels)
        found.append(label)
    return found


def _best_box(
    point_N2: NDArray[np.float64],
    i: int,
    width: float,
    height: float,
    pixels: float,
    inside: Any,
    placed: Sequence[tuple[float, float, float, float]],
) -> tuple[float, float, float, float] | None:
    """Left, bottom, right, top in pixels of the place that covers fewest points, the nearest of these; None without one."""
    best, fewest = None, np.inf
    for k, distance in enumerate(DISTANCES_PT):
        for dx, dy in DIRECTIONS:
            x, y = point_N2[i, 0] + dx * distance * pixels, point_N2[i, 1] + dy * distance * pixels
            left = x if dx > 0.1 else x - width if dx < -0.1 else x - width / 2
            bottom = y if dy > 0.5 else y - height if dy < -0.5 else y - height / 2
            box = (left, bottom, left + width, bottom + height)
            if box[0] < inside.x0 or box[1] < inside.y0 or box[2] > inside.x1 or box[3] > inside.y1:
                continue
            if any(_overlap(box, other) for other in placed):
                continue
            x_N, y_N = point_N2.T
            is_covered_N = (x_N > box[0]) & (x_N < box[2]) & (y_N > box[1]) & (y_N < box[3])
            # a place further away must spare points to be better
            cost = float(is_covered_N.sum()) + 0.5 * k
            if cost < fewest:
                best, fewest = box, cost
    return best


def _overlap(one: Sequence[float], two: Sequence[float]) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


def _connect(axes: Axes, point_2: NDArray[np.float64], box: Sequence[float], pixels: float) -> None:
    """A thin line from a point to the nearest place of its name's box."""
    end_2 = np.array([np.clip(point_2[0], box[0], box[2]), np.clip(point_2[1], box[1], box[3])])
    if np.hypot(*(end_2 - point_2)) < LINE_FROM_PT * pixels:
        return
    (x0, y0), (x1, y1) = axes.transData.inverted().transform(np.stack([point_2, end_2]))
    axes.plot([x0, x1], [y0, y1], color=GREY, linewidth=0.4, zorder=4, scalex=False, scaley=False)
