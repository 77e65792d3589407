"""Style: how every figure looks. Sizes in millimetres, 7 point sans, colours that are told apart without seeing colour."""

import textwrap
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.ticker import AutoLocator, Formatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

SINGLE_MM, DOUBLE_MM = 89.0, 183.0
"""Widths of one and of two columns of a journal's page."""
POINTS, TITLE_POINTS = 7.0, 8.0
MM_PER_INCH = 25.4
MM_PER_LETTER = 1.55
"""Of a title, on average."""
FONTS = ("Arial", "Helvetica", "Liberation Sans", "Nimbus Sans", "DejaVu Sans")
"""The first of these that is installed; the last comes with matplotlib, and has the letters that another lacks."""
DOTS_PER_INCH = 300
MANY_POINTS = 3000
"""So many points of one kind are an image in a vector file, which would be slow to open otherwise."""
LONGEST_NAME = 40
MINUS = "\N{MINUS SIGN}"

# Okabe and Ito's colours, of different lightness, and each with a shape of its own
UP, DOWN, HIT, PLAIN, PALE, DARK, GREY = "#D55E00", "#0072B2", "#D55E00", "#0072B2", "#9A9A9A", "#222222", "#777777"
UP_MARK, DOWN_MARK, HIT_MARK, PLAIN_MARK, NULL_MARK = "^", "v", "D", "o", "s"
SERIES = (("#0072B2", "o"), ("#E69F00", "D"), ("#222222", "^"), ("#56B4E9", "s"), ("#D55E00", "v"), ("#009E73", "P"))
"""Colour and shape of time points, in turn."""
# falls end darker than rises, so that they differ in grey too
DIVERGING = LinearSegmentedColormap.from_list(
    "falls_and_rises", ["#053061", "#2166AC", "#92C5DE", "#FFFFFF", "#FDC38D", "#EF7D2D", "#C64A02"]
)
MISSING = "#DDDDDD"

STYLE: dict[str, Any] = {
    "font.size": POINTS,
    "axes.titlesize": TITLE_POINTS,
    "axes.titlelocation": "left",
    "axes.labelsize": POINTS,
    "xtick.labelsize": POINTS,
    "ytick.labelsize": POINTS,
    "legend.fontsize": POINTS,
    "legend.frameon": False,
    "legend.handletextpad": 0.3,
    "legend.borderaxespad": 0.2,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 0.8,
    "hatch.linewidth": 0.5,
    "text.parse_math": False,
    "text.usetex": False,
    "axes.unicode_minus": True,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "screen",
    "savefig.dpi": DOTS_PER_INCH,
}


@contextmanager
def styled() -> Iterator[None]:
    """What is drawn or written within it looks as STYLE says; everybody else's settings stay as they are."""
    installed = {font.name for font in fontManager.ttflist}
    with matplotlib.rc_context(), warnings.catch_warnings():
        # a name in a script that no installed font has: boxes in an image, the name itself in a vector file
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        # not what the user's own file says either
        matplotlib.rcdefaults()
        settings: Any = STYLE | {"font.family": [name for name in FONTS if name in installed]}
        matplotlib.rcParams.update(settings)
        yield


class PaperFigure(Figure):
    """A figure that is written as it was drawn: text stays text in PDF and SVG, 300 dots per inch; a notebook shows it."""

    def savefig(self, fname: Any, **settings: Any) -> None:
        """As of any figure."""
        with styled():
            super().savefig(fname, **settings)

    def _repr_png_(self) -> bytes:
        import io

        file = io.BytesIO()
        self.savefig(file, format="png", dpi=2 * self.dpi)
        return file.getvalue()


def new_figure(width_mm: float, height_mm: float) -> PaperFigure:
    """An empty figure that belongs to no window. Call it, and draw, within `styled`."""
    figure = PaperFigure(figsize=(width_mm / MM_PER_INCH, height_mm / MM_PER_INCH), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def settle(figure: Figure) -> Any:
    """Lays the figure out and keeps it so; its renderer, which knows how large text is."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    canvas: Any = figure.canvas
    return canvas.get_renderer()


def shown(name: str, longest: int = LONGEST_NAME) -> str:
    """A name as one line of text that a figure can hold: nothing that moves the pen, the end of a long one left out."""
    line = "".join(" " if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn") else c for c in name)
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def heading(figure: Figure, text: str) -> None:
    """A title at the left edge of a figure, in up to three lines."""
    lines = textwrap.wrap(
        shown(text, 300), int(figure.get_figwidth() * MM_PER_INCH / MM_PER_LETTER), max_lines=3, placeholder="…"
    )
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=TITLE_POINTS, parse_math=False)


def key(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """What the shapes mean, in a row below all axes; nothing where there is one kind only."""
    if len(handles) > 1:
        figure.legend(handles, [shown(x, 60) for x in labels], loc="outside lower left", ncols=4, columnspacing=1.2)


def plain(value: float, _: object = None) -> str:
    """A number as people write it: 0.001, 20,000, 1e-9."""
    if value == 0:
        return "0"
    size = abs(value)
    text = f"{value:.3g}" if size < 1e4 else f"{value:,.0f}" if size < 1e7 else f"{value:.2g}"
    if 1e-4 <= size < 1e-3:
        text = f"{value:.6f}".rstrip("0")
    return text.replace("-", MINUS) if "e" not in text else text.replace("e-0", "e-").replace("e+0", "e")


def plain_axis(axis: Any, whole: bool = False) -> None:
    """Numbers of an axis as `plain` writes them, about five of them; `whole`: whole ones only."""
    axis.set_major_locator(MaxNLocator(nbins=6, integer=True) if whole else AutoLocator())
    axis.set_major_formatter(FuncFormatter(plain))


def log_axis(axes: Axes, which: str, values: Sequence[float]) -> None:
    """A logarithmic axis from just below the smallest value to just above the largest."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known) & (known > 0)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.1, 1.0)
    getattr(axes, f"set_{which}scale")("log")
    getattr(axes, f"set_{which}lim")(low / 1.25, high * 1.6)
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1.0, 3.0) if high / low < 100 else (1.0,)))
    axis.set_minor_locator(NullLocator())
    formatter: Formatter = FuncFormatter(plain)
    axis.set_major_formatter(formatter)
    axis.set_minor_formatter(NullFormatter())


def names_on(axes: Axes, which: str, names: Sequence[str], longest: int = LONGEST_NAME, **settings: Any) -> None:
    """A name at every whole number of an axis, without ticks."""
    texts = [shown(n, longest) for n in names]
    getattr(axes, f"set_{which}ticks")(range(len(texts)), texts, parse_math=False, **settings)
    axes.tick_params(axis=which, length=0)  # type: ignore[arg-type]
