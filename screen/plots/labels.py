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
LINE_FROM_PT = 4.0
"""A name this far from its point has a line to it."""
MOST_COVERED = 1
"""A name that would cover more points than this, its line among what covers, is left out."""
LINE_COVERS_PT = 1.5
Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in pixels."""


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
    placed, lines, found = list[Box](), list[NDArray[np.float64]](), list[Annotation]()
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
        box = _best_box(point_N2, i, size.width, size.height, pixels, inside, placed, lines)
        if box is None:
            label.remove()
            continue
        placed.append(box)
        offset = ((box[0] - point_N2[i, 0]) / pixels, (box[1] - point_N2[i, 1]) / pixels)
        label.set_position(offset)
        label.set_verticalalignment("bottom")
        line_22 = _line(point_N2[i], box)
        if np.hypot(*(line_22[1] - line_22[0])) >= LINE_FROM_PT * pixels:
            lines.append(line_22)
            x_2, y_2 = axes.transData.inverted().transform(line_22).T
            axes.plot(x_2, y_2, color=GREY, linewidth=0.4, zorder=4, scalex=False, scaley=False)
        found.append(label)
    return found


def _best_box(
    point_N2: NDArray[np.float64],
    i: int,
    width: float,
    height: float,
    pixels: float,
    inside: Any,
    placed: Sequence[Box],
    lines: Sequence[NDArray[np.float64]],
) -> Box | None:
    """The place that covers fewest points, the nearest of these; None where all cover too many, another name or a line."""
    best, fewest = None, np.inf
    for k, distance in enumerate(DISTANCES_PT):
        for dx, dy in DIRECTIONS:
            x, y = point_N2[i, 0] + dx * distance * pixels, point_N2[i, 1] + dy * distance * pixels
            left = x if dx > 0.1 else x - width if dx < -0.1 else x - width / 2
            bottom = y if dy > 0.5 else y - height if dy < -0.5 else y - height / 2
            box = (left, bottom, left + width, bottom + height)
            if box[0] < inside.x0 or box[1] < inside.y0 or box[2] > inside.x1 or box[3] > inside.y1:
                continue
            line_22 = _line(point_N2[i], box)
            if any(_overlap(box, other) or _crosses(line_22, other) for other in placed):
                continue
            if any(_crosses(other, box) for other in lines):
                continue
            n_covered = _n_covered(point_N2, i, box, line_22, pixels)
            # a place further away must spare points to be better
            if n_covered <= MOST_COVERED and n_covered + 0.4 * k < fewest:
                best, fewest = box, n_covered + 0.4 * k
    return best


def _n_covered(point_N2: NDArray[np.float64], i: int, box: Box, line_22: NDArray[np.float64], pixels: float) -> int:
    """Points under a name's box, or, other than its own, under its line."""
    x_N, y_N = point_N2.T
    is_covered_N = (x_N > box[0]) & (x_N < box[2]) & (y_N > box[1]) & (y_N < box[3])
    if np.hypot(*(line_22[1] - line_22[0])) >= LINE_FROM_PT * pixels:
        place_K2 = line_22[0] + np.linspace(0, 1, 12)[:, None] * (line_22[1] - line_22[0])
        near = np.hypot(x_N[:, None] - place_K2[:, 0], y_N[:, None] - place_K2[:, 1]) < LINE_COVERS_PT * pixels
        is_covered_N |= near.any(axis=1)
    is_covered_N[i] = False
    return int(is_covered_N.sum())


def _overlap(one: Box, two: Box) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


def _line(point_2: NDArray[np.float64], box: Box) -> NDArray[np.float64]:
    """From a point to the nearest place of its name's box."""
    return np.stack([point_2, [np.clip(point_2[0], box[0], box[2]), np.clip(point_2[1], box[1], box[3])]])


def _crosses(line_22: NDArray[np.float64], box: Box) -> bool:
    """Whether any of a line lies in a box, as far as points along it tell."""
    x_K, y_K = (line_22[0] + np.linspace(0, 1, 25)[:, None] * (line_22[1] - line_22[0])).T
    return bool(((x_K > box[0]) & (x_K < box[2]) & (y_K > box[1]) & (y_K < box[3])).any())
