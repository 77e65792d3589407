"""`keep: summaries`: moments of groups say of a screen what its predictions do, however it is cut, stopped and extended."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy.special import stdtr
from scipy.stats import false_discovery_control

from screen.cli.main import main
from screen.engine.executor import Executor
from screen.engine.packed import PackedEngine
from screen.planning.index import BankIndex
from screen.planning.layout import SUMMARIES
from screen.planning.perturbations import Library
from screen.planning.plan import Plan, order
from screen.planning.segments import Segments, segment_of_rows
from screen.planning.selection import select_items
from screen.planning.window import Window
from screen.running.configuration import load_config
from screen.running.prepare import prepare
from screen.running.resume import open_store
from screen.running.runner import run_units
from screen.stats import deg
from screen.stats.moments import Moments, counts_of, joined, moments_of
from tests.support.store_fixture import GENES, full_disk, opened, run, screen_of, small_units, tree
from tests.support.stores import assert_same_arrays, every_array
from tests.support.tiny import write
from tests.unit.planning.test_plan import (
    MAX_LEN,
    SOURCE_TOKEN,
    TARGET_TOKEN,
    VOCABULARY,
    bank_of,
    perturbations,
    rows_of,
)

ULP, ULP_32 = np.finfo(np.float64).eps / 2, float(np.finfo(np.float32).eps) / 2
"""Relative error of one rounding."""


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Random items of four cells in up to three strata."""
    bank = bank_of(
        draw(rows_of(SOURCE_TOKEN, False)), draw(rows_of(TARGET_TOKEN, False)), draw(rows_of(TARGET_TOKEN, False))
    )
    library = draw(st.lists(perturbations, min_size=1, max_size=5, unique=True))
    stratum_C = np.array(draw(st.lists(st.integers(0, 2), min_size=4, max_size=4)))
    selection = select_items(
        Library(tuple(library), (True,) * len(library)), BankIndex(bank, VOCABULARY, MAX_LEN), Window((1, 2), (), MAX_LEN), stratum_C,
        ["a", "b", "c"],
    )  # fmt: skip
    return order(selection, unit_rows=draw(st.integers(1, 9)), cells_per_block=draw(st.integers(1, 4)))


def naive_segments(plan: Plan, unit: int) -> dict[tuple[int, int], list[int]]:
    """(perturbation, stratum) -> rows of the unit, item by item, in the order of the groups."""
    found: dict[tuple[int, int], list[int]] = {}
    for row in range(plan.n_items)[plan.unit(unit)]:
        found.setdefault((int(plan.perturbation_I[row]), int(plan.stratum_C[plan.cell_I[row]])), []).append(row)
    return dict(sorted(found.items()))


@given(plans(), st.integers(1, 5))
def test_segments_are_the_groups_that_each_unit_holds(plan: Plan, step: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("screen.planning.segments.ROWS_STEP", step)
        segments = Segments.of(plan)
    expected = [naive_segments(plan, u) for u in range(plan.n_units)]
    longest = max(map(len, expected), default=0)
    assert segments.rows_per_unit % step == 0
    assert 0 <= segments.rows_per_unit - longest < step or longest == 0
    assert len(segments.perturbation_J) == plan.n_units * segments.rows_per_unit
    for u, groups in enumerate(expected):
        first = u * segments.rows_per_unit
        of_row = dict(zip(range(plan.n_items)[plan.unit(u)], segment_of_rows(plan, plan.unit(u)).tolist(), strict=True))
        for j, ((perturbation, stratum), rows) in enumerate(groups.items(), first):
            assert (segments.perturbation_J[j], segments.stratum_J[j]) == (perturbation, stratum)
            assert segments.n_cells_JT[j].tolist() == plan.is_screened_IT[rows].sum(0).tolist()
            assert {of_row[r] for r in rows} == {j - first}
        unused = slice(first + len(groups), first + segments.rows_per_unit)
        assert (segments.perturbation_J[unused] == -1).all()
        assert (segments.stratum_J[unused] == -1).all()
        assert not segments.n_cells_JT[unused].any()


def exact(delta_NG: np.ndarray, control_NG: np.ndarray, is_log1p: bool) -> Moments:
    """The definition, in extended precision."""
    x, before = delta_NG.astype(np.longdouble), control_NG.astype(np.longdouble)
    mean_G = x.mean(0)
    levels = (np.expm1(before + x), np.expm1(before)) if is_log1p else (before + x, before)
    return Moments(len(x), mean_G, np.square(x - mean_G).sum(0), *(y.mean(0) for y in levels))


def assert_close(found: Moments, delta_NG: np.ndarray, control_NG: np.ndarray, is_log1p: bool, stored: float) -> None:
    """Within what N float64 roundings per sum, and one of `stored` per moment of a part, can do.

    A mean moves by at most e; m2, a sum of n (mean_i - mean)^2 and parts, by 4 e sqrt(n m2) + 8 n e^2 and its own roundings.
    """
    n, known = len(delta_NG), exact(delta_NG, control_NG, is_log1p)
    e_G = (2 * n * ULP + 2 * stored) * np.abs(delta_NG).max(0).astype(np.float64)
    m2_G = known.m2_delta_G
    assert found.n_cells == n
    assert (np.abs(found.mean_delta_G - known.mean_delta_G) <= e_G).all()
    slack_G = ((n + 12) * ULP + 2 * stored) * m2_G + 4 * e_G * np.sqrt(n * m2_G) + 8 * n * e_G**2
    assert (np.abs(found.m2_delta_G - m2_G) <= slack_G).all()
    # float32: 4 units in the last place for expm1 of control and of change, one each for their sum with 1 and product
    size_G = (np.abs(control_NG) + np.abs(delta_NG)).max(0).astype(np.float64)
    level_G = (np.exp(size_G) * 10 if is_log1p else size_G) * (ULP_32 + stored + n * ULP)
    for name in ("target_mean_G", "ref_mean_G"):
        assert (np.abs(getattr(found, name) - getattr(known, name)) <= 2 * level_G).all(), name


def of(delta_NG: np.ndarray, control_NG: np.ndarray, is_log1p: bool) -> Moments:
    return moments_of(delta_NG, counts_of(control_NG, is_log1p), is_log1p)


items = st.tuples(st.integers(1, 12), st.integers(1, 4), st.integers(0, 2**16), st.sampled_from([1e-6, 1e-2, 3.0]))


def random_items(n: int, n_genes: int, seed: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    offset_G = rng.normal(size=n_genes) * rng.choice([0, 1, 100])
    delta_NG = ((offset_G + rng.normal(size=(n, n_genes))) * scale / 30).astype(np.float32)
    return delta_NG, rng.gamma(1, 2, (n, n_genes)).astype(np.float32)


@given(items, st.booleans())
def test_moments_are_those_of_numpy(shape: tuple[int, int, int, float], is_log1p: bool) -> None:
    delta_NG, control_NG = random_items(*shape)
    assert_close(of(delta_NG, control_NG, is_log1p), delta_NG, control_NG, is_log1p, stored=0)


def as_stored(part: Moments) -> Moments:
    """The same after it was in a store."""
    return replace(part, **{f"{n}_G": getattr(part, f"{n}_G").astype(np.float32) for n in SUMMARIES})


@given(items, st.booleans(), st.lists(st.integers(1, 11), max_size=5), st.booleans())
def test_joined_parts_are_the_moments_of_all_items(
    shape: tuple[int, int, int, float], is_log1p: bool, cuts: list[int], is_stored: bool
) -> None:
    delta_NG, control_NG = random_items(*shape)
    places = sorted({c for c in cuts if c < len(delta_NG)})
    pieces = zip(np.split(delta_NG, places), np.split(control_NG, places), strict=True)
    parts = [of(d, c, is_log1p) for d, c in pieces]
    parts = [as_stored(p) for p in parts] if is_stored else parts
    assert_close(joined(parts), delta_NG, control_NG, is_log1p, stored=ULP_32 if is_stored else 0)


LIBRARY = [
    {"genes": [*GENES[39:47], *GENES[48:58]], "modes": ["delete"], "perturbation_sequence": ["tgt"], "pert_tps": [1]},
    {"genes": list(GENES[3:9]), "modes": ["overexpress"]},
]
FLOOR = 1e-9
"""Added to both means (counts per 10,000) before log2 of their ratio."""
BY = ["perturbation", "stratum", "time", "feature"]


@dataclass(frozen=True)
class Kept:
    """The same screen with its predictions, with summaries, and with summaries of a library that was added in two steps."""

    predictions: Path
    summaries: Path
    added: Path


def kept(keep: str, library: Any = LIBRARY, **output: Any) -> dict[str, Any]:
    return screen_of(library, keep=keep, **{"strata": ["cell_type"], "min_cells": 2, **output})


@pytest.fixture(scope="module")
def screens(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    found = Kept(*(tmp_path_factory.mktemp("kept") / n for n in ("predictions", "summaries", "added")))
    assert run(kept("predictions"), found.predictions) == 0
    assert run(kept("summaries"), found.summaries) == 0
    assert run(kept("summaries", LIBRARY[1:]), found.added) == 0
    assert run(kept("summaries"), found.added, "--add") == 0
    return found


def deg_table(out: Path) -> pl.DataFrame:
    return deg.scan(out).collect().sort(BY)


def floats(table: pl.DataFrame, name: str) -> np.ndarray:
    return table[name].cast(pl.Float64).to_numpy()


@dataclass(frozen=True)
class Room:
    """What float32 moments of parts may change in a table of statistics, row by row; NaN for groups of one cell.

    e  of a mean: one rounding of each part's, which is at most the largest change, |mean| + sqrt(m2)
    """

    e: np.ndarray
    se: tuple[np.ndarray, np.ndarray]
    t: tuple[np.ndarray, np.ndarray]
    p: tuple[np.ndarray, np.ndarray]

    @staticmethod
    def of(table: pl.DataFrame) -> "Room":
        mean, se, n = np.abs(floats(table, "mean_delta")), floats(table, "se"), floats(table, "n_cells")
        m2 = se**2 * n * (n - 1)
        e = 2 * ULP_32 * (mean + np.sqrt(np.where(n > 1, m2, 0)))
        # table columns are rounded to float32 as well, on both sides
        change = 6 * ULP_32 * m2 + 4 * e * np.sqrt(n * m2) + 8 * n * e**2
        low, high = (np.sqrt(np.maximum(m2 + d, 0) / (n - 1) / n) for d in (-change, change))
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.maximum(mean - 3 * e, 0) / high, (mean + 3 * e) / low
        p = 2 * stdtr(n - 1, -t[1]), 2 * stdtr(n - 1, -t[0])
        return Room(e, (low, high), t, p)


def assert_between(low: np.ndarray, found: np.ndarray, high: np.ndarray, name: str) -> None:
    known = ~np.isnan(found)
    assert known.any(), name
    # the bounds themselves are computed in float64, the columns rounded to float32
    slack = 4 * ULP_32 * np.abs(found[known])
    wrong = (found[known] < low[known] - slack) | (found[known] > high[known] + slack)
    assert not wrong.any(), f"{name}: {found[known][wrong][:5]}, {low[known][wrong][:5]} to {high[known][wrong][:5]}"


def family_rates(table: pl.DataFrame, p: np.ndarray) -> np.ndarray:
    """False discovery rates of the p-values of every perturbation, stratum and time point."""
    fdr = np.full(len(p), np.nan)
    for rows in np.split(np.arange(len(p)), len(p) // 61):
        assert table[rows.tolist()].select(BY[:3]).unique().height == 1
        if not np.isnan(p[rows]).any():
            fdr[rows] = false_discovery_control(np.minimum(p[rows], 1))
    return fdr


@pytest.mark.parametrize("which", ["summaries", "added"])
def test_the_gene_table_is_that_of_the_predictions(screens: Kept, which: str) -> None:
    theirs, ours = deg_table(screens.predictions), deg_table(getattr(screens, which))
    same = ["feature_symbol", "target", "target_symbol", "mode", "site", "n_cells", "coverage", *BY]
    assert ours.select(same).equals(theirs.select(same))
    assert ours.schema == theirs.schema
    assert theirs["n_cells"].n_unique() >= 3
    room = Room.of(theirs)
    for name in ("se", "statistic", "p_value", "fdr"):
        assert_array_equal(ours[name].is_null(), theirs[name].is_null())
    mean = floats(theirs, "mean_delta")
    assert_between(mean - room.e, floats(ours, "mean_delta"), mean + room.e, "mean_delta")
    rates = family_rates(theirs, room.p[0]), family_rates(theirs, room.p[1])
    for name, (low, high) in {"se": room.se, "statistic": room.t, "p_value": room.p, "fdr": rates}.items():
        assert_between(low, np.abs(floats(ours, name)), high, name)
    relative = []
    for name in ("target_mean", "ref_mean"):
        # means of what is not negative: a part's is at most n times that of all
        known = floats(theirs, name)
        change = (floats(theirs, "n_cells") + 3) * ULP_32 * np.abs(known)
        assert_between(known - change, floats(ours, name), known + change, name)
        relative.append(change / (np.maximum(known, 0) + FLOOR))
    fold, change = floats(theirs, "log2_fold_change"), 2 * sum(relative) / np.log(2)
    assert_between(fold - change, floats(ours, "log2_fold_change"), fold + change, "log2_fold_change")


ORDERED = ("strength_rank", "n_deg")
"""What a rounding can turn."""


@pytest.mark.parametrize("which", ["summaries", "added"])
def test_the_ranking_is_that_of_the_predictions(screens: Kept, which: str) -> None:
    theirs, ours = (
        pl.read_parquet(out / "hits.parquet").sort(BY[:3]) for out in (screens.predictions, getattr(screens, which))
    )
    counted = [c for c, dtype in theirs.schema.items() if dtype in (pl.String, pl.Int8, pl.Int32) and c not in ORDERED]
    assert {"n_cells", "n_absent", "n_emptied"} < set(counted)
    assert ours.select("coverage", *counted).equals(theirs.select("coverage", *counted))
    e = Room.of(deg_table(screens.predictions)).e.reshape(-1, 61)
    strength = floats(theirs.drop_nulls("strength"), "strength")
    change = np.sqrt(np.square(e).mean(1))
    assert_between(strength - change, floats(ours.drop_nulls("strength"), "strength"), strength + change, "strength")
    for name in ("embedding_shift", "rank_position", "length"):
        # another order of the same float32 numbers, at most all of a stratum
        known = floats(theirs, name)
        change = 8 * ULP_32 * np.abs(known) + (8 * ULP_32 if name == "embedding_shift" else 0)
        assert_between(known - change, floats(ours, name), known + change, name)
    for column in ("top_up", "top_down"):
        assert ours[column].list.len().equals(theirs[column].list.len())


def test_the_screen_under_test_has_what_could_go_wrong(screens: Kept) -> None:
    assert [len(opened(out).blocks) for out in (screens.predictions, screens.summaries, screens.added)] == [1, 1, 2]
    whole = opened(screens.summaries).blocks[0]
    assert len(whole.committed("control/commits")) == 3
    spans = [np.unique(whole.read("items/cell")[whole.rows(u)] // 4).size for u in range(whole.n_units)]
    assert [u for u, n in enumerate(spans) if n > 1] == [4, 9]
    n_screened = [whole.read(f"items/is_screened_t{t}").sum() for t in (1, 2)]
    assert n_screened[0] < n_screened[1]
    groups = [whole.read(f"summaries/{n}").tolist() for n in ("perturbation", "stratum")]
    used = [g for g in zip(*groups, strict=True) if g != (-1, -1)]
    assert len(set(used)) < len(used), "no group is in several units"


@pytest.mark.parametrize("n_writes", [0, 20, 90])
def test_an_interrupted_screen_continues_to_the_same_bytes(screens: Kept, tmp_path: Path, n_writes: int) -> None:
    with full_disk(n_writes):
        assert run(kept("summaries"), tmp_path / "out") == 1
    assert run(kept("summaries"), tmp_path / "out") == 0
    assert_same_arrays(screens.summaries, tmp_path / "out")


@pytest.mark.parametrize("n_first", [2, 4, 5, 10])
def test_units_may_be_handed_out_in_parts_to_one_engine(screens: Kept, tmp_path: Path, n_first: int) -> None:
    config = load_config(write(kept("summaries"), tmp_path / "s.yaml"))
    with small_units():
        screen = prepare(config)
    executor = Executor(torch.device("cpu"), batch_tokens=1)
    store, engine = open_store(screen, tmp_path, "", executor), PackedEngine(screen, executor)
    n_units = store.blocks[0].n_units
    for numbers in (range(n_first), range(n_first, n_units)):
        run_units(engine, store, lambda *counted: None, numbers=numbers)
    ours, theirs = every_array(tmp_path), every_array(screens.summaries)
    assert all(np.array_equal(ours[n], theirs[n]) for n in theirs if n.startswith("library/0/summaries/"))


def test_genes_that_no_cell_expresses_are_added_and_have_no_cells(screens: Kept, tmp_path: Path) -> None:
    out = Path(shutil.copytree(screens.summaries, tmp_path / "out"))
    more = [*LIBRARY, {"genes": [GENES[29]], "modes": ["delete"]}]
    assert run(kept("summaries", more), out, "--add") == 2
    hits = pl.read_parquet(out / "hits.parquet").filter(pl.col("perturbation") == f"src:delete:{GENES[29]}")
    assert hits["n_cells"].to_list() == [0] * 6
    assert main(["status", str(out)]) == 0


def test_an_export_is_refused_and_says_what_to_do(screens: Kept, tmp_path: Path, capsys: Any) -> None:
    assert main(["export", str(screens.summaries), "--h5ad", str(tmp_path / "x.h5ad")]) == 2
    assert "screen with `keep: predictions` to export them" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_other_strata_are_refused_by_name_and_other_tables_are_not(screens: Kept, tmp_path: Path, capsys: Any) -> None:
    out = Path(shutil.copytree(screens.summaries, tmp_path / "out"))
    before = tree(out)
    assert run(kept("summaries", strata=["tissue"]), out) == 2
    assert "\n  strata: fingerprint" in (said := capsys.readouterr().err)
    assert "other groups of cells, which summaries are kept by" in said
    assert tree(out) == before
    assert run(kept("summaries", min_cells=3), out) == 0
    assert pl.read_parquet(out / "hits.parquet")["strength_rank"].null_count() > 0


def test_summaries_of_large_groups_take_less_disk_than_predictions(tmp_path: Path) -> None:
    library = {"genes": "all", "modes": ["overexpress"]}
    size = {}
    for keep in ("predictions", "summaries"):
        path = write(kept(keep, library, strata=[]) | {"compute": {"cpu_products": "torch"}}, tmp_path / "s.yaml")
        assert main(["run", str(path), "--out", str(tmp_path / keep)]) == 0
        size[keep] = sum(len(content) for _, content in tree(tmp_path / keep / "screen.zarr").values())
    assert size["summaries"] < 0.7 * size["predictions"]
