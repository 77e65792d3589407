"""Leaders: of every edit the strongest perturbations, and where they stand out: the answer's names."""

from dataclasses import dataclass

import polars as pl

from screen.results.sentences import STANDS_OUT

N_LEADERS = 5


@dataclass(frozen=True)
class Leader:
    """A perturbation and, in words, where it stands out, or its q where nothing of its edit does."""

    perturbation: str
    symbol: str
    where: str


@dataclass(frozen=True)
class Leaders:
    """An edit; whether anything of it stands out; the strongest that do, or else the strongest."""

    edit: str
    stand_out: bool
    listed: list[Leader]


def leaders(ranked: pl.DataFrame) -> list[Leaders]:
    """Of each site and mode, in the order of a ranking: rows of hits with a strength_rank, strongest first."""
    found, is_one_site = [], ranked["site"].n_unique() < 2
    for (site, mode), part in ranked.group_by("site", "mode", maintain_order=True):
        called = part.filter(pl.col("q_value") < STANDS_OUT)
        best = (part if called.is_empty() else called).unique("perturbation", keep="first", maintain_order=True)
        n_of = {
            name: dict(rows.group_by("perturbation").len().iter_rows())
            for name, rows in (("called", called), ("all", part))
        }
        listed = []
        for row in best.head(N_LEADERS).iter_rows(named=True):
            n_called, n = (n_of[name].get(row["perturbation"], 0) for name in ("called", "all"))
            listed.append(Leader(row["perturbation"], row["target_symbol"], _where(row, n_called, n)))
        found.append(Leaders(str(mode) if is_one_site else f"{site}:{mode}", not called.is_empty(), listed))
    return found


def _where(row: dict[str, object], n_called: int, n: int) -> str:
    if n_called == 0:
        return "" if row["q_value"] is None else f"q {row['q_value']:.2g}"
    if n == 1:
        return f"q {row['q_value']:.2g}"
    if n_called == n:
        return f"all {n}"
    return f"{row['stratum']}, t{row['time']} alone" if n_called == 1 else f"{n_called} of {n}"
