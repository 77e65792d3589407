"""Tables that are asked for again, under a name of their own: right, beside the first ones, which keep every byte."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import screen
from demo.planted.sizes import Sizes
from demo.planted.written import build
from screen.cli.main import main
from screen.config.sections import DegConfig
from screen.errors import ConfigError, ScreenError, StoreError
from screen.planning.selection import Coverage
from screen.running.tables import make_analysis
from screen.stats.again.coverage import UNKNOWN, coverage_of
from screen.stats.groups import Strata
from tests.support.quiet import HERE, QUIET
from tests.support.store_fixture import FIRST, NEW, run, screen_of
from tests.support.tiny import tiny, write


def again(
    directory: Path, name: str, cells: dict[str, Any] | None = None, reset: Sequence[str] = (), **changes: Any
) -> screen.Results:
    return make_analysis(directory, name, cells or {}, changes, [], list(reset), HERE, QUIET)[0]


def files_of(directory: Path) -> dict[str, bytes]:
    """Every file but those of analyses."""
    files = (p for p in sorted(directory.rglob("*")) if p.is_file())
    return {str(p.relative_to(directory)): p.read_bytes() for p in files if "analyses" not in p.parts}


@pytest.fixture(scope="module")
def strata_screen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A screen by cell type, of cells of several donors."""
    folder = tmp_path_factory.mktemp("again") / "screen"
    build(folder, Sizes(n_perturbations=250, n_genes=320, n_nulls=20, has_replicates=False, top=3))
    return folder


@pytest.fixture
def planted(strata_screen: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(strata_screen, tmp_path / "out"))


def test_other_strata_and_fewer_cells_have_tables_of_their_own_and_the_first_keep_every_byte(planted: Path) -> None:
    before = files_of(planted)
    cells = {"strata": ["replicate"], "where": "cell_type in ['Monocytes', 'NK cells'] and t1.replicate != 'donor 4'"}
    found = again(planted, "monocytes", cells, reset=["top"])
    assert files_of(planted) == before
    assert found.strata == ["donor 1", "donor 2", "donor 3"] and found.name == "monocytes"
    assert found.tables == planted / "analyses" / "monocytes"
    first = screen.open_results(planted)
    assert first.analyses == ["monocytes"] and first.strata != found.strata
    assert "analyses/monocytes" in first.files and "screen.zarr" not in found.files
    # a cell more or less changes every mean
    block, store = found.store.blocks[0], found.store
    cell_type, donor = (store.strings(f"cells/source/obs/{n}") for n in ("cell_type", "replicate"))
    table = found.differential("ALL1", stratum="donor 2", time=2, mode="mask").sort("feature")
    rows = block.rows_of(store.perturbations("id").tolist().index(table["perturbation"][0]))
    cell_N = block.read("items/cell", rows)
    is_in_N = np.isin(cell_type[cell_N], ["Monocytes", "NK cells"]) & (donor[cell_N] == "donor 2")
    mean_G = block.delta(2, rows)[is_in_N].astype(np.float64).mean(0)
    order = np.argsort(store.strings("genes/ensembl_id").astype(str))
    np.testing.assert_allclose(table["mean_delta"].to_numpy(), mean_G[order], rtol=2e-6, atol=1e-9)
    assert set(table["n_cells"]) == {is_in_N.sum()}


def test_the_same_question_gives_the_tables_that_a_run_with_these_strata_has(tmp_path: Path) -> None:
    library = {"genes": [f"ENSG{100_000 + 7 * i:011d}" for i in range(12)], "modes": ["mask", "overexpress"]}
    deg = {"signed_rank": True, "compare": [[1, 2]]}
    plain = {**tiny(library=library, output={"allow_missing": True}), "deg": deg}
    by_type = {**plain, "output": {**plain["output"], "strata": ["cell_type"]}}
    for name, raw in (("plain", plain), ("by_type", by_type)):
        assert main(["run", str(write(raw, tmp_path / f"{name}.yaml")), "--out", str(tmp_path / name)]) == 0
    found = again(tmp_path / "plain", "by_type", {"strata": ["cell_type"]})
    expected = screen.open_results(tmp_path / "by_type")
    assert expected.hits.height > 20 and len(expected.strata) > 1
    assert found.hits.drop("n_absent", "n_truncated", "n_emptied").equals(
        expected.hits.drop("n_absent", "n_truncated", "n_emptied")
    )
    assert found.differential().equals(expected.differential())
    assert found.compared().equals(expected.compared()) and found.compared().height > 100
    both = found.coverage.join(expected.coverage, on=["perturbation", "stratum"], suffix="_run")
    assert both.height == expected.coverage.height
    for name in ("n_stratum", "n_screened"):
        assert both[name].equals(both[f"{name}_run"].alias(name))
    for name in ("n_absent", "n_truncated", "n_emptied"):
        known = both.drop_nulls(name)
        assert known[name].equals(known[f"{name}_run"].alias(name)) and known.height


@st.composite
def cells_and_reasons(draw: st.DrawFn) -> dict[str, Any]:
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    n_cells, n_perturbations = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    n_first, n_asked, n_reasons = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    # 0: there is an item
    return {
        "why_PC": rng.integers(0, n_reasons + 1, (n_perturbations, n_cells)),
        "first_C": np.concatenate([np.arange(n_first), rng.integers(0, n_first, n_cells)])[:n_cells],
        "asked_C": np.concatenate([np.arange(n_asked), rng.integers(-1, n_asked, n_cells)])[:n_cells],
        "n": (n_first, n_asked),
        "cut": draw(st.integers(1, 5)),
    }


class _Items:
    """As much of a store as coverage reads."""

    def __init__(self, why_PC: Any) -> None:
        p_I, c_I = np.nonzero(why_PC == 0)
        self._items = {"items/perturbation": p_I, "items/cell": c_I}
        self.n_items, self.n_perturbations, self.blocks = len(p_I), len(why_PC), [self]

    def read(self, name: str, rows: slice) -> Any:
        return self._items[name][rows]


@given(cells_and_reasons())
def test_coverage_is_never_wrong_and_known_wherever_it_can_be(drawn: dict[str, Any]) -> None:
    why_PC, (n_first, n_asked) = drawn["why_PC"], drawn["n"]

    def tallies(code_C: Any, n: int) -> Coverage:
        of_class = [np.stack([((why_PC == k) & (code_C == s)).sum(1) for s in range(n)], axis=1) for k in range(4)]
        n_cells_S = np.array([(code_C == s).sum() for s in range(n)])
        return Coverage(tuple(f"s{i}" for i in range(n)), n_cells_S, *of_class)

    first, expected = tallies(drawn["first_C"], n_first), tallies(drawn["asked_C"], n_asked)
    strata = [
        Strata(tuple(f"s{i}" for i in range(n)), drawn[name])
        for name, n in (("first_C", n_first), ("asked_C", n_asked))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("screen.stats.again.coverage.ITEMS_AT_ONCE", drawn["cut"])
        found = coverage_of(_Items(why_PC), strata[1], first, strata[0])  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.n_cells_S, expected.n_cells_S)
    np.testing.assert_array_equal(found.screened_PS, expected.screened_PS)
    all_first = [first.absent_PS, first.truncated_PS, first.emptied_PS]
    has_one_reason_P = (np.stack(all_first) > 0).sum(0).max(1) <= 1
    for name in ("absent_PS", "truncated_PS", "emptied_PS"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert ((ours == theirs) | (ours == UNKNOWN)).all()
        assert (ours[has_one_reason_P] != UNKNOWN).all()


def test_a_missing_value_is_in_no_stratum_and_no_condition(planted: Path) -> None:
    store = screen.open_results(planted).store
    code = again(planted, "a", {"where": "cell_type != 'NK cells'", "strata": []}).cell_strata
    assert code.name_S == ("all",) and (code.stratum_C >= 0).sum() == 30 == code.n_cells_S[0]
    assert ((store.strings("cells/source/obs/cell_type") == "NK cells") == (code.stratum_C < 0)).all()


def test_what_is_not_said_stays_as_recorded_for_the_name(planted: Path) -> None:
    where = "cell_type == 'Monocytes'"
    again(planted, "a", {"where": where}, test="signed_rank")
    _, is_new = make_analysis(planted, "a", {}, {}, [], [], HERE, QUIET)
    assert not is_new
    found = again(planted, "a", {"strata": ["replicate"]})
    assert found.view["where"] == where and found.view["deg"]["test"] == "signed_rank"
    assert found.settings.startswith("where: cell_type == 'Monocytes', strata: ['replicate'], test: signed_rank, ")
    stamp = json.loads((found.tables / "tables.json").read_text())
    assert stamp["asked"]["where"] == where and stamp["asked"]["strata"] == ["replicate"]
    found = again(planted, "a", reset=["where", "test", "strata"])
    assert (found.view["where"], found.view["strata"], found.view["deg"]["test"]) == (None, ["cell_type"], None)
    assert found.hits.equals(screen.open_results(planted).hits)


def test_a_report_is_of_the_tables_it_lies_beside(planted: Path) -> None:
    found = again(planted, "a", {"where": "cell_type == 'Monocytes'"}, top=2)
    path = screen.write_report(found)
    assert path == found.tables / "report.html" and "out: a" in path.read_text()
    assert found.cells("ALL1", mode="mask")["stratum"].unique().to_list() == ["Monocytes"]
    assert found.movers("GENE0001", n=3).height


@pytest.mark.parametrize(
    ("name", "cells", "changes", "message"),
    [
        ("../a", {"where": "cell_type == 'NK cells'"}, {}, "cannot be the name of an analysis"),
        (".a", {"where": "cell_type == 'NK cells'"}, {}, "cannot be the name of an analysis"),
        ("a/b", {"where": "cell_type == 'NK cells'"}, {}, "cannot be the name of an analysis"),
        ("a", {}, {}, r'there is no analysis "a" in .*: it has none; for a new one say what it asks'),
        ("a", {"where": "cell_type == 'NK cell'"}, {}, 'did you mean "NK cells"'),
        ("a", {"strata": ["donor"]}, {}, r'the cells have no column "donor" \(strata\); columns: cell_type, replicate'),
        ("a", {}, {"compare": ((1, 3),)}, "deg.compare: no time point 3; the screen has 1, 2"),
        ("a", {}, {"replicate": "cell_typ"}, 'did you mean "cell_type"'),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_written(
    planted: Path, name: str, cells: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        again(planted, name, cells, **changes)
    assert not (planted / "analyses").exists() and not (planted.parent / "a").exists()


def test_an_analysis_that_is_not_there_or_damaged_is_named(planted: Path) -> None:
    found = again(planted, "monocytes", {"where": "cell_type == 'Monocytes'"})
    with pytest.raises(
        StoreError, match='no analysis "monocyte" whose tables are whole; it has monocytes; did you mean'
    ):
        screen.open_results(planted, "monocyte")
    with pytest.raises(StoreError, match="no analysis"):
        screen.open_results(planted, "../out/analyses/monocytes")
    (found.tables / "hits.parquet").write_bytes(b"")
    with pytest.raises(StoreError, match=r"remove it, then `perturbscreen deg \S+ --name monocytes` makes it again"):
        _ = screen.open_results(planted, "monocytes").hits
    stamp = json.loads((found.tables / "tables.json").read_text())
    for damaged in ({**stamp, "asked": None}, {**stamp, "asked": {**stamp["asked"], "name": "b"}}, [], {"results": ""}):
        (found.tables / "tables.json").write_text(json.dumps(damaged))
        with pytest.raises(StoreError, match="does not say what its tables were asked for"):
            screen.open_results(planted, "monocytes")


def test_perturbations_that_were_added_since_make_it_stale_until_it_is_made_again(tmp_path: Path) -> None:
    run(screen_of(FIRST), tmp_path / "out")
    again(tmp_path / "out", "a", {"strata": ["cell_type"]})
    run(screen_of(NEW), tmp_path / "out", "--add")
    with pytest.raises(
        StoreError, match=r"of other results than .* has now; `perturbscreen deg .* --name a` makes them"
    ):
        screen.open_results(tmp_path / "out", "a")
    found = make_analysis(tmp_path / "out", "a", {}, {}, [], [], HERE, QUIET)[0]
    assert set(found.hits["perturbation"]) == set(screen.open_results(tmp_path / "out").hits["perturbation"])


def test_a_screen_that_keeps_summaries_takes_whole_strata_and_says_what_it_cannot(tmp_path: Path) -> None:
    sizes = {"n_perturbations": 250, "n_genes": 320, "n_nulls": 20, "has_replicates": False, "top": 3}
    build(tmp_path / "sums", Sizes(**sizes, keep="summaries"))  # type: ignore[arg-type]
    build(tmp_path / "cells", Sizes(**sizes))  # type: ignore[arg-type]
    where = {"where": "cell_type in ['Monocytes', 'B cells']"}
    for cells in (where, {**where, "strata": []}, {"strata": []}):
        found, expected = (again(tmp_path / d, "a", cells, reset=["gene_sets"]) for d in ("sums", "cells"))
        assert found.hits.height == expected.hits.height > 500
        ours, theirs = (x.hits.sort("perturbation", "stratum", "time") for x in (found, expected))
        for column in ("n_cells", "n_stratum", "perturbation", "stratum"):
            assert ours[column].equals(theirs[column])
        # changes were rounded to float16 there and not here
        np.testing.assert_allclose(ours["strength"].to_numpy(), theirs["strength"].to_numpy(), rtol=2e-3)
    for cells, changes, message in (
        ({"strata": ["replicate"]}, {}, 'which are not taken apart; cells of "B cells" would be in donor 1, donor 2'),
        ({"where": "replicate == 'donor 1'"}, {}, 'cells of "B cells" would be in none, B cells'),
        (where, {"replicate": "replicate"}, "deg.replicate needs the single cells"),
        (where, {"compare": ((1, 2),)}, "deg.compare needs the change of every cell"),
        (where, {"test": "signed_rank"}, "the test signed_rank needs the change of every cell"),
    ):
        with pytest.raises(ConfigError, match=message):
            again(tmp_path / "sums", "b", cells, **changes)
    assert screen.open_results(tmp_path / "sums").analyses == ["a"]


def test_an_older_store_stays_as_it_is_where_nothing_is_compared() -> None:
    assert "compare" not in DegConfig().recorded()
    assert DegConfig(compare=((1, 2),)).recorded()["compare"] == ((1, 2),)
    assert set(DegConfig().model_dump()) - DegConfig().recorded().keys() == {"compare", "relations"}


def test_an_interrupted_analysis_leaves_the_first_tables_and_is_asked_again(planted: Path) -> None:
    before = files_of(planted)

    def stop(tasks: Any, done: Any) -> Any:
        raise ScreenError("stopped")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("screen.running.tables.on_threads", stop)
        with pytest.raises(ScreenError, match="stopped"):
            again(planted, "a", {"where": "cell_type == 'Monocytes'"})
    assert files_of(planted) == before and screen.open_results(planted).analyses == []
    assert pl.Series(again(planted, "a", {"where": "cell_type == 'Monocytes'"}).strata).to_list() == ["Monocytes"]
