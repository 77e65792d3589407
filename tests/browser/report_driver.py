"""Report: the page of a screen as its reader uses it: tables read back, controls set, figures asked what they were given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page

READ = """([place, isWhole]) => {
  const rows = [];
  const read = () => document.querySelectorAll(`#${place} tbody tr`).forEach((tr) => rows.push([...tr.cells].map((td) =>
    (td.querySelector("button") ?? td).textContent)));
  const button = (i) => document.querySelectorAll(`#${place} .pager button`)[i];
  while (isWhole && !button(0).disabled) button(0).click();
  for (read(); isWhole && !button(1).disabled; read()) button(1).click();
  return rows;
}"""
GIVEN = """(place) => document.getElementById(place).data.map((trace) => {
  const plain = (x) => (ArrayBuffer.isView(x) ? Array.from(x) : x);
  const { name, x, y, z, customdata, marker } = trace;
  return { name, x: plain(x), y: plain(y), z: plain(z), customdata: plain(customdata), symbol: marker?.symbol };
})"""
CLICK = """([place, trace, i]) => {
  const plot = document.getElementById(place);
  const { customdata, x, y } = plot.data[trace];
  plot.emit("plotly_click", { points: [{ customdata: customdata?.[i], x: x[i], y: y[i] }] });
}"""
MINUS, UNKNOWN = "\N{MINUS SIGN}", "\N{EN DASH}"
"""As the page writes them; the dash stands between the first and the last row, too."""
WAIT_MS = 400
"""Longer than a search box waits for the next letter."""


class Report:
    """Of an opened page."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def choose(self, **values: str | int | None) -> None:
        """Sets the selects with these ids by what they say; "all" where None."""
        for name, value in values.items():
            if self.page.is_visible(f"#{name}"):
                self.page.select_option(f"#{name}", label="all" if value is None else str(value))

    def tick(self, name: str, is_on: bool) -> None:
        """Sets a check box."""
        self.page.set_checked(f"#{name}", is_on)

    def type(self, name: str, text: str) -> None:
        """Fills a search box and waits until it has been heard."""
        self.page.fill(f"#{name}", text)
        self.page.wait_for_timeout(WAIT_MS)

    def text(self, name: str) -> str:
        """What is read at an id."""
        return self.page.inner_text(f"#{name}").strip()

    def titles(self, table: str) -> list[str]:
        """Headings of a table."""
        found: list[str] = self.page.evaluate(
            "(place) => [...document.querySelectorAll(`#${place} thead th`)].map((th) => th.textContent)", table
        )
        return found

    def rows(self, table: str, is_whole: bool = True) -> list[dict[str, str]]:
        """Rows of a table by their headings: of all its pages, or of that which is shown."""
        titles = self.titles(table)
        return [dict(zip(titles, row, strict=True)) for row in self.page.evaluate(READ, [table, is_whole])]

    def given(self, plot: str) -> list[dict[str, Any]]:
        """What plotly was given, trace by trace."""
        found: list[dict[str, Any]] = self.page.evaluate(GIVEN, plot)
        return found

    def click_point(self, plot: str, trace: int, point: int) -> None:
        """What plotly tells of a click on a point."""
        self.page.evaluate(CLICK, [plot, trace, point])

    @property
    def address(self) -> str:
        """What follows # in the address."""
        return str(self.page.evaluate("decodeURIComponent(location.hash.slice(1))"))


def number(text: str) -> float | None:
    """What a cell of a table says: None for what is not known."""
    return None if text in (UNKNOWN, "") else float(text.replace(MINUS, "-").replace(",", "").lstrip("+"))


def column(rows: list[dict[str, str]], title: str) -> list[float | None]:
    """The numbers of a column."""
    return [number(row[title]) for row in rows]


def reads(found: Sequence[float | None], expected: Sequence[float | None], digits: int) -> bool:
    """Whether numbers are others to so many digits, rounded twice: to the page's data, which have one more, then for its reader."""
    if len(found) != len(expected):
        return False
    both = [(a, b) for a, b in zip(found, expected, strict=True) if a is not None or b is not None]
    return all(
        a is not None and b is not None and abs(a - b) <= 0.5501 * 10.0 ** (1 - digits) * abs(b) + 1e-300
        for a, b in both
    )
