"""`perturbscreen deg --name` and `--compare`: what is asked is made, what cannot be is refused with the place and the way out."""

from pathlib import Path

import pytest

import screen
from screen.cli.main import main
from tests.support.tiny import tiny, write


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("again")
    library = {"genes": [f"ENSG{100_000 + 7 * i:011d}" for i in range(4)], "modes": ["overexpress"]}
    assert main(["run", str(write(tiny(library=library), folder / "s.yaml")), "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_tables_of_their_own_are_made_and_opened_and_reported(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell_type = screen.open_results(finished).store.strings("cells/source/obs/cell_type")[0]
    before = (finished / "hits.parquet").read_bytes()
    command = ["deg", str(finished), "--name", "one", "--strata", "cell_type", "--compare", "1,2"]
    assert main([*command, "--where", f"cell_type == '{cell_type}'"]) == 0
    said = capsys.readouterr().out
    assert f"settings: where: cell_type == '{cell_type}', strata: ['cell_type'], compare: [[1, 2]]" in said
    assert f"{finished / 'analyses' / 'one'}: hits.parquet, deg/part-*.parquet, compare/part-*.parquet" in said
    results = screen.open_results(finished, "one")
    assert results.strata == [cell_type] and not results.compared().is_empty()
    assert (finished / "hits.parquet").read_bytes() == before
    assert main(["deg", str(finished), "--name", "one"]) == 0
    assert "as asked for already" in capsys.readouterr().out
    assert main(["deg", str(finished), "--name", "one", "--reset", "all"]) == 0
    assert screen.open_results(finished, "one").strata == ["all"]
    assert main(["report", str(finished), "--name", "one"]) == 0
    assert (finished / "analyses" / "one" / "report.html").is_file() and not (finished / "report.html").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--where", "cell_type == 'a'"], "--where: the first tables keep their cells; --name NAME makes others"),
        (["--strata", "cell_type"], "--strata: the first tables keep their cells"),
        (["--reset", "where"], "--where: the first tables keep"),
        (["--name", "a", "--where", "cel_type == 'a'"], "  cel_type == 'a'\n  ^^^^^^^^\n"),
        (["--name", "a", "--strata", "cel_type"], 'did you mean "cell_type"'),
        (["--name", "a"], "for a new one say what it asks"),
        (["--name", "a", "--where", "cell_type != ''", "--reset", "where"], "where: both given and reset"),
        (["--compare", "1,4"], "deg.compare: no time point 4; the screen has 1, 2"),
        (["--compare", "1,1"], "compares a time point with itself"),
    ],
)
def test_what_cannot_be_is_refused(
    finished: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["deg", str(finished), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (finished / "analyses" / "a").exists()


def test_a_pair_that_is_none_is_refused_by_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("1", "1,2,3", "a,b", "0,1"):
        with pytest.raises(SystemExit):
            main(["deg", "out", "--compare", text])
    assert "'1' is no pair of time points" in capsys.readouterr().err
